"""Arguments of all compression schemes: losses, tolerances, and checks that raise ValueError."""

import math
from collections.abc import Callable, Iterable, Sequence
from numbers import Real
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn

from momos.slt.compressibility.scan import CriticalPoint
from momos.slt.copies import eval_copy

LossFn = Callable[[nn.Module], float]


@torch.no_grad()
def loss_of(loss_fn: LossFn, model: nn.Module) -> float:
    """The loss as a float. Raises ValueError unless it is a number or a tensor with one element."""
    value: object = loss_fn(model)
    if isinstance(value, Tensor) and value.numel() == 1:
        if not value.is_complex() and value.dtype != torch.bool:
            value = value.item()
    if not is_number(value):
        raise ValueError(f"loss_fn must return a number, got {shown(value)}")
    return float(value)


def initial_loss(loss_fn: LossFn, model: nn.Module) -> float:
    """The loss of a copy; the given model's buffers stay. Raises ValueError unless it is finite."""
    loss = loss_of(loss_fn, eval_copy(model))
    if not math.isfinite(loss):
        raise ValueError(f"loss_fn must be finite on the original model, got {loss}")
    return loss


def tolerances_of(eps: float | Sequence[float]) -> list[float]:
    """One tolerance or several as a list. Raises ValueError unless all are finite and above 0."""
    several = isinstance(eps, Iterable) and not isinstance(eps, str) and not is_number(eps)
    values: list[object] = list(eps) if isinstance(eps, Iterable) and several else [eps]
    tolerances = []
    for value in at_least_one("eps", values):
        if not (is_number(value) and math.isfinite(value) and value > 0):
            raise ValueError(f"eps must be a finite number above 0 (or several), got {value!r}")
        tolerances.append(float(value))
    return tolerances


def one_or_all(
    points: list[CriticalPoint], eps: float | Sequence[float]
) -> CriticalPoint | list[CriticalPoint]:
    """The only point where eps is one number, else all points."""
    return points[0] if is_number(eps) else points


def is_number(value: object) -> TypeGuard[float]:
    """Whether the value is a real number (not a bool); it may be infinite or NaN."""
    return isinstance(value, Real) and not isinstance(value, bool)


def shown(value: object) -> str:
    """The value for an error message; of a tensor its shape alone."""
    return f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else repr(value)


def check_fraction(name: str, value: object) -> None:
    """Raise ValueError unless the value is a number in (0, 1]."""
    if not (is_number(value) and 0 < value <= 1):
        raise ValueError(f"{name} must be a number in (0, 1], got {value!r}")


def positive(name: str, value: int) -> int:
    """The value. Raises ValueError unless it is an integer of at least 1."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{name} must be an integer of at least 1, got {value!r}")
    return value


def at_least_one(name: str, values: Sequence[Any]) -> Sequence[Any]:
    """The values. Raises ValueError where there is none."""
    if len(values) == 0:
        raise ValueError(f"{name} must hold at least one value, got none")
    return values
