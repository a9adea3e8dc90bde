"""Every way of finding the nearest motif against brute force, index for index."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles.nearest import first_nearest
from scipy.spatial import cKDTree

from momos.methods import mosaic, nearest

TESTS = Path(__file__).parents[1]
KINDS = [
    "random",
    "clustered",
    "shifted",
    "duplicated",
    "copies",
    "huge",
    "tiny",
    "denormal",
    "grid",
    "outlier",
    "equal",
    "zeros",
]
BLOCK_SIZES = [1, 2, 3, 4, 8, 16, 33, 64]
TREE_SIZES = [
    1,
    2,
    3,
    4,
    8,
    16,
]  # above, brute force is always chosen, and each size costs a compilation
CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


def inputs(kind, block_size, seed=0, num_blocks=150, num_motifs=90):
    """Blocks and motifs, float32, that are hard on a search: ties, cancellation, the ends of the
    range.
    """
    random = np.random.default_rng([seed, block_size])
    rows = random.standard_normal((num_blocks + num_motifs, block_size))
    if kind == "clustered":
        rows = (
            10 * random.standard_normal((5, block_size))[random.integers(5, size=len(rows))]
            + 1e-4 * rows
        )
    if kind == "shifted":
        rows = 1000 + 1e-3 * rows
    if kind == "duplicated":
        rows = rows[random.integers(20, size=len(rows))].round(1)
    if kind == "copies":  # half of all are zero, as in a projected model
        rows[random.random(len(rows)) < 0.5] = 0
    if kind == "grid":  # many equal distances between different motifs
        rows = random.integers(-2, 3, size=rows.shape)
    if kind == "outlier":
        rows[0], rows[-1] = 1e20, -1e-20
    if kind in ("equal", "zeros"):
        rows[:] = 0.3 if kind == "equal" else 0
    rows = (rows * {"huge": 5e37, "tiny": 1e-36, "denormal": 1e-42}.get(kind, 1)).astype(np.float32)
    return rows[:num_blocks], rows[num_blocks:]


def tiles(blocks, motifs):
    return nearest.tiles(torch.from_numpy(blocks), torch.from_numpy(motifs)).numpy()


@pytest.fixture
def small_tiles(monkeypatch):
    monkeypatch.setattr(nearest, "TILE", 8)
    monkeypatch.setattr(nearest, "CHUNK", 100)
    monkeypatch.setattr(nearest, "MAX_PAIRS", 400)


def check(search, blocks, motifs):
    np.testing.assert_array_equal(search(blocks, motifs), first_nearest(blocks, motifs))


def search_and_size():
    every = [(nearest.brute, BLOCK_SIZES), (nearest.tree, TREE_SIZES), (tiles, BLOCK_SIZES)]
    return [
        pytest.param(search, size, id=f"{search.__name__}-{size}")
        for search, sizes in every
        for size in sizes
    ]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("search", "block_size"), search_and_size())
def test_every_search_equals_brute_force(search, block_size, kind, small_tiles):
    check(search, *inputs(kind, block_size))


@pytest.mark.parametrize("search", [nearest.brute, nearest.tree, tiles])
def test_every_search_in_float64(search, small_tiles):
    check(search, *(rows.astype(np.float64) / 3 for rows in inputs("duplicated", 3)))


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (7, 1), (3, 33), (40, 2)])
@pytest.mark.parametrize("search", [nearest.brute, nearest.tree, tiles])
def test_few_blocks_and_few_motifs(search, shape, small_tiles):
    for block_size in (1, 2, 4):
        check(search, *inputs("random", block_size, 1, *shape))


EXTREMES = st.sampled_from([-1.0, -0.0, 0.0, 0.5, 1.0, 1 + 2**-23, 3e38, -3e38, 1e-45, 1e-38, 7.0])


def rows_of(size):
    return st.lists(st.lists(EXTREMES, min_size=size, max_size=size), min_size=1, max_size=70)


@pytest.mark.parametrize("search", [nearest.brute, nearest.tree, tiles])
@given(st.integers(1, 3).flatmap(lambda size: st.tuples(rows_of(size), rows_of(size))))
@settings(max_examples=60, deadline=None)
def test_ties_signed_zeros_and_extremes(search, pair):
    check(search, *(np.array(rows, dtype=np.float32) for rows in pair))


@pytest.mark.parametrize("block_size", [2, 20])
@pytest.mark.parametrize("scale", [1e300, 1e-300, 5e-324])
def test_float64_at_both_ends_of_the_range(block_size, scale, monkeypatch):
    """Beyond the range of squares. The tree at block size 2, brute force at 20."""
    monkeypatch.setattr(nearest, "PATIENCE", 0)
    blocks, motifs = (
        rows.astype(np.float64) * (9 * scale) for rows in inputs("random", block_size, 2, 500, 200)
    )
    check(lambda *pair: mosaic.assign(*map(torch.from_numpy, pair)).numpy(), blocks, motifs)


@pytest.mark.parametrize(
    ("block_size", "num_motifs", "brute"),
    [(1, 7, True), (2, 60, False), (8, 500, True), (8, 1500, False)],
)
def test_the_choice_changes_the_time_alone(block_size, num_motifs, brute, monkeypatch):
    monkeypatch.setattr(nearest, "PATIENCE", 0)
    called = []
    for name in ("brute", "tree"):
        search = getattr(nearest, name)
        monkeypatch.setattr(
            nearest,
            name,
            lambda *pair, name=name, search=search: (called.append(name), search(*pair))[1],
        )
    blocks, motifs = inputs("duplicated", block_size, 3, 900, num_motifs)
    check(lambda *pair: mosaic.assign(*map(torch.from_numpy, pair)).numpy(), blocks, motifs)
    assert called == ["brute" if brute else "tree"]


@pytest.mark.parametrize("block_size", [2, 4])
def test_many_blocks_have_the_distances_of_scipy(block_size):
    blocks, motifs = inputs("random", block_size, 4, 200_000, 20_000)
    chosen = nearest.tree(blocks, motifs)
    distance, _ = cKDTree(motifs.astype(np.float64)).query(blocks.astype(np.float64))
    own = np.sqrt(
        np.square(blocks.astype(np.float64) - motifs[chosen].astype(np.float64)).sum(axis=1)
    )
    np.testing.assert_allclose(own, distance, rtol=1e-12)


def test_copies_do_not_slow_the_tree():
    """All motifs equal, or half of them: without care every copy would be visited by every block,
    4e10 pairs here.
    """
    blocks, motifs = inputs("copies", 2, 5, 200_000, 200_000)
    assert (nearest.tree(blocks * 0, motifs * 0) == 0).all()
    chosen = nearest.tree(blocks, motifs)
    assert (motifs[chosen[~blocks.any(axis=1)]] == 0).all()


def test_other_dtypes_and_layouts():
    blocks, motifs = (torch.from_numpy(rows) for rows in inputs("random", 4))
    expected = torch.from_numpy(first_nearest(blocks.half().numpy(), motifs.half().numpy()))
    assert torch.equal(mosaic.assign(blocks.half(), motifs.half()), expected)
    assert torch.equal(mosaic.assign(blocks.half().double(), motifs.half()), expected)
    strided = torch.cat([blocks, blocks], 1).half()[:, :4]
    assert torch.equal(mosaic.assign(strided, motifs.half().requires_grad_()), expected)
    assert mosaic.assign(blocks[:0], motifs).shape == (0,)


def run(code, **environment):
    paths = os.pathsep.join([str(TESTS), str(TESTS / "methods"), str(TESTS.parent / "src")])
    subprocess.run(
        [sys.executable, "-c", code],
        check=True,
        env={**os.environ, "PYTHONPATH": paths, **environment},
    )


NO_COMPILER = """
import sys, torch
before = set(sys.modules)
from momos.methods import mosaic
assert not {"numba", "scipy"} & set(sys.modules) and "triton" not in set(sys.modules) - before
mosaic.assign(torch.randn(1000, 2), torch.randn(100, 2))
assert "numba" not in sys.modules
"""


def test_importing_the_projection_and_small_problems_load_no_compiler():
    run(NO_COMPILER)


# --- Triton, interpreted here; on a GPU the same again


FUSED = """
import torch
from momos.methods import nearest
from oracles.nearest import first_nearest
from test_nearest import KINDS, inputs
SHAPES = [(1, 70, 40), (2, 130, 70), (3, 64, 32), (4, 1, 33), (8, 20, 1), (33, 5, 40), (64, 5, 40)]
for kind in KINDS:
    for block_size, num_blocks, num_motifs in SHAPES:
        blocks, motifs = inputs(kind, block_size, 6, num_blocks, num_motifs)
        chosen = nearest.fused(torch.from_numpy(blocks), torch.from_numpy(motifs)).numpy()
        assert (chosen == first_nearest(blocks, motifs)).all(), (kind, block_size)
