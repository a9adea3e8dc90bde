"""A method: what is done to a network's weights while it trains.

A method is made of ingredients, none for the baseline. Its entry in params.yaml holds the settings
of all of them side by side:

    methods:
      baseline: {bits: 32}
      momos_s2_c10_qat8: {bits: 8, block_size: 2, capacity: 0.10}

An ingredient is a module of this package with one class derived from `Ingredient`. Its fields are
its settings: those in `keys` come from the entry, the others from the section of params.yaml that
`section` names. Everything else follows from the class: which settings are known, what the report
calls the method, what the forward pass sees, what happens after a step and an epoch, what has to be
stored. `qat` and `momos` are examples.
"""

from __future__ import annotations

import functools
import importlib
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from momos.settings import Settings, require, suggestion

if TYPE_CHECKING:  # torch takes a second to import, and reading settings needs none of it
    import torch
    from torch import Tensor, nn

FULL_PRECISION = 32  # bits of a weight that is not quantised
# What run.json says of every method; None where a method has no such thing.
DESCRIBED = (
    "bits", "rounding", "tensors", "exclude", "block_size", "capacity", "force_zero", "slicing",
    "codebook", "projection_every", "num_motifs", "num_blocks", "batchnorm",
)  # fmt: skip
HISTORY_COLUMNS = (
    "distortion", "distortion_per_weight", "relative_distortion", "num_changed", "motifs_used",
)  # fmt: skip


class NotFinite(ValueError):
    """Weights hold NaN or infinity: they have no nearest motif, and no scale."""


class Stored(NamedTuple):
    """What describes a model's weights: so many values, and indices into alphabets.

    The description length is num_values * bits, and num_indices * ceil(log2 num_symbols) bits for
    each alphabet (MoMos, Eq. 8).
    """

    num_values: int
    bits: int  # of a value
    alphabets: tuple[tuple[int, int], ...] = ()  # num_indices, num_symbols


