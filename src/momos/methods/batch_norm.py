"""BatchNorm statistics gathered again before weights are judged (method A13).

A projection or rounding changes the weights in one stroke, and the running means and variances are
still those of the weights before it. `batchnorm: remeasured` gathers them again, from all training
images without augmentation, before each validation, that of the last epoch included.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from momos.methods.method import Applied, Ingredient

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.nn.modules.batchnorm import _BatchNorm


@dataclass(frozen=True, kw_only=True)
class RemeasuredBatchNorm(Ingredient):
    """Statistics of the weights that are judged."""

    keys: ClassVar[tuple[str, ...]] = ("batchnorm",)
    family: ClassVar[str] = ""  # what is done to weights stays the same
    name: ClassVar[str] = ""
    place: ClassVar[int] = 2
    batchnorm: Literal["as_trained", "remeasured"]

    @classmethod
    def wanted(cls, entry: Mapping[str, Any]) -> bool:
        """Whether the entry asks for anything but the statistics as trained."""
        return entry.get("batchnorm", "as_trained") != "as_trained"

    @property
    def label(self) -> str:
        return ""

    def remark(self, entry: Mapping[str, Any]) -> str:
        return ", BatchNorm re-measured"

    def describe(self, model: nn.Module) -> dict[str, Any]:
        """Raises ValueError for a model without BatchNorm."""
        if not running(model):
            expected = "as_trained for a model without BatchNorm layers that keep statistics"
            raise ValueError(f"batchnorm must be {expected}, got {self.batchnorm!r}")
        return {"batchnorm": self.batchnorm}

    def apply(self, model: nn.Module, *, arch: str, seed: int) -> Applied:
        return _Applied(model)


class _Applied(Applied):
    def __init__(self, model: nn.Module) -> None:
        self.model = model

    def before_validation(
        self, forward: Callable[[Tensor], Tensor], inputs: Iterable[Tensor]
    ) -> None:
        remeasure_(self.model, forward, inputs)


def running(model: nn.Module) -> list[_BatchNorm]:
    """List the BatchNorm layers that keep running statistics."""
    from torch.nn.modules.batchnorm import _BatchNorm as Layer

    layers = (module for module in model.modules() if isinstance(module, Layer))
    return [layer for layer in layers if layer.track_running_stats]


def remeasure_(
    model: nn.Module, forward: Callable[[Tensor], Tensor], inputs: Iterable[Tensor]
) -> None:
    """Set the running statistics to the mean of those of all batches, in place.

    forward: calls the model, with the weights that are judged. inputs: network inputs
    (n, C, H, W), on the model's device. All other layers are in eval mode meanwhile, and so is the
    whole model afterwards; no gradients, no random draws. As torch.optim.swa_utils.update_bn, but
    that one trains dropout, too.
    """
    import torch

    layers = running(model)
    momenta = [layer.momentum for layer in layers]
    model.eval()
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None  # a plain mean over batches
        layer.train()
    with torch.no_grad():
        for batch in inputs:
            forward(batch)
    for layer, momentum in zip(layers, momenta, strict=True):
        layer.momentum = momentum
    model.eval()
