"""The .momos file: bit for bit there and back, as small as the bound says, and no damage that goes
unnoticed.
"""

import base64
import contextlib
import copy
import hashlib
import itertools
import json
import os
import resource
import signal
import struct
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import momos_file
from safetensors.torch import load_file
from torch import nn

from momos import models, packing
from momos.complexity import code_length
from momos.methods import mosaic, quantize
from momos.packing import coding, writing
from momos.weights import blocks
from momos.weights.blocks import num_motifs

TRAINABLE = ("float64", "float32", "float16", "bfloat16", "complex64", "complex128")
FIXED = (
    "int64",
    "int32",
    "int16",
    "int8",
    "uint8",
    "uint16",
    "uint32",
    "uint64",
    "bool",
    "float8_e4m3fn",
    "float32",
    "bfloat16",
)
SLACK = 4096


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def raw(tensor: torch.Tensor) -> bytes:
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def content(model: nn.Module) -> dict[str, bytes]:
    return {name: raw(tensor) for name, tensor in model.state_dict().items()}


def cleared(model: nn.Module) -> nn.Module:
    """The same architecture, ties kept, all its state overwritten with ones."""
    other = copy.deepcopy(model)
    for tensor in other.state_dict().values():
        tensor.copy_(torch.ones(tensor.shape).to(tensor.dtype))
    return other


def round_trip(model: nn.Module, path: Path, block_size: int, **settings) -> packing.Contents:
    """Pack, and unpack with both readers."""
    packing.pack(model, path, block_size, **settings)
    other = cleared(model)
    packing.unpack(path, other)
    assert content(other) == content(model)
    assert packing.differences(path, model.state_dict()) == []
    return packing.inspect(path)


def projected(block_size: int, capacity: float, seed: int = 0, **settings) -> nn.Module:
    model = models.build("resnet20", 10, seed=seed)
    mosaic.project_(model, block_size, capacity=capacity, generator=generator(seed), **settings)
    return model


class Holder(nn.Module):
    """Tensors by name: parameters where they can be trained, else buffers."""

    def __init__(self, weights, others):
        super().__init__()
        for name, tensor in weights.items():
            self.register_parameter(name, nn.Parameter(tensor))
        for name, tensor in others.items():
            self.register_buffer(name, tensor)


class Tied(nn.Module):
    """A small language model: the output layer is the embedding; one buffer is there twice."""

    def __init__(self, seed=0, tie=True):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.embed = nn.Embedding(50, 16)
            self.layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
            self.head = nn.Linear(16, 50, bias=False)
        if tie:
            self.head.weight = self.embed.weight
        self.register_buffer("mask", torch.ones(4, 4, dtype=torch.bool).tril())
        self.register_buffer("same_mask", self.mask if tie else self.mask.clone())


# there and back


@st.composite
def tensors(draw, dtypes):
    """Name -> tensor of any bits: few distinct values of 1, 4 or 9 elements, or noise."""
    found, random = {}, np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    for index, dtype in enumerate(draw(st.lists(st.sampled_from(dtypes), max_size=4))):
        shape = draw(st.lists(st.sampled_from([0, 1, 2, 3, 5, 8, 40]), max_size=3))
        size, item = int(np.prod(shape, dtype=int)), packing.DTYPES[dtype].itemsize
        width, kinds = (
            draw(st.sampled_from([1, 4, 9])) * item,
            draw(st.sampled_from([1, 2, 5, 300])),
        )
        pool = random.integers(
            0, 2 if dtype == "bool" else 256, size=(kinds, width), dtype=np.uint8
        )
        values = pool[random.integers(kinds, size=size)].reshape(-1)[: size * item].copy()
        filled = torch.empty(size, dtype=packing.DTYPES[dtype])
        filled.view(torch.uint8).copy_(torch.from_numpy(values))
        found[f"{dtypes[0]}_{index}"] = filled.reshape(shape)
    return found


@given(
    tensors(TRAINABLE),
    tensors(FIXED),
    st.integers(1, 64),
    st.sampled_from(packing.LEVELS),
    st.sampled_from(blocks.SLICINGS),
)
@settings(max_examples=150, deadline=None)
def test_everything_comes_back_bit_for_bit(
    tmp_path_factory, weights, others, block_size, level, slicing
):
    """Any dtypes and shapes, empty tensors, NaN payloads, signed zeros, all equal, all distinct;
    also by the second reader.
    """
    path = tmp_path_factory.mktemp("pack") / "a.momos"
    model = Holder(weights, others)
    found = round_trip(model, path, block_size, level=level, slicing=slicing)
    expected = content(model)
    assert momos_file.tensors(path.read_bytes()) == expected
    assert {name: raw(tensor) for name, tensor in packing.read_tensors(path).items()} == expected
    total = sum(map(len, expected.values()))
    assert found.file_bytes == path.stat().st_size <= 1.01 * total + SLACK


