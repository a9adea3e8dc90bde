"""Projection against brute force, and the properties that Algorithm 1 promises."""

import copy
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles.nearest import squared_distances
from recipes import method_of
from torch import nn

from momos.complexity import code_length
from momos.methods import mosaic
from momos.weights import blocks
from momos.weights.blocks import num_motifs

PAPER = Path(__file__).parents[2] / "data" / "paper"


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def check_nearest(queries, motifs):
    """Every block's motif is at the smallest distance, and is the first of its equals."""
    chosen = mosaic.assign(queries, motifs)
    assert chosen.dtype == torch.int64 and chosen.shape == (len(queries),)
    distances = squared_distances(queries.numpy(), motifs.numpy())
    picked = distances[np.arange(len(queries)), chosen.numpy()]
    assert (picked <= distances.min(axis=1) * (1 + 1e-12)).all()
    for index in chosen.unique().tolist():
        assert not (motifs[:index] == motifs[index]).all(dim=1).any(), (
            "an equal motif stands before the chosen one"
        )


def inputs(kind, block_size, seed):
    random = torch.randn(300, block_size, generator=generator(seed))
    if kind == "clustered":
        centres = torch.randn(5, block_size, generator=generator(seed + 1)) * 10
        random = centres[torch.arange(300) % 5] + 1e-4 * random
    if kind == "shifted":  # far from zero and close together: where |x|^2 - 2xm + |m|^2 cancels
        random = 1000 + 1e-3 * random
    if kind == "duplicated":
        random = random[torch.randint(20, (300,), generator=generator(seed))].round(decimals=1)
    scale = {"huge": 1e30, "tiny": 1e-30}.get(kind, 1.0)
    random = random * scale
    return random, random[torch.randperm(300, generator=generator(seed))[:60]]


@pytest.mark.parametrize("block_size", [1, 2, 4, 16, 64])
@pytest.mark.parametrize("kind", ["random", "clustered", "shifted", "duplicated", "huge", "tiny"])
def test_assign_equals_brute_force(kind, block_size):
    for seed in range(3):
        check_nearest(*inputs(kind, block_size, seed))


EXTREMES = st.sampled_from([-1.0, -0.0, 0.0, 0.5, 1.0, 3e38, 1e-38])


def rows_of(size):
    return st.lists(st.lists(EXTREMES, min_size=size, max_size=size), min_size=1, max_size=12)


@given(st.integers(1, 4).flatmap(lambda size: st.tuples(rows_of(size), rows_of(size))))
@settings(max_examples=200)
def test_assign_on_ties_signed_zeros_and_extremes(pair):
    check_nearest(*(torch.tensor(rows, dtype=torch.float64) for rows in pair))


def test_equal_motifs_give_the_lowest_index_and_signed_zeros_are_equal():
    motifs = torch.tensor([[1.0, 1.0], [0.0, -0.0], [-0.0, 0.0], [1.0, 1.0], [0.0, 0.0]])
    assert mosaic.assign(motifs, motifs).tolist() == [0, 1, 1, 0, 1]


def test_float64_beyond_the_range_of_squares():
    motifs = torch.tensor([[1e300], [2e300], [-1e300]], dtype=torch.float64)
    assert mosaic.assign(
        torch.tensor([[1.6e300], [1.2e300], [-5e300]], dtype=torch.float64), motifs
    ).tolist() == [1, 0, 2]
    tiny = torch.tensor([[1e-300], [2e-300], [0.0]], dtype=torch.float64)
    assert mosaic.assign(
        torch.tensor([[1.6e-300], [0.4e-300]], dtype=torch.float64), tiny
    ).tolist() == [1, 2]


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_weights_that_are_not_finite_are_refused(value):
    with pytest.raises(mosaic.NotFinite, match="blocks"):
        mosaic.assign(torch.tensor([[value, 0.0]]), torch.zeros(1, 2))
    with pytest.raises(mosaic.NotFinite, match="motifs"):
        mosaic.assign(torch.zeros(1, 2), torch.tensor([[value, 0.0]]))


def test_shapes_that_do_not_match_are_refused():
    with pytest.raises(ValueError, match=r"\(3, 2\) and \(1, 4\)"):
        mosaic.assign(torch.zeros(3, 2), torch.zeros(1, 4))


# --- how many motifs, and which


