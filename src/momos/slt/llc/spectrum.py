"""The Hessian's spectrum by stochastic Lanczos quadrature (Ubaru, Chen, Saad 2017).

Lanczos steps from a vector v give the nodes and weights of a Gauss quadrature of v' f(H) v. Over
random signs v, its mean is tr f(H). From the gradient it gives what depends on the gradient.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.linalg import eigh_tridiagonal
from torch import Tensor, nn

from momos.slt.llc.hessian import (
    HessianTrace,
    Tensors,
    curvature,
    gradient_graph,
    gradient_product,
    random_signs,
    trace_of_probes,
    twice_differentiable,
)
from momos.slt.llc.sampling import (
    LossFn,
    check_batches,
    check_integer,
    check_loss,
    sampled_parameters,
)

# Below this share of the largest coefficient, float32 has no new Lanczos vector
EXHAUSTED = 1e-5
TINY = np.finfo(float).tiny
Function = Callable[[np.ndarray], np.ndarray]  # of eigenvalues, elementwise


@dataclass(frozen=True)
class Spectrum:
    """Quadratures of a mean loss's Hessian H, and of its gradient g. Lists, so that JSON holds it.

    Eigenvalues are in loss_fn's unit per squared unit of the weights. Those in the middle of the
    spectrum are nodes of a quadrature, the outer ones converge to H's own, from inside.
    """

    probes: list[float]  # v' H v of each probe of signs
    nodes: list[list[float]]  # of each probe that Lanczos ran on
    weights: list[list[float]]  # their sum is the number of weights
    gradient_nodes: list[float]
    gradient_weights: list[float]  # their sum is |g|^2, without the noise of the batches

    @property
    def trace(self) -> HessianTrace:
        """tr(H) over all probes: that of `hessian_trace`."""
        return trace_of_probes(np.array(self.probes))

    @property
    def largest(self) -> float:
        """The largest eigenvalue, or less where there were too few Lanczos steps."""
        return max(itertools.chain(*self.nodes, self.gradient_nodes))

    @property
    def smallest(self) -> float:
        """The smallest eigenvalue, or more where there were too few Lanczos steps."""
        return min(itertools.chain(*self.nodes, self.gradient_nodes))

    @property
    def gradient_norm(self) -> float:
        """|g|"""
        return math.sqrt(sum(self.gradient_weights))

    def traces(self, function: Function) -> np.ndarray:
        """tr f(H) by each probe that Lanczos ran on, (num_lanczos_probes,) float64."""
        return np.array(
            [
                np.dot(weights, function(np.array(nodes)))
                for nodes, weights in zip(self.nodes, self.weights, strict=True)
            ]
        )

    def along_gradient(self, function: Function) -> float:
        """g' f(H) g"""
        return float(np.dot(self.gradient_weights, function(np.array(self.gradient_nodes))))


def hessian_spectrum(
    model: nn.Module,
    loss_fn: LossFn,
    batches: Sequence,
    *,
    num_probes: int,
    num_probe_batches: int,
    num_lanczos_probes: int,
    num_lanczos_steps: int,
    num_gradient_batches: int,
    seed: int = 0,
) -> Spectrum:
    """Quadratures of the Hessian of the mean loss over the first num_probe_batches.

    num_probes: of signs, for tr(H); Lanczos runs on the first num_lanczos_probes of them, and once
    from the mean gradient over the first num_gradient_batches. num_lanczos_steps: nodes of each
    quadrature; fewer where the vectors are exhausted. Model, loss_fn and batches are those of
    `estimate_llc`.

    It costs num_probe_batches * (num_probes + (num_lanczos_steps - 1) * num_lanczos_probes +
    num_lanczos_steps) backward passes through gradients. Memory holds the graphs of all these
    batches' gradients, and num_lanczos_steps vectors of the size of the weights. Raises ValueError
    for arguments out of range, ArithmeticError for products that are not finite.
    """
    _check_counts(
        num_probes=num_probes,
        num_probe_batches=num_probe_batches,
        num_lanczos_probes=num_lanczos_probes,
        num_lanczos_steps=num_lanczos_steps,
        num_gradient_batches=num_gradient_batches,
    )
    check_integer("seed", seed, 0)
    check_batches(batches)
    with twice_differentiable(model) as twin:
        check_loss(twin, loss_fn, batches[0])
        hessian = _Hessian(twin, loss_fn, batches[:num_probe_batches])
        probes, quadratures = [], []
        for signs in random_signs(hessian.parameters, num_probes, seed):
            products = hessian.products(signs)
            probes.append(float(np.mean([curvature(product, signs) for product in products])))
            if len(probes) <= num_lanczos_probes:
                image = hessian.mean(products)
                quadratures.append(
                    lanczos(hessian.times, hessian.flat(signs), num_lanczos_steps, image)
                )
        gradient, square = hessian.gradient(batches[:num_gradient_batches])
        nodes, weights = lanczos(hessian.times, gradient, num_lanczos_steps)
    trace_of_probes(np.array(probes))  # raises what is not finite
    return Spectrum(
        probes=probes,
        nodes=[nodes.tolist() for nodes, _ in quadratures],
        weights=[weights.tolist() for _, weights in quadratures],
        gradient_nodes=nodes.tolist(),
        gradient_weights=(weights * (square / max(weights.sum(), TINY))).tolist(),
    )


