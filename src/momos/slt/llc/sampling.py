"""Arguments of samplers and their controls: copies of the model, random state, checks."""

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from numbers import Integral, Real
from typing import Any, TypeGuard

import numpy as np
import torch
from torch import Tensor, nn

from momos.slt.copies import eval_copy

LossFn = Callable[[nn.Module, Any], Tensor]  # (model, batch) -> scalar mean loss


def sampled_parameters(model: nn.Module) -> list[nn.Parameter]:
    """The parameters that require a gradient, a tied one once.

    Raises ValueError where there is none, or where they cannot lie in one buffer.
    """
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not parameters or not sum(parameter.numel() for parameter in parameters):
        raise ValueError(
            "the model has no parameter that requires a gradient: there is nothing to sample"
        )
    kinds = {(parameter.device, _sampled_dtype(parameter)) for parameter in parameters}
    if len(kinds) > 1 or not parameters[0].is_floating_point():
        raise ValueError(
            "the sampled parameters must be real, on one device and of one precision, "
            f"got {sorted(map(str, kinds))}"
        )
    return parameters


def _sampled_dtype(parameter: Tensor) -> torch.dtype:
    """The dtype in `sampling_copy`: half precisions become float32."""
    half = parameter.is_floating_point() and parameter.dtype != torch.float64
    return torch.float32 if half else parameter.dtype


def sampling_copy(model: nn.Module) -> nn.Module:
    """A deep copy in eval mode, without gradients, and in float32 instead of half precisions.

    In half precision, noise would drown in the rounding.
    """
    twin = eval_copy(model)
    for tensor in [*twin.parameters(), *twin.buffers()]:
        tensor.grad = None
        if tensor.dtype in (torch.float16, torch.bfloat16):
            tensor.data = tensor.data.float()
    return twin


def to_numpy(losses: Sequence[Tensor]) -> np.ndarray:
    """Losses as (n,) float64; the host waits for the device once."""
    return torch.stack([loss.reshape(()) for loss in losses]).cpu().double().numpy()


def by_index(batches: Sequence) -> Iterator:
    """Iterate by index: a data set with a length need not know how an iteration ends."""
    return (batches[index] for index in range(len(batches)))


@contextlib.contextmanager
def own_rng(device: torch.device) -> Iterator[None]:
    """Seed the global RNG inside the block (layers and losses may use it); restore it on exit."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        seed_global(device, 0)
        yield


def seed_global(device: torch.device, seed: int) -> None:
    """Seed the global RNG of the CPU and of this device, and of no other as torch does."""
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(seed)


def check_batches(batches: object) -> None:
    """Raise ValueError unless batches is a sequence with at least one batch."""
    if not (hasattr(batches, "__len__") and hasattr(batches, "__getitem__")):
        expected = "a sequence (list, tuple ..) of what loss_fn takes"
        raise ValueError(f"batches must be {expected}, got {type(batches).__name__}")
    if len(batches) == 0:
        raise ValueError("batches must hold at least one batch, got 0")


def check_loss(model: nn.Module, loss_fn: LossFn, batch: Any) -> None:
    """Raise ValueError unless loss_fn returns a scalar that depends on the given model."""
    loss = loss_fn(model, batch)
    if not isinstance(loss, Tensor) or loss.numel() != 1 or not loss.is_floating_point():
        is_tensor = isinstance(loss, Tensor)
        got = f"shape {tuple(loss.shape)}, {loss.dtype}" if is_tensor else type(loss).__name__
        raise ValueError(
            f"loss_fn(model, batch) must return a scalar floating-point Tensor, got {got}"
        )
    gradients: Sequence[Tensor | None] = ()
    if loss.requires_grad:
        gradients = torch.autograd.grad(loss, sampled_parameters(model), allow_unused=True)
    if all(gradient is None for gradient in gradients):
        raise ValueError(
            "loss_fn(model, batch) must depend on the parameters of the model that it is given, "
            "and keep its graph"
        )


def is_number(value: object) -> TypeGuard[float]:
    """Whether the value is a finite real number (not a bool)."""
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)


def check_positive(name: str, value: object) -> None:
    """Raise ValueError unless the value is a finite number above 0."""
    if not (is_number(value) and value > 0):
        raise ValueError(f"{name} must be a finite number > 0, got {value!r}")


def check_integer(name: str, value: object, least: int) -> None:
    """Raise ValueError unless the value is an integer of at least `least`."""
    if not isinstance(value, Integral) or isinstance(value, bool) or int(value) < least:
        raise ValueError(f"{name} must be an integer >= {least}, got {value!r}")


def check_one_of(name: str, value: object, choices: Sequence[str]) -> None:
    """Raise ValueError unless the value is one of the choices."""
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(choices)}, got {value!r}")
