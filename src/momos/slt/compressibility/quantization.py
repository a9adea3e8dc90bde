"""Compression by quantisation (singular MDL, Sec. 4.1, App. C.1 and C.3)."""

import math
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from momos.slt.compressibility.inputs import (
    LossFn,
    at_least_one,
    check_fraction,
    initial_loss,
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

THETAS = ("loss", "max")
# Fractions of max|w|, from 1 to 1/32, among which theta by loss minimisation is looked for
FRACTIONS = tuple(2 ** (-k / 16) for k in range(81))


def to_levels(weight: Tensor, n_q: int, theta: float) -> Tensor:
    """Clamp to [-theta, theta], then take the nearest of n_q = 2m + 1 levels.

    The levels are {0, +-theta/m, .., +-theta}; half-way between two, the even multiple is taken.
    Shape and dtype stay; theta is rounded to that dtype. At theta 0 everything is 0. Raises
    ValueError for an even n_q or one below 3, and for a theta that is negative or not finite.
    """
    num_intervals = _num_intervals("n_q", n_q)
    theta = float(torch.as_tensor(theta, dtype=weight.dtype))
    if not (math.isfinite(theta) and theta >= 0):
        raise ValueError(f"theta must be a finite number of at least 0, got {theta}")
    if theta == 0:
        return torch.zeros_like(weight)
    # In float64 a multiple of theta, and so the end of the range, is exact before the division.
    wide = weight.detach().double()
    multiples = (wide.clamp(-theta, theta) / (theta / num_intervals)).round_()
    return multiples.mul_(theta).div_(num_intervals).clamp_(-theta, theta).to(weight.dtype)


@torch.no_grad()
def quantized(model: nn.Module, n_q: int, theta: float = 1.0) -> Compressed:
    """Quantise every weight with two or more dimensions to n_q levels; a tied one once.

    Embeddings are included. The cost is log2(n_q) bits per weight. theta: the range as a fraction
    of each tensor's max|w|. Raises ValueError for an even n_q or one below 3, a theta outside
    (0, 1], and a model without such weights.
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
    follow: bool = False,
    refine: bool = False,
    num_beyond: int | None = None,
) -> CriticalPoint | list[CriticalPoint]:
    """The smallest n_q within eps; its cost is log2(n_q) bits per weight.

    theta "max": the range is max|w|. theta "loss": for each n_q by itself, it is the fraction of
    max|w| with the lowest loss among `fractions`, of which `_minimise` tries at most 17 of the
    default ones. max_n_q: the weakest quantisation that is tried. From there down to n_q = 3, the
    coarse grid takes per_octave steps to halve the number of intervals. follow: look for theta from
    that of the next weaker coarse n_q, to the bottom of the valley there (`_descend`); with a
    single valley this is the same theta in fewer trials. refine: give each point's `refined` too,
    the critical n_q where theta is sought twice as finely near its best fraction. num_beyond: see
    `scan`. Raises ValueError for eps, losses and settings out of range, and for a model without
    weights to quantise.
    """
    tolerances = tolerances_of(eps)
    grid = _n_q_grid(_num_intervals("max_n_q", max_n_q), positive("per_octave", per_octave))
    if theta not in THETAS:
        raise ValueError(f"theta must be one of {', '.join(THETAS)}, got {theta!r}")
    tried = _checked_fractions(fractions) if theta == "loss" else (1.0,)
    search = _Search(model, loss_fn, tried, grid, follow)
    init_loss = initial_loss(loss_fn, model)
    points = scan(search.point, grid, init_loss, tolerances, num_beyond=num_beyond)
    if refine:
        points = [point._replace(refined=search.refined(point)) for point in points]
    return one_or_all(points, eps)


def own_n_q(model: nn.Module, max_n_q: int = 257) -> int | None:
    """The fewest levels at theta = max|w| on which all of the model's weights lie already.

    Tried are 2^bits - 1 levels, as quantisation to whole bits has them, up to max_n_q. None where
    no such number of levels changes each weight by less than a millionth of its tensor's largest
    one. Raises ValueError as `quantized`.
    """
    weights = _matrices(model).values()
    for bits in range(2, (max_n_q + 1).bit_length()):
        n_q = 2**bits - 1
        if all(_lies_on_levels(weight.detach(), n_q) for weight in weights):
            return n_q
    return None


def _lies_on_levels(weight: Tensor, n_q: int) -> bool:
    largest = float(weight.abs().max())
    return bool((to_levels(weight, n_q, largest) - weight).abs().max() <= 1e-6 * largest)


class _Search:
    """Losses of one model by n_q, each at its best theta.

    thetas: candidates as fractions of max|w|, falling. grid: of the scan, which visits the coarse
    strengths from weak to strong, and what lies between afterwards.
    """

    def __init__(
        self,
        model: nn.Module,
        loss_fn: LossFn,
        thetas: Sequence[float],
        grid: StrengthGrid,
        follow: bool,
    ) -> None:
        self.model, self.loss_fn, self.thetas, self.follow = model, loss_fn, thetas, follow
        self.coarse = [grid.strengths[index] for index in grid.coarse]
        self.found: dict[float, tuple[tuple[Trial, ...], Trial]] = {}  # by strength

    def loss_at(self, n_q: int, theta: float) -> float:
        return loss_of(self.loss_fn, quantized(self.model, n_q, theta).model)

    def point(self, strength: float) -> Point:
        trials, best = self.best_theta(strength)
        cost = math.log2(strength)
        return Point(int(strength), cost, best.loss, theta=best.setting, trials=trials)

    def best_theta(self, strength: float) -> tuple[tuple[Trial, ...], Trial]:
        """All trials of an n_q, and the best one; searched for once."""
        if strength not in self.found:
            loss_at = partial(self.loss_at, int(strength))
            weaker = min((other for other in self.coarse if other > strength), default=None)
            if self.follow and weaker is not None:
                start = self.thetas.index(self.found[weaker][1].setting)
                self.found[strength] = _descend(loss_at, self.thetas, start)
            else:
                self.found[strength] = _minimise(loss_at, self.thetas)
        return self.found[strength]

    def refined(self, critical: CriticalPoint) -> float | None:
        """The critical n_q if theta may also lie half-way to the neighbours of the best one.

        Losses only fall by that, so the search goes on from the critical n_q, one by one.
        """
        if critical.value is None or not critical.found:
            return critical.value
        limit = critical.init_loss + critical.eps
        n_q = int(critical.value)
        while n_q > 3 and self._lowest_loss(n_q - 2) <= limit:
            n_q -= 2
        return n_q

    def _lowest_loss(self, n_q: int) -> float:
        """With the two thetas half-way to the best one's neighbours, in octaves."""
        _, (theta, loss) = self.best_theta(n_q)
        place = self.thetas.index(theta)
        around = self.thetas[max(place - 1, 0) : place + 2]
        halfway = [math.sqrt(theta * other) for other in around if other != theta]
        losses = [loss, *(self.loss_at(n_q, other) for other in halfway)]
        return min(map(_finite_or_inf, losses))


def _matrices(model: nn.Module) -> dict[str, nn.Parameter]:
    """Weights with two or more dimensions. Raises ValueError where there is none.

    A table of biases (Swin, TinyViT) is no weight.
    """
    weights = {
        name: weight
        for name, weight in model.named_parameters()
        if weight.ndim >= 2 and "bias" not in name.rpartition(".")[2]
        if weight.numel() and weight.is_floating_point()
    }
    if not weights:
        raise ValueError(
            "model must have weights with two or more dimensions to quantise, "
            f"got {type(model).__name__} without any"
        )
    return weights


def _n_q_grid(num_intervals: int, per_octave: int) -> StrengthGrid:
    """Every odd n_q from 2m + 1 down to 3.

    The coarse grid divides m by the powers of 2^(1/per_octave), down to 1.
    """
    strengths = tuple(2 * m + 1 for m in range(num_intervals, 0, -1))
    steps = math.ceil(math.log2(num_intervals) * per_octave)
    coarse = {
        1,
        *(max(round(num_intervals * 2 ** (-step / per_octave)), 1) for step in range(steps + 1)),
    }
    return StrengthGrid(strengths, tuple(sorted(num_intervals - m for m in coarse)))


def _minimise(
    loss_at: Callable[[float], float], settings: Sequence[float]
) -> tuple[tuple[Trial, ...], Trial]:
    """All trials in the order of `settings`, and the one with the lowest loss.

    Eight or more settings are spread evenly; then ever closer neighbours of the best are tried.
    With a single valley, this finds the minimum of all. Of equal losses the first is taken; one
    that is not finite is the last resort.
    """
    trials: dict[int, Trial] = {}
    stride = 1 << max((len(settings) // 8).bit_length() - 1, 0)

    def visit(indices: Sequence[int]) -> int:
        for index in indices:
            if 0 <= index < len(settings) and index not in trials:
                trials[index] = Trial(settings[index], loss_at(settings[index]))
        return min(sorted(trials), key=lambda index: _finite_or_inf(trials[index].loss))

    best = visit(every(len(settings), stride))
    while stride > 1:
        stride //= 2
        best = visit([best - stride, best + stride])
    return tuple(trials[index] for index in sorted(trials)), trials[best]


def _descend(
    loss_at: Callable[[float], float], settings: Sequence[float], start: int
) -> tuple[tuple[Trial, ...], Trial]:
    """The same as `_minimise`, from one index step by step to neighbours of lower loss."""
    trials: dict[int, Trial] = {}

    def loss(index: int) -> float:
        if index not in trials:
            trials[index] = Trial(settings[index], loss_at(settings[index]))
        return _finite_or_inf(trials[index].loss)

    best, moved = start, True
    while moved:
        around = [index for index in (best - 1, best, best + 1) if 0 <= index < len(settings)]
        lowest = min(around, key=loss)
        # A plateau is left at its first setting, or a scan over it would never end
        moved = loss(lowest) < loss(best)
        best = lowest if moved else best
    return tuple(trials[index] for index in sorted(trials)), trials[best]


def _finite_or_inf(loss: float) -> float:
    return loss if math.isfinite(loss) else math.inf


def _num_intervals(name: str, n_q: int) -> int:
    """m of n_q = 2m + 1. Raises ValueError for an even n_q or one below 3."""
    if isinstance(n_q, bool) or not isinstance(n_q, int) or n_q < 3 or n_q % 2 == 0:
        raise ValueError(f"{name} must be an odd integer of at least 3, got {n_q!r}")
    return n_q // 2


def _checked_fractions(fractions: Sequence[float]) -> tuple[float, ...]:
    for value in at_least_one("fractions", fractions):
        check_fraction("fractions", value)
    return tuple(sorted(set(map(float, fractions)), reverse=True))
