"""The compression schemes by name, at the pipeline's settings, and their results as rows.

curve      a row per strength that was evaluated: strength, cost, loss, rise (of the loss above the
           original's), spread, theta, eval_loss, coarse (whether it is of the coarse grid)
critical   a row per eps: eps, value, strength, cost, loss, init_loss, status, crosses_once, refined
           (quantisation by loss: the value with theta sought twice as finely)
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from torch import nn

from momos import config
from momos.slt.compressibility.factorization import critical_fraction
from momos.slt.compressibility.inputs import LossFn
from momos.slt.compressibility.noise import critical_sigma
from momos.slt.compressibility.pruning import Retraining, critical_heads
from momos.slt.compressibility.quantization import critical_n_q
from momos.slt.compressibility.scan import CriticalPoint, merged_curve

CRITICAL_COLUMNS = (
    "eps",
    "value",
    "strength",
    "cost",
    "loss",
    "init_loss",
    "status",
    "crosses_once",
    "refined",
)
Search = Callable[[nn.Module, LossFn, Sequence[float]], list[CriticalPoint]]


def search(
    scheme: str, settings: config.Compressibility, *, seed: int, training: Retraining | None = None
) -> Search:
    """The search of a scheme: (model, loss_fn, several eps) -> a CriticalPoint for each eps.

    seed: of noise draws. training: for pruning alone, which needs it. Raises ValueError for pruning
    without it.
    """
    critical_point: Callable[..., CriticalPoint | list[CriticalPoint]]
    if scheme in ("quantization", "quantization_max"):
        critical_point = partial(
            critical_n_q,
            theta="max" if scheme == "quantization_max" else "loss",
            max_n_q=settings.max_n_q,
            per_octave=settings.per_octave,
            fractions=fractions(settings),
            follow=bool(settings.follow_theta),
            refine=scheme == "quantization",
            # A claim is about the whole curve of "quantization", far beyond the tolerances
            num_beyond=None if scheme == "quantization" else settings.num_beyond,
        )
    elif scheme == "factorization":
        critical_point = partial(
            critical_fraction, num_steps=settings.rank_steps, num_beyond=settings.num_beyond
        )
    elif scheme in ("noise_absolute", "noise_relative"):
        critical_point = partial(
            critical_sigma,
            kind=scheme.removeprefix("noise_"),
            sigmas=settings.sigmas,
            per_decade=settings.sigmas_per_decade,
            num_draws=settings.num_noise_draws,
            seed=seed,
            num_beyond=settings.num_beyond,
        )
    elif training is None:
        raise ValueError(f"training must be given for scheme {scheme}, got None")
    else:
        critical_point = partial(
            critical_heads,
            training=training,
            num_coarse=settings.num_coarse_heads,
            num_beyond=settings.num_beyond,
        )

    def critical_points(
        model: nn.Module, loss_fn: LossFn, eps: Sequence[float]
    ) -> list[CriticalPoint]:
        points = critical_point(model, loss_fn, eps)
        return points if isinstance(points, list) else [points]

    return critical_points


def fractions(settings: config.Compressibility) -> list[float]:
    """Candidates for theta as fractions of max|w|, from 1 down."""
    steps = math.floor(-math.log2(settings.min_fraction) * settings.fractions_per_octave + 1e-9)
    return [2 ** (-step / settings.fractions_per_octave) for step in range(steps + 1)]


def rows(points: Sequence[CriticalPoint]) -> dict[str, list[dict[str, Any]]]:
    """Rows of the tables "curve" and "critical"; what is missing or not finite is None."""
    init_loss = points[0].init_loss
    curve = [
        {
            "strength": point.strength,
            "cost": point.cost,
            "loss": _none_unless_finite(point.loss),
            "rise": _none_unless_finite(point.loss - init_loss),
            "spread": _none_unless_finite(point.spread),
            "theta": point.theta,
            "eval_loss": _none_unless_finite(point.eval_loss),
            "coarse": point.coarse,
        }
        for point in merged_curve(points)
    ]
    critical = [{name: getattr(point, name) for name in CRITICAL_COLUMNS} for point in points]
    return {"curve": curve, "critical": critical}


def _none_unless_finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def pruned_steps(steps: Sequence[int], num: int) -> list[int]:
    """`num` of the steps, evenly spaced, the last one among them."""
    num = min(num, len(steps))
    return [steps[round((place + 1) * len(steps) / num) - 1] for place in range(num)]
