"""MoMos and QAT in a training loop of one's own: any module, any optimiser, any device.

    mosaic = MoMos(model, block_size=2, capacity=0.1)
    for epoch in range(num_epochs):
        for batch in batches:
            loss_of(model, batch).backward()
            optimizer.step()
            optimizer.zero_grad()
            mosaic.step()
        mosaic.epoch()
    mosaic.save("model.momos")

The model may be wrapped in DistributedDataParallel or torch.compile, before or after. All ranks
then call `step` and `epoch`; rank 0's draws are everybody's, and after a projection all must hold
the same weights.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from momos.complexity.code_length import describe_stored
from momos.methods.batch_norm import RemeasuredBatchNorm
from momos.methods.method import FULL_PRECISION, Applied, Method, NotFinite, parse
from momos.methods.momos import RECIPES, MosaicOfMotifs
from momos.methods.mosaic import Projection
from momos.methods.qat import Quantization
from momos.methods.schedule import kind_at
from momos.own import forward, weights
from momos.own.ranks import Ranks
from momos.settings import require


class Report(NamedTuple):
    """What a model's weights are at present, by its method; None for what the method has not.

    Distortion is that of the last projection (method A3), None before the first. The description
    length is Eq. 8 of the paper, RAC Eq. 21; before the first projection, those of the mosaic to
    come.
    """

    method: str
    num_steps: int  # optimiser steps so far
    num_weights: int
    num_blocks: int | None
    num_motifs: int | None  # that there may be (k)
    motifs_used: int | None
    usage: Tensor | None  # (num_motifs,) int64: how often each motif is used
    distortion: float | None  # sum of (w - w_hat)^2
    distortion_per_weight: float | None
    relative_distortion: float | None  # ||w - w_hat|| / ||w||
    num_changed: int | None  # weights that the last projection changed
    rac: float
    description_bits: int

    @property
    def numbers(self) -> dict[str, float]:
        """The numbers that there are, by name, as loggers want them."""
        return {
            name: value for name, value in self._asdict().items() if isinstance(value, int | float)
        }


class OwnLoop:
    """A method of the study at work on one model in anybody's training loop.

    model: may be wrapped. method: with all of its settings. seed: of the draws. epochs: of the
    whole training, for a method in phases. optimizer: as of `follow`. distributed: False for ranks
    of torch.distributed that train models of their own. Raises ValueError for settings that do not
    fit the model or the epochs, and naming weights that can't take part (`momos.own.weights`).
    """

    def __init__(
        self,
        model: nn.Module,
        method: Method,
        *,
        seed: int = 0,
        epochs: int | None = None,
        optimizer: torch.optim.Optimizer | None = None,
        distributed: bool = True,
    ) -> None:
        is_count = epochs is None or (type(epochs) is int and epochs >= 1)
        require(is_count, "epochs", "a whole number of 1 or more", epochs)
        self.model, self.method, self.epochs = weights.unwrapped(model), method, epochs
        self.arch = type(self.model).__name__.lower()  # for quantize.exclude: names
        self.ranks = Ranks(model, together=distributed)
        trained = weights.checked(self.model)
        self.shapes = {name: weight.shape for name, weight in trained.items()}
        self.about = method.describe(self.model)
        self.about["num_weights"] = sum(shape.numel() for shape in self.shapes.values())
        self.applied = method.apply(self.model, arch=self.arch, seed=seed)
        self.applied.begin(epochs)
        self.optimizers: list[torch.optim.Optimizer] = []
        if optimizer is not None:
            self.follow(optimizer)
        self.num_steps = 0
        self._history = self.applied.history()
        self._follows_first = False
        self._let_see()

    def follow(self, *optimizers: torch.optim.Optimizer) -> None:
        """Let the method act on gradients before each update of these optimisers.

        Motifs that are trained need it, before the first step. Where their training begins or ends,
        the optimisers forget their moments: those are of other parameters. Of an optimiser that is
        given a closure, the gradients are those that the closure leaves. One that Accelerate has
        wrapped will do. Raises ValueError for what is no optimiser of this model's weights, and as
        `check`, for since the beginning a trainer may have sharded them.
        """
        self.check()
        for given in optimizers:
            optimizer = weights.optimizer_of(self.model, given)
            optimizer.register_step_pre_hook(self._before_step)
            self.optimizers.append(optimizer)

    def _before_step(
        self, optimizer: torch.optim.Optimizer, arguments: Any, named: dict[str, Any]
    ) -> tuple[Any, dict[str, Any]] | None:
        """Act on the gradients now, or whenever the closure that step() was given has run."""
        closure = named.get("closure") or next(iter(arguments[1:]), None)
        if closure is None:
            self.before_update()
            return None

        def closed() -> Any:
            loss = closure()
            self.before_update()
            return loss

        return arguments[:1], {**named, "closure": closed}

    def before_update(self) -> None:
        """Let the method act on the gradients, as an optimiser that is followed does by itself."""
        if self.applied.is_tied:
            self.applied.before_update(weights.gradients(self.check()))

    def step(self) -> Projection | None:
        """Take note of an optimiser step, to be called after each; project where that is due.

        Returns the projection if there was one. Raises NotFinite naming weights that hold NaN or
        infinity, RuntimeError where ranks do not agree, and ValueError where other weights are
        trainable than at first.
        """
        self._begin()
        self.num_steps += 1
        if not self._is_due():
            return None
        return self._act(self.applied.after_step, f"after step {self.num_steps}")

    def epoch(self) -> Projection | None:
        """End an epoch, to be called before validation.

        Returns and raises as `step`, and ValueError where no step has been taken note of yet.
        """
        if self.num_steps == 0:
            raise ValueError("epoch() came before any step(): call step() after each update")
        self._begin()
        tied, when = self.applied.is_tied, f"at an epoch's end, after step {self.num_steps}"
        projection = self._act(self.applied.after_epoch, when)
        if self.applied.is_tied != tied:
            for optimizer in self.optimizers:
                optimizer.state.clear()
        return projection

    def report(self) -> Report:
        """Return distortion and usage of the last projection, and the description length."""
        described = describe_stored(self.about["num_weights"], self.method.stored(self.about))
        values: dict[str, Any] = dict.fromkeys(Report._fields)
        values |= {**self.about, **self._history, **described, "num_steps": self.num_steps}
        values |= {"method": self.method.label, "usage": self.applied.usage}
        return Report(**{name: values[name] for name in Report._fields})

    def save(self, path: Path | str, *, level: str = "fixed") -> None:
        """Write the model as it is now to a .momos file, bit for bit (`momos.unpack` reads it).

        Of QAT these are the quantised weights. level: "entropy" for a smaller file. Of several
        ranks the first one writes. The file is small after a projection, before the next step.
        Raises ValueError where there was no projection yet, and what `momos.pack` raises.
        """
        from momos import packing

        if self.about["block_size"] and self.applied.usage is None:
            first = f"the first one comes at the end of epoch {self._first_mosaic} at the latest"
            found = f"there is no mosaic yet after step {self.num_steps}, {first}"
            raise ValueError(f"{path}: {found} (momos.pack writes any weights)")
        if self.ranks.is_first:
            block_size, slicing = self.about["block_size"], self.about["slicing"]
            deployed = self.method.deployed(self.model, arch=self.arch)
            packing.pack(deployed, path, block_size or 1, level=level, slicing=slicing or "tensor")

    def state_dict(self) -> dict[str, Any]:
        """Return all that later steps depend on but the model and the optimiser.

        torch.save writes it, and torch.load reads it with weights_only.
        """
        return {
            "settings": self._settings(),
            "num_steps": self.num_steps,
            "values": self.applied.values(),
            "tensors": self.applied.tensors(),
            "generators": {
                name: generator.get_state() for name, generator in self.applied.generators().items()
            },
            "history": dict(self._history),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what `state_dict` gave; the training goes on with the same bytes.

        Raises ValueError for the state of other settings or another number of weights.
        """
        for name, value in self._settings().items():
            saved = state["settings"].get(name)
            require(saved == value, f"{name} of the saved state", f"{value!r} as here", saved)
        for name, generator in self.applied.generators().items():
            generator.set_state(state["generators"][name].cpu())
        self.applied.restore(state["values"], state["tensors"])
        self.num_steps, self._history = state["num_steps"], dict(state["history"])
        self._follows_first = False

    def check(self) -> dict[str, nn.Parameter]:
        """Return the trainable weights by name, as each projection does before it begins.

        Raises ValueError naming a weight that can't take part, or was not trainable at first.
        """
        found = weights.checked(self.model)
        if changed := _first_difference(self.shapes, found):
            text = "the same trainable weights as when MoMos began; make a new one"
            raise ValueError(f"{changed}: expected {text}")
        return found

    def remove(self) -> None:
        """Let the forward pass see the latent weights again, after QAT."""
        forward.restore_(self.model)

    def _settings(self) -> dict[str, Any]:
        found: dict[str, Any] = {"num_weights": self.about["num_weights"]}
        for part in self.method.ingredients:
            found |= dataclasses.asdict(part)
        return found

    def _let_see(self) -> None:
        """Quantise in the forward pass, if the method does."""
        for part in self.method.ingredients:
            if isinstance(part, Quantization):
                if part.rounding == "straight_through":
                    names = part.names(self.model, self.arch)
                    forward.quantize_(self.model, names, part.bits)
            elif isinstance(part, RemeasuredBatchNorm):
                where = "momos.methods.batch_norm.remeasure_ does it, which needs images"
                raise ValueError(f"batchnorm: expected as_trained in one's own loop: {where}")
            elif part.has_latent_weights:
                raise ValueError(f"{part.name} changes what the forward pass sees: expected QAT")

    def _begin(self) -> None:
        followed = self.optimizers or not any(p.ties_weights for p in self.method.ingredients)
        text = "given (optimizer=.., or follow) where motifs are trained"
        require(followed, "optimizer", text, None)
        if not self._follows_first:
            self.ranks.follow_first(self.applied.generators(), at=self._device)
            self._follows_first = True

    @property
    def _first_mosaic(self) -> int:
        """The epoch, counted from 1, at whose end weights are a mosaic for the first time."""
        (motifs,) = [p.motifs for p in self.method.ingredients if isinstance(p, MosaicOfMotifs)]
        epochs = range(1, self.epochs or 1)
        return next((e for e in epochs if kind_at(motifs, e + 1, self.epochs) != "dense"), 1)

    @property
    def _device(self) -> torch.device:
        return next(self.model.parameters()).device

    def _is_due(self) -> bool:
        """Whether something may change weights after this step."""
        acting = [p for p in self.applied.parts if type(p).after_step is not Applied.after_step]
        periods = [getattr(part, "every", 1) for part in acting]
        return any(every is not None and self.num_steps % every == 0 for every in periods)

    def _act(self, hook: Callable[[int], None], when: str) -> Projection | None:
        """Let the method act, and see that all ranks hold the same weights after a change."""
        before, error = self.applied.values(), None
        try:
            self._apply(hook, when)
        except ValueError as caught:  # other ranks wait, and have to be told
            error = caught
        if error is None and self.applied.values() == before:
            return None
        trained = list(weights.trainable(self.model).values()) if error is None else None
        self.ranks.require_agreement(trained, at=self._device, when=when)
        if error is not None:
            raise error
        self._history = self.applied.history()
        projections = (getattr(part, "projection", None) for part in self.applied.parts)
        return next((one for one in projections if one is not None), None)

    def _apply(self, hook: Callable[[int], None], when: str) -> None:
        """Let the method act in full precision. Raises NotFinite naming weights."""
        trained = self.check()
        with torch.autocast(self._device.type, enabled=False):
            try:
                hook(self.num_steps)
            except NotFinite as error:
                names = ", ".join(weights.not_finite(trained))
                raise NotFinite(f"NaN or infinity {when} in {names}") from error


