"""BDM against pybdm itself: values, normalisation, pooling."""

import io
import os
import pickle
import subprocess
import sys
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from momos.complexity import bdm

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # pybdm imports pkg_resources
    import pybdm

ORACLE = {1: pybdm.BDM(ndim=1), 2: pybdm.BDM(ndim=2)}
KINDS = ["zeros", "ones", "period2", "period5", "period13", "fair", "sparse", "one_hot"]
LENGTHS = [12, 13, 23, 24, 25, 36, 119, 120, 121, 4 * 12 * 257 + 1, 12 * 4096, 12 * 4097, 100_000]
SHAPES = [
    (4, 4),
    (5, 7),
    (7, 5),
    (8, 8),
    (4, 101),
    (101, 4),
    (9, 10),
    (16, 20),
    (63, 65),
    (316, 316),
]


def example(kind: str, size: int) -> np.ndarray:
    rng = np.random.default_rng(size)
    if kind.startswith("period"):
        return np.resize(rng.integers(0, 2, int(kind.removeprefix("period"))), size)
    made = {
        "zeros": np.zeros(size, int),
        "ones": np.ones(size, int),
        "one_hot": np.zeros(size, int),
    }
    made["fair"], made["sparse"] = rng.integers(0, 2, size), (rng.random(size) < 0.03).astype(int)
    made["one_hot"][size // 2] = 1
    return made[kind]


def assert_equals_pybdm(bits: np.ndarray) -> None:
    oracle = ORACLE[bits.ndim]
    assert bdm.bdm(bits.astype(np.uint8), bits.ndim) == pytest.approx(oracle.bdm(bits), rel=1e-9)
    assert bdm.bdm(bits.astype(bool), bits.ndim) == bdm.bdm(bits, bits.ndim)
    assert bdm.bdm_normalized(bits, bits.ndim) == pytest.approx(
        oracle.nbdm(bits), rel=1e-9, abs=1e-12
    )


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("kind", KINDS)
def test_words_equal_pybdm(kind, length):
    assert_equals_pybdm(example(kind, length))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_squares_equal_pybdm(kind, shape):
    assert_equals_pybdm(example(kind, shape[0] * shape[1]).reshape(shape))


def test_normalised_squares_equal_pybdm_where_every_square_is_used_more_than_once():
    assert_equals_pybdm(example("fair", 1030 * 1024).reshape(1030, 1024))


@pytest.mark.parametrize("chunk", [16, 48, 256])
@pytest.mark.parametrize("shape", [(1003,), (12, 700), (700, 12), (50, 61)], ids=str)
def test_the_chunk_size_changes_nothing(monkeypatch, chunk, shape):
    monkeypatch.setattr(bdm, "CHUNK_BITS", chunk)
    assert_equals_pybdm(example("fair", int(np.prod(shape))).reshape(shape))


def test_more_bits_than_one_chunk_and_a_strided_view():
    bits = example("fair", 2 * bdm.CHUNK_BITS + 70)
    assert_equals_pybdm(bits[::2])
    assert_equals_pybdm(bits[: 8 * 1000].reshape(1000, 8).T)


@given(st.lists(st.integers(0, 40), min_size=1, max_size=12), st.integers(0, 2**32))
@settings(max_examples=60, deadline=None)
def test_words_are_cut_across_tensor_borders(lengths, seed):
    bits = np.random.default_rng(seed).integers(0, 2, sum(lengths) + 12)
    tensors = np.split(bits, np.cumsum(lengths))
    counts = bdm.BlockCounts(tensor.astype(bool) for tensor in tensors)
    assert bdm.complexity(counts.words) == pytest.approx(ORACLE[1].bdm(bits), rel=1e-9)
    assert bdm.normalized(counts.words) == pytest.approx(ORACLE[1].nbdm(bits), rel=1e-9, abs=1e-12)


SHAPES_3D = st.tuples(st.integers(1, 9), st.integers(1, 5), st.integers(1, 5))


@given(st.lists(SHAPES_3D, min_size=1, max_size=6), st.integers(0, 2**32))
@settings(max_examples=60, deadline=None)
def test_squares_are_pooled_over_tensors_with_two_axes_or_more(shapes, seed):
    rng = np.random.default_rng(seed)
    matrices = [rng.integers(0, 2, shape) for shape in [(8, 3, 4), *shapes]]
    counters = [
        ORACLE[2].decompose_and_count(matrix.reshape(len(matrix), -1)) for matrix in matrices
    ]
    vectors = [np.ones(100, dtype=bool), np.array(True)]
    counts = bdm.BlockCounts(
        [vectors[0], *(matrix.astype(bool) for matrix in matrices), vectors[1]]
    )
    assert bdm.complexity(counts.squares) == pytest.approx(
        ORACLE[2].compute_bdm(*counters), rel=1e-9
    )


def test_normalised_pooled_squares_are_those_of_the_matrices_on_top_of_each_other():
    matrices = [example("fair", 64).reshape(8, 8), example("sparse", 160).reshape(20, 8)]
    counts = bdm.BlockCounts(matrix.astype(bool) for matrix in matrices)
    assert bdm.normalized(counts.squares) == pytest.approx(
        ORACLE[2].nbdm(np.concatenate(matrices)), rel=1e-9
    )


def test_every_table_entry_is_pybdms():
    for ndim, shape in ((1, (12,)), (2, (4, 4))):
        size = int(np.prod(shape))
        for code in np.random.default_rng(0).integers(0, 1 << size, 200):
            block = np.array([int(bit) for bit in f"{code:0{size}b}"]).reshape(shape)
            assert bdm.ctm(ndim)[code] == ORACLE[ndim].bdm(block)


def test_ratio_is_that_of_the_signs():
    rng = np.random.default_rng(3)
    trained, initial = rng.standard_normal(5000).astype(np.float32), rng.standard_normal(5000)
    trained[::3] = 0  # scattered: a run of zeros counts as much as a run of ones
    trained[1::5] = -0.0
    expected = ORACLE[1].bdm((trained > 0).astype(int)) / ORACLE[1].bdm((initial > 0).astype(int))
    assert bdm.bdm_ratio(trained, initial) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(
    "shape", [(0,), (11,), (0, 0), (3, 100), (100, 3), (0, 8), (8, 0)], ids=str
)
def test_no_complete_block_is_an_error_as_in_pybdm(shape):
    bits = np.ones(shape, dtype=int)
    with pytest.raises(ValueError, match="Computed BDM is 0"):
        ORACLE[bits.ndim].bdm(bits)
    with pytest.raises(ValueError, match="no complete block"):
        bdm.bdm(bits, bits.ndim)
    with pytest.raises(ValueError, match="no complete block"):
        bdm.bdm_normalized(bits, bits.ndim)


@pytest.mark.parametrize(
    ("bits", "ndim", "message"),
    [
        (np.ones((4, 4), bool), 1, r"1 axes .* \(4, 4\)"),
        (np.ones(16, bool), 2, r"2 axes .* \(16,\)"),
        (np.ones(16, bool), 3, "ndim must be 1 or 2, got 3"),
        (np.ones(16), 1, "float64"),
        (np.full(16, 2), 1, "from 2 to 2"),
        (np.full(16, -1), 1, "from -1 to -1"),
    ],
)
def test_what_is_no_binary_array_is_refused(bits, ndim, message):
    with pytest.raises(ValueError, match=message):
        bdm.bdm(bits, ndim)


def test_ratio_refuses_what_it_cannot_compare():
    weights = np.ones(24)
    with pytest.raises(ValueError, match=r"\(24,\) and \(23,\)"):
        bdm.bdm_ratio(weights, weights[1:])
    with pytest.raises(ValueError, match="flat"):
        bdm.bdm_ratio(weights.reshape(2, 12), weights.reshape(2, 12))
    for bad in (np.nan, np.inf):
        with pytest.raises(ValueError, match="initial weights hold NaN or infinity"):
            bdm.bdm_ratio(weights, np.where(np.arange(24) == 5, bad, weights))


def test_the_control_permutes_within_each_tensor_and_follows_the_seed():
    rng = np.random.default_rng(0)
    tensors = [rng.random((20, 30)) < 0.2, rng.random(500) < 0.8, np.zeros(0, bool)]
    before = np.random.get_state()[1].copy()
    first, again, other = (list(bdm.shuffled(tensors, seed)) for seed in (1, 1, 2))
    assert (np.random.get_state()[1] == before).all()
    assert [bits.shape for bits in first] == [bits.shape for bits in tensors]
    assert [bits.sum() for bits in first] == [bits.sum() for bits in tensors]
    assert all((a == b).all() for a, b in zip(first, again, strict=True))
    assert (first[0] != tensors[0]).any() and (first[0] != other[0]).any()


def test_tables_are_read_without_importing_pybdm():
    code = "import sys; from momos.complexity.bdm import ctm; ctm(1); ctm(2); "
    code += "sys.exit({'pybdm', 'pkg_resources'} & set(sys.modules) or 0)"
    result = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
    )
    assert (result.returncode, result.stderr) == (0, "")


def test_a_missing_pybdm_is_named(monkeypatch):
    monkeypatch.setattr(bdm.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match="pip install pybdm"):
        bdm._read_table("ctm-b2-d12.pkl.gz")


def test_a_table_can_construct_dictionaries_and_nothing_else():
    with pytest.raises(pickle.UnpicklingError, match="found os.getcwd|found posix.getcwd"):
        bdm._TableUnpickler(io.BytesIO(pickle.dumps(os.getcwd))).load()
