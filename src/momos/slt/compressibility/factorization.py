"""Compression by truncated singular value decomposition (singular MDL, App. C.2)."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from momos.slt.compressibility.inputs import (
    LossFn,
    check_fraction,
    initial_loss,
    loss_of,
    one_or_all,
    positive,
    tolerances_of,
)
from momos.slt.compressibility.scan import (
    Compressed,
    CriticalPoint,
    Point,
    StrengthGrid,
    every,
    scan,
)
from momos.slt.copies import eval_copy


class Factors(NamedTuple):
    """A singular value decomposition of a matrix (a, b): left @ right, in float64."""

    left: Tensor  # (a, r): left singular vectors times singular values
    right: Tensor  # (r, b)


def layers_of(model: nn.Module) -> list[list[str]]:
    """Names of the weight matrices of each layer, in model order.

    A layer is a block with all its matrices: a child of a ModuleList or Sequential whose children
    are of one class and have children of their own. Of nested stacks the inner ones count. What is
    outside of stacks (unembedding, classifier) is no layer. In a model without stacks every matrix
    is a layer. Matrices are the weights of nn.Linear and nn.MultiheadAttention, never those of
    convolutions or embeddings.
    """
    blocks = [
        f"{prefix}.{index}" if prefix else str(index)
        for prefix, module in _stacks(model)
        for index in range(len(module))
    ]
    blocks = [
        block for block in blocks if not any(other.startswith(f"{block}.") for other in blocks)
    ]
    names = list(_linear_weights(model))
    if not blocks:
        return [[name] for name in names]
    grouped = [[name for name in names if name.startswith(f"{block}.")] for block in blocks]
    return [group for group in grouped if group]


def chosen(layers: Sequence[Sequence[str]]) -> list[str]:
    """Names of the matrices that are factorised: those of the second layer, the fourth, and so on.

    The first and the last layer are never taken. Raises ValueError for fewer than three layers.
    """
    if len(layers) < 3:
        raise ValueError(
            "layers must be at least three, as the first and the last one are not factorised, "
            f"got {len(layers)}"
        )
    return [name for layer in layers[1:-1:2] for name in layer]


@torch.no_grad()
def decompose(
    model: nn.Module, layers: Sequence[Sequence[str]] | None = None
) -> dict[str, Factors]:
    """Factors of each matrix that is factorised, by its name.

    layers: names by layer in order; `layers_of(model)` by default. A weight that is tied to an
    embedding or to a skipped layer stays whole. Tied weights that are both chosen are taken once.
    Raises ValueError as `chosen`, and for weights that are not finite.
    """
    layers = layers_of(model) if layers is None else layers
    names = chosen(layers)
    skipped = [name for layer in layers for name in layer if name not in names]
    seen = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    seen |= {id(model.get_parameter(name)) for name in skipped}
    factors = {}
    for name in names:
        weight = model.get_parameter(name)
        if id(weight) not in seen:
            seen.add(id(weight))
            factors[name] = _decompose(name, weight)
    if not factors:
        raise ValueError(
            "layers must hold a weight that is not shared with an embedding or a skipped layer, "
            "got none"
        )
    return factors


def factorized(
    model: nn.Module, keep: float, factors: dict[str, Factors] | None = None
) -> Compressed:
    """Truncate the chosen matrices (a, b) to rank r = round(keep * min(a, b)), at least 1.

    The copy holds the products. The cost is parameters after / before, where a matrix counts
    r(a + b); near full rank it exceeds 1, as two factors are larger than their product. factors:
    those of `decompose(model)`, to use them again. Raises ValueError as `decompose`, and for keep
    outside (0, 1].
    """
    check_fraction("keep", keep)
    factors = decompose(model) if factors is None else factors
    model = eval_copy(model)
    total = after = sum(parameter.numel() for parameter in model.parameters())
    with torch.no_grad():
        for name, (left, right) in factors.items():
            weight, rank = model.get_parameter(name), _rank(left, keep)
            weight.copy_(left[:, :rank] @ right[:rank])
            after += rank * sum(weight.shape) - weight.numel()
    return Compressed(model, after / total)


def critical_fraction(
    model: nn.Module,
    loss_fn: LossFn,
    eps: float | Sequence[float],
    *,
    num_steps: int = 64,
    layers: Sequence[Sequence[str]] | None = None,
    num_beyond: int | None = None,
) -> CriticalPoint | list[CriticalPoint]:
    """The smallest compression fraction (parameters after / before) within eps.

    The strength is the fraction of singular values kept. num_steps: the fine grid keeps 1,
    1 - 1/num_steps .. 1/num_steps, the coarse grid about eight of them; fractions of the same ranks
    are one point. layers: names by layer in order; `layers_of(model)` by default. num_beyond: see
    `scan`. Raises ValueError as `decompose`, and for eps, losses and num_steps out of range.
    """
    tolerances, steps = tolerances_of(eps), positive("num_steps", num_steps)
    factors = decompose(model, layers)
    init_loss = initial_loss(loss_fn, model)

    def evaluate(keep: float) -> Point:
        copied, cost = factorized(model, keep, factors)
        return Point(keep, cost, loss_of(loss_fn, copied))

    by_ranks = {
        tuple(_rank(left, step / steps) for left, _ in factors.values()): step / steps
        for step in range(1, steps + 1)
    }
    keeps = tuple(sorted(by_ranks.values(), reverse=True))
    grid = StrengthGrid(keeps, every(len(keeps), max(len(keeps) // 8, 1)))
    points = scan(evaluate, grid, init_loss, tolerances, value="cost", num_beyond=num_beyond)
    return one_or_all(points, eps)


def _stacks(model: nn.Module) -> Iterator[tuple[str, nn.ModuleList | nn.Sequential]]:
    """Lists of modules of one class that have children of their own, by name."""
    for prefix, module in model.named_modules():
        if isinstance(module, nn.ModuleList | nn.Sequential):
            alike = len({type(child) for child in module}) == 1
            if alike and any(list(child.children()) for child in module):
                yield prefix, module


def _linear_weights(model: nn.Module) -> Iterator[str]:
    """Names of the weights of linear layers and of attention."""
    for prefix, module in model.named_modules():
        dot = f"{prefix}." if prefix else ""
        if isinstance(module, nn.Linear):
            yield f"{dot}weight"
        elif isinstance(module, nn.MultiheadAttention):
            names = ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight")
            yield from (f"{dot}{name}" for name in names if getattr(module, name) is not None)


def _decompose(name: str, weight: Tensor) -> Factors:
    if not torch.isfinite(weight).all():
        raise ValueError(f"weight {name} must be finite to be factorised, got NaN or infinity")
    left, values, right = torch.linalg.svd(weight.detach().double(), full_matrices=False)
    return Factors(left * values, right)


def _rank(left: Tensor, keep: float) -> int:
    return max(round(keep * left.shape[1]), 1)
