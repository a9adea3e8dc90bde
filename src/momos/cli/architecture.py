"""Weights against the architecture that they are said to belong to."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from momos.cli.arguments import Shape
from momos.weights.files import some_of

if TYPE_CHECKING:
    from torch import Tensor, nn


def build_for(
    weights: Mapping[str, "Tensor"],
    arch: str,
    num_classes: int | None,
    shape: Shape,
    *,
    seed: int = 0,
) -> tuple["nn.Module", int]:
    """A fresh model of an architecture, and its number of classes (None: as the weights have).

    Raises ValueError for an unknown architecture or settings that it does not take.
    """
    from momos import models

    if num_classes is None:
        num_classes = _num_classes_of(weights, models.build(arch, 2, **shape))
    return models.build(arch, num_classes, seed=seed, **shape), num_classes


def _num_classes_of(weights: Mapping[str, "Tensor"], model: "nn.Module") -> int:
    """The length of the architecture's last tensor, the classifier's bias; 2 without one."""
    from momos.weights import blocks

    last = list(blocks.trainable(model))[-1]
    return len(weights[last]) if last in weights and weights[last].ndim else 2


def require_fit(weights: Mapping[str, "Tensor"], model: "nn.Module") -> None:
    """Raises ValueError, with up to five names, unless the weights belong to the architecture.

    All trainable weights have to be there. Other state, such as buffers, may be absent.
    """
    from momos.weights import blocks

    expected, trainable = model.state_dict(), list(blocks.trainable(model))
    missing = [name for name in trainable if name not in weights]
    unexpected = [name for name in weights if name not in expected]
    if missing or unexpected:
        different = f"missing {some_of(missing)}; unexpected {some_of(unexpected)}"
        raise ValueError(f"the weights do not belong to this architecture: {different}")
    _require_shapes(weights, expected, trainable)


def _require_shapes(
    weights: Mapping[str, "Tensor"], expected: Mapping[str, "Tensor"], names: Sequence[str]
) -> None:
    wrong = [
        f"{name} {tuple(weights[name].shape)} instead of {tuple(expected[name].shape)}"
        for name in names
        if weights[name].shape != expected[name].shape
    ]
    if wrong:
        raise ValueError(
            "the weights do not fit this architecture, check --num-classes and its other "
            f"settings: {some_of(wrong)}"
        )
