"""Factorisation by truncated singular value decomposition (App. C.2)."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from momos.slt.compressibility.inputs import (
    LossFn,
    check_fraction,
    eval_copy,
    initial_loss,
    loss_of,
    one_or_all,
    positive,
    tolerances_of,
)
from momos.slt.compressibility.scan import Compressed, CriticalPoint, Grid, Point, every, scan


class Factors(NamedTuple):
    """A singular value decomposition in float64, W = left @ right: left (a, r) holds the singular
    values, right (r, b).
    """

    left: Tensor
    right: Tensor


def layers_of(model: nn.Module) -> list[list[str]]:
    """The names of the weight matrices of each layer, in model order: what factorisation chooses
    from.

    A layer is a block with all its matrices: a child of a ModuleList or Sequential whose children
    are of one class and have children of their own (of nested ones the inner); what is outside of
    such stacks (unembedding, classifier) is no layer. In a model without stacks every matrix is a
    layer. Matrices are the weights of nn.Linear and nn.MultiheadAttention, never convolutions or
    embeddings.
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
    """The matrices that are factorised: of the second layer, the fourth .., never of the first, the
    last or two consecutive ones.

    Raises ValueError for fewer than three layers.
    """
    if len(layers) < 3:
        raise ValueError(
            f"layers must be at least three, as the first and the last one are not factorised, got {len(layers)}"
        )
    return [name for layer in layers[1:-1:2] for name in layer]


@torch.no_grad()
def decompose(
    model: nn.Module, layers: Sequence[Sequence[str]] | None = None
) -> dict[str, Factors]:
    """Of each matrix that is factorised. layers: names by layer in order, those of
    `layers_of(model)` by default.

    A weight that is tied to an embedding or to a skipped layer stays whole, one that is tied to
    another chosen one is taken once. Raises ValueError as `chosen`, and for weights that are not
    finite.
    """
    layers = layers_of(model) if layers is None else layers
    names = chosen(layers)
    seen = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    seen |= {
        id(model.get_parameter(name)) for layer in layers for name in layer if name not in names
    }
    factors = {}
    for name in names:
        weight = model.get_parameter(name)
        if id(weight) not in seen:
            seen.add(id(weight))
            factors[name] = _decompose(name, weight)
    if not factors:
        raise ValueError(
            "layers must hold a weight that is not shared with an embedding or a skipped layer, got none"
        )
    return factors


def factorized(
    model: nn.Module, keep: float, factors: dict[str, Factors] | None = None
) -> Compressed:
    """The chosen matrices (a, b) at rank r = round(keep * min(a, b)), at least 1; cost: parameters
    after / before, with r(a + b) for each.

    The copy holds the products. Near full rank the cost exceeds 1, as two factors are larger than
    their product. factors: of `decompose(model)`, to use them again. Raises ValueError as
    `decompose`, and for keep outside (0, 1].
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
) -> CriticalPoint | list[CriticalPoint]:
    """The smallest compression fraction (parameters after / before) within eps; strength is the
    fraction of singular values kept.

    num_steps: the fine grid keeps 1, 1 - 1/num_steps .. 1/num_steps, the coarse one an eighth of
    them; what gives the same ranks is one point. layers: names by layer in order, those of
    `layers_of(model)` by default. Raises ValueError as `decompose` and for eps, losses and
    num_steps out of range.
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
    grid = Grid(keeps, every(len(keeps), max(len(keeps) // 8, 1)))
    return one_or_all(scan(evaluate, grid, init_loss, tolerances, value="cost"), eps)


def _stacks(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    for prefix, module in model.named_modules():
        if isinstance(module, nn.ModuleList | nn.Sequential) and len(module):
            if len({type(child) for child in module}) == 1 and any(
                list(child.children()) for child in module
            ):
                yield prefix, module


def _linear_weights(model: nn.Module) -> Iterator[str]:
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
