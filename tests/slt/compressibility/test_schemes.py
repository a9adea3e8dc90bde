"""Each scheme by its name at the pipeline's settings; what of it becomes rows."""

import math
from pathlib import Path
from typing import get_args, get_type_hints

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from momos import config
from momos.slt import compressibility
from momos.slt.compressibility import CriticalPoint, Point, Retraining, schemes

PROFILES = Path(__file__).parents[3] / "profiles"
SMALL = {
    "num_sequences": 4,
    "max_n_q": 17,
    "rank_steps": 4,
    "sigmas": [1e-3, 1.0],
    "sigmas_per_decade": 4,
    "num_noise_draws": 2,
    "num_coarse_heads": 2,
}


def settings(**changes) -> config.Compressibility:
    return config.Compressibility.from_mapping(
        config.profile_settings("digits", PROFILES)["compressibility"] | SMALL | changes,
        "compressibility",
    )


class Attending(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 4, batch_first=True)
        self.layers = nn.ModuleList(nn.Linear(8, 8) for _ in range(4))

    def forward(self, x):
        x = self.attention(x, x, x, need_weights=False)[0]
        for layer in self.layers:
            x = x + torch.tanh(layer(x))
        return x


INPUTS = torch.randn(6, 5, 8, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def model() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Attending().eval()


@pytest.fixture(scope="module")
def loss_fn(model):
    with torch.no_grad():
        target = model(INPUTS)
    return lambda other, batch=None: F.mse_loss(other(INPUTS), target)


def test_every_scheme_that_params_may_name_is_known():
    (names, _) = get_args(get_type_hints(config.Slt)["schemes"])
    assert set(get_args(names)) == set(config.CRITICAL)


@pytest.mark.parametrize(("follow_theta", "num_beyond"), [(False, None), (True, 1), (True, 0)])
@pytest.mark.parametrize("scheme", config.CRITICAL)
def test_a_scheme_is_its_search(scheme, follow_theta, num_beyond, model, loss_fn):
    here = settings(fractions_per_octave=2, follow_theta=follow_theta, num_beyond=num_beyond)
    training = Retraining(train_loss_fn=loss_fn, batches=[None], train_lr=1e-3, num_steps=2)
    found = schemes.search(scheme, here, seed=3, training=training)(
        model, lambda m: loss_fn(m).item(), [0.01, 0.1]
    )
    cut = {"num_beyond": num_beyond}
    noise = {"sigmas": (1e-3, 1.0), "per_decade": 4, "num_draws": 2, "seed": 3, **cut}
    direct = {
        # A claim is about its curve, which is kept as a whole
        "quantization": lambda *a: compressibility.critical_n_q(
            *a,
            max_n_q=17,
            fractions=[1.0, 0.5**0.5, 0.5, 0.125**0.5, 0.25],
            follow=follow_theta,
        ),
        "quantization_max": lambda *a: compressibility.critical_n_q(
            *a, max_n_q=17, theta="max", **cut
        ),
        "factorization": lambda *a: compressibility.critical_fraction(*a, num_steps=4, **cut),
        "noise_absolute": lambda *a: compressibility.critical_sigma(*a, kind="absolute", **noise),
        "noise_relative": lambda *a: compressibility.critical_sigma(*a, kind="relative", **noise),
        "pruning": lambda *a: compressibility.critical_heads(*a, training, num_coarse=2, **cut),
    }
    expected = direct[scheme](model, lambda m: loss_fn(m).item(), [0.01, 0.1])
    assert [point.strength for point in found] == [point.strength for point in expected]
    assert [[p.loss for p in point.curve] for point in found] == [
        [p.loss for p in point.curve] for point in expected
    ]


def test_fractions_reach_down_to_the_smallest():
    assert schemes.fractions(settings(fractions_per_octave=3, min_fraction=0.25)) == pytest.approx(
        [2 ** (-k / 3) for k in range(7)]
    )
    assert schemes.fractions(settings(fractions_per_octave=1, min_fraction=1.0)) == [1.0]


def test_rows_hold_what_is_there():
    curve = (Point(9, 3.0, 1.5, theta=0.5), Point(3, 1.0, math.nan))
    found = CriticalPoint(9, 1.5, 0.6, 1.0, curve, "found", 9, 3.0)
    none = CriticalPoint(None, None, 0.1, 1.0, curve, "none", None, None)
    rows = schemes.rows([found, none])
    assert [(row["strength"], row["rise"], row["theta"]) for row in rows["curve"]] == [
        (3, None, None),
        (9, 0.5, 0.5),
    ]
    assert [
        (row["eps"], row["value"], row["status"], row["crosses_once"]) for row in rows["critical"]
    ] == [
        (0.6, 9, "found", True),
        (0.1, None, "none", True),
    ]


@pytest.mark.parametrize(
    ("num", "expected"),
    [(1, [8]), (2, [4, 8]), (3, [3, 5, 8]), (8, list(range(1, 9))), (20, list(range(1, 9)))],
)
def test_pruned_checkpoints_are_spaced_evenly(num, expected):
    assert schemes.pruned_steps(range(1, 9), num) == expected


def test_pruning_needs_retraining():
    with pytest.raises(ValueError, match="training must be given for scheme pruning, got None"):
        schemes.search("pruning", settings(), seed=0)
