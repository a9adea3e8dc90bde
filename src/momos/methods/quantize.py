"""Fake quantisation with a straight-through gradient: the QAT baseline (method A4; Jacob et al.
2018, Bengio et al. 2013).
"""

import copy
from collections.abc import Collection

import torch
from torch import Tensor, nn

EXCLUDES = ("type", "names", "none")


def quantize(weight: Tensor, bits: int) -> Tensor:
    """Symmetric, uniform, one scale for the tensor: scale * clamp(round(w / scale), -Q, Q), Q =
    2^(bits-1) - 1, scale = max|w| / Q.

    Same shape and dtype. A tensor of zeros (or so small that its scale vanishes) and an empty one
    stay as they are. Raises ValueError for bits below 2.
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
    def setup_context(ctx, inputs, output) -> None:
        pass

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient, None


def fake_quantize(weight: Tensor, bits: int) -> Tensor:
    """`quantize` forward, to the bit; the identity backward (straight-through estimator of round)."""
    return _StraightThrough.apply(weight, bits)


def quantized_names(model: nn.Module, exclude: str, arch: str) -> list[str]:
    """Names of the trainable tensors that QAT quantises, in model order: never a bias, and as
    `exclude` says.

    type: no parameter of a normalisation module. names: the authors' tokens, "bn" for ResNets and
    "norm" for a model whose name starts with vit. none: biases alone are left out. Raises
    ValueError for another `exclude`.
    """
    if exclude not in EXCLUDES:
        raise ValueError(f"quantize.exclude must be one of {', '.join(EXCLUDES)}, got {exclude!r}")
    norms = _parameters_of_norms(model) if exclude == "type" else set()
    token = _author_token(arch) if exclude == "names" else None
    names = (name for name, parameter in model.named_parameters() if parameter.requires_grad)
    return [
        name for name in names if not (_is_bias(name) or name in norms or (token and token in name))
    ]


def _is_bias(name: str) -> bool:
    return "bias" in name.rpartition(".")[2]


def _author_token(arch: str) -> str | None:
    if arch.startswith("resnet"):
        return "bn"
    return "norm" if arch.startswith("vit") else None


def _parameters_of_norms(model: nn.Module) -> set[str]:
    """Every class called a norm: torch's BatchNorm, LayerNorm, GroupNorm .., timm's LayerNorm2d,
    RmsNorm, BatchNormAct2d ..
    """
    found = set()
    for prefix, module in model.named_modules():
        if any("norm" in kind.__name__.lower() for kind in type(module).__mro__):
            found.update(
                f"{prefix}.{name}" if prefix else name
                for name, _ in module.named_parameters(recurse=False)
            )
    return found


def quantized_forward(
    model: nn.Module, images: Tensor, *, bits: int, names: Collection[str]
) -> Tensor:
    """The model's output with fake-quantised weights; gradients arrive at the latent ones. bits 32:
    the plain forward pass.
    """
    if bits == 32:
        return model(images)
    parameters = dict(model.named_parameters())
    quantized = {name: fake_quantize(parameters[name], bits) for name in names}
    return torch.func.functional_call(model, quantized, (images,))


@torch.no_grad()
def deployed(model: nn.Module, bits: int, exclude: str | None, arch: str) -> nn.Module:
    """A copy that holds the quantised weights themselves; at 32 bits the model as it is."""
    if bits == 32:
        return model
    model = copy.deepcopy(model)
    for name in quantized_names(model, exclude, arch):
        parameter = model.get_parameter(name)
        parameter.copy_(quantize(parameter, bits))
    return model
