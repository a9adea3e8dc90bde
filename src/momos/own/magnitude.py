"""Compression by magnitude pruning: the smallest weights become zero, and nothing is trained on.

The second paper prunes attention heads and trains on (App. C.5), which
`momos.slt.compressibility.critical_heads` does. This scheme asks neither for attention nor for a
training, so that it fits any model (Han et al. 2015, with one bound for all matrices).
"""

from collections.abc import Sequence

import torch
from torch import nn

from momos.slt.compressibility import Compressed, CriticalPoint, Point, StrengthGrid, every, scan
from momos.slt.compressibility.inputs import (
    LossFn,
    check_fraction,
    initial_loss,
    loss_of,
    one_or_all,
    tolerances_of,
)
from momos.slt.copies import eval_copy


@torch.no_grad()
def sparse(model: nn.Module, kept: float) -> Compressed:
    """Zero the smallest weights of all matrices together, so that a share `kept` of them stays.

    Weights are parameters with two or more dimensions, embeddings included; tied ones count once.
    What is as large as the smallest weight that stays, stays too. The cost is parameters left /
    all. Raises ValueError for kept outside (0, 1], for weights that are not finite, and for a model
    without such weights.
    """
    check_fraction("kept", kept)
    model = eval_copy(model)
    weights = _matrices(model)
    magnitudes = torch.cat([weight.abs().flatten() for weight in weights])
    num_kept = max(round(kept * len(magnitudes)), 1)
    bound = magnitudes.kthvalue(len(magnitudes) - num_kept + 1).values
    total = left = sum(parameter.numel() for parameter in model.parameters())
    for weight in weights:
        weight[weight.abs() < bound] = 0
        left -= int((weight == 0).sum())
    return Compressed(model, left / total)


def critical_kept(
    model: nn.Module,
    loss_fn: LossFn,
    eps: float | Sequence[float],
    *,
    num_beyond: int | None = None,
) -> CriticalPoint | list[CriticalPoint]:
    """The smallest share of the weights kept, in whole percents, whose loss is within eps.

    The grid goes from 99 % down to 1 %, its coarse part has about nine points. num_beyond: see
    `momos.slt.compressibility.scan`. Raises ValueError as `sparse`, and for eps and losses out of
    range.
    """
    tolerances = tolerances_of(eps)
    init_loss = initial_loss(loss_fn, model)

    def evaluate(kept: float) -> Point:
        copied, cost = sparse(model, kept)
        return Point(kept, cost, loss_of(loss_fn, copied))

    shares = tuple(percent / 100 for percent in range(99, 0, -1))
    grid = StrengthGrid(shares, every(len(shares), 12))
    points = scan(evaluate, grid, init_loss, tolerances, num_beyond=num_beyond)
    return one_or_all(points, eps)


def _matrices(model: nn.Module) -> list[nn.Parameter]:
    """Weights with two or more dimensions; a table of biases is none, as for quantisation."""
    weights = {
        name: weight
        for name, weight in model.named_parameters()
        if weight.ndim >= 2 and "bias" not in name.rpartition(".")[2]
        if weight.numel() and weight.is_floating_point()
    }
    for name, weight in weights.items():
        if not torch.isfinite(weight).all():
            raise ValueError(f"weight {name} must be finite to be pruned, got NaN or infinity")
    if not weights:
        kind = type(model).__name__
        raise ValueError(f"model must have weights of two or more dimensions, got {kind} without")
    return list(weights.values())
