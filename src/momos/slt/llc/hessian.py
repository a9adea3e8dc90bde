"""Trace of a mean loss's Hessian by Hutchinson's estimator, a control for the coefficient.

A regular model's complexity could be read from it.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode

from momos.compute.seeds import seed_for
from momos.slt.llc.sampling import (
    LossFn,
    by_index,
    check_batches,
    check_integer,
    check_loss,
    own_rng,
    sampled_parameters,
    sampling_copy,
)


class _TwiceDifferentiable(TorchFunctionMode):
    """Compute hard sigmoids (MobileNetV3) from parts that have a second derivative.

    Their own kernel has none.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if func is F.hardsigmoid:
            return F.relu6(args[0] + 3) / 6
        return func(*args, **(kwargs or {}))


class HessianTrace(NamedTuple):
    """An estimate of tr(H)."""

    mean: float  # over probes
    std: float  # sample standard deviation over probes; NaN for a single probe
    per_probe: np.ndarray  # (num_probes,) float64


def hessian_trace(
    model: nn.Module, loss_fn: LossFn, batches: Sequence, *, num_probes: int, seed: int = 0
) -> HessianTrace:
    """Trace of the Hessian of the mean loss over all batches: the mean of v' H v over signs v.

    It is exact where H is diagonal, and costs num_probes * len(batches) double backward passes.
    Model, loss_fn and batches are those of `estimate_llc`. Attention runs as plain matrix products,
    because its fused kernels have no second derivative. Raises ValueError for arguments out of
    range, ArithmeticError for a trace that is not finite.
    """
    check_integer("num_probes", num_probes, 1)
    check_integer("seed", seed, 0)
    check_batches(batches)
    device = sampled_parameters(model)[0].device
    with own_rng(device), torch.enable_grad(), sdpa_kernel(SDPBackend.MATH), _TwiceDifferentiable():
        twin = sampling_copy(model)
        parameters = sampled_parameters(twin)
        check_loss(twin, loss_fn, batches[0])
        generator = torch.Generator(device).manual_seed(seed_for("llc:hessian", seed))
        per_probe = np.zeros(num_probes)
        for probe in range(num_probes):
            signs = [
                torch.empty_like(p).bernoulli_(0.5, generator=generator).mul_(2).sub_(1)
                for p in parameters
            ]
            per_probe[probe] = np.mean(
                [_curvature(loss_fn(twin, batch), parameters, signs) for batch in by_index(batches)]
            )
    if not np.isfinite(per_probe).all():
        raise ArithmeticError(f"the Hessian's trace is not finite: {per_probe}")
    return HessianTrace(
        float(per_probe.mean()),
        float(per_probe.std(ddof=1)) if num_probes > 1 else math.nan,
        per_probe,
    )


def _curvature(loss: Tensor, parameters: Sequence[Tensor], direction: Sequence[Tensor]) -> float:
    """v' H v of the loss along a direction v, which has a tensor per parameter."""
    gradients = torch.autograd.grad(loss, parameters, create_graph=True, allow_unused=True)
    terms = [(g * v).sum() for g, v in zip(gradients, direction, strict=True) if g is not None]
    slope = sum(terms, start=torch.zeros((), device=loss.device))
    if not slope.requires_grad:
        return 0.0  # a loss linear in the weights
    rows = torch.autograd.grad(slope, parameters, allow_unused=True)
    curvatures = [
        (row * v).sum(dtype=torch.float64)
        for row, v in zip(rows, direction, strict=True)
        if row is not None
    ]
    return sum(curvatures, start=torch.zeros((), device=loss.device)).item()
