"""Quantisation while a network trains, or of what was trained (QAT; method A4, A12).

`rounding` says when weights are rounded:

    straight_through  in each forward pass; latent float weights behind them get the gradient
    in_place_epoch    the weights themselves, at the end of every epoch, before validation
    in_place_step     the weights themselves, after every optimiser step
    after_training    the trained weights, once: training knows nothing of it

The paper says nothing of this. The authors' code of today does the first, an older one the third;
the second is a guess that fits the published MLP. `tensors` says which weights: `weights` are those
of `quantize.exclude`, `all` is every trainable tensor, biases and norms too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from momos.methods.method import FULL_PRECISION, Applied, Ingredient, Stored
from momos.settings import require

if TYPE_CHECKING:
    from torch import Tensor, nn

REMARKS = {
    "straight_through": "",
    "in_place_epoch": ", in place every epoch",
    "in_place_step": ", in place every step",
    "after_training": ", rounded after training",
}


@dataclass(frozen=True, kw_only=True)
class Quantization(Ingredient):
    """Weights of few bits, one scale a tensor."""

    section: ClassVar[str] = "quantize"
    keys: ClassVar[tuple[str, ...]] = ("bits", "rounding", "tensors")
    required: ClassVar[tuple[str, ...]] = ("bits",)
    absent: ClassVar[str] = "left out at 32 bits: nothing is rounded"
    family: ClassVar[str] = "qat"
    name: ClassVar[str] = "QAT"
    place: ClassVar[int] = 1
    bits: int  # per weight (q)
    rounding: Literal["straight_through", "in_place_epoch", "in_place_step", "after_training"] = (
        "straight_through"
    )
    tensors: Literal["weights", "all"] = "weights"
    exclude: Literal["type", "names", "none"]  # of `weights`: what is none, beside all biases

    @classmethod
    def wanted(cls, entry: Mapping[str, Any]) -> bool:
        """Whether the entry has fewer than 32 bits."""
        return entry["bits"] != FULL_PRECISION

    def check(self, where: str) -> None:
        require(2 <= self.bits <= 16, f"{where}.bits", "in 2..16, or 32 for none", self.bits)

    @property
    def has_latent_weights(self) -> bool:
        return self.rounding in ("straight_through", "after_training")

    @property
    def label(self) -> str:
        return f"QAT {self.bits} bit"

    def remark(self, entry: Mapping[str, Any]) -> str:
        where = ", all tensors" if entry.get("tensors") == "all" else ""
        return REMARKS[entry.get("rounding", "straight_through")] + where

    def describe(self, model: nn.Module) -> dict[str, Any]:
        exclude = self.exclude if self.tensors == "weights" else None
        about = {"bits": self.bits, "rounding": self.rounding, "tensors": self.tensors}
        return about | {"exclude": exclude}

    def apply(self, model: nn.Module, *, arch: str, seed: int) -> Applied:
        kinds = {"straight_through": _StraightThrough, "after_training": _AfterTraining}
        return kinds.get(self.rounding, _InPlace)(self, model, arch)

    def names(self, model: nn.Module, arch: str) -> list[str]:
        """List the tensors that are rounded, in model order. arch: the architecture's name."""
        from momos.methods.quantize import quantized_names

        if self.tensors == "all":
            return [name for name, weight in model.named_parameters() if weight.requires_grad]
        return quantized_names(model, self.exclude, arch)

    def stored(self, about: Mapping[str, Any]) -> Stored:
        return Stored(about["num_weights"], self.bits)


class _Applied(Applied):
    """names: the tensors that are rounded."""

    def __init__(self, settings: Quantization, model: nn.Module, arch: str) -> None:
        self.bits, self.model, self.names = settings.bits, model, settings.names(model, arch)


class _StraightThrough(_Applied):
    def forward_weights(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        from momos.methods.quantize import fake_quantize

        return {name: fake_quantize(weights[name], self.bits) for name in self.names}

    def deployed_weights(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return self.forward_weights(weights)


class _AfterTraining(_Applied):
    def deployed_weights(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        from momos.methods.quantize import quantize

        return {name: quantize(weights[name], self.bits) for name in self.names}


class _InPlace(_Applied):
    """Rounds the weights themselves. The optimiser's moments stay as they are."""

    def __init__(self, settings: Quantization, model: nn.Module, arch: str) -> None:
        super().__init__(settings, model, arch)
        self.every = 1 if settings.rounding == "in_place_step" else None
        self.rounded_at = 0  # a step

    def after_step(self, num_steps: int) -> None:
        if self.every is not None:
            self.round(num_steps)

    def after_epoch(self, num_steps: int) -> None:
        if self.rounded_at != num_steps:
            self.round(num_steps)

    def round(self, num_steps: int) -> None:
        from momos.methods.quantize import quantize_

        quantize_(self.model, self.names, self.bits)
        self.rounded_at = num_steps

    def values(self) -> dict[str, Any]:
        return {"rounded_at": self.rounded_at}

    def restore(self, values: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        self.rounded_at = values["rounded_at"]
