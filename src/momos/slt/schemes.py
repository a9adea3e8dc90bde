"""The compression schemes by name, at the pipeline's settings, and their searches as rows of two
tables.

curve      a row per strength that was evaluated: strength, cost, loss, rise (against the original), spread, theta, eval_loss
critical   a row per eps: value, strength, cost, loss, init_loss, status, crosses_once
"""

import math
from collections.abc import Callable, Sequence

from torch import nn

from momos import config
from momos.slt import compressibility
from momos.slt.compressibility import CriticalPoint, Retraining

CRITICAL = {
    "quantization": "critical_n_q",
    "quantization_max": "critical_n_q_max",
    "factorization": "critical_fraction",
    "noise_absolute": "critical_sigma",
    "noise_relative": "critical_relative_sigma",
    "pruning": "critical_heads",
}  # the name of each scheme's critical value
Search = Callable[[nn.Module, Callable[[nn.Module], float], Sequence[float]], list[CriticalPoint]]


def search(
    scheme: str, settings: config.Compressibility, *, seed: int, training: Retraining | None = None
) -> Search:
    """(model, loss_fn, several eps) -> a CriticalPoint for each. seed: of noise draws; training: of
    pruning alone.
    """
    if scheme in ("quantization", "quantization_max"):
        theta = "max" if scheme == "quantization_max" else "loss"
        grid = {
            "max_n_q": settings.max_n_q,
            "per_octave": settings.per_octave,
            "fractions": fractions(settings),
        }
        return lambda *measured: compressibility.critical_n_q(*measured, theta=theta, **grid)
    if scheme == "factorization":
        return lambda *measured: compressibility.critical_fraction(
            *measured, num_steps=settings.rank_steps
        )
    if scheme in ("noise_absolute", "noise_relative"):
        grid = {
            "sigmas": settings.sigmas,
            "per_decade": settings.sigmas_per_decade,
            "num_draws": settings.num_noise_draws,
            "seed": seed,
        }
        return lambda *measured: compressibility.critical_sigma(
            *measured, kind=scheme.removeprefix("noise_"), **grid
        )
    return lambda *measured: compressibility.critical_heads(
        *measured, training, num_coarse=settings.num_coarse_heads
    )


def fractions(settings: config.Compressibility) -> list[float]:
    """Candidates for theta as fractions of max|w|, from 1 down."""
    steps = math.floor(-math.log2(settings.min_fraction) * settings.fractions_per_octave + 1e-9)
    return [2 ** (-step / settings.fractions_per_octave) for step in range(steps + 1)]


def rows(points: Sequence[CriticalPoint]) -> dict[str, list[dict]]:
    """{"curve": .., "critical": ..}; what is not there or not finite is None."""
    curve = [
        {"strength": p.strength, "cost": p.cost, "loss": _finite(p.loss), "rise": _finite(p.loss - points[0].init_loss),
         "spread": _finite(p.spread), "theta": p.theta, "eval_loss": _finite(p.eval_loss)}
        for p in compressibility.merged_curve(points)
    ]  # fmt: skip
    critical = [
        {
            name: getattr(point, name)
            for name in (
                "eps",
                "value",
                "strength",
                "cost",
                "loss",
                "init_loss",
                "status",
                "crosses_once",
            )
        }
        for point in points
    ]
    return {"curve": curve, "critical": critical}


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def pruned_steps(steps: Sequence[int], num: int) -> list[int]:
    """`num` of the steps, evenly spaced and the last one among them."""
    num = min(num, len(steps))
    return [steps[round((place + 1) * len(steps) / num) - 1] for place in range(num)]