def _check_counts(**counts: int) -> None:
    for name, value in counts.items():
        check_integer(name, value, 1)
    most, wanted = counts["num_probes"], counts["num_lanczos_probes"]
    if wanted > most:
        raise ValueError(f"num_lanczos_probes must be at most num_probes {most}, got {wanted}")


def lanczos(
    product: Callable[[Tensor], Tensor],
    start: Tensor,
    num_steps: int,
    image: Tensor | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Nodes and weights, (n,) float64 each: sum(weights f(nodes)) = start' f(H) start.

    n is num_steps, or less where the vectors are exhausted; 0 for a start of zeros. Exact for
    polynomials of degree up to 2 n - 1. product: v -> H v, of a symmetric H. start: (d,).
    image: H start, where it is known. Each vector is made orthogonal to all before, twice.
    """
    norm = start.double().norm().item()
    if norm == 0:
        return np.empty(0), np.empty(0)
    basis = [start / norm]
    image = product(basis[0]) if image is None else image / norm
    diagonal: list[float] = []
    beside: list[float] = []
    while True:
        diagonal.append(torch.dot(basis[-1], image).item())
        for _ in range(2):
            for vector in basis:
                image = image - torch.dot(vector, image) * vector
        rest = image.norm().item()
        if len(basis) == num_steps or rest <= EXHAUSTED * max(map(abs, [*diagonal, *beside])):
            break
        beside.append(rest)
        basis.append(image / rest)
        image = product(basis[-1])
    if not np.isfinite([*diagonal, *beside]).all():
        raise ArithmeticError(f"the Hessian's products are not finite: {diagonal}")
    nodes, vectors = eigh_tridiagonal(np.array(diagonal), np.array(beside))
    return nodes, norm**2 * vectors[0] ** 2


class _Hessian:
    """The Hessian of the mean loss over batches, as products with vectors, and its gradient."""

    def __init__(self, model: nn.Module, loss_fn: LossFn, batches: Sequence) -> None:
        self.model, self.loss_fn = model, loss_fn
        self.parameters = sampled_parameters(model)
        self.graphs = [gradient_graph(model, loss_fn, batch) for batch in batches]

    def products(self, direction: Sequence[Tensor]) -> list[Tensors]:
        """H v of each batch."""
        return [
            gradient_product(graph, self.parameters, direction, keep=True) for graph in self.graphs
        ]

    def times(self, vector: Tensor) -> Tensor:
        """H v of the mean loss, (d,) -> (d,)."""
        sizes = [parameter.numel() for parameter in self.parameters]
        pieces = zip(vector.split(sizes), self.parameters, strict=True)
        return self.mean(self.products([piece.view(p.shape) for piece, p in pieces]))

    def mean(self, products: Sequence[Tensors]) -> Tensor:
        """The mean over batches, (d,)."""
        return torch.stack([self.flat(product) for product in products]).mean(0)

    def flat(self, tensors: Tensors) -> Tensor:
        """A tensor (or None: zero) per parameter -> (d,)."""
        filled = zip(tensors, self.parameters, strict=True)
        return torch.cat([(torch.zeros_like(p) if t is None else t).flatten() for t, p in filled])

    def gradient(self, batches: Sequence) -> tuple[Tensor, float]:
        """The mean gradient over batches (d,), and |g|^2 without their noise, 0 or more.

        The noise is 1 / (n - 1) of the gradients' mean squared distance from their mean; a single
        batch is taken as all there is.
        """
        total = torch.zeros_like(self.flat(self.parameters))
        squares = 0.0
        for index in range(len(batches)):
            if index < len(self.graphs):
                gradient = self.flat(self.graphs[index]).detach()
            else:
                loss = self.loss_fn(self.model, batches[index])
                tensors = torch.autograd.grad(loss, self.parameters, allow_unused=True)
                gradient = self.flat(tensors)
            total += gradient
            squares += gradient.double().square().sum().item()
        mean = total / len(batches)
        square = mean.double().square().sum().item()
        noise = (squares / len(batches) - square) / max(len(batches) - 1, 1)
        return mean, max(square - noise, 0.0)