class Applied:
    """An ingredient at work on one model in one training. These defaults do nothing."""

    def forward_weights(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return those of the named weights that the forward pass sees changed, by name."""
        return {}

    def deployed_weights(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return those of the named weights that differ when the model is used, by name."""
        return {}

    def begin(self, epochs: int | None) -> None:
        """Get to know of how many epochs the training is at most; None where nobody knows.

        Called before the first step, and before `restore`. Raises ValueError for settings that do
        not fit.
        """

    @property
    def is_tied(self) -> bool:
        """Whether weights are tied to others from now on, so that they move as one.

        Where this changes, which is at an epoch's end, the optimiser begins anew: its moments are
        those of other parameters.
        """
        return False

    @property
    def has_begun(self) -> bool:
        """Whether weights have, at epochs' ends, the form that the method gives them.

        Best weights are chosen among those epochs. It changes at an epoch's end.
        """
        return True

    def before_update(self, gradients: Sequence[Tensor]) -> None:
        """Change the gradients in place before the optimiser's update, while `is_tied`.

        gradients: of all trainable weights, in model order.
        """

    def after_step(self, num_steps: int) -> None:
        """Change the weights in place after an optimiser step; num_steps counts all so far.

        Raises NotFinite for weights that are no longer finite, as `after_epoch` does.
        """

    def after_epoch(self, num_steps: int) -> None:
        """Change the weights in place after the last step of an epoch, before validation."""

    def before_validation(
        self, forward: Callable[[Tensor], Tensor], inputs: Iterable[Tensor]
    ) -> None:
        """Change what is no weight, when all ingredients have changed the weights.

        forward: calls the model with the weights that validation sees. inputs: of the training
        images, in order and not augmented, batch by batch; made as they are asked for.
        """

    def history(self) -> dict[str, float | int]:
        """Return columns of history.csv, of the weights that validation sees; some of
        HISTORY_COLUMNS.
        """
        return {}

    @property
    def usage(self) -> Tensor | None:
        """(num_motifs,) int64, how often each motif is used at present; None without motifs."""
        return None

    def generators(self) -> dict[str, torch.Generator]:
        """Return the generators that later steps draw from, by name."""
        return {}

    def values(self) -> dict[str, Any]:
        """Return what else later steps depend on, ready for JSON."""
        return {}

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors beside the weights that later steps depend on, by name."""
        return {}

    def restore(self, values: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        """Take back what `values` and `tensors` gave; weights and generators are restored."""


@dataclass(frozen=True, kw_only=True)
class Ingredient(Settings):
    """One kind of thing that a method does. Subclasses are frozen dataclasses of their settings."""

    section: ClassVar[str] = ""  # of params.yaml: what methods share, unless an entry has its own
    keys: ClassVar[tuple[str, ...]]  # settings that may stand in the method's own entry
    family: ClassVar[str]  # a short name: the method's family joins those of its ingredients by +
    name: ClassVar[str]  # for readers
    place: ClassVar[int] = 0  # ingredients with lower ones come first in names and in hooks
    required: ClassVar[tuple[str, ...]] = ()  # keys that every entry of `methods` must have
    absent: ClassVar[str] = ""  # what other keys must be where the ingredient is not wanted

    @classmethod
    def wanted(cls, entry: Mapping[str, Any]) -> bool:
        """Whether a method's entry asks for this ingredient: it has the first of `keys`."""
        return cls.keys[0] in entry

    @property
    def label(self) -> str:
        """The settings as a reader sees them."""
        raise NotImplementedError(f"{type(self).__name__} needs a label")

    def remark(self, entry: Mapping[str, Any]) -> str:
        """What the method's own entry says beyond the label, to stand behind it; or nothing."""
        return ""

    @property
    def group(self) -> str:
        """The methods that share a line in a figure."""
        return self.name

    @property
    def is_reading(self) -> bool:
        """Whether the paper may mean this; False for what it can't, as a better method."""
        return True

    @property
    def has_latent_weights(self) -> bool:
        """Whether the weights as deployed differ from the stored ones behind them (latent)."""
        return False

    @property
    def ties_weights(self) -> bool:
        """Whether weights are tied to others at some time in a training (`Applied.is_tied`)."""
        return False

    def describe(self, model: nn.Module) -> dict[str, Any]:
        """What run.json says of this ingredient on this model, before training.

        Raises ValueError for settings that do not fit the model.
        """
        return {}

    def apply(self, model: nn.Module, *, arch: str, seed: int) -> Applied:
        """Begin a training. arch: the architecture's name; seed: of the run."""
        raise NotImplementedError(f"{type(self).__name__} must say what it does")

    def stored(self, about: Mapping[str, Any]) -> Stored | None:
        """What has to be stored of a trained model, given its run.json; None: as without it."""
        return None


@dataclass(frozen=True)
class Method:
    """A method of params.yaml, put together by `parse`."""

    entry: tuple[tuple[str, Any], ...]  # key and value of each setting that is given
    ingredients: tuple[Ingredient, ...]
    called: str = ""  # its name, where another method's label is the same

    @property
    def settings(self) -> dict[str, Any]:
        """Every setting that a method can have; None for those that this one leaves out."""
        given = dict(self.entry)
        return {key: given.get(key) for key in known_keys()}

    @property
    def kind(self) -> str:
        """baseline, qat, momos, momos+qat .., whatever its entry says beyond the label."""
        return "+".join(part.family for part in self._named) or "baseline"

    @property
    def family(self) -> str:
        """The kind; another reading of one is a family of its own."""
        return self.kind + self.remark

    @property
    def _named(self) -> list[Ingredient]:
        """The ingredients that do something to weights."""
        return [part for part in self.ingredients if part.family]

    @property
    def remark(self) -> str:
        """What its entry says beyond the label; or nothing."""
        return "".join(part.remark(dict(self.entry)) for part in self.ingredients)

    @property
    def label(self) -> str:
        """The settings as a reader sees them: MoMos s=2, C=10 % + QAT 8 bit.

        The name stands behind them where that tells the method apart: QAT 8 bit (again).
        """
        label = " + ".join(part.label for part in self._named) or "Baseline"
        return f"{label}{self.remark} ({self.called})" if self.called else label + self.remark

    @property
    def group(self) -> str:
        """The methods that share a line in a figure."""
        named = self._named
        group = named[0].group if len(named) == 1 else " + ".join(part.name for part in named)
        return (group or "Baseline") + self.remark

    @property
    def bits(self) -> int:
        """Bits per weight in the forward pass; 32 without quantisation."""
        return int(dict(self.entry).get("bits", FULL_PRECISION))

    @property
    def block_size(self) -> int | None:
        """Weights per block (s); None without motifs."""
        return dict(self.entry).get("block_size")

    @property
    def capacity(self) -> float | None:
        """num_motifs / num_blocks (C); None without motifs, or where their number is given."""
        return dict(self.entry).get("capacity")

    @property
    def num_motifs(self) -> int | None:
        """The number of motifs (k) where the entry gives it."""
        return dict(self.entry).get("num_motifs")

    @property
    def is_reading(self) -> bool:
        """Whether the paper may mean this method, whatever its remark says."""
        return all(part.is_reading for part in self.ingredients)

    @property
    def has_latent_weights(self) -> bool:
        """Whether the weights as deployed differ from the stored ones behind them (latent)."""
        return any(part.has_latent_weights for part in self.ingredients)

    def describe(self, model: nn.Module) -> dict[str, Any]:
        """What run.json says of the method on this model: DESCRIBED, and the settings of others.

        Raises ValueError for settings that do not fit the model, before any training.
        """
        about: dict[str, Any] = dict.fromkeys(DESCRIBED) | {"bits": self.bits}
        about |= {key: value for key, value in self.entry if key not in about}
        for part in self.ingredients:
            about |= part.describe(model)
        return about

    def apply(self, model: nn.Module, *, arch: str, seed: int) -> AppliedMethod:
        """Begin a training of the model. arch: the architecture's name; seed: of the run."""
        return AppliedMethod(part.apply(model, arch=arch, seed=seed) for part in self.ingredients)

    def deployed(self, model: nn.Module, *, arch: str) -> nn.Module:
        """Return a copy that holds the weights as they are used: of QAT, the rounded ones.

        Where they are the stored ones, the model itself.
        """
        if not self.has_latent_weights:
            return model
        import copy

        import torch

        with torch.no_grad():
            twin = copy.deepcopy(model)
            weights = dict(twin.named_parameters())
            applied = self.apply(twin, arch=arch, seed=0)
            for name, value in applied.deployed_weights(weights).items():
                weights[name].copy_(value)
        return twin

    def stored(self, about: Mapping[str, Any]) -> Stored:
        """What has to be stored of a trained model. about: its run.json."""
        for part in self.ingredients:
            if (stored := part.stored(about)) is not None:
                return stored
        return Stored(about["num_weights"], FULL_PRECISION)


class AppliedMethod:
    """All ingredients of a method at work on one model: the hooks of `Applied` in turn."""

    def __init__(self, parts: Iterable[Applied]) -> None:
        self.parts = tuple(parts)
        plain = Applied.forward_weights
        self.changing = [part for part in self.parts if type(part).forward_weights is not plain]

    def forward_weights(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the weights that the forward pass sees changed. weights: name -> parameter."""
        changed: dict[str, Tensor] = {}
        for part in self.changing:
            changed |= part.forward_weights({**weights, **changed})
        return changed

    def deployed_weights(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the weights that differ when the model is used. weights: name -> parameter."""
        changed: dict[str, Tensor] = {}
        for part in self.parts:
            changed |= part.deployed_weights({**weights, **changed})
        return changed

    def forward(self, model: nn.Module, images: Tensor) -> Tensor:
        """Return the model's output, (n, C, H, W) -> (n, num_classes); gradients arrive at the
        weights themselves.
        """
        if not self.changing:
            return model(images)
        from torch.func import functional_call

        weights = self.forward_weights(dict(model.named_parameters()))
        return functional_call(model, weights, (images,))

    def begin(self, epochs: int | None) -> None:
        for part in self.parts:
            part.begin(epochs)

    @property
    def is_tied(self) -> bool:
        return any(part.is_tied for part in self.parts)

    @property
    def has_begun(self) -> bool:
        return all(part.has_begun for part in self.parts)

    def before_update(self, gradients: Sequence[Tensor]) -> None:
        for part in self.parts:
            if part.is_tied:
                part.before_update(gradients)

    def after_step(self, num_steps: int) -> None:
        for part in self.parts:
            part.after_step(num_steps)

    def after_epoch(self, num_steps: int) -> None:
        for part in self.parts:
            part.after_epoch(num_steps)

    def before_validation(self, model: nn.Module, inputs: Iterable[Tensor]) -> None:
        for part in self.parts:
            part.before_validation(functools.partial(self.forward, model), inputs)

    def history(self) -> dict[str, float | int | None]:
        """Return all of HISTORY_COLUMNS, None where no ingredient has one."""
        row: dict[str, float | int | None] = dict.fromkeys(HISTORY_COLUMNS)
        for part in self.parts:
            row |= part.history()
        return row

    @property
    def usage(self) -> Tensor | None:
        return next((part.usage for part in self.parts if part.usage is not None), None)

    def generators(self) -> dict[str, torch.Generator]:
        return {name: one for part in self.parts for name, one in part.generators().items()}

    def values(self) -> list[dict[str, Any]]:
        """Return what a resumed training hands back to `restore`, an entry per ingredient."""
        return [part.values() for part in self.parts]

    def tensors(self) -> dict[str, Tensor]:
        return {name: one for part in self.parts for name, one in part.tensors().items()}

    def restore(self, values: Iterable[Mapping[str, Any]], tensors: Mapping[str, Tensor]) -> None:
        for part, mine in zip(self.parts, values, strict=True):
            part.restore(mine, tensors)


def parse(entry: Any, where: str, shared: Mapping[str, Mapping[str, Any]] | None = None) -> Method:
    """Return the method that an entry of params.yaml's `methods` describes.

    entry: a mapping; None and NaN count as left out. where: the entry's name in messages. shared:
    section -> its settings; without it a method has a name and a label but can't be applied.
    Raises ValueError naming key, value and what was expected.
    """
    if not isinstance(entry, Mapping):
        raise ValueError(f"{where} must be a mapping of settings, got {entry!r}")
    given = {key: _frozen(value) for key, value in entry.items() if not _is_left_out(value)}
    for key in entry:
        if key not in known_keys():
            expected = f"expected {', '.join(known_keys())}"
            raise ValueError(
                f"{where}.{key}: unknown key{suggestion(key, known_keys())}; {expected}"
            )
    found = []
    for kind in ingredient_kinds():
        for key in kind.required:
            require_key(given, key, kind, where)
        if kind.wanted(given):
            found.append(_ingredient(kind, given, where, shared))
            given |= {key: getattr(found[-1], key) for key in kind.keys if key in given}
            continue
        for key in kind.keys[1:]:
            text = kind.absent or f"left out where there is no {kind.keys[0]}"
            require(key not in given, f"{where}.{key}", text, given.get(key))
    return Method(tuple(given.items()), tuple(sorted(found, key=lambda part: part.place)))


def require_key(given: Mapping[str, Any], key: str, kind: type[Ingredient], where: str) -> None:
    """Raises ValueError, naming the key and its type, for an entry without it."""
    if key not in given:
        raise ValueError(f"{where}.{key} is missing; expected {kind.expected(key)}")


def _ingredient(
    kind: type[Ingredient],
    given: Mapping[str, Any],
    where: str,
    shared: Mapping[str, Mapping[str, Any]] | None,
) -> Ingredient:
    own = {key: given[key] for key in kind.keys if key in given}
    if shared is not None:
        return kind.from_mapping(dict(shared.get(kind.section, {})) | own, where)
    return kind.from_mapping(own, where, partial=True)


@functools.cache
def ingredient_kinds() -> tuple[type[Ingredient], ...]:
    """Return the class of every module of this package that defines an ingredient.

    Raises ValueError for a module without exactly one such class, and for a key of two classes.
    """
    found: list[type[Ingredient]] = []
    for path in sorted(Path(__file__).parent.glob("[a-z]*.py")):
        if "(Ingredient)" in path.read_text() and path.stem != "method":
            module = importlib.import_module(f"momos.methods.{path.stem}")
            found.append(_ingredient_of(vars(module), module.__name__))
    found.sort(key=lambda kind: (not kind.required, kind.place))
    keys = [key for kind in found for key in kind.keys]
    twice = sorted({key for key in keys if keys.count(key) > 1})
    if twice:
        raise ValueError(f"momos.methods: two ingredients have the key {', '.join(twice)}")
    return tuple(found)


def _ingredient_of(names: Mapping[str, Any], module: str) -> type[Ingredient]:
    kinds = [
        one
        for one in names.values()
        if isinstance(one, type) and issubclass(one, Ingredient) and one.__module__ == module
    ]
    if len(kinds) != 1:
        raise ValueError(
            f"{module} must define one class derived from Ingredient, has {len(kinds)}"
        )
    return kinds[0]


def known_keys() -> list[str]:
    """Return every key that an entry of `methods` may have."""
    return [key for kind in ingredient_kinds() for key in kind.keys]


def percent(fraction: float) -> str:
    """Write a fraction in percent without trailing zeros: 0.005 -> "0.5"."""
    return f"{100 * fraction:.10g}"


def _is_left_out(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


def _frozen(value: Any) -> Any:
    """Lists as tuples: a method can be a key of a dict."""
    return tuple(map(_frozen, value)) if isinstance(value, list) else value
