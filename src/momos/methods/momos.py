"""Mosaic-of-Motifs (MoMos): weights projected onto a few of their own blocks (Algorithm 1)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from momos.methods.method import FULL_PRECISION, Applied, Ingredient, Stored, percent
from momos.settings import require

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from momos.methods.mosaic import Projection


@dataclass(frozen=True, kw_only=True)
class MosaicOfMotifs(Ingredient):
    """Projection onto motifs that are drawn anew each time."""

    section: ClassVar[str] = "mosaic"
    optional: ClassVar[frozenset[str]] = frozenset({"capacity", "num_motifs"})
    keys: ClassVar[tuple[str, ...]] = (
        "block_size", "capacity", "num_motifs", "projection_every", "codebook",
    )  # fmt: skip
    family: ClassVar[str] = "momos"
    name: ClassVar[str] = "MoMos"
    block_size: int  # weights per block (s)
    capacity: float | None  # num_motifs / num_blocks (C)
    num_motifs: int | None  # instead of capacity (k)
    projection_every: str | int  # epoch | step | a number of steps, counted over the training
    force_zero: bool  # the zero block is always a motif
    slicing: Literal["tensor", "model"]  # what is cut into blocks together
    codebook: Literal["model", "tensor"] = (
        "model"  # what shares motifs; tensor: k is at most its blocks
    )

    def check(self, where: str) -> None:
        require(self.block_size >= 1, f"{where}.block_size", "1 or more", self.block_size)
        given = {key: getattr(self, key) for key in self.keys[:3]}
        expected = "given either capacity or num_motifs beside block_size"
        require((self.capacity is None) != (self.num_motifs is None), where, expected, given)
        share = self.capacity is None or 0 < self.capacity <= 1
        require(share, f"{where}.capacity", "in (0, 1]", self.capacity)
        count = self.num_motifs is None or self.num_motifs >= 1
        require(count, f"{where}.num_motifs", "1 or more", self.num_motifs)
        check_projection_every(self.projection_every, where)
        whole = self.codebook != "tensor" or self.slicing != "model"
        require(whole, f"{where}.codebook", "model where mosaic.slicing is model", self.codebook)

    @property
    def label(self) -> str:
        size = f"k={self.num_motifs}" if self.capacity is None else f"C={percent(self.capacity)} %"
        return f"MoMos s={self.block_size}, {size}"

    def remark(self, entry: Mapping[str, Any]) -> str:
        text = ", motifs per tensor" if entry.get("codebook") == "tensor" else ""
        every = entry.get("projection_every")
        if every is None:
            return text
        return f"{text}, projected every {every if isinstance(every, str) else f'{every} steps'}"

    @property
    def group(self) -> str:
        return f"MoMos s={self.block_size}"

    def describe(self, model: nn.Module) -> dict[str, Any]:
        from momos.methods import mosaic

        num_blocks, num_motifs = mosaic.sizes(
            model,
            self.block_size,
            capacity=self.capacity,
            num_motifs=self.num_motifs,
            slicing=self.slicing,
        )
        about = {key: getattr(self, key) for key in ("block_size", "capacity", "force_zero")}
        about |= {"slicing": self.slicing, "projection_every": self.projection_every}
        about |= {"codebook": self.codebook, "num_motifs": num_motifs, "num_blocks": num_blocks}
        if self.codebook == "tensor":
            about["codebooks"] = mosaic.codebooks(model, self.block_size, num_motifs)
        return about

    def apply(self, model: nn.Module, *, arch: str, seed: int) -> _Applied:
        return _Applied(self, model, seed)

    def stored(self, about: Mapping[str, Any]) -> Stored:
        """Motifs in full precision and an index per block (Eq. 8); of MoMos with QAT, those of the
        latent weights, as scales per tensor break sharing in the deployed ones (method A4).
        """
        shared = [(about["num_blocks"], about["num_motifs"])]
        codebooks = tuple(map(tuple, about.get("codebooks") or shared))
        num_values = sum(num_motifs for _, num_motifs in codebooks) * self.block_size
        return Stored(num_values, FULL_PRECISION, codebooks)


def check_projection_every(every: Any, where: str) -> None:
    """Raises ValueError for anything but epoch, step or a number of steps; None is left out."""
    valid = every in (None, "epoch", "step") if not isinstance(every, int) else every >= 1
    expected = "epoch, step, or a number of steps of 1 or more"
    require(valid, f"{where}.projection_every", expected, every)


class _Applied(Applied):
    """Projects one model, each time onto motifs that its own generator draws."""

    def __init__(self, settings: MosaicOfMotifs, model: nn.Module, seed: int) -> None:
        from momos.compute.seeds import generator_for

        self.settings, self.model = settings, model
        self.generator = generator_for("motifs", seed)
        every = settings.projection_every
        self.every = {"epoch": None, "step": 1}[every] if isinstance(every, str) else every
        self.projection: Projection | None = None  # the last one
        self.projected_at = 0  # its step
        self._usage: Tensor | None = None

    def after_step(self, num_steps: int) -> None:
        if self.every is not None and num_steps % self.every == 0:
            self.project(num_steps)

    def after_epoch(self, num_steps: int) -> None:
        if self.projected_at != num_steps:
            self.project(num_steps)

    def project(self, num_steps: int) -> None:
        from momos.methods import mosaic

        self.projection = mosaic.project_(
            self.model,
            self.settings.block_size,
            capacity=self.settings.capacity,
            num_motifs=self.settings.num_motifs,
            force_zero=self.settings.force_zero,
            slicing=self.settings.slicing,
            codebook=self.settings.codebook,
            generator=self.generator,
        )
        self.projected_at, self._usage = num_steps, self.projection.usage

    def history(self) -> dict[str, float | int]:
        """The last projection's distortion: that of the weights which validation sees."""
        p = self.projection
        if p is None:
            return {}
        return {
            "distortion": p.distortion,
            "distortion_per_weight": p.distortion_per_weight,
            "relative_distortion": p.relative_distortion,
            "num_changed": p.num_changed,
            "motifs_used": p.motifs_used,
        }

    @property
    def usage(self) -> Tensor | None:
        return self._usage

    def generators(self) -> dict[str, torch.Generator]:
        return {"motifs": self.generator}

    def values(self) -> dict[str, Any]:
        return {"projected_at": self.projected_at}

    def restore(self, values: Mapping[str, Any], usage: Tensor | None) -> None:
        self.projected_at, self._usage = values["projected_at"], usage
