"""Linear layers through oneDNN on the CPU, up to twice as fast as torch's default (MKL).

Function and gradients are the same. torch calls oneDNN for float32 linear layers only inside
compiled graphs; here the same operator is called directly. This pays on AMD with AVX-512, which MKL
does not use there. With AVX2 alone MKL is faster, by a quarter of an MLP's step.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

# Rows x weights of a call. Below this, calling an autograd function costs more than it saves.
MIN_PRODUCTS = 2**21


def speed_up_(model: nn.Module) -> nn.Module:
    """Let every plain `nn.Linear` compute through oneDNN, where that pays; names stay."""
    for module in model.modules() if available() and pays() else ():
        if type(module) is nn.Linear:
            module.__class__ = Linear
    return model


def available() -> bool:
    """Whether torch has oneDNN and the operator that is used here."""
    return torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def pays() -> bool:
    """Whether this processor is faster with it.

    It is decided by the processor's instructions, not by a measurement, so that a machine always
    computes the same bytes.
    """
    return torch.backends.cpu.get_cpu_capability() == "AVX512"


class Linear(nn.Linear):
    """A linear layer that computes large float32 products on the CPU through oneDNN.

    Small products, other dtypes and devices, and autocast are left to `nn.Linear`.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(.., in_features) -> (.., out_features)"""
        is_plain = x.device.type == "cpu" and x.dtype == self.weight.dtype == torch.float32
        is_large = x.numel() * self.out_features >= MIN_PRODUCTS
        if is_plain and is_large and not torch.is_autocast_enabled("cpu"):
            return _Linear.apply(x, self.weight, self.bias)
        return super().forward(x)


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
    """x weight^T + bias: x (.., in), weight (out, in), bias (out,) -> (.., out)."""
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
