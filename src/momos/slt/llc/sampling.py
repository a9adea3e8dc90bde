"""What samplers and their controls do with their arguments: copies of the model, its parameters,
random state, checks.
"""

import contextlib
import copy
import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from numbers import Integral, Real
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from momos.slt.caches import forget_

LossFn = Callable[[nn.Module, Any], Tensor]


def sampled_parameters(model: nn.Module) -> list[nn.Parameter]:
    """The parameters that require a gradient, each once. Raises ValueError where there is none or
    where they cannot lie in one buffer.
    """
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not parameters or not sum(parameter.numel() for parameter in parameters):
        raise ValueError(
            "the model has no parameter that requires a gradient: there is nothing to sample"
        )
    kinds = {
        (
            p.device,
            p.dtype
            if p.dtype == torch.float64
            else torch.float32
            if p.is_floating_point()
            else p.dtype,
        )
        for p in parameters
    }
    if len(kinds) > 1 or not parameters[0].is_floating_point():
        raise ValueError(
            f"the sampled parameters must be real, on one device and of one precision, got {sorted(map(str, kinds))}"
        )
    return parameters


def sampling_copy(model: nn.Module) -> nn.Module:
    """A deep copy in eval mode, without gradients, and in float32 where it was in less: noise would
    drown in the rounding.
    """
    twin = copy.deepcopy(model)
    twin.eval()
    forget_(twin)
    for tensor in [*twin.parameters(), *twin.buffers()]:
        tensor.grad = None
        if tensor.dtype in (torch.float16, torch.bfloat16):
            tensor.data = tensor.data.float()
    return twin


def seed_of(purpose: str, seed: int) -> int:
    """A seed that depends on both, so that one stream never shifts another."""
    return int.from_bytes(hashlib.sha256(f"llc:{purpose}:{seed}".encode()).digest()[:7], "big")


def to_numpy(losses: Sequence[Tensor]) -> np.ndarray:
    """(n,) float64; waits for the device once."""
    return torch.stack([loss.reshape(()) for loss in losses]).cpu().double().numpy()


def each(batches: Sequence) -> Iterator:
    """By index: what has a length need not know how to end an iteration (data sets)."""
    return (batches[i] for i in range(len(batches)))


@contextlib.contextmanager
def own_rng(device: torch.device) -> Iterator[None]:
    """Layers and losses may draw from the global state within; after it, that state is as before."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        seed_global(device, 0)
        yield


def seed_global(device: torch.device, seed: int) -> None:
    """Of the CPU's and this device's global state; torch.manual_seed would reach devices that
    nobody restores.
    """
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(seed)


def check_batches(batches: Sequence) -> None:
    if not (hasattr(batches, "__len__") and hasattr(batches, "__getitem__")):
        raise ValueError(
            f"batches must be a sequence (list, tuple ..) of what loss_fn takes, got {type(batches).__name__}"
        )
    if len(batches) == 0:
        raise ValueError("batches must hold at least one batch, got 0")


def check_loss(model: nn.Module, loss_fn: LossFn, batch: Any) -> None:
    """Raises ValueError unless loss_fn returns a scalar that depends on the parameters of the model
    it was given.
    """
    loss = loss_fn(model, batch)
    if not isinstance(loss, Tensor) or loss.numel() != 1 or not loss.is_floating_point():
        got = (
            f"shape {tuple(loss.shape)}, {loss.dtype}"
            if isinstance(loss, Tensor)
            else type(loss).__name__
        )
        raise ValueError(
            f"loss_fn(model, batch) must return a scalar floating-point Tensor, got {got}"
        )
    gradients = (
        torch.autograd.grad(loss, sampled_parameters(model), allow_unused=True)
        if loss.requires_grad
        else ()
    )
    if all(gradient is None for gradient in gradients):
        raise ValueError(
            "loss_fn(model, batch) must depend on the parameters of the model that it is given, and keep its graph"
        )


def is_number(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)


def positive(name: str, value: object) -> None:
    if not (is_number(value) and value > 0):
        raise ValueError(f"{name} must be a finite number > 0, got {value!r}")


def integer(name: str, value: object, least: int) -> None:
    if not isinstance(value, Integral) or isinstance(value, bool) or value < least:
        raise ValueError(f"{name} must be an integer >= {least}, got {value!r}")


def one_of(name: str, value: object, choices: Sequence[str]) -> None:
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(choices)}, got {value!r}")