class MoMos(OwnLoop):
    """Mosaic-of-Motifs: weights projected onto a few of their own blocks (Algorithm 1).

    block_size: weights per block (s). capacity: number of motifs as a share of that of blocks (C),
    or num_motifs (k). bits: below 32 the forward pass sees quantised weights, too. recipe: instead
    of these an entry of `methods` in params.yaml, or a method or recipe of this library; or "best",
    motifs in phases as docs/mosaics.md recommends them, which needs epochs, of the whole training,
    and the optimizer, and takes a size beside it.
    projection_every: "epoch" as the authors' code, "step" as the paper, or a number of steps.
    force_zero, slicing: as of `momos.project_`. exclude: what is not quantised beside biases, as of
    `momos.methods.quantize.quantized_names`. seed, distributed, errors: as of `OwnLoop`.
    """

    def __init__(
        self,
        model: nn.Module,
        block_size: int | None = None,
        *,
        capacity: float | None = None,
        num_motifs: int | None = None,
        bits: int = FULL_PRECISION,
        recipe: Any = None,
        projection_every: str | int = "epoch",
        force_zero: bool = True,
        slicing: str = "tensor",
        exclude: str = "type",
        seed: int = 0,
        epochs: int | None = None,
        optimizer: torch.optim.Optimizer | None = None,
        distributed: bool = True,
    ) -> None:
        entry = {"block_size": block_size, "capacity": capacity, "num_motifs": num_motifs}
        if isinstance(recipe, str):
            expected = f"one of {', '.join(RECIPES)}, or an entry of methods"
            require(recipe in RECIPES, "MoMos.recipe", expected, recipe)
            entry, recipe = _resized(RECIPES[recipe], entry), None
        elif recipe is None:
            require(block_size is not None, "MoMos.block_size", "given, or a recipe", block_size)
        else:
            given = {name: value for name, value in entry.items() if value is not None}
            require(not given, "MoMos.recipe", "given without what it replaces", given)
        is_valid = projection_every in ("epoch", "step") or (
            isinstance(projection_every, int) and projection_every >= 1
        )
        expected = "epoch, step or a number of steps"
        require(is_valid, "MoMos.projection_every", expected, projection_every)
        mosaic: dict[str, Any] = {"projection_every": projection_every, "slicing": slicing}
        mosaic |= {"force_zero": force_zero}
        shared: dict[str, dict[str, Any]] = {"mosaic": mosaic, "quantize": {"exclude": exclude}}
        method = _method({"bits": bits, **entry} if recipe is None else recipe, "MoMos", shared)
        super().__init__(
            model, method, seed=seed, epochs=epochs, optimizer=optimizer, distributed=distributed
        )


