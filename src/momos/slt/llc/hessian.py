"""Trace of a mean loss's Hessian by Hutchinson's estimator, a control for the coefficient.

A regular model's complexity could be read from it.
"""

import contextlib
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
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

Tensors = Sequence[Tensor | None]  # one per sampled parameter


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
    with twice_differentiable(model) as twin:
        parameters = sampled_parameters(twin)
        check_loss(twin, loss_fn, batches[0])
        per_probe = np.zeros(num_probes)
        for probe, signs in enumerate(random_signs(parameters, num_probes, seed)):
            per_probe[probe] = np.mean(
                [
                    curvature(gradient_product(graph, parameters, signs), signs)
                    for graph in (gradient_graph(twin, loss_fn, b) for b in by_index(batches))
                ]
            )
    return trace_of_probes(per_probe)


def trace_of_probes(per_probe: np.ndarray) -> HessianTrace:
    """The trace from v' H v of each probe (num_probes,). Raises ArithmeticError."""
    if not np.isfinite(per_probe).all():
        raise ArithmeticError(f"the Hessian's trace is not finite: {per_probe}")
    return HessianTrace(
        float(per_probe.mean()),
        float(per_probe.std(ddof=1)) if len(per_probe) > 1 else math.nan,
        per_probe,
    )


@contextlib.contextmanager
def twice_differentiable(model: nn.Module) -> Iterator[nn.Module]:
    """A copy of the model whose losses have second derivatives inside the block.

    Attention runs as plain matrix products there. The global RNG is seeded, and restored on exit.
    """
    device = sampled_parameters(model)[0].device
    with own_rng(device), torch.enable_grad(), sdpa_kernel(SDPBackend.MATH), _TwiceDifferentiable():
        yield sampling_copy(model)


def random_signs(
    parameters: Sequence[Tensor], num_probes: int, seed: int
) -> Iterator[list[Tensor]]:
    """Probes of independent signs, a tensor per parameter."""
    generator = torch.Generator(parameters[0].device).manual_seed(seed_for("llc:hessian", seed))
    for _ in range(num_probes):
        yield [
            torch.empty_like(p).bernoulli_(0.5, generator=generator).mul_(2).sub_(1)
            for p in parameters
        ]


def gradient_graph(model: nn.Module, loss_fn: LossFn, batch: Any) -> Tensors:
    """The gradient of a batch's loss, with its graph; None for a parameter without influence."""
    return torch.autograd.grad(
        loss_fn(model, batch), sampled_parameters(model), create_graph=True, allow_unused=True
    )


def gradient_product(
    graph: Tensors, parameters: Sequence[Tensor], direction: Sequence[Tensor], keep: bool = False
) -> Tensors:
    """H v of a loss along a direction v, a tensor (or None: zero) per parameter.

    graph: of `gradient_graph`. keep: whether it will be used again.
    """
    terms = [(g * v).sum() for g, v in zip(graph, direction, strict=True) if g is not None]
    slope = sum(terms, start=torch.zeros((), device=parameters[0].device))
    if not slope.requires_grad:
        return [None] * len(parameters)  # a loss linear in the weights
    return torch.autograd.grad(slope, parameters, allow_unused=True, retain_graph=keep)


def curvature(product: Tensors, direction: Sequence[Tensor]) -> float:
    """v' H v from H v and v."""
    terms = [
        (row * v).sum(dtype=torch.float64)
        for row, v in zip(product, direction, strict=True)
        if row is not None
    ]
    return sum(terms, start=torch.zeros((), device=direction[0].device)).item()