"""


def test_the_fused_kernel_interpreted():
    pytest.importorskip("triton")
    run(FUSED, TRITON_INTERPRET="1", CUDA_VISIBLE_DEVICES="")


@CUDA
@pytest.mark.parametrize("search", [nearest.fused, nearest.tiles])
@pytest.mark.parametrize("block_size", BLOCK_SIZES)
@pytest.mark.parametrize("kind", KINDS)
def test_searches_on_a_gpu(search, block_size, kind):
    blocks, motifs = inputs(kind, block_size, 7, 3000, 700)
    chosen = search(torch.from_numpy(blocks).cuda(), torch.from_numpy(motifs).cuda())
    np.testing.assert_array_equal(chosen.cpu().numpy(), first_nearest(blocks, motifs))


@CUDA
def test_the_fused_kernel_in_a_graph():
    blocks, motifs = (torch.from_numpy(rows).cuda() for rows in inputs("random", 2, 8, 3000, 700))
    expected = nearest.fused(blocks, motifs)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = nearest.fused(blocks, motifs)
    graph.replay()
    assert torch.equal(captured, expected)


@CUDA
def test_projection_on_a_gpu_equals_the_cpu():
    torch.manual_seed(0)
    model = torch.nn.Linear(300, 70)
    other = torch.nn.Linear(300, 70).cuda()
    other.load_state_dict(model.state_dict())
    here, there = (
        mosaic.project_(m, 4, capacity=0.1, generator=torch.Generator().manual_seed(1))
        for m in (model, other)
    )
    assert there.motifs.is_cuda and there.mosaic.is_cuda and not there.usage.is_cuda
    assert torch.equal(here.mosaic, there.mosaic.cpu()) and torch.equal(here.usage, there.usage)
    assert all(
        torch.equal(a, b.cpu()) for a, b in zip(model.parameters(), other.parameters(), strict=True)
    )
    assert there.distortion == pytest.approx(here.distortion, rel=1e-12)
