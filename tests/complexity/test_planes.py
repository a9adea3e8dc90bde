"""Bit planes against pybdm on codes that are written out here, and what a model's planes say."""

import json
import os
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from momos.complexity import bdm, planes
from momos.survey.weights import build

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # pybdm imports pkg_resources
    import pybdm

ROOT = Path(__file__).parents[2]
TWO_D = pybdm.BDM(ndim=2)


def written_out(tensor, bit_depth, percentile=None):
    """pybdm's BDM of each plane, from codes in float64: (bit_depth,)."""
    weights = tensor.double().numpy().reshape(len(tensor), -1)
    tail = 0 if percentile is None else (100 - percentile) / 2
    low, high = np.percentile(weights, [tail, 100 - tail])
    delta = (high - low) / (2**bit_depth - 1)
    with np.errstate(invalid="ignore"):
        codes = np.nan_to_num(np.round((np.clip(weights, low, high) - low) / delta)).astype(int)
    rows, columns = (size // 4 * 4 for size in codes.shape)
    return np.array(
        [TWO_D.bdm((codes[:rows, :columns] >> plane) & 1) for plane in range(bit_depth)]
    )


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


SHAPES = [(4, 4), (8, 12), (7, 9), (64, 3, 3, 3), (5, 1, 2, 2), (130, 250), (301, 1029), (4, 70001)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("percentile", [None, 99.9])
def test_every_plane_equals_pybdm(shape, percentile):
    weights = normal(*shape)
    found = planes.complexity({"w": weights}, 8, percentile)
    assert found.shape == (8,)
    assert found == pytest.approx(written_out(weights, 8, percentile), rel=1e-9)


@pytest.mark.parametrize("bit_depth", [1, 2, 7, 8, 9, 12, 16])
def test_every_bit_depth_equals_pybdm(bit_depth):
    weights = normal(40, 52, seed=1)
    found = planes.complexity({"w": weights}, bit_depth)
    assert found == pytest.approx(written_out(weights, bit_depth), rel=1e-9)


@pytest.mark.parametrize("arch", ["test_efficientnet", "test_vit"])
@pytest.mark.parametrize("percentile", [None, 99.9])
def test_real_tensors_equal_pybdm_one_by_one_and_in_all(arch, percentile):
    tensors = dict(build(arch, 0).named_parameters())
    found = dict(planes.by_tensor(tensors, 8, percentile))
    matrices = {
        name: tensor.detach()
        for name, tensor in tensors.items()
        if tensor.ndim > 1 and len(tensor) >= 4 and tensor[0].numel() >= 4
    }
    assert list(found) == list(matrices) and len(found) < len(tensors)
    expected = {name: written_out(tensor, 8, percentile) for name, tensor in matrices.items()}
    for name, own in expected.items():
        assert found[name] == pytest.approx(own, rel=1e-9), name
    total = planes.complexity(tensors, 8, percentile)
    assert total == pytest.approx(sum(expected.values()), rel=1e-9)


@given(
    st.integers(4, 20), st.integers(4, 20), st.integers(1, 10),
    st.sampled_from([1e-38, 1e-3, 1.0, 1e30]), st.integers(0, 99),
)  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_codes_span_all_levels_and_round_to_the_nearest(rows, columns, bit_depth, scale, seed):
    weights = normal(rows, columns, seed=seed).mul(scale)
    matrix = weights.numpy()
    codes = planes.quantize(matrix, bit_depth)
    low, high = float(matrix.min()), float(matrix.max())
    delta = (high - low) / (2**bit_depth - 1)
    assert codes.min() == 0 and codes.max() == 2**bit_depth - 1
    away = np.abs(low + codes * delta - matrix.astype(float))
    assert (away <= delta / 2 * (1 + 1e-9)).all()


def test_a_tensor_without_spread_has_planes_of_zeros():
    flat, zeros = torch.full((12, 16), 0.3), np.zeros((12, 16), dtype=int)
    assert planes.complexity({"w": flat}) == pytest.approx([TWO_D.bdm(zeros)] * 8, rel=1e-9)
    outlier = flat.clone()
    outlier[3, 3] = 9.0  # which the percentiles clamp
    assert (planes.complexity({"w": outlier}, 8, 90) == planes.complexity({"w": flat})).all()


def test_a_scale_and_a_shift_change_nothing_and_low_planes_see_no_sign():
    weights = normal(64, 64)
    found = planes.complexity({"w": weights})
    assert planes.complexity({"w": weights.double() * 4 + 2}) == pytest.approx(found, rel=1e-2)
    assert planes.complexity({"w": weights * 4}) == pytest.approx(found, rel=1e-12)


def test_order_within_rows_lowers_the_most_significant_plane_alone():
    """Sorted rows: the high bits are runs, the lowest are noise still."""
    weights = normal(256, 256)
    ratio = planes.complexity({"w": weights.sort(dim=1).values}) / planes.complexity({"w": weights})
    assert ratio[7] < 0.5 and ratio[0] > 0.9


def test_tensors_may_be_of_any_float_and_arrive_in_pairs_one_by_one():
    weights = normal(32, 48)
    expected = planes.complexity({"w": weights})
    held = []

    def pairs():
        for number in range(3):
            held.append(number)
            yield f"w{number}", weights

    found = planes.by_tensor(pairs())
    assert (next(found)[1] == expected).all() and held == [0]
    assert planes.complexity(pairs()) == pytest.approx(3 * expected, rel=1e-12)
    half = weights.to(torch.bfloat16)
    assert (planes.complexity({"w": half}) == planes.complexity({"w": half.float()})).all()
    turned = weights.T.contiguous().T  # not contiguous
    assert (planes.complexity({"w": turned}) == expected).all()


@pytest.mark.parametrize(
    ("tensors", "arguments", "message"),
    [
        ({"a": torch.ones(3, 9), "b": torch.ones(9), "c": torch.ones(9, 3)}, {}, "no tensor has"),
        ({"a": torch.ones(8, 8)}, {"bit_depth": 0}, r"bit_depth must be in 1\.\.16, got 0"),
        ({"a": torch.ones(8, 8)}, {"bit_depth": True}, "bit_depth must be in"),
        ({"a": torch.ones(8, 8)}, {"percentile": 0}, r"percentile must be in \(0, 100\]"),
        ({"a": torch.ones(8, 8)}, {"percentile": 101}, "percentile must be in"),
        ({"a": torch.ones(8, 8).int()}, {}, "tensor a must hold floating-point weights"),
        ({"a": torch.full((8, 8), torch.nan)}, {}, "tensor a holds NaN or infinite weights"),
        ({"a": torch.full((8, 8), -torch.inf)}, {}, "tensor a holds NaN or infinite weights"),
    ],
)
def test_what_has_no_planes_is_named(tensors, arguments, message):
    with pytest.raises(ValueError, match=message):
        planes.complexity(tensors, **arguments)


MEMORY = """
import resource, sys, torch
from momos.complexity import bdm, planes
planes.complexity({"w": torch.randn(64, 64)}, 8, 99.9)
weights = torch.randn(4000, 4000)
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
before = peak()
planes.complexity({"w": weights}, 8, float(sys.argv[1]) or None)
print((peak() - before) / weights.nbytes)
"""


@pytest.mark.parametrize("percentile", [pytest.param("0", marks=pytest.mark.stress), "99.9"])
def test_memory_beside_the_tensor_is_under_three_copies(percentile):
    command = [sys.executable, "-c", MEMORY, percentile]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    assert float(done.stdout) < 3


def test_twenty_five_million_weights_take_seconds_on_one_core():
    """CPU time. `make bench` compares the speed with pybdm's."""
    weights = {"w": normal(5000, 5000)}
    torch.set_num_threads(1)
    began = time.process_time()
    planes.complexity(weights)
    assert time.process_time() - began < 5


def test_columns_of_planes_by_hand():
    trained, initial = np.array([2.0, 6.0]), [(4.0, 6.0), (4.0, 10.0)]
    row = planes.against(trained, initial)
    assert list(row) == [
        "planes", "planes_initial", "planes_ratio", "planes_z",
        "plane_1", "plane_1_ratio", "plane_0", "plane_0_ratio",
    ]  # fmt: skip
    assert (row["planes"], row["planes_initial"], row["planes_ratio"]) == (8.0, 12.0, 8 / 12)
    assert row["planes_z"] == pytest.approx((8 - 12) / np.sqrt(8))
    assert (row["plane_1"], row["plane_1_ratio"], row["plane_0_ratio"]) == (6.0, 0.75, 0.5)
    alone = planes.against(np.zeros(2), [(0.0, 0.0)])
    assert alone["planes_z"] is None and alone["planes_ratio"] is None, "nothing takes part"


def test_a_model_without_matrices_has_planes_of_nothing():
    assert planes.model_planes({"bias": normal(16), "small": normal(3, 99)}).tolist() == [0.0] * 8


# --- the authors' own code, which was run outside this repository (qubd.json)

AUTHORS = json.loads(Path(__file__).with_name("qubd.json").read_text())
ZOO = Path(os.environ.get("MOMOS_ZOO", Path(__file__).parents[3] / "shared" / "zoo"))


def in_float32(tensor, percentile):
    """The authors' arithmetic: BDM of 8 planes from codes in the weights' own float32."""
    flat = tensor.flatten(1)
    tail = 0.0 if percentile is None else (1.0 - percentile / 100.0) / 2.0
    low, high = torch.quantile(flat.reshape(-1), torch.tensor([tail, 1.0 - tail]))
    codes = ((flat - low) / ((high - low) / 255)).round().clamp(0, 255).to(torch.uint8).numpy()
    counts = [bdm.BlockCounts([(codes >> plane & 1).astype(bool)]) for plane in range(8)]
    return np.array([bdm.complexity(count.squares) for count in counts])


@pytest.mark.parametrize("percentile", [None, 99.9])
@pytest.mark.parametrize("network", AUTHORS["percentiles"]["none"])
def test_planes_equal_the_authors_numbers_but_for_their_rounding(network, percentile):
    path = ZOO / "weights" / f"{network}.pth"
    if not path.is_file():
        pytest.skip(f"{path} is not there")
    stored = torch.load(path, weights_only=True)
    weights = {name: w for name, w in stored.items() if name.endswith("weight") and w.ndim > 1}
    taking_part = [w for w in weights.values() if planes.takes_part(w.shape)]
    theirs = AUTHORS["percentiles"][str(percentile or "none")][network]
    same = sum(in_float32(tensor, percentile) for tensor in taking_part)
    np.testing.assert_allclose(same, theirs, rtol=1e-9)
    np.testing.assert_allclose(planes.complexity(weights, 8, percentile), theirs, rtol=2e-3)
