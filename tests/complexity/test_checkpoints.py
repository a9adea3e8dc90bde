"""What checkpoints' weights say: against numpy, scipy, and numbers that are known."""

import math

import numpy as np
import pytest
import torch
from scipy import stats
from small_neox import SMALL, shaken, small

from momos.complexity import bdm, checkpoints, planes
from momos.complexity.language_models import measure_steps
from momos.config import Rivals
from momos.files import atomic
from momos.language import neox, steps

SETTINGS = Rivals(num_initializations=3, compressors=("gzip",), bit_depth=5)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A training of two checkpoints; the first is the fourth untrained model."""
    root = tmp_path_factory.mktemp("run")
    steps.save_step(root, 1, small(checkpoints.FIRST_SEED + 3))
    steps.save_step(root, 2, shaken(small()))
    about = {"source": "local", "steps": [1, 2], "kwargs": SMALL, "vocabulary": 31, "context": 12}
    atomic.write_json(root / steps.ABOUT, about | {"fold": True, "center": False})
    return root


def test_every_column_of_each_step(folder):
    first, second = measure_steps(folder, [1, 2], SETTINGS, device=torch.device("cpu"))
    assert (first["step"], second["step"]) == (1, 2)
    model = steps.load(folder, 2)
    weights = [weight.detach().numpy() for weight in model.parameters()]
    flat = np.concatenate([weight.ravel() for weight in weights])
    assert second["l2_norm"] == pytest.approx(np.linalg.norm(flat.astype(float)))
    ranks = [np.linalg.norm(W) ** 2 / np.linalg.norm(W, 2) ** 2 for W in weights if W.ndim == 2]
    assert second["stable_rank"] == pytest.approx(np.mean(ranks), rel=1e-5)
    assert second["bdm_1d"] == bdm.bdm(flat > 0)
    named = dict(model.named_parameters())
    assert second["planes"] == pytest.approx(planes.complexity(named, 5, 99.9).sum())
    assert 0.5 < second["gzip_bytes"] / flat.nbytes < 1.1


def test_z_says_how_far_from_untrained_models(folder):
    first, second = measure_steps(folder, [1, 2], SETTINGS, device=torch.device("cpu"))
    fresh = []
    for seed in range(checkpoints.FIRST_SEED, checkpoints.FIRST_SEED + 3):
        model = small(seed)
        neox.fold_(model)
        signs = np.concatenate([(weight > 0).numpy().ravel() for weight in model.parameters()])
        fresh.append(bdm.bdm(signs))
    for row in (first, second):
        expected = (row["bdm_1d"] - np.mean(fresh)) / np.std(fresh, ddof=1)
        assert row["bdm_1d_z"] == pytest.approx(expected)
    assert abs(first["bdm_1d_z"]) < abs(second["bdm_1d_z"]), "untrained beside shaken biases"


def test_entropy_is_scipys():
    weights = torch.randn(40, 30, generator=torch.Generator().manual_seed(0))
    codes = np.round((weights - weights.min()) / (weights.max() - weights.min()) * 15).numpy()
    _, counts = np.unique(codes, return_counts=True)
    bits = weights.numel() * stats.entropy(counts, base=2)
    tensors = {"a": weights, "b": torch.tensor([0.0, 1.0, 0.0, 1.0])}
    assert checkpoints.entropy_bytes(tensors, 4) == pytest.approx((bits + 4) / 8, rel=1e-6)


def test_the_stable_rank_of_known_matrices():
    halves = torch.diag(torch.tensor([2.0, 2.0, 1.0]))
    tensors = {"a": torch.eye(3), "b": halves, "bias": torch.ones(9), "zero": torch.zeros(2, 2)}
    assert checkpoints.stable_rank(tensors) == pytest.approx((3 + 9 / 4) / 2)
    with pytest.raises(ValueError, match="matrix that is not zero"):
        checkpoints.stable_rank({"bias": torch.ones(3)})


def test_weights_that_are_not_finite_are_refused(folder, tmp_path):
    model = small()
    model.lm_head.weight.data[0, 0] = math.nan
    atomic.write_json(tmp_path / steps.ABOUT, atomic.read_json(folder / steps.ABOUT))
    steps.save_step(tmp_path, 1, model)
    with pytest.raises(ValueError, match="NaN or infinite"):
        measure_steps(tmp_path, [1], SETTINGS, device=torch.device("cpu"))
