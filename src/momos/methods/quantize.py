"""Fake quantisation with a straight-through gradient (method A4).

Sources: Jacob et al. 2018, Bengio et al. 2013.
"""

import copy
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

EXCLUDES = ("type", "names", "none")


def quantize(weight: Tensor, bits: int) -> Tensor:
    """Quantise a tensor symmetrically and uniformly, with one scale.

    scale * clamp(round(w / scale), -Q, Q) with Q = 2^(bits-1) - 1 and scale = max|w| / Q. The
    result has the same shape and dtype. A tensor of zeros (or so small that its scale vanishes) and
    an empty one stay as they are. Raises ValueError for bits below 2.
    """
    if bits < 2:
        raise ValueError(f"bits must be 2 or more, got {bits}")
    if weight.numel() == 0:
        return weight.detach().clone()
    levels = 2 ** (bits - 1) - 1
    weight = weight.detach()
    low, high = weight.aminmax()
    scale = torch.maximum(-low, high) / levels
    rounded = (weight / scale).round_().clamp_(-levels, levels).mul_(scale)
    return torch.where(scale > 0, rounded, weight)


class _StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(weight: Tensor, bits: int) -> Tensor:
        return quantize(weight, bits)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient, None


def fake_quantize(weight: Tensor, bits: int) -> Tensor:
    """Quantise forward, exactly as `quantize`; pass the gradient straight through."""
    return _StraightThrough.apply(weight, bits)


def quantized_names(model: nn.Module, exclude: str | None, arch: str) -> list[str]:
    """List the trainable tensors that QAT quantises, in model order; never a bias.

    exclude: "type" goes by modules, as the authors' code does. It takes their weights, and leaves
    out normalisation modules and what is no module's weight: class tokens, positional embeddings
    and LayerScale's factors in timm models. "names" leaves out the parameters with the authors'
    tokens in their name, "bn" for ResNets and "norm" where arch starts with vit; "none" leaves out
    biases alone. Raises ValueError for another `exclude`.
    """
    if exclude not in EXCLUDES:
        raise ValueError(f"quantize.exclude must be one of {', '.join(EXCLUDES)}, got {exclude!r}")
    trained = (name for name, parameter in model.named_parameters() if parameter.requires_grad)
    names = [name for name in trained if not _is_bias(name)]
    if exclude == "type":
        norms = _parameters_of_norms(model)
        return [name for name in names if _is_weight(name) and name not in norms]
    token = _author_token(arch) if exclude == "names" else None
    return [name for name in names if not (token and token in name)]


def _is_bias(name: str) -> bool:
    return "bias" in name.rpartition(".")[2]


def _is_weight(name: str) -> bool:
    """Whether a module calls the parameter its weight: weight, in_proj_weight .."""
    return "weight" in name.rpartition(".")[2]


def _author_token(arch: str) -> str | None:
    if arch.startswith("resnet"):
        return "bn"
    return "norm" if arch.startswith("vit") else None


def _parameters_of_norms(model: nn.Module) -> set[str]:
    """Name the parameters of every module whose class, or a base of it, is called a norm.

    These are torch's BatchNorm, LayerNorm, GroupNorm .., timm's LayerNorm2d, RmsNorm ..
    """
    found: set[str] = set()
    for prefix, module in model.named_modules():
        if any("norm" in kind.__name__.lower() for kind in type(module).__mro__):
            found.update(
                f"{prefix}.{name}" if prefix else name
                for name, _ in module.named_parameters(recurse=False)
            )
    return found


@torch.no_grad()
def quantize_(model: nn.Module, names: Iterable[str], bits: int) -> None:
    """Quantise the named parameters in place, each as `quantize` does."""
    for name in names:
        parameter = model.get_parameter(name)
        parameter.copy_(quantize(parameter, bits))


@torch.no_grad()
def deployed(model: nn.Module, bits: int, exclude: str | None, arch: str) -> nn.Module:
    """Return a copy that holds the quantised weights; at 32 bits the model itself."""
    if bits == 32:
        return model
    model = copy.deepcopy(model)
    quantize_(model, quantized_names(model, exclude, arch), bits)
    return model
