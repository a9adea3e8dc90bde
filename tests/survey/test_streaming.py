"""Measures of weights that arrive tensor by tensor: the numbers of those that are there at once."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from momos.complexity import compressors
from momos.complexity.measure import measure_weights
from momos.survey import streaming

NAMES = ("gzip", "bz2", "lzma", "zstd")


def tensors(shapes, seed: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        f"t{i}": torch.randn(shape, generator=generator).clamp_min(-0.5) + 0.5
        for i, shape in enumerate(shapes)
    }


def streamed(trained: dict, *initial: dict, names=NAMES, seed: int = 3) -> dict:
    return streaming.measure_against(
        trained.items, [weights.items for weights in initial], compressors=names, seed=seed
    )


shapes = st.lists(
    st.lists(st.integers(1, 9), min_size=0, max_size=4).map(tuple), min_size=1, max_size=6
)


@given(shapes=shapes, seed=st.integers(0, 99))
def test_everything_is_as_in_one_piece(shapes, seed):
    shapes = [*shapes, (8, 13)]  # a complete block of each kind
    trained, initial = tensors(shapes, seed), tensors(shapes, seed + 1)
    found = streamed(trained, initial, names=NAMES[:3])
    further = {name: found.pop(name) for name in streaming.further_columns()}
    assert further["num_initial"] == 1
    expected = measure_weights(trained, initial, compressors=NAMES[:3], seed=3)
    assert found.pop("num_weights") == sum(tensor.numel() for tensor in trained.values())
    assert found == {name: expected[name] for name in found}
    assert set(expected) - set(found) == {"l2_norm", "distinct_blocks"}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("piece", [1, 999, 70_001])
def test_a_compressor_does_not_see_the_pieces(name, piece, monkeypatch):
    """zstd alone knows the size when it has all at once."""
    data = np.random.default_rng(0).normal(size=50_000).astype(np.float32)
    monkeypatch.setattr(streaming, "CHUNK_BYTES", 4096)
    stream = streaming.CompressedSize(name)
    for start in range(0, len(data), max(piece, 7)):
        stream.add(data[start : start + max(piece, 7)])
    assert stream.ratio() == pytest.approx(
        compressors.ratio(data.tobytes(), name), rel=1e-3 if name == "zstd" else 0
    )


def test_every_compressor_is_there_both_ways():
    assert set(NAMES) == set(compressors.names())
    for name in compressors.names():
        assert callable(compressors.load(name).compress) and callable(compressors.load(name).stream)
    with pytest.raises(ValueError, match=r"unknown compressor 'rar'.*gzip"):
        streaming.CompressedSize("rar")


def test_initial_values_are_means():
    trained, first, second = (tensors([(9, 20), (30,)], seed) for seed in range(3))
    both, one, other = (
        streamed(trained, first, second),
        streamed(trained, first),
        streamed(trained, second),
    )
    for name in ("bdm_1d_initial", "bdm_2d_initial"):
        assert both[name] == pytest.approx((one[name] + other[name]) / 2, rel=1e-12)
    assert both["bdm_1d_ratio"] == both["bdm_1d"] / both["bdm_1d_initial"]


NOT_COMPARABLE = [
    ({"t0": torch.full((9, 20), torch.inf)}, r"tensor t0 \(trained\) holds NaN or infinite"),
    (
        {"t0": torch.ones(9, 20, dtype=torch.int32)},
        r"tensor t0 \(trained\) must hold floating-point weights, got torch\.int32",
    ),
    (
        {"t0": torch.ones(20, 9)},
        r"tensor t0 must have the same shape.*\(20, 9\) trained, \(9, 20\) initial",
    ),
    ({"t9": torch.ones(2)}, r"tensor t9 must.*\(2,\) trained, no such tensor initial"),
]


@pytest.mark.parametrize(("change", "message"), NOT_COMPARABLE)
def test_what_can_not_be_compared_is_an_error(change, message):
    initial = tensors([(9, 20), (30,)], 0)
    with pytest.raises(ValueError, match=message):
        streamed(initial | change, initial)


def test_a_model_without_a_block_or_a_tensor_is_an_error():
    with pytest.raises(ValueError, match="no complete block of 4x4"):
        streamed({"a": torch.ones(99)}, {"a": torch.ones(99)})
    with pytest.raises(ValueError, match="no tensors"):
        streamed({}, {})
