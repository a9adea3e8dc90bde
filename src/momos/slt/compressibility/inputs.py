"""What all schemes do with their arguments: copies of the model, losses, tolerances, generators,
checks that raise ValueError.
"""

import copy
import hashlib
import math
from collections.abc import Callable, Sequence
from numbers import Real
from typing import Any

import torch
from torch import Tensor, nn

from momos.slt.caches import forget_
from momos.slt.compressibility.scan import CriticalPoint

LossFn = Callable[[nn.Module], float]


def eval_copy(model: nn.Module) -> nn.Module:
    """A deep copy in eval mode; not by what eval() returns, which is None for timm's TinyViT
    attention.
    """
    copied = copy.deepcopy(model)
    copied.eval()
    forget_(copied)
    return copied


def generator_for(purpose: str, seed: int, draw: int) -> torch.Generator:
    """A CPU generator of its own for every purpose, seed and draw."""
    digest = hashlib.sha256(f"{purpose}:{seed}:{draw}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))


@torch.no_grad()
def loss_of(loss_fn: LossFn, model: nn.Module) -> float:
    value = loss_fn(model)
    if (
        isinstance(value, Tensor)
        and value.numel() == 1
        and not value.is_complex()
        and value.dtype != torch.bool
    ):
        value = value.item()
    if not is_number(value):
        raise ValueError(f"loss_fn must return a number, got {shown(value)}")
    return float(value)


def initial_loss(loss_fn: LossFn, model: nn.Module) -> float:
    """On a copy: buffers of the given model must not move either."""
    loss = loss_of(loss_fn, eval_copy(model))
    if not math.isfinite(loss):
        raise ValueError(f"loss_fn must be finite on the original model, got {loss}")
    return loss


def tolerances_of(eps: float | Sequence[float]) -> list[float]:
    values = (
        [eps]
        if is_number(eps) or isinstance(eps, str) or not hasattr(eps, "__iter__")
        else list(eps)
    )
    for value in at_least_one("eps", values):
        if not (is_number(value) and math.isfinite(value) and value > 0):
            raise ValueError(f"eps must be a finite number above 0 (or several), got {value!r}")
    return [float(value) for value in values]


def one_or_all(
    found: list[CriticalPoint], eps: float | Sequence[float]
) -> CriticalPoint | list[CriticalPoint]:
    return found[0] if is_number(eps) else found


def is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def shown(value: Any) -> str:
    return f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else repr(value)


def check_fraction(name: str, value: float) -> None:
    if not (is_number(value) and 0 < value <= 1):
        raise ValueError(f"{name} must be a number in (0, 1], got {value!r}")


def positive(name: str, value: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{name} must be an integer of at least 1, got {value!r}")
    return value


def at_least_one(name: str, values: Sequence[Any]) -> Sequence[Any]:
    if len(values) == 0:
        raise ValueError(f"{name} must hold at least one value, got none")
    return values
