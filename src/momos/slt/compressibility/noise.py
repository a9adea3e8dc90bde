"""Gaussian noise (App. C.4)."""

import math
from collections.abc import Sequence

import torch
from torch import nn

from momos.slt.compressibility.inputs import (
    LossFn,
    eval_copy,
    generator_for,
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
    Grid,
    Point,
    Trial,
    every,
    scan,
)

KINDS = ("absolute", "relative")


@torch.no_grad()
def noisy(model: nn.Module, sigma: float, *, kind: str, seed: int = 0, draw: int = 0) -> Compressed:
    """Every parameter, a tied one once: w + sigma * N(0, 1) ("absolute"), w + sigma * |w| * N(0, 1)
    ("relative").

    cost: ||noise|| / ||w||, which compares the two kinds. The N(0, 1) depend on seed and draw alone
    (drawn on the CPU), so that a larger sigma scales the same noise. Raises ValueError for another
    kind and for sigma below 0 or not finite.
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
    return Compressed(
        model, noise_norm / weight_norm if weight_norm > 0 else math.inf if noise_norm > 0 else 0.0
    )


def critical_sigma(
    model: nn.Module,
    loss_fn: LossFn,
    eps: float | Sequence[float],
    *,
    kind: str,
    sigmas: tuple[float, float] = (1e-4, 10.0),
    per_decade: int = 64,
    num_draws: int = 4,
    seed: int = 0,
) -> CriticalPoint | list[CriticalPoint]:
    """The largest sigma whose mean loss over num_draws draws of noise is within eps; each point has
    the spread over draws.

    sigmas: the weakest and the strongest; per_decade: points of the fine, geometric grid, every
    sixteenth of which is the coarse one. The draws are the same for every sigma. Raises ValueError
    for eps, losses and settings out of range.
    """
    tolerances = tolerances_of(eps)
    grid, num_draws = (
        _sigma_grid(sigmas, positive("per_decade", per_decade)),
        positive("num_draws", num_draws),
    )
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

    return one_or_all(scan(evaluate, grid, init_loss, tolerances), eps)


def _sigma_grid(sigmas: tuple[float, float], per_decade: int) -> Grid:
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
    return Grid(
        (*(low * (high / low) ** (step / steps) for step in range(steps)), high),
        every(steps + 1, 16),
    )


def _mean_and_spread(losses: Sequence[float]) -> tuple[float, float]:
    """Sample standard deviation; one draw has none to speak of: 0. NaN where a loss is not finite."""
    if not all(map(math.isfinite, losses)):
        return math.nan, math.nan
    mean = math.fsum(losses) / len(losses)
    return mean, math.sqrt(
        math.fsum((loss - mean) ** 2 for loss in losses) / max(len(losses) - 1, 1)
    )