def test_resnet20_in_every_setting(tmp_path):
    for block_size in (2, 4):
        for slicing in blocks.SLICINGS:
            model = projected(block_size, 0.01, slicing=slicing)
            for level in packing.LEVELS:
                found = round_trip(
                    model, tmp_path / "a.momos", block_size, level=level, slicing=slicing
                )
                assert (
                    found.groups[0].num_motifs <= num_motifs(found.groups[0].num_blocks, 0.01) + 1
                )


def test_the_second_reader_agrees_on_a_whole_model(tmp_path):
    model = projected(3, 0.1)
    for level in packing.LEVELS:
        packing.pack(model, tmp_path / "a.momos", 3, level=level)
        assert momos_file.tensors((tmp_path / "a.momos").read_bytes()) == content(model)


def test_any_reader_of_safetensors_lists_it(tmp_path, files):
    """With motifs as a matrix of their own dtype, at a place that torch can look at."""
    for kind, whole in files.items():
        (tmp_path / "a.momos").write_bytes(whole)
        listed, (group,) = (
            load_file(tmp_path / "a.momos"),
            packing.inspect(tmp_path / "a.momos").groups,
        )
        parts = {"motifs", "mosaic", "tails"} if group.num_motifs else {"weights"}
        assert {f"{part}.float32" for part in parts} <= set(listed), kind
        assert listed["other.bool"].dtype == torch.bool
        if kind == "fixed":
            motifs = listed["motifs.float32"]
            assert motifs.dtype == torch.float32 and motifs.shape == (group.num_motifs, 2)
            weights = packing.read_tensors(tmp_path / "a.momos")["embed.weight"]
            blocks = weights.reshape(-1)[: weights.numel() // 2 * 2].reshape(-1, 2)
            assert set(map(tuple, blocks.tolist())) <= set(map(tuple, motifs.tolist()))


@pytest.mark.parametrize("level", packing.LEVELS)
def test_tiny_vit(tmp_path, level):
    sizes = {"embed_dims": (16, 32, 32, 32), "depths": (1, 1, 1, 1), "num_heads": (1, 1, 1, 1)}
    model = models.build("tiny_vit", 10, image_size=64, kwargs=sizes)
    mosaic.project_(model, 4, capacity=0.05, generator=generator())
    assert round_trip(model, tmp_path / "a.momos", 4, level=level).sections["weights"] == 0


def test_a_gpt_neox(tmp_path):
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

    sizes = {
        "hidden_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 48,
        "vocab_size": 200,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = GPTNeoXForCausalLM(
            GPTNeoXConfig(**sizes, max_position_embeddings=32, tie_word_embeddings=True)
        )
    mosaic.project_(model, 4, capacity=0.05, generator=generator())
    for level in packing.LEVELS:
        found = round_trip(model, tmp_path / "a.momos", 4, level=level)
        assert found.groups[0].num_weights == sum(
            parameter.numel() for parameter in model.parameters()
        )


@pytest.mark.stress
def test_twenty_five_million_weights(tmp_path):
    """How long it takes stands in docs/packing.md."""
    motifs = torch.randn(62_500, 4, generator=generator())
    model = Holder(
        {"weight": motifs[torch.randint(len(motifs), (6_250_000,), generator=generator(1))]}, {}
    )
    packing.pack(model, tmp_path / "a.momos", 4, level="entropy")
    assert packing.differences(tmp_path / "a.momos", model.state_dict()) == []


@pytest.mark.parametrize("level", packing.LEVELS)
def test_tied_weights_are_stored_once_and_stay_tied(tmp_path, level):
    model, path = Tied(), tmp_path / "a.momos"
    round_trip(model, path, 4, level=level)
    about = momos_file.directory(path.read_bytes())
    assert about["aliases"] == {"same_mask": "mask", "head.weight": "embed.weight"}
    loaded = packing.read_tensors(path)
    assert loaded["head.weight"] is loaded["embed.weight"]
    apart = Tied(seed=1, tie=False)
    packing.unpack(path, apart)
    assert content(apart) == content(model) and apart.head.weight is not apart.embed.weight


def test_frozen_weights_are_no_part_of_the_mosaic(tmp_path):
    model = Tied()
    model.layer.requires_grad_(False)
    frozen = sum(parameter.nbytes for parameter in model.layer.parameters())
    found = round_trip(model, tmp_path / "a.momos", 2)
    assert found.groups[0].num_weights == 800 and found.sections["other"] == frozen + 16


def test_memory_formats_and_strides_do_not_matter(tmp_path):
    model = projected(4, 0.01)
    packing.pack(model, tmp_path / "a.momos", 4)
    other = models.build("resnet20", 10, seed=1).to(memory_format=torch.channels_last)
    packing.unpack(tmp_path / "a.momos", other)
    assert content(other) == content(model) and other.blocks[0].conv1.weight.is_contiguous(
        memory_format=torch.channels_last
    )
    packing.pack(other, tmp_path / "b.momos", 4)
    assert (tmp_path / "a.momos").read_bytes() == (tmp_path / "b.momos").read_bytes()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_model_on_a_gpu(tmp_path):
    model = projected(2, 0.01)
    packing.pack(copy.deepcopy(model).cuda(), tmp_path / "a.momos", 2)
    other = models.build("resnet20", 10, seed=1).cuda()
    packing.unpack(tmp_path / "a.momos", other)
    assert content(other.cpu()) == content(model)


def test_zeros_of_either_sign_and_nan_payloads_are_different_motifs(tmp_path):
    values = np.array(
        [0x00000000, 0x80000000, 0x7FC00000, 0x7FC00001, 0xFFC00000] * 20, dtype=np.uint32
    )
    model = Holder({"weight": torch.from_numpy(values.view(np.float32))}, {})
    assert round_trip(model, tmp_path / "a.momos", 1).groups[0].num_motifs == 5


def test_one_motif_needs_no_mosaic(tmp_path):
    model = Holder({"weight": torch.full((1000, 8), -0.0)}, {})
    for level in packing.LEVELS:
        found = round_trip(model, tmp_path / "a.momos", 8, level=level)
        assert (found.groups[0].num_motifs, found.groups[0].usage.tolist()) == (1, [1000])
        assert (found.sections["motifs"], found.sections["mosaic"]) == (32, 0)


def test_no_weights_and_no_state(tmp_path):
    round_trip(nn.Identity(), tmp_path / "a.momos", 2)
    found = round_trip(Holder({}, {"steps": torch.tensor(3)}), tmp_path / "b.momos", 2)
    assert found.groups == [] and found.sections["other"] == 8


def test_a_copied_tensor_under_two_names_is_stored_twice_and_a_view_as_a_tensor(tmp_path):
    base = torch.arange(12.0)
    model = Holder(
        {"weight": base.clone()}, {"base": base, "view": base[3:6], "turned": base.view(3, 4).T}
    )
    packing.pack(model, tmp_path / "a.momos", 2)
    assert momos_file.tensors((tmp_path / "a.momos").read_bytes()) == content(model)


# sizes


@pytest.mark.parametrize(
    ("block_size", "capacity"), [(2, 0.1), (2, 0.005), (4, 0.1), (4, 0.01), (16, 0.02), (64, 0.5)]
)
def test_a_mosaic_is_as_small_as_the_bound_and_entropy_coded_smaller(
    tmp_path, block_size, capacity
):
    model = projected(block_size, capacity)
    sizes = [parameter.numel() for parameter in model.parameters()]
    whole = torch.cat(
        [
            p.detach().reshape(-1)[: p.numel() // block_size * block_size].reshape(-1, block_size)
            for p in model.parameters()
        ]
    )
    k, n = (
        len(np.unique(whole.numpy().view(np.uint32), axis=0)),
        blocks.num_blocks(sizes, block_size),
    )
    bound = code_length.momos_bits(n, block_size, k) / 8
    stored = {}
    for level in packing.LEVELS:
        packing.pack(model, tmp_path / "a.momos", block_size, level=level)
        found = packing.inspect(tmp_path / "a.momos")
        (group,) = found.groups
        assert (group.num_motifs, group.num_blocks, group.bound_bytes) == (
            k,
            n,
            -(-code_length.momos_bits(n, block_size, k) // 8),
        )
        assert group.usage.sum() == len(whole) and len(group.usage) == k
        stored[level] = found.sections["motifs"] + found.sections["mosaic"]
        assert sum(found.sections.values()) == found.file_bytes
        assert found.sections["tails"] <= sum(size % block_size for size in sizes) * 4
    assert bound - (n - len(whole)) * 2 - 1 <= stored["fixed"] <= bound + 1
    assert stored["entropy"] < stored["fixed"]


def test_indices_come_within_a_percent_of_their_entropy(tmp_path):
    model = projected(2, 0.1)
    packing.pack(model, tmp_path / "a.momos", 2, level="entropy")
    found = packing.inspect(tmp_path / "a.momos")
    share = found.groups[0].usage / found.groups[0].usage.sum()
    entropy = -(share * np.log2(share)).sum() * found.groups[0].num_blocks / 8
    assert 0.995 * entropy < found.sections["mosaic"] < 1.01 * entropy


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_weights_that_are_no_mosaic_are_stored_as_they_are(tmp_path, dtype):
    noise = torch.randn(40_000, dtype=torch.float64, generator=generator()).to(dtype)
    model = Holder({"noise": noise, "more": torch.randn(333, generator=generator(1))}, {})
    sizes = {}
    for level in packing.LEVELS:
        found = round_trip(model, tmp_path / "a.momos", 4, level=level)
        sizes[level] = found.file_bytes
        assert all(group.num_motifs == 0 for group in found.groups)
    raw_bytes = noise.nbytes + 333 * 4
    assert sizes["fixed"] <= 1.01 * raw_bytes + SLACK and sizes["entropy"] < 0.95 * raw_bytes


def test_each_dtype_decides_for_itself(tmp_path):
    mosaic_of_two = torch.tensor([1.0, 2.0] * 500 + [3.0, 4.0] * 500, dtype=torch.float16)
    model = Holder(
        {
            "a": mosaic_of_two,
            "b": torch.randn(500, generator=generator()),
            "c": mosaic_of_two[:77].clone(),
        },
        {},
    )
    found = round_trip(model, tmp_path / "a.momos", 2)
    assert [(group.dtype, group.num_motifs) for group in found.groups] == [
        ("float16", 2),
        ("float32", 0),
    ]
    assert (found.sections["mosaic"], found.sections["tails"], found.sections["weights"]) == (
        -(-1038 // 8),
        2,
        2000,
    )


QUANTISED = {"a": (64, 40), "b": (300,), "c": (1,), "d": (0, 3), "e": (2, 70_000)}


@pytest.mark.parametrize("bits", [2, 3, 4, 8, 9, 16])
@pytest.mark.parametrize("level", packing.LEVELS)
def test_quantised_tensors_take_their_number_of_bits(tmp_path, bits, level):
    """Each on a grid of its own, signed zeros among them, beside a tensor that is on none; also by
    the second reader.
    """
    noise = {
        name: torch.randn(shape, generator=generator(i)) * 10.0**i
        for i, (name, shape) in enumerate(QUANTISED.items())
    }
    plain = torch.randn(50, generator=generator(9))
    model = Holder(
        {name: quantize.quantize(tensor, bits) for name, tensor in noise.items()}
        | {"plain": plain},
        {},
    )
    found = round_trip(model, tmp_path / "a.momos", 1 if bits < 16 else 7, level=level)
    assert momos_file.tensors((tmp_path / "a.momos").read_bytes()) == content(model)
    assert any(raw(-0.0 * torch.ones(1)) in raw(tensor) for tensor in model.state_dict().values())
    stored = sum(-(-tensor.numel() * bits // 8) for tensor in noise.values()) + 200 + 5 * 6
    assert (
        stored - 4 <= found.sections["weights"] <= stored
        if level == "fixed"
        else found.sections["weights"] <= 1.01 * stored
    )


@pytest.mark.parametrize("bits", [4, 8, 12])
def test_quantised_motifs_take_their_number_of_bits(tmp_path, bits):
    motifs = quantize.quantize(torch.randn(500, 4, generator=generator()), bits)
    mosaic_of = torch.cat(
        [torch.arange(500), torch.randint(500, (20_000,), generator=generator(1))]
    )
    model = Holder({"weight": motifs[mosaic_of]}, {})
    k = len(torch.unique(motifs.view(torch.int32), dim=0))
    for level in packing.LEVELS:
        found = round_trip(model, tmp_path / "a.momos", 4, level=level)
        assert (
            momos_file.tensors((tmp_path / "a.momos").read_bytes()) == content(model)
            and found.groups[0].num_motifs == k
        )
        size = -(-k * 4 * bits // 8) + 5
        assert (
            found.sections["motifs"] == size
            if level == "fixed"
            else found.sections["motifs"] < size + 99
        )


@pytest.mark.parametrize(
    ("values", "bits"),
    [
        ([], None),
        ([0.0, -0.0], None),
        ([1.0, float("nan")], None),
        ([float("inf"), 1.0], None),
        ([1.0, 0.3], None),
        ([3e38, 1.5e38], None),
        ([3e38, 0.0, -3e38], 2),
        ([3e-45, 1e-45, -0.0], 3),
        ([6e-45, 1e-45, -0.0], 4),
        ([3.0, 1.0, -2.0], 3),
        ([-7.5, 0.5], 5),
    ],
)
def test_a_grid_gives_its_values_back_or_is_none(values, bits):
    array = np.array(values, dtype=np.float32)
    grid = coding.find_grid(array)
    assert bits == (None if grid is None else grid.bits)
    assert grid is None or grid.values(grid.codes(array)).tobytes() == array.tobytes()


# its parts


@given(st.integers(0, 40), st.data())
@settings(max_examples=60, deadline=None)
def test_bits_equal_those_of_one_large_integer(width, data):
    values = data.draw(st.lists(st.integers(0, 2**width - 1), max_size=200))
    packed = packing.pack_bits(np.array(values, dtype=np.int64), width)
    assert packed == sum(value << i * width for i, value in enumerate(values)).to_bytes(
        -(-len(values) * width // 8), "little"
    )
    assert packing.unpack_bits(packed, len(values), width).tolist() == values


@given(st.integers(1, 33), st.integers(0, 60), st.integers(0, 2**32 - 1))
@settings(max_examples=100, deadline=None)
def test_distinct_blocks_equal_a_dictionary_of_bytes(width, count, seed):
    random = np.random.default_rng(seed)
    rows = random.integers(0, 2, size=(count, width), dtype=np.uint8) * random.integers(
        0, 2, size=width, dtype=np.uint8
    )
    numbers, first = writing.distinct(rows)
    known = {}
    expected = [known.setdefault(row.tobytes(), len(known)) for row in rows]
    assert (
        numbers.tolist() == expected
        and [expected.index(i) for i in range(len(known))] == first.tolist()
    )
    assert writing.fewest(rows) <= len(known)


def coded_bytes(parts: list[np.ndarray]) -> float:
    """What `cheapest_cuts` makes least, of these parts."""
    tables = [np.unique(part, return_counts=True)[1] for part in parts]
    bits = sum(float(-(counts * np.log2(counts / counts.sum())).sum()) for counts in tables)
    return bits / 8 + sum(
        coding.BLOCK_BYTES + coding.TABLE_BYTES * len(counts) for counts in tables
    )


@pytest.mark.parametrize("seed", range(20))
def test_the_cheapest_cuts_of_all(seed):
    """Against every subset of the tensors' starts."""
    random = np.random.default_rng(seed)
    shapes = random.integers([1, 40], [6, 800], (random.integers(1, 8), 2))
    parts = [random.binomial(2**spread, 0.5, length).astype(np.uint8) for spread, length in shapes]
    codes, starts = np.concatenate(parts), np.cumsum([0, *map(len, parts)])[:-1]
    found = coding.cheapest_cuts(codes, starts)
    subsets = [
        cuts for size in range(len(starts)) for cuts in itertools.combinations(starts[1:], size)
    ]
    best = min(coded_bytes(np.split(codes, cuts)) for cuts in subsets)
    assert set(found) <= set(starts[1:]) and coded_bytes(np.split(codes, found)) == pytest.approx(
        best
    )
    coded = coding.compress_apart(np.split(codes, found))
    assert coding.decompress(coded, len(codes)) == codes.tobytes()


def test_a_tensor_of_other_motifs_gets_a_code_of_its_own(tmp_path):
    """Two tensors that share no motif: a bit of each index says which it is, unless each has its
    own table.
    """
    motifs, random = torch.randn(16, 2, generator=generator()), torch.Generator().manual_seed(1)
    usage = [
        torch.randint(0, 8, (40_000,), generator=random),
        torch.randint(8, 16, (40_000,), generator=random),
    ]
    apart = Holder({"a": motifs[usage[0]], "b": motifs[usage[1]]}, {})
    mixed = torch.cat(usage)[torch.randperm(80_000, generator=random)]
    together = Holder({"a": motifs[mixed[:40_000]], "b": motifs[mixed[40_000:]]}, {})
    sizes = []
    for model in (apart, together):
        packing.pack(model, tmp_path / "a.momos", 2, level="entropy")
        assert packing.differences(tmp_path / "a.momos", model.state_dict()) == []
        sizes.append((tmp_path / "a.momos").stat().st_size)
    assert sizes[0] < 80_000 * 3 / 8 * 1.02 + 1000 and sizes[1] > 80_000 * 4 / 8 * 0.999


def test_more_tensors_than_are_told_apart_and_empty_ones():
    codes = np.tile(np.arange(4, dtype=np.uint8), 1000)
    assert set(coding.cheapest_cuts(codes, np.arange(0, 4000, 3))) <= set(range(0, 4000, 3))
    for starts in ([], [0, 0, 0], [0, 2000, 2000, 4000], [-70, 9000]):
        found = coding.cheapest_cuts(codes, np.array(starts, dtype=np.int64))
        assert set(found) <= {2000}


def test_rank_codes_fall_into_order_and_leave_room():
    codes = coding.rank_codes(100_000)
    assert (np.diff(codes.astype(int)) >= 0).all()
    ranks = np.arange(100_000)
    assert (coding.SMALLEST[codes] <= ranks).all() and (
        ranks < coding.SMALLEST[codes] + (1 << coding.FOLLOWING[codes])
    ).all()
    assert coding.SMALLEST[255] > 2**32  # more than any file can name


# streaming


def test_unpacking_holds_little_beside_the_model(tmp_path):
    """Measured by tracemalloc, which sees numpy and the file: 32 MB of weights need a few."""
    motifs = torch.randn(1000, 4, generator=generator())
    model = Holder(
        {
            f"w{i}": motifs[torch.randint(1000, (250_000,), generator=generator(i))].reshape(-1)
            for i in range(8)
        },
        {},
    )
    for level in packing.LEVELS:
        packing.pack(model, tmp_path / "a.momos", 4, level=level)
        other = cleared(model)
        tracemalloc.start()
        packing.unpack(tmp_path / "a.momos", other)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert content(other) == content(model) and peak < 12e6


def test_files_are_reproducible(tmp_path):
    for level in packing.LEVELS:
        for name in "ab":
            packing.pack(projected(2, 0.01), tmp_path / name, 2, level=level)
        assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_an_unwritable_output_is_named_and_a_failure_leaves_nothing(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OSError, match=r"file/a.momos can't be written"):
        packing.pack(Tied(), tmp_path / "file" / "a.momos", 2)
    packing.pack(Tied(), tmp_path / "a.momos", 2)
    before = (tmp_path / "a.momos").read_bytes()
    monkeypatch.setattr(writing.Writer, "finish", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        packing.pack(Tied(seed=1), tmp_path / "a.momos", 2)
    assert (tmp_path / "a.momos").read_bytes() == before and sorted(
        path.name for path in tmp_path.iterdir()
    ) == ["a.momos", "file"]


FULL_DISK = """
import resource, signal, sys, torch
from momos import packing
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
packing.pack(torch.nn.Linear(3, 3), sys.argv[1], 2)
resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))
packing.pack(torch.nn.Linear(300, 300), sys.argv[1], 2)
"""


@pytest.mark.stress  # in the suite tests/files/test_atomic.py has a full disk
@pytest.mark.skipif(not hasattr(signal, "SIGXFSZ"), reason="needs a limit on file sizes")
def test_a_full_disk_names_the_file_and_leaves_the_previous_one(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, tmp_path / "a.momos"],
        capture_output=True,
        text=True,
        env=os.environ,
    )
    assert done.returncode != 0 and "a.momos can't be written: File too large" in done.stderr
    assert packing.inspect(tmp_path / "a.momos").groups[0].num_weights == 12
    assert [path.name for path in tmp_path.iterdir()] == ["a.momos"]


# arguments and models that do not fit


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"block_size": 0}, "block_size must be a whole number of at least 1, got 0"),
        ({"block_size": 2.0}, "got 2.0"),
        ({"block_size": True}, "got True"),
        ({"level": "best"}, "level must be one of fixed, entropy, got 'best'"),
        ({"slicing": "layer"}, "slicing must be one of tensor, model, got 'layer'"),
    ],
)
def test_bad_settings_are_named(tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        packing.pack(Tied(), tmp_path / "a.momos", **({"block_size": 2} | change))
    assert not list(tmp_path.iterdir())


class Extra(nn.Linear):
    def get_extra_state(self):
        return {"version": 3}


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (Extra(2, 2), "_extra_state is no tensor but dict"),
        (
            nn.Linear(2, 2, device="meta"),
            "weight can't be packed: expected a dense tensor with data, "
            "got torch.float32, .*, meta",
        ),
        (Holder({}, {"sparse": torch.eye(3).to_sparse()}), "sparse can't be packed"),
    ],
)
def test_state_that_can_not_be_packed_is_named(tmp_path, model, message):
    with pytest.raises(ValueError, match=message):
        packing.pack(model, tmp_path / "a.momos", 2)
    assert not list(tmp_path.iterdir())


def renamed(model):
    model.extra = model.layer.linear1
    del model.layer.linear1
    return model


WRONG = {
    "names": (
        lambda: renamed(Tied(1)),
        "lacks extra.weight, extra.bias; the model lacks layer.linear1.weight, layer.linear1.bias",
    ),
    "dtype": (
        lambda: Tied(1).bfloat16(),
        r"embed.weight is float32 \(50, 16\) instead of bfloat16 \(50, 16\), .* and \d+ more",
    ),
    "less": (
        lambda: nn.Identity(),
        "lacks nothing; the model lacks mask, embed.weight, .* and 11 more",
    ),
    "meta": (lambda: Tied(1).to("meta"), "can't be packed|with data"),
}


@pytest.mark.parametrize("kind", ["names", "dtype", "less", "meta"])
def test_another_model_is_refused_and_stays_as_it_was(tmp_path, kind):
    packing.pack(Tied(), tmp_path / "a.momos", 2)
    model = WRONG[kind][0]()
    before = content(model) if kind != "meta" else None
    with pytest.raises(ValueError, match=WRONG[kind][1]):
        packing.unpack(tmp_path / "a.momos", model)
    assert kind == "meta" or content(model) == before


def test_other_shapes_and_ties_are_refused(tmp_path):
    packing.pack(nn.Linear(3, 4), tmp_path / "a.momos", 2)
    other = nn.Linear(4, 3)
    before = content(other)
    with pytest.raises(
        ValueError,
        match=r"a.momos: holds another model: "
        r"weight is float32 \(4, 3\) instead of float32 \(3, 4\), bias is",
    ):
        packing.unpack(tmp_path / "a.momos", other)
    assert content(other) == before
    packing.pack(Tied(tie=False), tmp_path / "b.momos", 2)
    with pytest.raises(
        ValueError, match="keeps apart what the model ties, .*head.weight and embed.weight"
    ):
        packing.unpack(tmp_path / "b.momos", Tied(seed=1))
    folded = Holder({}, {"mask": torch.ones(1).expand(5)})
    packing.pack(folded, tmp_path / "c.momos", 2)
    with pytest.raises(
        ValueError, match="can't be loaded into tensors whose elements share memory: mask"
    ):
        packing.unpack(tmp_path / "c.momos", folded)
    with pytest.raises(ValueError, match="gone.momos is missing"):
        packing.unpack(tmp_path / "gone.momos", other)


def test_differences_are_found_to_the_bit(tmp_path):
    model = Tied()
    packing.pack(model, tmp_path / "a.momos", 4)
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    assert packing.differences(tmp_path / "a.momos", state) == []
    state["head.weight"].view(torch.int32)[49, 15] ^= 1
    state["layer.norm1.bias"][3] = -0.0
    assert packing.differences(tmp_path / "a.momos", state) == ["layer.norm1.bias", "head.weight"]


# damage


def signed(whole: bytes, body: bytes, about: object) -> bytes:
    """A file whose checksum and sizes are right: what a writer with ill intent could make.

    whole: a file with as many bytes of sections, whose list is taken where `about` gives no other.
    """
    coded = about if isinstance(about, bytes) else zstandard.compress(json.dumps(about).encode())
    text = base64.b85encode(coded).decode()
    entries = json.loads(whole[8 : -len(split(whole)[0])])
    del entries["__metadata__"]
    with contextlib.suppress(Exception):  # of a directory that gives none
        listed = momos_file.listed(about)
        if max(entry["data_offsets"][1] for entry in listed.values()) == len(body):
            entries = listed
    digest = hashlib.sha256(text.encode() + body).hexdigest()
    metadata = {"momos": "3", "sha256": digest, "directory": text}
    header = json.dumps({"__metadata__": metadata} | entries, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    return struct.pack("<Q", len(header)) + header + body


def split(whole: bytes) -> tuple[bytes, dict]:
    """The bytes behind the header, and the directory."""
    (length,) = struct.unpack("<Q", whole[:8])
    return whole[8 + length :], momos_file.directory(whole)


@contextlib.contextmanager
def little_memory(spare: int = 300 * 2**20):
    """No more address space than now and `spare`."""
    limits = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + spare, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)


def small_model(seed: int) -> nn.Module:
    model = Tied(seed)
    mosaic.project_(model, 2, num_motifs=60, generator=generator(seed))
    model.register_buffer("steps", torch.arange(300))
    return model


def quantised_model(seed: int) -> nn.Module:
    model = small_model(seed)
    with torch.no_grad():
        for index, parameter in enumerate(Tied(seed).parameters()):
            list(model.parameters())[index].copy_(quantize.quantize(parameter, 4 + 5 * (index % 2)))
    return model


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A small file at each level, with content in all kinds of sections, of motifs and of quantised
    weights.
    """
    found = {}
    for kind, build in (("", small_model), (" on grids", quantised_model)):
        for level in packing.LEVELS:
            path = tmp_path_factory.mktemp("files") / "a.momos"
            packing.pack(build(0), path, 2, level=level)
            found[level + kind] = path.read_bytes()
    return found


def damaged(whole: bytes, random: np.random.Generator) -> tuple[str, bytes]:
    kind = random.choice(["flip", "flips", "cut", "longer", "version", "sizes", "zeros", "swap"])
    data = bytearray(whole)
    if kind in ("flip", "flips"):
        for position in random.choice(
            8 * len(data), size=1 if kind == "flip" else random.integers(2, 40), replace=False
        ):
            data[position // 8] ^= 1 << position % 8
    elif kind == "cut":
        del data[random.integers(len(data)) :]
    elif kind == "longer":
        data += random.bytes(random.integers(1, 5000))
    elif kind == "version":
        data = data.replace(b'"3"', random.choice([b'"2"', b'"33"', b"3", b"null", b"{}"]), 1)
    elif kind == "sizes":
        sizes = [0, 2**31, 2**32 - 1, len(data), 2**40, 2**64 - 1]
        data[:8] = struct.pack("<Q", sizes[random.integers(len(sizes))])
    else:
        start, size = random.integers(len(data) - 64), random.integers(16, 64)
        data[start : start + size] = (
            bytes(size) if kind == "zeros" else data[start : start + size][::-1]
        )
    return kind, bytes(data)


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs /proc")
def test_a_thousand_damaged_files(tmp_path, files):
    """Each a clear error that names the file, in little memory, and the model stays as it was."""
    random, path, model = np.random.default_rng(0), tmp_path / "a.momos", small_model(1)
    before, seen = content(model), set()
    with little_memory():
        for index in range(1000):
            whole = list(files.values())[index % 4]
            kind, data = damaged(whole, random)
            if data == whole:
                continue
            path.write_bytes(data)
            with pytest.raises(ValueError, match="a.momos: (is|has|declares) ") as caught:
                packing.unpack(path, model)
            assert len(str(caught.value)) < 300
            seen.add((kind, str(caught.value).split("a.momos: ")[1].split()[0]))
            if index % 100 == 0:
                assert content(model) == before
    assert content(model) == before
    assert {
        ("version", "has"),
        ("cut", "has"),
        ("cut", "is"),
        ("flip", "is"),
        ("sizes", "declares"),
    } <= seen


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs /proc")
def test_five_hundred_forged_files(tmp_path, files):
    """Bytes changed under a right checksum: an error before the model is touched, or weights that
    such a file does hold.
    """
    random, path, refused = np.random.default_rng(1), tmp_path / "a.momos", 0
    model = small_model(1)
    before = content(model)
    with little_memory():
        for index in range(500):
            whole = list(files.values())[index % 4]
            body, about = split(whole)
            data = bytearray(body)
            for position in random.integers(len(data), size=random.integers(1, 6)):
                data[position] = random.integers(256)
            path.write_bytes(signed(whole, bytes(data), about))
            try:
                packing.unpack(path, model)
            except ValueError as error:
                assert (
                    "a.momos: section" in str(error)
                    or "a.momos: names motif" in str(error)
                    or "a.momos: a section" in str(error)
                )
                assert content(model) == before
                refused += 1
            before = content(model)
    assert refused > 50


HUGE = 2**62


def changed(about: dict, path: list, value: object) -> dict:
    about = copy.deepcopy(about)
    inner = about
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    return about


FORGED = [
    (["sections", 0, 3], HUGE),
    (["sections", 0, 3], -1),
    (["sections", 0, 3], 1.5),
    (["sections", 0, 3], "9"),
    (["sections", 1, 3], 0),
    (["sections", 0, 2], "grid"),
    (["sections", 0, 2], "grid planes"),
    (["sections", 0, 2], "pickle"),
    (["sections", 0, 0], "other"),
    (["sections", 0, 1], "float64"),
    (["sections"], []),
    (["sections"], 3),
    (["tensors", 0, 2], [HUGE, HUGE]),
    (["tensors", 0, 2], [-4, -4]),
    (["tensors", 0, 2], 4),
    (["tensors", 0, 1], "object"),
    (["tensors", 0, 1], []),
    (["tensors", 0, 0], 7),
    (["tensors", 0, 0], "embed.weight"),
    (["tensors", 0, 3], 1),
    (["tensors"], None),
    (["tensors", 0], ["mask"]),
    (["num_motifs", "float32"], HUGE),
    (["num_motifs", "float32"], 0),
    (["num_motifs", "float32"], -1),
    (["num_motifs"], {}),
    (["num_motifs", "float64"], 3),
    (["block_size"], HUGE),
    (["block_size"], 0),
    (["block_size"], None),
    (["level"], "none"),
    (["slicing"], 1),
    (["aliases"], {"head.weight": "nothing"}),
    (["aliases"], {"mask": "embed.weight"}),
    (["aliases"], [1]),
    (["aliases"], {"head.weight": ["mask"]}),
]


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs /proc")
@pytest.mark.parametrize("level", packing.LEVELS)
def test_forged_directories(tmp_path, files, level):
    """Sizes are held against the file and the model before anything of that size is made; read and
    inspect have no model.
    """
    body, about = split(files[level])
    path, model = tmp_path / "a.momos", small_model(1)
    before = content(model)
    bombs = [
        b"",
        b"no zstandard",
        zstandard.compress(b"[" * 100_000),
        zstandard.compress(b"{}"),
        zstandard.compress(b"[1]"),
        zstandard.compress(b"null"),
        zstandard.compress(b"\xff\xfe"),
        zstandard.compress(bytes(2**27)),
    ]
    forged = [changed(about, where, value) for where, value in FORGED]
    with little_memory():
        for content_of in bombs + forged:
            path.write_bytes(signed(files[level], body, content_of))
            for reader in (
                packing.read_tensors,
                packing.inspect,
                lambda path: packing.unpack(path, model),
            ):
                with pytest.raises(
                    ValueError,
                    match="a.momos: (its directory is inconsistent|declares|"
                    "holds another model|section|names)",
                ):
                    reader(path)
    assert content(model) == before


def test_frames_that_declare_too_much_are_not_decompressed(tmp_path, files):
    """A byte plane of 2^40 bytes by its own word."""
    body, about = split(files["entropy"])
    frame = (
        bytes.fromhex("28b52ffd")
        + bytes([0b11000000, 0x58])
        + struct.pack("<Q", 2**40)
        + b"\x01\x00\x00"
    )
    kind, _, coding, size = about["sections"][0]
    assert (kind, coding) == ("motifs", "motifs")
    start, stop = momos_file.listed(about)["motifs.float32"]["data_offsets"]
    assert stop - start == size
    about["sections"][0][3] = 4 + len(frame)
    path, model = tmp_path / "a.momos", small_model(1)
    body = body[:start] + struct.pack("<I", len(frame)) + frame + body[stop:]
    path.write_bytes(signed(files["entropy"], body, about))
    with pytest.raises(
        ValueError, match="a.momos: section motifs can't be decompressed: expected 6. bytes"
    ):
        packing.unpack(path, model)


def test_a_file_of_few_bytes_may_not_describe_terabytes(tmp_path):
    packing.pack(Holder({"weight": torch.zeros(4096)}, {}), tmp_path / "a.momos", 2)
    whole = (tmp_path / "a.momos").read_bytes()
    body, about = split(whole)
    (tmp_path / "a.momos").write_bytes(
        signed(whole, body, changed(about, ["tensors", 0, 2], [2**40]))
    )
    for reader in (packing.read_tensors, packing.inspect):
        with pytest.raises(
            ValueError, match="declares 4398046511104 bytes of tensors in a file of"
        ):
            reader(tmp_path / "a.momos")
    (tmp_path / "a.momos").write_bytes(
        signed(whole, body, changed(about, ["tensors", 0, 2], [2**16]))
    )
    assert packing.read_tensors(tmp_path / "a.momos")["weight"].shape == (2**16,)
    with pytest.raises(ValueError, match="declares 262144 bytes of tensors"):
        packing.read_tensors(tmp_path / "a.momos", max_bytes=2**16)
