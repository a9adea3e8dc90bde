"""The scan that all schemes share: it evaluates strengths and finds the critical point."""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

from torch import nn


class Compressed(NamedTuple):
    """A compressed model and what it costs, in the scheme's unit."""

    model: nn.Module  # a copy in eval mode
    cost: float


class Trial(NamedTuple):
    """One evaluation behind a point."""

    setting: float  # theta as a fraction of max|w|, number of a noise draw, or retraining step
    loss: float


class Point(NamedTuple):
    """One strength of a curve."""

    strength: float
    cost: float
    loss: float
    spread: float = 0.0  # sample standard deviation over noise draws
    theta: float | None = None  # quantisation: the fraction of max|w| that was taken
    eval_loss: float | None = None  # pruning: loss_fn after retraining
    coarse: bool = False  # whether it is one of the scan's coarse grid
    trials: tuple[Trial, ...] = ()


class CriticalPoint(NamedTuple):
    """The strongest compression within init_loss + eps, and the points that show it.

    status "found": value, loss, strength and cost are those of the critical point. "none": even the
    weakest strength of the grid is outside, and these four are None. "all": even the strongest is
    within; value is the end of the grid, a bound and no critical value.
    """

    value: float | None
    loss: float | None
    eps: float
    init_loss: float
    curve: tuple[Point, ...]  # every point of this search, weak to strong
    status: str
    strength: float | None
    cost: float | None
    refined: float | None = None  # quantisation: value with theta sought more finely, if asked for

    @property
    def found(self) -> bool:
        """Whether value is a critical value."""
        return self.status == "found"

    @property
    def crosses_once(self) -> bool:
        """Whether the loss stays outside eps at every strength beyond the first one outside."""
        inside = [_is_within(point.loss, self.init_loss, self.eps) for point in self.curve]
        return inside == sorted(inside, reverse=True)


class StrengthGrid(NamedTuple):
    """The strengths of a scan."""

    strengths: tuple[float, ...]  # weak to strong
    coarse: tuple[int, ...]  # rising indices into strengths, with the first and the last


def scan(
    evaluate: Callable[[float], Point],
    grid: StrengthGrid,
    init_loss: float,
    eps: Sequence[float],
    *,
    value: str = "strength",
    num_beyond: int | None = None,
) -> list[CriticalPoint]:
    """A critical point for each eps; `evaluate` is called at most once per strength.

    value: the field of Point that is the critical value. num_beyond: how many coarse points are
    evaluated beyond the first one outside eps, which only the curve and `crosses_once` gain from;
    None: all of them. A loss that is not finite is outside every eps. Raises ValueError for a
    num_beyond below 0.
    """
    if num_beyond is not None and num_beyond < 0:
        raise ValueError(f"num_beyond must be an integer of at least 0 or None, got {num_beyond}")
    points: dict[int, Point] = {}

    def at(index: int) -> Point:
        if index not in points:
            point = evaluate(grid.strengths[index])
            points[index] = point._replace(coarse=index in grid.coarse)
        return points[index]

    return [_critical(at, grid, init_loss, tolerance, value, num_beyond) for tolerance in eps]


def _critical(
    at: Callable[[int], Point],
    grid: StrengthGrid,
    init_loss: float,
    eps: float,
    value: str,
    num_beyond: int | None,
) -> CriticalPoint:
    def within(index: int) -> bool:
        return _is_within(at(index).loss, init_loss, eps)

    visited = _coarse_part(grid, within, num_beyond)
    outside = next((index for index in visited if not visited[index]), None)
    inside: int | None
    if outside is None:
        inside, status = grid.coarse[-1], "all"
    elif outside == grid.coarse[0]:
        inside, status = None, "none"
    else:
        inside, status = grid.coarse[grid.coarse.index(outside) - 1], "found"
        while outside - inside > 1:
            middle = (inside + outside) // 2
            visited[middle] = within(middle)
            inside, outside = (middle, outside) if visited[middle] else (inside, middle)
    point = None if inside is None else at(inside)
    return CriticalPoint(
        value=point and getattr(point, value),
        loss=point and point.loss,
        eps=eps,
        init_loss=init_loss,
        curve=tuple(at(index) for index in sorted(visited)),
        status=status,
        strength=point and point.strength,
        cost=point and point.cost,
    )


def _coarse_part(
    grid: StrengthGrid, within: Callable[[int], bool], num_beyond: int | None
) -> dict[int, bool]:
    """Whether each coarse index is within eps, weak to strong, up to num_beyond past the crossing.

    The curve is wanted beyond the crossing too.
    """
    visited: dict[int, bool] = {}
    last = len(grid.coarse) - 1
    for place, index in enumerate(grid.coarse):
        if place > last:
            break
        visited[index] = within(index)
        if num_beyond is not None and not visited[index]:
            last = min(last, place + num_beyond)
    return visited


def _is_within(loss: float, init_loss: float, eps: float) -> bool:
    return math.isfinite(loss) and loss <= init_loss + eps


def merged_curve(points: Sequence[CriticalPoint]) -> tuple[Point, ...]:
    """Every point that the searches of one scan evaluated, once each, ordered by cost."""
    unique = {point.strength: point for critical in points for point in critical.curve}
    return tuple(sorted(unique.values(), key=lambda point: point.cost))


def every(num: int, stride: int) -> tuple[int, ...]:
    """Every stride-th of `num` indices, from 0, and the last one."""
    return tuple(sorted({*range(0, num, stride), num - 1}))
