"""Quantisation-aware training (QAT): the forward pass sees quantised weights (method A4)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from momos.methods.method import FULL_PRECISION, Applied, Ingredient, Stored
from momos.settings import require

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(frozen=True, kw_only=True)
class FakeQuantization(Ingredient):
    """Weights quantised in the forward pass, latent float weights behind them."""

    section: ClassVar[str] = "quantize"
    keys: ClassVar[tuple[str, ...]] = ("bits",)
    required: ClassVar[tuple[str, ...]] = ("bits",)
    family: ClassVar[str] = "qat"
    name: ClassVar[str] = "QAT"
    place: ClassVar[int] = 1
    changes_forward: ClassVar[bool] = True
    bits: int  # per weight in the forward pass (q)
    exclude: Literal["type", "names", "none"]  # what is not quantised, beside all biases

    @classmethod
    def wanted(cls, entry: Mapping[str, Any]) -> bool:
        """Whether the entry has fewer than 32 bits."""
        return entry["bits"] != FULL_PRECISION

    def check(self, where: str) -> None:
        require(2 <= self.bits <= 16, f"{where}.bits", "in 2..16, or 32 for none", self.bits)

    @property
    def label(self) -> str:
        return f"QAT {self.bits} bit"

    def describe(self, model: nn.Module) -> dict[str, Any]:
        return {"bits": self.bits, "exclude": self.exclude}

    def apply(self, model: nn.Module, *, arch: str, seed: int) -> _Applied:
        from momos.methods import quantize

        return _Applied(self.bits, quantize.quantized_names(model, self.exclude, arch))

    def stored(self, about: Mapping[str, Any]) -> Stored:
        return Stored(about["num_weights"], self.bits)


class _Applied(Applied):
    """names: the tensors that are quantised."""

    def __init__(self, bits: int, names: list[str]) -> None:
        from momos.methods.quantize import fake_quantize

        self.bits, self.names, self.fake_quantize = bits, names, fake_quantize

    def forward_weights(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {name: self.fake_quantize(weights[name], self.bits) for name in self.names}
