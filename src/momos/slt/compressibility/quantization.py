"""Quantisation (Sec. 4.1, C.1 and C.3)."""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from momos.slt.compressibility.inputs import (
    LossFn,
    at_least_one,
    check_fraction,
    eval_copy,
    initial_loss,
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

THETAS = ("loss", "max")
FRACTIONS = tuple(
    2 ** (-k / 16) for k in range(81)
)  # of max|w|, 1 to 1/32: where theta by loss minimisation is looked for


def to_levels(weight: Tensor, n_q: int, theta: float) -> Tensor:
    """Clamp to [-theta, theta], then the nearest of n_q = 2m + 1 values {0, +-theta/m, ..,
    +-theta}; half-way, the even multiple.

    Same shape and dtype; theta is rounded to that dtype. At theta 0 everything is 0. Raises
    ValueError for an even n_q or one below 3, and for a theta that is negative or not finite.
    """
    num_intervals = _num_intervals("n_q", n_q)
    theta = float(torch.as_tensor(theta, dtype=weight.dtype))
    if not (math.isfinite(theta) and theta >= 0):
        raise ValueError(f"theta must be a finite number of at least 0, got {theta}")
    if theta == 0:
        return torch.zeros_like(weight)
    wide = (
        weight.detach().double()
    )  # a multiple of theta, and with it the end of the range, is exact before the division
    multiples = (wide.clamp(-theta, theta) / (theta / num_intervals)).round_()
    return multiples.mul_(theta).div_(num_intervals).clamp_(-theta, theta).to(weight.dtype)


@torch.no_grad()
def quantized(model: nn.Module, n_q: int, theta: float = 1.0) -> Compressed:
    """Every weight with two or more dimensions on n_q levels, embeddings included, a tied one once;
    cost log2(n_q) bits per weight.

    theta: the range as a fraction of each tensor's max|w|. Raises ValueError for an even n_q or one
    below 3, a theta outside (0, 1], and a model without such weights.
    """
    _num_intervals("n_q", n_q)
    check_fraction("theta", theta)
    model = eval_copy(model)
    for name, weight in _matrices(model).items():
        largest = float(weight.abs().max())
        if not math.isfinite(largest):
            raise ValueError(f"weight {name} must be finite to be quantised, got NaN or infinity")
        weight.copy_(to_levels(weight, n_q, theta * largest))
    return Compressed(model, math.log2(n_q))


def critical_n_q(
    model: nn.Module,
    loss_fn: LossFn,
    eps: float | Sequence[float],
    *,
    theta: str = "loss",
    max_n_q: int = 1025,
    per_octave: int = 2,
    fractions: Sequence[float] = FRACTIONS,
) -> CriticalPoint | list[CriticalPoint]:
    """The smallest n_q within eps; its cost is log2(n_q) bits per weight.

    theta: "loss" takes for each n_q, and by itself, the fraction of max|w| of the lowest loss,
    looked for among `fractions` (see `_minimise`: at most 17 of the default ones); "max" takes
    max|w|. max_n_q: the weakest quantisation that is tried; from there down to n_q = 3 the coarse
    grid takes per_octave steps to halve the number of intervals. Raises ValueError for eps, losses
    and settings out of range, and for a model without weights to quantise.
    """
    tolerances = tolerances_of(eps)
    grid = _n_q_grid(_num_intervals("max_n_q", max_n_q), positive("per_octave", per_octave))
    if theta not in THETAS:
        raise ValueError(f"theta must be one of {', '.join(THETAS)}, got {theta!r}")
    tried = _checked_fractions(fractions) if theta == "loss" else (1.0,)

    def evaluate(n_q: int) -> Point:
        trials, best = _minimise(
            lambda fraction: loss_of(loss_fn, quantized(model, n_q, fraction).model), tried
        )
        return Point(n_q, math.log2(n_q), best.loss, theta=best.setting, trials=trials)

    init_loss = initial_loss(loss_fn, model)
    return one_or_all(scan(evaluate, grid, init_loss, tolerances), eps)


def _matrices(model: nn.Module) -> dict[str, nn.Parameter]:
    """Weights with two or more dimensions; a table of biases (Swin, TinyViT) is no weight. Raises
    ValueError where there is none.
    """
    weights = {
        name: weight
        for name, weight in model.named_parameters()
        if weight.ndim >= 2 and "bias" not in name.rpartition(".")[2]
    }
    found = {
        name: weight
        for name, weight in weights.items()
        if weight.numel() and weight.is_floating_point()
    }
    if not found:
        raise ValueError(
            f"model must have weights with two or more dimensions to quantise, got {type(model).__name__} without any"
        )
    return found


def _n_q_grid(num_intervals: int, per_octave: int) -> Grid:
    """Every odd n_q from 2m + 1 down to 3; coarse: m divided by the powers of 2^(1/per_octave),
    down to 1.
    """
    strengths = tuple(2 * m + 1 for m in range(num_intervals, 0, -1))
    steps = math.ceil(math.log2(num_intervals) * per_octave)
    coarse = {
        1,
        *(max(round(num_intervals * 2 ** (-step / per_octave)), 1) for step in range(steps + 1)),
    }
    return Grid(strengths, tuple(sorted(num_intervals - m for m in coarse)))


def _minimise(
    loss_at: Callable[[float], float], settings: Sequence[float]
) -> tuple[tuple[Trial, ...], Trial]:
    """All trials in the order of `settings`, and the one of the lowest loss (equal ones: the first;
    not finite: the last resort).

    Eight or more settings spread evenly, then ever closer neighbours of the best: the minimum of
    all if there is but one valley.
    """
    trials: dict[int, Trial] = {}
    stride = 1 << max((len(settings) // 8).bit_length() - 1, 0)

    def visit(indices: Sequence[int]) -> int:
        for index in indices:
            if 0 <= index < len(settings) and index not in trials:
                trials[index] = Trial(settings[index], loss_at(settings[index]))
        return min(
            sorted(trials),
            key=lambda index: trials[index].loss if math.isfinite(trials[index].loss) else math.inf,
        )

    best = visit(every(len(settings), stride))
    while stride > 1:
        stride //= 2
        best = visit([best - stride, best + stride])
    return tuple(trials[index] for index in sorted(trials)), trials[best]


def _num_intervals(name: str, n_q: int) -> int:
    """m of n_q = 2m + 1."""
    if isinstance(n_q, bool) or not isinstance(n_q, int) or n_q < 3 or n_q % 2 == 0:
        raise ValueError(f"{name} must be an odd integer of at least 3, got {n_q!r}")
    return n_q // 2


def _checked_fractions(fractions: Sequence[float]) -> tuple[float, ...]:
    for value in at_least_one("fractions", fractions):
        check_fraction("fractions", value)
    return tuple(sorted(set(map(float, fractions)), reverse=True))