@given(st.integers(1, 10**7), st.integers(1, 1000))
def test_num_motifs_is_the_clamped_floor_of_the_written_capacity(num_blocks, thousandths):
    expected = min(max(thousandths * num_blocks // 1000, 1), num_blocks)
    assert num_motifs(num_blocks, thousandths / 1000) == expected


def test_published_cells_follow_from_num_motifs_and_rac():
    """ResNet20's eight cells (method A5), with blocks cut from the whole vector and tensor by
    tensor.
    """
    from momos.models import build

    sizes = [weight.numel() for weight in build("resnet20", 10).parameters()]
    table = pd.read_csv(PAPER / "table1.csv")
    cells = table[(table.model == "resnet20") & (table.method == "momos")]
    assert len(cells) == 8
    for slicing in blocks.SLICINGS:
        for cell in cells.itertuples():
            num_blocks = blocks.num_blocks(sizes, int(cell.block_size), slicing)
            count = num_motifs(num_blocks, cell.capacity)
            assert (
                f"{code_length.rac(sum(sizes), num_blocks, int(cell.block_size), count):.1f}"
                == f"{cell.rac:.1f}"
            )


@pytest.mark.parametrize("capacity", [0, 1.5, -0.1, math.nan, "0.1", True])
def test_a_bad_capacity_is_named(capacity):
    with pytest.raises(ValueError, match="capacity must be"):
        num_motifs(10, capacity)


def test_draw_holds_zero_first_and_distinct_blocks_of_the_model():
    cut = torch.arange(1, 21.0).reshape(10, 2)
    drawn = mosaic.draw_motifs(cut, 4, generator=generator())
    assert torch.equal(drawn[0], torch.zeros(2))
    assert (
        len({tuple(row) for row in drawn[1:].tolist()} & {tuple(row) for row in cut.tolist()}) == 3
    )
    assert torch.equal(
        mosaic.draw_motifs(cut, 10, force_zero=False, generator=generator()).sort(0).values, cut
    )


def test_draw_is_uniform_without_replacement():
    cut = torch.arange(1, 7.0)[:, None]
    stream = generator(1)
    counts = sum(
        torch.bincount(mosaic.draw_motifs(cut, 4, generator=stream)[1:, 0].long(), minlength=7)
        for _ in range(3000)
    )
    assert counts[0] == 0
    assert (counts[1:] - 1500).abs().max() < 5 * math.sqrt(3000 * 0.25)  # five standard deviations


@pytest.mark.parametrize("count", [0, 11])
def test_a_bad_number_of_motifs_is_named(count):
    with pytest.raises(ValueError, match=rf"1..10.*got {count}"):
        mosaic.draw_motifs(torch.zeros(10, 2), count, generator=generator())


# --- projection of a model


def small_model(seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Linear(5, 7), nn.BatchNorm1d(7), nn.Linear(7, 3)
        )  # 42 + 14 + 24 weights, ragged at 4


def flat(model):
    return torch.cat([weight.detach().reshape(-1) for weight in blocks.trainable(model).values()])


def full_blocks(model, block_size, slicing):
    weights = list(blocks.trainable(model).values())
    cut = blocks.to_blocks(weights, block_size, slicing)
    real = blocks.real_weights([weight.numel() for weight in weights], block_size, slicing).reshape(
        cut.shape
    )
    return cut[real.all(dim=1)], real


@given(
    st.integers(1, 9),
    st.integers(1, 8),
    st.sampled_from(blocks.SLICINGS),
    st.booleans(),
    st.integers(0, 5),
)
@settings(max_examples=60, deadline=None)
def test_projection_keeps_its_promises(block_size, num_motifs, slicing, force_zero, seed):
    model = small_model(seed)
    before, buffers = flat(model), copy.deepcopy(dict(model.named_buffers()))
    total = blocks.num_blocks([w.numel() for w in model.parameters()], block_size, slicing)
    num_motifs = min(num_motifs, total)
    options = {"num_motifs": num_motifs, "force_zero": force_zero, "slicing": slicing}
    report = mosaic.project_(model, block_size, generator=generator(seed), **options)
    after = flat(model)

    whole, _ = full_blocks(model, block_size, slicing)
    assert len(whole.unique(dim=0)) <= num_motifs
    assert report.usage.sum() == len(report.mosaic) == total and len(report.usage) == num_motifs
    difference = (before.double() - after.double()).numpy()
    assert report.distortion == pytest.approx(math.fsum(difference**2), rel=1e-12)
    assert report.distortion_per_weight == pytest.approx(report.distortion / len(before), rel=1e-12)
    assert report.relative_distortion == pytest.approx(
        math.sqrt(math.fsum(difference**2)) / before.double().norm().item(), rel=1e-12
    )
    assert report.num_changed == int((before != after).sum())
    assert all(torch.equal(value, buffers[name]) for name, value in model.named_buffers())

    again = mosaic.project_(
        model, block_size, generator=generator(), motifs=report.motifs, **options
    )
    changed = flat(model) != after
    cut = blocks.real_weights([w.numel() for w in model.parameters()], block_size, slicing)
    ragged = ~cut.reshape(-1, block_size).all(dim=1).repeat_interleave(block_size)
    assert not (changed & ~ragged[cut]).any(), "only ragged tails may change"
    assert again.num_changed == int(changed.sum())


def test_padding_never_counts():
    """One weight in a block of three: the two padded places must not enter the distortion."""
    model = nn.Linear(1, 1, bias=False)
    nn.init.constant_(model.weight, 2.0)
    other = nn.ParameterList([model.weight, nn.Parameter(torch.tensor([1.0, 1.0, 1.0]))])
    report = mosaic.project_(
        other, 3, num_motifs=1, generator=generator(), motifs=torch.tensor([[1.5, 9.0, 9.0]])
    )
    assert report.distortion == pytest.approx(0.5**2 + 0.5**2 + 8**2 + 8**2)
    assert other[0].item() == 1.5 and other[0].shape == (1, 1)


def test_capacity_one_without_forced_zero_changes_nothing():
    model = small_model()
    before = flat(model)
    report = mosaic.project_(model, 4, capacity=1.0, force_zero=False, generator=generator())
    assert torch.equal(flat(model), before) and report.distortion == 0 and report.num_changed == 0


def test_the_same_seed_gives_the_same_bytes_and_leaves_the_global_state():
    models, state = [small_model(), small_model()], torch.get_rng_state()
    for model in models:
        mosaic.project_(model, 2, capacity=0.1, generator=generator(3))
    assert torch.equal(flat(models[0]), flat(models[1])) and torch.equal(
        torch.get_rng_state(), state
    )


def test_motifs_are_global_and_blocks_do_not_cross_tensors_by_default():
    model = nn.ParameterList(
        [nn.Parameter(torch.tensor([1.0, 2.0, 3.0])), nn.Parameter(torch.tensor([4.0]))]
    )
    report = mosaic.project_(
        model,
        2,
        generator=generator(),
        motifs=torch.tensor([[1.0, 2.0], [3.0, 4.0]]),
        num_motifs=2,
        slicing="model",
    )
    assert report.distortion == 0 and report.mosaic.tolist() == [0, 1]
    report = mosaic.project_(
        model,
        2,
        generator=generator(),
        motifs=torch.tensor([[1.0, 2.0], [3.0, 0.0], [4.0, 0.0]]),
        num_motifs=3,
    )
    assert report.distortion == 0 and report.mosaic.tolist() == [0, 1, 2]


@pytest.mark.parametrize("budget", [{}, {"capacity": 0.1, "num_motifs": 3}])
def test_exactly_one_budget(budget):
    with pytest.raises(ValueError, match="exactly one of capacity and num_motifs"):
        mosaic.project_(small_model(), 2, generator=generator(), **budget)


def test_a_block_larger_than_the_model_is_refused():
    with pytest.raises(ValueError, match="block_size must be in 1..80.*got 81"):
        mosaic.project_(small_model(), 81, capacity=0.5, generator=generator())


def test_a_method_says_what_a_projection_will_have():
    model = small_model()
    about = method_of({"bits": 32, "block_size": 4, "capacity": 0.1}).describe(model)
    report = mosaic.project_(
        model, 4, generator=generator(), capacity=0.1, force_zero=True, slicing="tensor"
    )
    assert (about["num_blocks"], about["num_motifs"]) == (len(report.mosaic), len(report.motifs))
    plain = method_of({"bits": 32}).describe(model)
    assert plain.pop("bits") == 32 and set(plain.values()) == {None}
    assert set(plain) | {"bits"} == set(about)
