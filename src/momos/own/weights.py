"""Weights of a model from elsewhere: found under its wrappers, checked before they change."""

import torch
from torch import Tensor, nn

from momos.methods.tied import gradients_of
from momos.weights.blocks import trainable

FLOATS = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
SHARDING = ("FullyShardedDataParallel", "FSDPModule")  # torch's first and second FSDP


def unwrapped(model: nn.Module) -> nn.Module:
    """Return the model inside DistributedDataParallel, DataParallel and torch.compile.

    Raises ValueError for what is no module.
    """
    if not isinstance(model, nn.Module):
        raise ValueError(f"the model is of the type {type(model).__name__}, expected an nn.Module")
    inner = getattr(model, "_orig_mod", None)  # torch.compile's
    if isinstance(model, nn.parallel.DistributedDataParallel | nn.DataParallel):
        inner = model.module
    return unwrapped(inner) if isinstance(inner, nn.Module) else model


def optimizer_of(model: nn.Module, optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
    """Return the optimiser inside Accelerate's wrapper, or the one that is given.

    Raises ValueError for what is no optimiser, and for one that updates none of the model's
    weights.
    """
    inner = getattr(optimizer, "optimizer", optimizer)
    if not isinstance(inner, torch.optim.Optimizer):
        kind = type(optimizer).__name__
        raise ValueError(f"optimizer is of the type {kind}, expected one of torch.optim")
    updated = {id(weight) for group in inner.param_groups for weight in group["params"]}
    if not updated & {id(weight) for weight in model.parameters()}:
        kind = type(inner).__name__
        raise ValueError(f"optimizer: {kind} updates other weights, expected this model's")
    return inner


def checked(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return the trainable weights by name, in model order, a tied one once.

    Raises ValueError naming what a mosaic can't be made of: weights in shards (FSDP, DTensor),
    without values yet, of inference mode, on several devices, of a type that is no float, or
    float16 beside a wider type, whose motifs it may not be able to hold; and for a model without
    trainable weights.
    """
    _refuse_shards(model)
    weights = trainable(model)
    for name, weight in weights.items():
        if isinstance(weight, nn.UninitializedParameter) or weight.is_meta:
            raise ValueError(f"{name} has no values yet: run one batch, or initialise it, before")
        if weight.is_inference():
            raise ValueError(f"{name} was made in inference mode: expected one that can be trained")
        if weight.dtype not in FLOATS:
            expected = ", ".join(str(dtype).removeprefix("torch.") for dtype in FLOATS)
            raise ValueError(f"{name} is {weight.dtype}, expected one of {expected}")
    if not sum(weight.numel() for weight in weights.values()):
        raise ValueError("the model has no trainable weights: no parameter requires a gradient")
    _refuse_mixtures(weights)
    return weights


def gradients(trained: dict[str, nn.Parameter]) -> list[Tensor]:
    """Return the gradients of weights in their order, zeros made for those that have none.

    Raises ValueError naming a weight whose gradient is sparse.
    """
    for name, weight in trained.items():
        if weight.grad is not None and weight.grad.layout is not torch.strided:
            expected = "expected dense ones where motifs are trained (sparse=False)"
            raise ValueError(f"{name} has a sparse gradient: {expected}")
    return gradients_of(trained.values())


def _refuse_shards(model: nn.Module) -> None:
    """Raises ValueError naming the module or the weight that is sharded."""
    text = "MoMos draws from and compares whole weights; expected DistributedDataParallel, or none"
    for name, module in model.named_modules():
        if any(kind.__name__ in SHARDING for kind in type(module).__mro__):
            raise ValueError(f"{name or 'the model'} is sharded by FSDP: {text}")
    for name, weight in model.named_parameters():
        if hasattr(weight, "device_mesh"):
            raise ValueError(f"{name} is a {type(weight).__name__}, a part of a weight: {text}")


def _refuse_mixtures(weights: dict[str, nn.Parameter]) -> None:
    """Raises ValueError naming two weights that can't share motifs."""
    first, half = next(iter(weights)), None
    for name, weight in weights.items():
        if weight.device != weights[first].device:
            places = f"{first} lies on {weights[first].device}, {name} on {weight.device}"
            raise ValueError(f"{places}: expected all trainable weights on one device")
        half = name if weight.dtype == torch.float16 else half
    for name, weight in weights.items():
        if half is not None and weight.dtype != torch.float16:
            types = f"{half} is torch.float16, {name} {weight.dtype}"
            raise ValueError(f"{types}: expected one type, for float16 can't hold all motifs")


def not_finite(weights: dict[str, nn.Parameter]) -> list[str]:
    """Name the weights that hold NaN or infinity."""
    return [name for name, weight in weights.items() if not torch.isfinite(weight.detach()).all()]
