"""One scan for all schemes: what it evaluates, what it keeps, and the critical point that it finds."""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

from torch import nn


class Compressed(NamedTuple):
    model: nn.Module  # a copy in eval mode
    cost: float


class Trial(NamedTuple):
    """One evaluation behind a point. setting: theta as a fraction of max|w|, the number of the
    noise draw, or the retraining step.
    """

    setting: float
    loss: float


class Point(NamedTuple):
    """One strength of a curve. spread: sample standard deviation over noise draws, else 0.

    theta: of quantisation, the fraction of max|w| that was taken. eval_loss: of pruning, loss_fn
    after retraining, beside the lowest training loss.
    """

    strength: float
    cost: float
    loss: float
    spread: float = 0.0
    theta: float | None = None
    eval_loss: float | None = None
    trials: tuple[Trial, ...] = ()


class CriticalPoint(NamedTuple):
    """The strongest compression within init_loss + eps, and the points that say so.

    status: "found"; "none": the weakest strength of the grid is outside already, and value, loss,
    strength and cost are None; "all": even the strongest is within, and value is the grid's end, a
    bound and no critical value. curve: every point of this search, weak to strong.
    """

    value: float | None
    loss: float | None
    eps: float
    init_loss: float
    curve: tuple[Point, ...]
    status: str
    strength: float | None
    cost: float | None

    @property
    def found(self) -> bool:
        return self.status == "found"

    @property
    def crosses_once(self) -> bool:
        """False where the loss comes back within eps at a strength beyond the first one outside."""
        inside = [_is_within(point.loss, self.init_loss, self.eps) for point in self.curve]
        return inside == sorted(inside, reverse=True)


class Grid(NamedTuple):
    """strengths, weak to strong; coarse: rising indices into them, the first and the last among
    them.
    """

    strengths: tuple[float, ...]
    coarse: tuple[int, ...]


def scan(
    evaluate: Callable[[float], Point],
    grid: Grid,
    init_loss: float,
    eps: Sequence[float],
    *,
    value: str = "strength",
) -> list[CriticalPoint]:
    """A critical point for every eps; `evaluate` is called at most once for each strength. value:
    the Point's field that is critical.

    A loss that is not finite is outside every eps.
    """
    points: dict[int, Point] = {}

    def at(index: int) -> Point:
        if index not in points:
            points[index] = evaluate(grid.strengths[index])
        return points[index]

    return [_critical(at, grid, init_loss, tolerance, value) for tolerance in eps]


def _critical(
    at: Callable[[int], Point], grid: Grid, init_loss: float, eps: float, value: str
) -> CriticalPoint:
    def within(index: int) -> bool:
        return _is_within(at(index).loss, init_loss, eps)

    visited = {
        index: within(index) for index in grid.coarse
    }  # all of them: the curve is wanted beyond the crossing too
    outside = next((index for index in grid.coarse if not visited[index]), None)
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


def _is_within(loss: float, init_loss: float, eps: float) -> bool:
    return math.isfinite(loss) and loss <= init_loss + eps


def merged_curve(points: Sequence[CriticalPoint]) -> tuple[Point, ...]:
    """Every point that the searches of one scan evaluated, once each, in the order of their cost."""
    unique = {point.strength: point for critical in points for point in critical.curve}
    return tuple(sorted(unique.values(), key=lambda point: point.cost))


def every(num: int, stride: int) -> tuple[int, ...]:
    """0, stride, 2 stride .. and the last of `num` indices."""
    return tuple(sorted({*range(0, num, stride), num - 1}))
