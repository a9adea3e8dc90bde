"""The training loop (MoMos, Sec. 4 and Algorithm 1): baseline, QAT, MoMos and both together, all by
one loop.

An epoch is: optimiser steps on augmented batches, the projection (MoMos), validation of the
projected weights. Every random draw has a generator of its own, seeded from the run's seed; the
global RNG state is as before when training ends. Between two epochs the state is small and whole:
there checkpoints (momos.resume.checkpoints) are written, and there an interrupted training goes on.
"""

import contextlib
import math
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from momos import config
from momos.compute.seeds import generator_for
from momos.images import augment
from momos.images.dataset import Dataset
from momos.images.draws import draw
from momos.images.inputs import Batches
from momos.methods.mosaic import NotFinite, Projection, project_
from momos.models.evaluate import loss_and_accuracy
from momos.models.layout import arrange_, layout_of
from momos.resume.checkpoints import Checkpoints, Saved, restore_training_, training_state
from momos.training.step import Step, make_optimizer

CHUNK_BYTES = {
    "cpu": 2**23,
    "gpu": 2**29,
}  # of images that are augmented together: what caches hold; few calls on a GPU
HISTORY_COLUMNS = (
    "epoch", "lr", "train_loss", "train_accuracy", "val_loss", "val_accuracy",
    "distortion", "distortion_per_weight", "relative_distortion", "num_changed", "motifs_used",
)  # fmt: skip
Row = dict[str, float | int | None]
State = dict[str, Tensor]


class Best(NamedTuple):
    """The weights of the lowest validation loss so far."""

    epoch: int
    val_loss: float
    state: State
    usage: Tensor | None  # (num_motifs,) int64; None without MoMos


class Result(NamedTuple):
    """history: a row of HISTORY_COLUMNS per epoch, losses in nats per image, accuracies in [0, 1]."""

    history: list[Row]
    initial: State
    best: Best
    last: State
    last_usage: Tensor | None
    stopped_early: bool


class Diverged(ArithmeticError):
    """A loss or weight became NaN or infinite: `where`. `history` holds the epochs before."""

    def __init__(self, where: str, history: list[Row]):
        super().__init__(
            f"training diverged: {where}; {len(history)} epochs finished before (try a lower lr)"
        )
        self.where, self.history = where, history


def train(
    model: nn.Module,
    dataset: Dataset,
    batches: Batches,
    *,
    settings: config.Train,
    recipe: config.Model,
    augmentation: config.Augment,
    method: config.Method,
    mosaic: config.Mosaic,
    quantized: Collection[str],
    seed: int,
    on_epoch: Callable[[Row], None] = lambda row: None,
    checkpoints: Checkpoints | None = None,
) -> Result:
    """Train `model` in place. `quantized`: the tensors that QAT quantises (of no effect at 32
    bits); on_epoch sees each history row.

    With `checkpoints` it goes on from the last of them, if there is one, and ends with the same
    bytes as without an interruption; on_epoch sees the rows from before again.

    Raises Diverged, with the history so far, at the first loss or weight that is not finite.
    """
    with layers_seeded(seed, batches.device):
        run = Training(
            model=model,
            dataset=dataset,
            batches=batches,
            settings=settings,
            recipe=recipe,
            augmentation=augmentation,
            method=method,
            mosaic=mosaic,
            quantized=quantized,
            seed=seed,
        )
        return run.to_the_end(on_epoch, checkpoints)