class QAT(OwnLoop):
    """Quantisation-aware training: the forward pass sees quantised weights (method A4).

    bits: per weight in the forward pass, 2 to 16. exclude: as of `MoMos`. `step` and `epoch` change
    nothing. Layers are called and saved as before; a layer's attribute `weight` is the quantised
    one, and `parameters()` has the latent ones, which the optimiser trains.
    """

    def __init__(self, model: nn.Module, bits: int, *, exclude: str = "type") -> None:
        require(bits != FULL_PRECISION, "QAT.bits", "from 2 to 16", bits)
        method = _method({"bits": bits}, "QAT", {"quantize": {"exclude": exclude}})
        super().__init__(model, method)


def _method(recipe: Any, where: str, shared: Mapping[str, Mapping[str, Any]]) -> Method:
    """The method of an entry or a recipe. Raises ValueError where settings are missing."""
    method = getattr(recipe, "method", recipe)
    if not isinstance(method, Method):
        entry = {"bits": FULL_PRECISION, **recipe} if isinstance(recipe, Mapping) else recipe
        return parse(entry, where, shared)
    for part in method.ingredients:
        for key, value in dataclasses.asdict(part).items():
            text = f"a value: parse {method.label} with the settings that methods share"
            require(value is not None or key in part.optional, f"{where}.{key}", text, value)
    return method


def _resized(recipe: Mapping[str, Any], size: Mapping[str, Any]) -> dict[str, Any]:
    """The recipe with those of block_size, capacity and num_motifs that are given.

    When it projects is left to the other arguments.
    """
    given = {name: value for name, value in size.items() if value is not None}
    counted = given.keys() & {"capacity", "num_motifs"}
    replaced = {"projection_every"} | ({"capacity"} if counted else set())
    return {name: value for name, value in recipe.items() if name not in replaced} | given


def _first_difference(
    expected: Mapping[str, torch.Size], found: Mapping[str, nn.Parameter]
) -> str | None:
    """Words on the first weight that is new, gone or of another shape."""
    for name in [*expected, *found]:
        if name not in found:
            return f"{name} is not trainable any more"
        if name not in expected:
            return f"{name} has become trainable"
        if found[name].shape != expected[name]:
            return f"{name} has the shape {tuple(found[name].shape)}, not {tuple(expected[name])}"
    return None
