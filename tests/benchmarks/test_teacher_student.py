"""The teacher-student study: its known values, its Hessian, and rows of a short one."""

import csv
import dataclasses
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from benchmarks import teacher_student as study  # noqa: E402
from momos.slt.llc import hessian_trace  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((5, 3, 5, 3), 10.5),  # of llc.md, as tests/slt/llc samples it
        ((5, 3, 5, 1), 8.0),
        ((1, 1, 1, 0), 0.5),  # w1^2 w2^2
        ((2, 1, 2, 1), 1.5),  # regular: a rank-one matrix has three dimensions
        ((2, 9, 3, 2), 3.0),  # so many units that the product is any matrix
        ((9, 2, 2, 1), (2 * 2 - 2 * 1 + 9 * 1) / 2),
        ((2, 2, 9, 1), (2 * 2 - 2 * 1 + 9 * 1) / 2),  # transposed: the same
    ],
)
def test_known_coefficients(shape, expected):
    assert study.known_coefficient(*shape) == expected


def test_the_spectrum_is_that_of_the_loss():
    model, target = study.initial(0.5, 3), study.teacher()
    spectrum = study.dense_spectrum(model, target)
    stochastic = hessian_trace(model, study.loss, [target], num_probes=400, seed=0)
    error = stochastic.std / 400**0.5
    assert spectrum.trace.mean == pytest.approx(stochastic.mean, abs=4 * error)
    (gradient,) = torch.autograd.grad(study.loss(model, target), [model.w[0]])
    (other,) = torch.autograd.grad(study.loss(model, target), [model.w[1]])
    squares = float(gradient.square().sum() + other.square().sum())
    assert sum(spectrum.gradient_weights) == pytest.approx(squares, rel=1e-5)


def test_rows_of_a_short_training(tmp_path, monkeypatch):
    short: dict = {"STEPS": (1, 3), "REPLICAS": 2, "NUM_BURNIN_STEPS": 2, "NUM_DRAWS": 4}
    short["RIVALS"] = dataclasses.replace(study.RIVALS, num_initializations=2)
    for name, value in short.items():
        monkeypatch.setattr(study, name, value)
    study.main(tmp_path / "out.csv", [5])
    with (tmp_path / "out.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["init"], row["step"]) for row in rows] == [
        ("small", "1"), ("small", "3"), ("large", "1"), ("large", "3"),
    ]  # fmt: skip
    assert {row["known"] for row in rows} == {"92"}
    for scale in ("small", "large"):
        first, second = (float(row["loss"]) for row in rows if row["init"] == scale)
        assert second < first, "it learns"
