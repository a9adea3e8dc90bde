"""Mosaic-of-Motifs (MoMos): weights projected onto a few of their own blocks (Algorithm 1).

The paper draws motifs anew at each projection. A method's entry may have them otherwise: `motifs`
is a schedule of what becomes of them (`momos.methods.schedule`), `choice` says which blocks become
motifs where they are drawn (`momos.methods.codebook.choose`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from momos.methods import schedule
from momos.methods.method import FULL_PRECISION, Applied, Ingredient, NotFinite, Stored, percent
from momos.settings import require

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from momos.methods.codebook import Codebook
    from momos.methods.mosaic import Projection
    from momos.methods.tied import Latent, Tied

# What to use instead of the paper's method (docs/mosaics.md), by name: momos_best of the profiles
RECIPES: dict[str, dict[str, Any]] = {
    "best": {
        "block_size": 4,
        "capacity": 0.01,
        "projection_every": "epoch",
        "motifs": [["dense", 0.5], ["trained", 1.0]],
    }
}
CHOICES = {"kmeans++": "k-means++", "usage": "usage"}


@dataclass(frozen=True, kw_only=True)
class MosaicOfMotifs(Ingredient):
    """Projection onto motifs that are drawn from the blocks, and kept or trained as scheduled."""

    section: ClassVar[str] = "mosaic"
    optional: ClassVar[frozenset[str]] = frozenset({"capacity", "num_motifs"})
    keys: ClassVar[tuple[str, ...]] = (
        "block_size", "capacity", "num_motifs", "projection_every", "codebook", "motifs", "choice",
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
    motifs: tuple[tuple[str | float, ...], ...] = schedule.REDRAWN  # kind and end of each phase
    choice: Literal["uniform", "kmeans++", "usage"] = "uniform"  # of blocks as motifs

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
        schedule.check(self.motifs, f"{where}.motifs")
        timed = not self.ties_weights or self.projection_every in (None, "epoch")
        expected = "epoch where motifs are trained"
        require(timed, f"{where}.projection_every", expected, self.projection_every)

    @property
    def ties_weights(self) -> bool:
        return "trained" in self.kinds

    @property
    def is_reading(self) -> bool:
        """Whether motifs are drawn as in the paper, so that they depend on no earlier ones."""
        return set(self.kinds) == {"redrawn"} and self.choice == "uniform"

    @property
    def kinds(self) -> tuple[str, ...]:
        """What becomes of motifs, phase by phase."""
        return tuple(str(kind) for kind, _ in self.motifs)

    @property
    def label(self) -> str:
        size = f"k={self.num_motifs}" if self.capacity is None else f"C={percent(self.capacity)} %"
        return f"MoMos s={self.block_size}, {size}"

    def remark(self, entry: Mapping[str, Any]) -> str:
        text = ", motifs per tensor" if entry.get("codebook") == "tensor" else ""
        text += "" if self.motifs == schedule.REDRAWN else f", {schedule.words(self.motifs)}"
        text += "" if self.choice == "uniform" else f", drawn by {CHOICES[self.choice]}"
        every = entry.get("projection_every")
        if every is None or self.ties_weights:  # which allows no other
            return text
        return f"{text}, projected every {every if isinstance(every, str) else f'{every} steps'}"

    @property
    def group(self) -> str:
        return f"MoMos s={self.block_size}"

    def sizes(self, model: nn.Module) -> tuple[int, int]:
        """Return (num_blocks, num_motifs) of the model. Raises ValueError as `mosaic.sizes`."""
        from momos.methods import mosaic

        return mosaic.sizes(
            model,
            self.block_size,
            capacity=self.capacity,
            num_motifs=self.num_motifs,
            slicing=self.slicing,
        )

    def first_motifs(self, model: nn.Module) -> list[int]:
        """Return the index of each codebook's first motif."""
        from momos.methods import mosaic

        return mosaic.first_motifs(model, self.block_size, self.sizes(model)[1], self.codebook)

    def describe(self, model: nn.Module) -> dict[str, Any]:
        from momos.methods import mosaic

        num_blocks, num_motifs = self.sizes(model)
        if set(self.kinds) & set(schedule.MOVING) or self.choice == "kmeans++":
            mosaic.check_distinct(model, self.block_size, num_motifs, slicing=self.slicing)
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
    """Projects one model, onto motifs that its own generator draws, or holds it to a mosaic."""

    def __init__(self, settings: MosaicOfMotifs, model: nn.Module, seed: int) -> None:
        from momos.compute.seeds import generator_for

        self.settings, self.model = settings, model
        self.epochs: int | None = None  # of the training, at most
        self.generator = generator_for("motifs", seed)
        self.projection: Projection | None = None  # the last one
        self.projected_at = 0  # its step
        self.num_epochs = 0  # that have ended
        self.ended_at = 0  # the step of the last one's end
        self.codebook: Codebook | None = None  # of the present weights
        self.mosaic: Tensor | None = None  # theirs, (num_blocks,) int64
        self._usage: Tensor | None = None
        self.tied: Tied | None = None  # while motifs are trained
        self.latent: Latent | None = None  # while weights have latent ones behind them

    def begin(self, epochs: int | None) -> None:
        schedule.check_epochs(self.settings.motifs, epochs)
        self.epochs = epochs

    @property
    def kind(self) -> str:
        """What becomes of the motifs in the present epoch."""
        return self._kind_in(1)

    def _kind_in(self, num_epochs: int) -> str:
        return schedule.kind_at(self.settings.motifs, self.num_epochs + num_epochs, self.epochs)

    @property
    def every(self) -> int | None:
        """After so many steps weights are changed; None: after epochs alone."""
        return 1 if self.tied or self.latent else self._period

    @property
    def _period(self) -> int | None:
        """Steps from projection to projection; None: epochs alone."""
        every = self.settings.projection_every
        return {"epoch": None, "step": 1}[every] if isinstance(every, str) else every

    @property
    def has_begun(self) -> bool:
        return self.kind != "dense"

    @property
    def is_tied(self) -> bool:
        return self.tied is not None

    def before_update(self, gradients: Sequence[Tensor]) -> None:
        if self.tied is not None:
            self.tied.average_(gradients)

    def after_step(self, num_steps: int) -> None:
        if self.tied is not None:
            self.tied.gather_()
            return
        if self.latent is not None:
            self.latent.follow_()
        if not self.has_begun:
            return
        if self._period is not None and num_steps % self._period == 0:
            self.project(num_steps, coming=self.kind)

    def after_epoch(self, num_steps: int) -> None:
        if self.ended_at == num_steps:
            return
        if self.tied is not None:
            self.keep()
        elif self.projected_at != num_steps and (self.has_begun or self._kind_in(2) != "dense"):
            self.project(num_steps, coming=self._kind_in(2))
        elif self._kind_in(2) == "latent" and self.latent is None:
            self.show(self._copies())
        self.num_epochs, self.ended_at = self.num_epochs + 1, num_steps
        self.tie()

    def project(self, num_steps: int, *, coming: str) -> None:
        """Project the weights, or the latent ones behind them. coming: kind of the next step."""
        from momos.methods import codebook, mosaic

        if self.latent is not None:
            self.latent.recall_()
        latent = self._copies() if coming == "latent" else None
        self.projection = mosaic.project_(
            self.model,
            self.settings.block_size,
            capacity=self.settings.capacity,
            num_motifs=self.settings.num_motifs,
            force_zero=self.settings.force_zero,
            slicing=self.settings.slicing,
            codebook=self.settings.codebook,
            generator=self.generator,
            motifs=None if self.settings.is_reading else self._motifs_of,
        )
        self.projected_at, self.mosaic = num_steps, self.projection.mosaic
        self._usage = self.projection.usage
        self.codebook = codebook.Codebook(self.projection.motifs, self._usage)
        self.latent = None
        if latent is not None:
            self.show(latent)

    def show(self, latent: Sequence[Tensor]) -> None:
        """Let the weights, which hold a mosaic, be that of latent ones from now on."""
        from momos.methods.tied import Latent

        self.latent = Latent(latent=latent, **self._held())

    def _held(self) -> dict[str, Any]:
        """What holds the weights to their present mosaic."""
        s = self.settings
        zeros = s.first_motifs(self.model) if s.force_zero else []
        held = {"codebook": self.codebook, "mosaic": self.mosaic, "slicing": s.slicing}
        return {"weights": self._weights, "zeros": zeros} | held

    @property
    def _weights(self) -> list[Tensor]:
        from momos.methods.mosaic import trainable

        return list(trainable(self.model).values())

    def _copies(self) -> list[Tensor]:
        return [weight.detach().clone() for weight in self._weights]

    def _motifs_of(self, parts: Sequence[Tensor], counts: Sequence[int]) -> list[Tensor]:
        """Motifs of the phase, from the blocks of each codebook."""
        from momos.methods import codebook

        s = self.settings
        last = [None] * len(parts) if self.codebook is None else self.codebook.split(counts)
        draws: dict[str, Any] = {"force_zero": s.force_zero, "generator": self.generator}
        return [
            codebook.renewed(self.kind, s.choice, *part, **draws)
            for part in zip(parts, counts, last, strict=True)
        ]

    def keep(self) -> None:
        """Take the trained motifs as those of the mosaic. Raises NotFinite."""
        from momos.methods.codebook import Codebook
        from momos.methods.mosaic import Projection

        if self.tied is None or self.mosaic is None:
            raise RuntimeError("no motifs are trained: expected a mosaic before this phase")
        motifs, usage = self.tied.codebook
        if not motifs.isfinite().all():
            raise NotFinite("motifs hold values that are not finite")
        self.codebook = Codebook(motifs := motifs.clone(), usage)
        self.projection = Projection(motifs, self.mosaic, usage, 0.0, 0.0, 0.0, 0)

    def tie(self) -> None:
        """Begin or end the training of motifs, as the coming epoch's kind wants it."""
        if self.kind != "latent":
            self.latent = None
        if self.kind != "trained":
            self.tied = None
        elif self.tied is None and self.codebook is not None:
            from momos.methods.tied import Tied

            self.tied = Tied(**self._held())

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
        ended = {"num_epochs": self.num_epochs, "ended_at": self.ended_at}
        in_phases = len(self.settings.motifs) > 1
        return {"projected_at": self.projected_at} | (ended if in_phases else {})

    def tensors(self) -> dict[str, Tensor]:
        """The last usage, and where later motifs depend on the last ones these and their mosaic;
        latent weights as one vector.
        """
        found = {} if self._usage is None else {"usage": self._usage}
        if not self.settings.is_reading and self.codebook and self.mosaic is not None:
            found |= {"motifs": self.codebook.motifs, "mosaic": self.mosaic}
        if self.latent is not None:
            found["latent"] = self.latent.flat()
        return found

    def restore(self, values: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        from momos.methods.codebook import Codebook

        self.projected_at, self._usage = values["projected_at"], tensors.get("usage")
        self.num_epochs, self.ended_at = values.get("num_epochs", 0), values.get("ended_at", 0)
        if "motifs" in tensors and self._usage is not None:
            device = next(self.model.parameters()).device
            self.codebook = Codebook(tensors["motifs"].to(device), self._usage)
            self.mosaic = tensors["mosaic"].to(device)
            self.tie()
        if "latent" in tensors:
            weights = self._weights
            parts = tensors["latent"].split([weight.numel() for weight in weights])
            self.show([part.view_as(w) for part, w in zip(parts, weights, strict=True)])
