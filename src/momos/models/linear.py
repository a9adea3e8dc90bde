"""Linear layers through oneDNN on the CPU: the same function and gradients, up to twice as fast as
torch's default (MKL).

torch calls oneDNN for float32 linear layers only inside compiled graphs; here the same operator is
called directly. That pays on AMD with AVX-512, which MKL does not use there. With AVX2 alone MKL is
the faster one, by a quarter of an MLP's step.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

MIN_PRODUCTS = (
    2**21
)  # rows x weights of a call; below, calling an autograd function costs more than it saves


def speed_up_(model: nn.Module) -> nn.Module:
    """Every plain `nn.Linear` of the model computes through oneDNN from now on, where that pays;
    weights and names stay.
    """
    if available() and pays():
        for module in model.modules():
            if type(module) is nn.Linear:
                module.__class__ = Linear
    return model


def available() -> bool:
    return torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def pays() -> bool:
    """By what the processor has, not by a measurement: the same machine computes the same bytes."""
    return torch.backends.cpu.get_cpu_capability() == "AVX512"


class Linear(nn.Linear):
    """Large float32 products on the CPU through oneDNN; small ones, any other type or device, and
    autocast, as `nn.Linear`.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(.., in_features) -> (.., out_features)"""
        plain = x.device.type == "cpu" and x.dtype == self.weight.dtype == torch.float32
        if (
            not plain
            or x.numel() * self.out_features < MIN_PRODUCTS
            or torch.is_autocast_enabled("cpu")
        ):
            return super().forward(x)
        return _Linear.apply(x, self.weight, self.bias)


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _product(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        wants_x, wants_weight, wants_bias = ctx.needs_input_grad
        rows = gradient.reshape(-1, weight.shape[0])
        return (
            _product(gradient, weight.t()) if wants_x else None,
            _product(rows.t(), x.reshape(-1, weight.shape[1]).t()) if wants_weight else None,
            rows.sum(0) if wants_bias else None,
        )


def _product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """(.., in), (out, in), (out,) -> x weight^T + bias"""
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