@contextlib.contextmanager
def layers_seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Layers such as dropout draw from the global state: within, it is the run's own; afterwards as
    before.
    """
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(generator_for("layers", seed).initial_seed())
        yield


@dataclass(kw_only=True)
class Training:
    """One training, whose state between two epochs is small and whole. Arguments as of `train`."""

    model: nn.Module
    dataset: Dataset
    batches: Batches
    settings: config.Train
    recipe: config.Model
    augmentation: config.Augment
    method: config.Method
    mosaic: config.Mosaic
    quantized: Collection[str]
    seed: int
    history: list[Row] = field(default_factory=list)
    best: Best | None = None
    projection: Projection | None = None
    usage: Tensor | None = None  # of the motifs, in the last projection
    num_steps: int = 0
    projected_at: int = 0  # the step of the last projection

    def __post_init__(self) -> None:
        self.model = arrange_(self.model, self.batches.device, self.settings.precision)
        self.initial = state_of(self.model)
        self.optimizer = make_optimizer(
            self.model, self.recipe, capturable=self.settings.cuda_graphs
        )
        self.schedule = torch.optim.lr_scheduler.CosineAnnealingLR(
            self.optimizer, T_max=self.settings.epochs
        )
        self.order, self.draws, self.motifs = (
            generator_for(purpose, self.seed) for purpose in ("order", "augment", "motifs")
        )
        self.images, self.labels = (
            tensor.to(self.batches.device) for tensor in (self.dataset.images, self.dataset.labels)
        )
        self.layout = layout_of(self.model)

    def to_the_end(
        self, on_epoch: Callable[[Row], None], checkpoints: Checkpoints | None
    ) -> Result:
        if checkpoints is not None and (saved := checkpoints.load()) is not None:
            self.restore(saved)
            for row in self.history:
                on_epoch(row)
        step = Step(
            self.model,
            self.optimizer,
            settings=self.settings,
            bits=self.method.bits,
            quantized=self.quantized,
        )
        while not self.ended:
            self.end_epoch(*self.steps(step))
            on_epoch(self.history[-1])
            if checkpoints is not None and checkpoints.due():
                checkpoints.save(len(self.history), *self.state())
        return self.result()

    @property
    def ended(self) -> bool:
        return len(self.history) >= self.settings.epochs or self._out_of_patience()

    def result(self) -> Result:
        stopped_early = len(self.history) < self.settings.epochs
        return Result(
            self.history, self.initial, self.best, state_of(self.model), self.usage, stopped_early
        )

    def _out_of_patience(self) -> bool:
        patience = self.settings.patience
        return (
            patience is not None
            and self.best is not None
            and len(self.history) - self.best.epoch >= patience
        )

    def _generators(self) -> dict[str, torch.Generator]:
        return {"order": self.order, "draws": self.draws, "motifs": self.motifs}

    def state(self) -> tuple[dict[str, Any], State]:
        """All that later epochs depend on. Initial weights follow from the seed, the patience that
        is left from the best epoch.
        """
        values = {"history": self.history, "best": [self.best.epoch, self.best.val_loss]}
        values |= {"lr": self.lr, "num_steps": self.num_steps, "projected_at": self.projected_at}
        tensors = training_state(self.model, self.optimizer, self._generators())
        tensors |= {f"best/{name}": tensor for name, tensor in self.best.state.items()}
        if self.usage is not None:
            tensors |= {"usage/last": self.usage, "usage/best": self.best.usage}
        return values, tensors

    def restore(self, saved: Saved) -> None:
        """The inverse of `state`, of so many epochs as `saved.position` says."""
        values, usage = saved.values, saved.part("usage")
        restore_training_(saved, self.model, self.optimizer, self._generators(), lr=values["lr"])
        self.schedule.load_state_dict(
            {
                "last_epoch": saved.position,
                "_step_count": saved.position + 1,
                "_last_lr": [values["lr"]],
            }
        )
        self.history, self.num_steps, self.projected_at = (
            values["history"],
            values["num_steps"],
            values["projected_at"],
        )
        self.best, self.usage = (
            Best(*values["best"], saved.part("best"), usage.get("best")),
            usage.get("last"),
        )

    @property
    def lr(self) -> float:
        """Of the coming epoch."""
        return float(self.schedule.get_last_lr()[0])

    def steps(self, step: Step) -> tuple[Tensor, Tensor]:
        """One pass over the training images -> losses (num_batches,), summed over each batch, and
        hits (num_batches,), on the device.
        """
        self.model.train()
        losses, hits = [], []
        for images, labels in self.epoch_batches():
            loss, hit = step(self.batches.to_input(images, self.layout), labels)
            losses.append(loss * len(labels))
            hits.append(hit)
            self.after_step()
        return torch.stack(losses), torch.stack(hits)

    def after_step(self) -> None:
        """The projection, if it is due: `step`, or every so many steps counted over the whole
        training.
        """
        self.num_steps += 1
        every = {"epoch": None, "step": 1}.get(
            self.mosaic.projection_every, self.mosaic.projection_every
        )
        if self.method.is_momos and every is not None and self.num_steps % every == 0:
            self._project(f"at epoch {len(self.history) + 1}, step {self.num_steps} in all")

    def end_epoch(self, losses: Tensor, hits: Tensor) -> None:
        """losses, hits: as from `steps`. Projects, validates, adds the history's row, keeps the
        weights if they are the best.
        """
        epoch, lr, num_images = len(self.history) + 1, self.lr, len(self.dataset.train)
        losses = losses.cpu()
        if not torch.isfinite(losses).all():
            step = int((~torch.isfinite(losses)).nonzero()[0]) + 1
            raise Diverged(
                f"training loss is {losses[step - 1].item()} at epoch {epoch}, step {step} of {len(losses)}",
                self.history,
            )
        train_loss, train_accuracy = (
            losses.double().sum().item() / num_images,
            hits.sum().item() / num_images,
        )
        self.schedule.step()
        if self.method.is_momos and self.projected_at != self.num_steps:
            self._project(f"at the end of epoch {epoch}")
        images, labels = self.images[self.dataset.validation], self.labels[self.dataset.validation]
        val_loss, val_accuracy = loss_and_accuracy(
            self.model,
            images,
            labels,
            self.batches,
            bits=self.method.bits,
            quantized=self.quantized,
        )
        if not math.isfinite(val_loss):
            raise Diverged(f"validation loss is {val_loss} after epoch {epoch}", self.history)
        values = (
            epoch,
            lr,
            train_loss,
            train_accuracy,
            val_loss,
            val_accuracy,
            *self._distortion(),
        )
        self.history.append(dict(zip(HISTORY_COLUMNS, values, strict=True)))
        if self.best is None or val_loss < self.best.val_loss:
            self.best = Best(epoch, val_loss, state_of(self.model), self.usage)

    def epoch_batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """All training images once, in random order, augmented: (n, C, H, W) uint8 and labels (n,),
        on the device.

        What chance decides is drawn for the whole epoch at once, and many batches are augmented
        together.
        """
        train = self.dataset.train[torch.randperm(len(self.dataset.train), generator=self.order)]
        a = self.augmentation
        draws = draw(
            len(train),
            generator=self.draws,
            flip=a.flip,
            crop_padding=a.crop_padding,
            rand_augment_ops=a.rand_augment_ops,
        )
        how = {
            "crop_padding": a.crop_padding,
            "image_size": self.batches.image_size,
            "magnitude": a.rand_augment_magnitude,
        }
        chunk = self._chunk()
        for part in (slice(start, start + chunk) for start in range(0, len(train), chunk)):
            images = augment.apply(self.images, draws.at(part), indices=train[part], **how)
            labels = self.labels[train[part].to(self.labels.device)]
            yield from zip(
                images.split(self.batches.size), labels.split(self.batches.size), strict=True
            )

    def _chunk(self) -> int:
        """Images to augment together, a whole number of batches."""
        bytes_each = self.images.shape[1] * max(
            self.images[0, 0].numel(), self.batches.image_size**2
        )
        limit = CHUNK_BYTES["cpu" if self.batches.device.type == "cpu" else "gpu"]
        return max(limit // bytes_each // self.batches.size, 1) * self.batches.size

    def _project(self, when: str) -> None:
        try:
            self.projection = project_(
                self.model,
                self.method.block_size,
                capacity=self.method.capacity,
                num_motifs=self.method.num_motifs,
                force_zero=self.mosaic.force_zero,
                slicing=self.mosaic.slicing,
                generator=self.motifs,
            )
            self.projected_at, self.usage = self.num_steps, self.projection.usage
        except NotFinite as error:
            raise Diverged(f"weights are no longer finite {when}", self.history) from error

    def _distortion(self) -> tuple[float | int | None, ...]:
        """Of the last projection, that is of the weights which validation sees."""
        p = self.projection
        if p is None:
            return (None,) * 5
        return (
            p.distortion,
            p.distortion_per_weight,
            p.relative_distortion,
            p.num_changed,
            p.motifs_used,
        )


def state_of(model: nn.Module) -> State:
    """A copy of the state dict on the CPU, in the ordinary memory layout."""
    state = {
        name: tensor.detach().to("cpu", copy=True) for name, tensor in model.state_dict().items()
    }
    return {name: tensor.contiguous() for name, tensor in state.items()}


def describe(
    settings: config.Train,
    recipe: config.Model,
    images: config.Data,
    augmentation: config.Augment,
    device: torch.device,
) -> dict[str, str | float | int | list | None]:
    """What run.json says of how a training is done."""
    about = {key: getattr(recipe, key) for key in ("optimizer", "lr", "momentum", "weight_decay")}
    about |= (
        {"mean": list(images.mean), "std": list(images.std)} | vars(augmentation) | vars(settings)
    )
    del about["checkpoint_seconds"]  # no result depends on it
    return about | {"device": device.type, "torch": torch.__version__}


def summary(result: Result) -> dict[str, float | int | bool]:
    """What run.json says of how a training went."""
    return {
        "best_epoch": result.best.epoch,
        "best_val_loss": result.best.val_loss,
        "num_epochs": len(result.history),
        "stopped_early": result.stopped_early,
    }
