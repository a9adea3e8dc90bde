"""Compression by Gaussian noise (singular MDL, App. C.4)."""

import math
from collections.abc import Sequence

import torch
from torch import nn

from momos.compute.seeds import generator_for
from momos.slt.compressibility.inputs import (
    LossFn,
    initial_loss,
    is_number,
    loss_of,
    one_or_all,
    positive,
    tolerances_of,
)
from momos.slt.compressibility.scan import (
    Compressed,
    CriticalPoint,
    Point,
    StrengthGrid,
    Trial,
    every,
    scan,
)
from momos.slt.copies import eval_copy

KINDS = ("absolute", "relative")


@torch.no_grad()
def noisy(model: nn.Module, sigma: float, *, kind: str, seed: int = 0, draw: int = 0) -> Compressed:
    """Add noise to every parameter; to a tied one once.

    kind "absolute": w + sigma * N(0, 1); "relative": w + sigma * |w| * N(0, 1). The cost is
    ||noise|| / ||w||, by which the two kinds can be compared. The N(0, 1) are drawn on the CPU and
    depend on seed and draw alone, so that a larger sigma scales the same noise. Raises ValueError
    for another kind, and for a sigma that is below 0 or not finite.
    """
    if kind not in KINDS:
        raise ValueError(f"kind must be one of {', '.join(KINDS)}, got {kind!r}")
    if not (is_number(sigma) and math.isfinite(sigma) and sigma >= 0):
        raise ValueError(f"sigma must be a finite number of at least 0, got {sigma!r}")
    model, generator = eval_copy(model), generator_for("noise", seed, draw)
    squares = torch.zeros(2, dtype=torch.float64)
    for parameter in (p for p in model.parameters() if p.is_floating_point()):
        normal = torch.randn(parameter.shape, generator=generator).to(parameter.device)
        before = parameter.float() if parameter.dtype.itemsize < 4 else parameter.clone()
        noise = sigma * normal * before.abs() if kind == "relative" else sigma * normal
        parameter.copy_(before + noise)
        squares += torch.stack(
            [noise.double().square().sum(), before.double().square().sum()]
        ).cpu()
    noise_norm, weight_norm = squares.sqrt().tolist()
    if weight_norm > 0:
        return Compressed(model, noise_norm / weight_norm)
    return Compressed(model, math.inf if noise_norm > 0 else 0.0)


def critical_sigma(
    model: nn.Module,
    loss_fn: LossFn,
    eps: float | Sequence[float],
    *,
    kind: str,
    sigmas: Sequence[float] = (1e-4, 10.0),
    per_decade: int = 64,
    num_draws: int = 4,
    seed: int = 0,
    num_beyond: int | None = None,
) -> CriticalPoint | list[CriticalPoint]:
    """The largest sigma whose mean loss over num_draws draws of noise is within eps.

    Each point has the spread over draws, which are the same for every sigma. sigmas: the weakest
    and the strongest one. per_decade: points of the fine, geometric grid; the coarse grid is every
    sixteenth of them. num_beyond: see `scan`. Raises ValueError for eps, losses and settings out of
    range.
    """
    tolerances = tolerances_of(eps)
    grid = _sigma_grid(sigmas, positive("per_decade", per_decade))
    positive("num_draws", num_draws)
    if kind not in KINDS:
        raise ValueError(f"kind must be one of {', '.join(KINDS)}, got {kind!r}")
    init_loss = initial_loss(loss_fn, model)

    def evaluate(sigma: float) -> Point:
        costs, losses = [], []
        for draw in range(num_draws):
            copied, cost = noisy(model, sigma, kind=kind, seed=seed, draw=draw)
            costs.append(cost)
            losses.append(loss_of(loss_fn, copied))
        mean, spread = _mean_and_spread(losses)
        trials = tuple(Trial(draw, loss) for draw, loss in enumerate(losses))
        return Point(sigma, math.fsum(costs) / num_draws, mean, spread=spread, trials=trials)

    points = scan(evaluate, grid, init_loss, tolerances, num_beyond=num_beyond)
    return one_or_all(points, eps)


def _sigma_grid(sigmas: Sequence[float], per_decade: int) -> StrengthGrid:
    pair = tuple(sigmas)
    if not (
        len(pair) == 2
        and all(is_number(s) and math.isfinite(s) for s in pair)
        and 0 < pair[0] < pair[1]
    ):
        raise ValueError(
            f"sigmas must be two finite numbers, 0 < weakest < strongest, got {sigmas!r}"
        )
    low, high = map(float, pair)
    steps = max(round(per_decade * math.log10(high / low)), 1)
    return StrengthGrid(
        (*(low * (high / low) ** (step / steps) for step in range(steps)), high),
        every(steps + 1, 16),
    )


def _mean_and_spread(losses: Sequence[float]) -> tuple[float, float]:
    """Mean and sample standard deviation of the losses; NaN where a loss is not finite.

    The standard deviation of a single loss is taken as 0.
    """
    if not all(map(math.isfinite, losses)):
        return math.nan, math.nan
    mean = math.fsum(losses) / len(losses)
    return mean, math.sqrt(
        math.fsum((loss - mean) ** 2 for loss in losses) / max(len(losses) - 1, 1)
    )
