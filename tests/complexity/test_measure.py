"""Complexity columns of a model against pybdm, the compressors' libraries and counts by hand."""

import bz2
import gzip
import lzma
import warnings

import numpy as np
import pytest
import torch
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from momos import metrics
from momos.complexity import measure

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # pybdm imports pkg_resources
    import pybdm

NAMES = ["gzip", "bz2", "lzma", "zstd"]
BDM_COLUMNS = [
    f"bdm_{n}d{suffix}"
    for n in (1, 2)
    for suffix in ("", "_initial", "_ratio", "_normalized", "_shuffled")
]
COLUMNS = [
    *BDM_COLUMNS,
    *NAMES,
    *(f"{name}_binary" for name in NAMES),
    "distinct_blocks",
    *metrics.names(),
]
COMPRESS = {
    "gzip": lambda data: gzip.compress(data, 9, mtime=0),
    "bz2": lambda data: bz2.compress(data, 9),
    "lzma": lambda data: lzma.compress(data, preset=6),
    "zstd": zstandard.ZstdCompressor(level=19).compress,
}


def weights(seed: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shapes = {"conv": (13, 3, 3, 3), "bias": (13,), "scale": (), "linear": (10, 37)}
    tensors = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    tensors["linear"][:3], tensors["conv"][4:6] = 0.0, -0.0
    return tensors


def bits_1d(tensors: dict) -> np.ndarray:
    return np.concatenate([(tensor.numpy() > 0).ravel() for tensor in tensors.values()]).astype(int)


def pybdm_2d(tensors: dict) -> float:
    oracle = pybdm.BDM(ndim=2)
    matrices = [
        (tensor.numpy() > 0).astype(int).reshape(len(tensor), -1)
        for tensor in tensors.values()
        if tensor.ndim >= 2
    ]
    return oracle.compute_bdm(*[oracle.decompose_and_count(matrix) for matrix in matrices])


def measured(tensors=None, initial=None, **settings) -> dict:
    settings = {"block_size": 2, "compressors": NAMES, "seed": 0} | settings
    return measure.measure_weights(tensors or weights(1), initial or weights(2), **settings)


def test_the_columns_are_those_of_the_result_files():
    assert list(measured()) == COLUMNS
    assert list(measure.bdm_columns(weights(1), weights(2), seed=0)) == BDM_COLUMNS


def test_bdm_columns_equal_pybdm():
    tensors, initial = weights(1), weights(2)
    row, oracle = measured(tensors, initial), pybdm.BDM(ndim=1)
    expected = {
        "bdm_1d": oracle.bdm(bits_1d(tensors)),
        "bdm_1d_initial": oracle.bdm(bits_1d(initial)),
        "bdm_1d_ratio": oracle.bdm(bits_1d(tensors)) / oracle.bdm(bits_1d(initial)),
        "bdm_1d_normalized": oracle.nbdm(bits_1d(tensors)),
        "bdm_2d": pybdm_2d(tensors),
        "bdm_2d_initial": pybdm_2d(initial),
        "bdm_2d_ratio": pybdm_2d(tensors) / pybdm_2d(initial),
    }
    assert {name: row[name] for name in expected} == pytest.approx(expected, rel=1e-9)
    assert measure.model_bdm(tensors) == pytest.approx(
        (expected["bdm_1d"], expected["bdm_2d"]), rel=1e-9
    )


def test_the_shuffled_control_destroys_order_and_nothing_else():
    """Alternating signs are simple, their permutation is not; a constant tensor stays as simple as
    it was.
    """
    striped = {"stripes": torch.tensor([1.0, -1.0]).repeat(4000).reshape(80, 100)}
    row = measured(striped, striped)
    assert (
        row["bdm_1d_shuffled"] > 20 * row["bdm_1d"] and row["bdm_2d_shuffled"] > 20 * row["bdm_2d"]
    )
    constant = {"a": torch.ones(48, 48), "b": -torch.ones(48, 48)}
    row = measured(constant, constant)
    assert (row["bdm_1d_shuffled"], row["bdm_2d_shuffled"]) == (row["bdm_1d"], row["bdm_2d"])


def test_the_seed_moves_the_control_alone():
    first, again, other = measured(seed=0), measured(seed=0), measured(seed=1)
    assert first == again
    assert {name for name in first if first[name] != other[name]} == {
        "bdm_1d_shuffled",
        "bdm_2d_shuffled",
    }


def test_initial_weights_are_matched_by_name():
    initial = weights(2)
    assert measured(initial=dict(reversed(initial.items()))) == measured(initial=initial)


@pytest.mark.parametrize("name", NAMES)
def test_compression_is_of_float32_weights_and_of_packed_signs(name):
    tensors = weights(1)
    raw = b"".join(tensor.numpy().astype("<f4").tobytes() for tensor in tensors.values())
    digits = "".join(map(str, bits_1d(tensors)))
    digits += "0" * (-len(digits) % 8)
    packed = bytes(int(digits[i : i + 8], 2) for i in range(0, len(digits), 8))
    row = measured(tensors, compressors=[name])
    assert row[name] == len(raw) / len(COMPRESS[name](raw))
    assert row[f"{name}_binary"] == len(packed) / len(COMPRESS[name](packed))
    assert not set(row) & {other for other in NAMES if other != name}


def test_other_precisions_are_measured_as_float32():
    half = {name: tensor.bfloat16() for name, tensor in weights(1).items()}
    assert measured(half) == measured({name: tensor.float() for name, tensor in half.items()})


def test_sparsity_and_norm():
    tensors = {
        "a": torch.tensor([[3.0, 0.0, -0.0, 4.0]]).repeat(4, 4),
        "b": torch.tensor([1e-30, 1e25]),
    }
    row = measured(tensors, {name: torch.randn_like(tensor) for name, tensor in tensors.items()})
    assert row["sparsity"] == 32 / 66
    assert row["l2_norm"] == pytest.approx(1e25, rel=1e-6)  # whose square is no float32


def brute_force_distinct(tensors: dict, block_size: int) -> int:
    seen = set()
    for tensor in tensors.values():
        flat = tensor.flatten().tolist()
        flat += [0.0] * (-len(flat) % block_size)
        seen |= {tuple(flat[i : i + block_size]) for i in range(0, len(flat), block_size)}
    return len(seen)


@given(
    st.lists(st.integers(1, 40), min_size=1, max_size=5), st.integers(1, 9), st.integers(0, 1000)
)
@settings(max_examples=80, deadline=None)
def test_distinct_blocks_equal_brute_force(sizes, block_size, seed):
    generator = torch.Generator().manual_seed(seed)
    values = torch.tensor([-1.0, -0.0, 0.0, 1e-40, 3.0])
    tensors = {
        str(i): values[torch.randint(5, (size,), generator=generator)]
        for i, size in enumerate(sizes)
    }
    block_size = min(block_size, sum(sizes))
    assert measure.distinct_blocks(tensors, block_size) == brute_force_distinct(tensors, block_size)


def test_distinct_blocks_of_random_weights_are_all_different():
    tensors = {"a": torch.randn(1000, 30, generator=torch.Generator().manual_seed(0))}
    assert measure.distinct_blocks(tensors, 4) == 7500
    assert measured(block_size=None)["distinct_blocks"] is None


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("role", ["trained", "initial"])
def test_weights_that_are_not_finite_are_named(value, role):
    tensors, initial = weights(1), weights(2)
    {"trained": tensors, "initial": initial}[role]["linear"][3, 5] = value
    with pytest.raises(ValueError, match=rf"tensor linear \({role}\) holds NaN or infinite"):
        measured(tensors, initial)


def test_models_that_do_not_match_are_refused():
    with pytest.raises(ValueError, match=r"tensor bias .* \(13,\) trained, \(12,\) initial"):
        measured(weights(1), weights(2) | {"bias": torch.ones(12)})
    with pytest.raises(ValueError, match="only one has extra"):
        measured(weights(1), weights(2) | {"extra": torch.ones(12)})
    with pytest.raises(
        ValueError,
        match=r"tensor bias \(trained\) must hold floating-point weights, got torch.int64",
    ):
        measured(weights(1) | {"bias": torch.ones(13, dtype=torch.int64)})
    with pytest.raises(ValueError, match="no tensors"):
        measure.measure_weights({}, {}, compressors=NAMES, seed=0)


def test_settings_without_meaning_are_refused():
    with pytest.raises(ValueError, match="unknown compressor 'rar'"):
        measured(compressors=["rar"])
    with pytest.raises(ValueError, match="block_size must be in 1..735 .* got 736"):
        measured(block_size=736)
    vectors = {"a": torch.ones(50)}
    with pytest.raises(ValueError, match=r"no complete block of 4x4 bits \(2-D\)"):
        measured(vectors, vectors)


def test_weights_that_require_gradients_are_left_alone():
    parameters = {name: torch.nn.Parameter(tensor) for name, tensor in weights(1).items()}
    before = {name: parameter.detach().clone() for name, parameter in parameters.items()}
    assert measured(parameters) == measured(before)
    assert all(torch.equal(parameters[name], before[name]) for name in before)
