"""The training loop (MoMos, Sec. 4 and Algorithm 1), the same for every method.

An epoch is: optimiser steps on augmented batches, what the method does at its end (a projection),
validation of those weights. Every random draw has a generator of its own, seeded from the run's
seed; the global RNG state is as before when training ends. Between two epochs the state is small
and whole: there checkpoints (momos.resume.checkpoints) are written, and there an interrupted
training goes on.
"""

import contextlib
import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from momos.compute.seeds import generator_for
from momos.images import augment
from momos.images.dataset import Dataset
from momos.images.draws import draw
from momos.images.inputs import with_random_labels
from momos.methods import method as methods
from momos.models.evaluate import loss_and_accuracy, training_inputs
from momos.models.layout import arrange_, layout_of
from momos.resume.checkpoints import Checkpoints, Saved, restore_training_, training_state
from momos.training.recipe import Recipe
from momos.training.step import Step, make_optimizer

# Bytes of images that are augmented together: what caches hold; few calls on a GPU.
CHUNK_BYTES = {"cpu": 2**23, "gpu": 2**29}
HISTORY_COLUMNS = (
    "epoch", "lr", "train_loss", "train_accuracy", "val_loss", "val_accuracy",
    *methods.HISTORY_COLUMNS,
)  # fmt: skip
Row = dict[str, float | int | None]
State = dict[str, Tensor]


class Best(NamedTuple):
    """The weights of the lowest validation loss so far."""

    epoch: int
    val_loss: float
    state: State
    usage: Tensor | None  # (num_motifs,) int64; None without motifs


class Marked(NamedTuple):
    """What there was in the epoch after which `mark_patience` would have ended the training."""

    epoch: int
    best_epoch: int  # until then
    best: State
    last: State


class Result(NamedTuple):
    """What a training came to.

    history: a row of HISTORY_COLUMNS per epoch, losses in nats per image, accuracies in [0, 1].
    """

    history: list[Row]
    initial: State
    best: Best
    last: State
    last_usage: Tensor | None
    stopped_early: bool
    marked: Marked | None  # None where patience would not have ended it
    kept: dict[int, State]  # by optimiser step: those of train.keep

    def summary(self) -> dict[str, float | int | bool | None]:
        """What run.json says of how the training went."""
        return {
            "marked_epoch": self.marked.epoch if self.marked else None,
            "marked_best_epoch": self.marked.best_epoch if self.marked else None,
            "best_epoch": self.best.epoch,
            "best_val_loss": self.best.val_loss,
            "num_epochs": len(self.history),
            "stopped_early": self.stopped_early,
        }


class TrainingDiverged(ArithmeticError):
    """A loss or weight became NaN or infinite: `where`. `history` holds the epochs before."""

    def __init__(self, where: str, history: list[Row]):
        finished = f"{len(history)} epochs finished before"
        super().__init__(f"training diverged: {where}; {finished} (try a lower lr)")
        self.where, self.history = where, history


def train(
    model: nn.Module,
    dataset: Dataset,
    recipe: Recipe,
    *,
    seed: int,
    on_epoch: Callable[[Row], None] = lambda row: None,
    checkpoints: Checkpoints | None = None,
) -> Result:
    """Train `model` in place. on_epoch sees each history row.

    With `checkpoints` the training goes on from the last of them, if there is one, and ends with
    the same bytes as without an interruption; on_epoch sees the rows from before again. Raises
    TrainingDiverged, with the history so far, at the first loss or weight that is not finite.
    """
    with layers_seeded(seed, recipe.batches.device):
        return Training(model, dataset, recipe, seed).to_the_end(on_epoch, checkpoints)


@contextlib.contextmanager
def layers_seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Seed the global RNG inside the block (dropout uses it) and restore it on exit."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(generator_for("layers", seed).initial_seed())
        yield


class Training:
    """One training, whose state between two epochs is small and whole."""

    def __init__(self, model: nn.Module, dataset: Dataset, recipe: Recipe, seed: int) -> None:
        device = recipe.batches.device
        if recipe.model.random_labels:
            dataset = with_random_labels(dataset)
        self.recipe, self.dataset = recipe, dataset
        self.model = arrange_(model, device, recipe.loop.precision)
        self.initial = cpu_state(self.model)
        self.optimizer = make_optimizer(
            self.model, recipe.model, capturable=recipe.loop.cuda_graphs
        )
        self.schedule = torch.optim.lr_scheduler.CosineAnnealingLR(
            self.optimizer, T_max=recipe.loop.epochs
        )
        self.order, self.draws = generator_for("order", seed), generator_for("augment", seed)
        self.method = recipe.method.apply(self.model, arch=recipe.model.arch, seed=seed)
        self.method.begin(recipe.loop.epochs)
        self.images, self.labels = dataset.images.to(device), dataset.labels.to(device)
        self.layout = layout_of(self.model)
        self.history: list[Row] = []
        self.best: Best | None = None
        self.marked: Marked | None = None
        self.kept: dict[int, State] = {}
        self.num_steps = 0

    def to_the_end(
        self, on_epoch: Callable[[Row], None], checkpoints: Checkpoints | None
    ) -> Result:
        """Train until all epochs are done or patience ends. Arguments as of `train`."""
        if checkpoints is not None and (saved := checkpoints.load()) is not None:
            self.restore(saved)
            for row in self.history:
                on_epoch(row)
        step = Step(
            self.model,
            self.optimizer,
            self.method.forward,
            settings=self.recipe.loop,
            method=self.method,
        )
        while not self.ended:
            tied = self.method.is_tied
            self.end_epoch(*self.steps(step))
            if self.method.is_tied != tied:
                step.begin_anew()
            on_epoch(self.history[-1])
            if checkpoints is not None and checkpoints.due():
                checkpoints.save(len(self.history), *self.state())
        return self.result()

    @property
    def ended(self) -> bool:
        return len(self.history) >= self.recipe.loop.epochs or self._out_of_patience()

    def result(self) -> Result:
        return Result(
            history=self.history,
            initial=self.initial,
            best=self._best(),
            last=cpu_state(self.model),
            last_usage=self.method.usage,
            stopped_early=len(self.history) < self.recipe.loop.epochs,
            marked=self.marked,
            kept=self.kept,
        )

    def _best(self) -> Best:
        if self.best is None:
            raise RuntimeError("no epoch has ended: there are no best weights yet")
        return self.best

    def _out_of_patience(self) -> bool:
        return self._is_over(self.recipe.loop.patience)

    def _is_over(self, patience: int | None) -> bool:
        """Whether so many epochs have brought no lower validation loss; never before the method's
        weights are those that it is about.
        """
        if patience is None or self.best is None or not self.method.has_begun:
            return False
        return len(self.history) - self.best.epoch >= patience

    def _generators(self) -> dict[str, torch.Generator]:
        return {"order": self.order, "draws": self.draws, **self.method.generators()}

    def state(self) -> tuple[dict[str, Any], State]:
        """Return all that later epochs depend on, as values and tensors.

        Initial weights follow from the seed, the patience that is left from the best epoch.
        """
        best = self._best()
        values = {"history": self.history, "best": [best.epoch, best.val_loss], "lr": self.lr}
        values |= {"num_steps": self.num_steps, "method": self.method.values()}
        values |= {"kept": list(self.kept)}
        tensors = training_state(self.model, self.optimizer, self._generators())
        tensors |= {f"best/{name}": tensor for name, tensor in best.state.items()}
        if (marked := self.marked) is not None:
            values |= {"marked": [marked.epoch, marked.best_epoch]}
            for part in ("best", "last"):
                state: State = getattr(marked, part)
                tensors |= {f"marked_{part}/{name}": tensor for name, tensor in state.items()}
        for step, state in self.kept.items():
            tensors |= {f"kept_{step}/{name}": tensor for name, tensor in state.items()}
        tensors |= {f"method/{name}": tensor for name, tensor in self.method.tensors().items()}
        tensors |= {} if best.usage is None else {"usage/best": best.usage}
        return values, tensors

    def restore(self, saved: Saved) -> None:
        """Take back what `state` gave after as many epochs as `saved.position` says."""
        values, usage, lr = saved.values, saved.part("usage"), saved.values["lr"]
        restore_training_(saved, self.model, self.optimizer, self._generators(), lr=lr)
        self.schedule.load_state_dict(
            {"last_epoch": saved.position, "_step_count": saved.position + 1, "_last_lr": [lr]}
        )
        self.history, self.num_steps = values["history"], values["num_steps"]
        epoch, val_loss = values["best"]
        self.best = Best(epoch, val_loss, saved.part("best"), usage.get("best"))
        if "marked" in values:
            epoch, best_epoch = values["marked"]
            states = saved.part("marked_best"), saved.part("marked_last")
            self.marked = Marked(epoch, best_epoch, *states)
        self.kept = {step: saved.part(f"kept_{step}") for step in values["kept"]}
        self.method.restore(values["method"], saved.part("method"))

    @property
    def lr(self) -> float:
        """Learning rate of the next epoch."""
        return float(self.schedule.get_last_lr()[0])

    def steps(self, step: Step) -> tuple[Tensor, Tensor]:
        """Pass once over the training images.

        Returns losses (num_batches,), summed over each batch, and hits (num_batches,), on the
        device.
        """
        self.model.train()
        losses, hits = [], []
        for images, labels in self.epoch_batches():
            loss, hit = step(self.recipe.batches.to_input(images, self.layout), labels)
            losses.append(loss * len(labels))
            hits.append(hit)
            self.after_step()
        return torch.stack(losses), torch.stack(hits)

    def after_step(self) -> None:
        """Let the method act after an optimiser step. Raises TrainingDiverged."""
        self.num_steps += 1
        where = f"at epoch {len(self.history) + 1}, step {self.num_steps} in all"
        with self._finite_weights(where):
            self.method.after_step(self.num_steps)
        self._keep()

    def _keep(self) -> None:
        """Copy the weights if train.keep has this step: at the end of an epoch, twice.

        So what the method does there, a projection for instance, is in the copy that stays.
        """
        if self.num_steps in self.recipe.loop.keep:
            self.kept[self.num_steps] = cpu_state(self.model)

    def end_epoch(self, losses: Tensor, hits: Tensor) -> None:
        """Let the method act, validate, add the history's row, keep the weights if they are best.

        losses, hits: as from `steps`. Raises TrainingDiverged.
        """
        epoch, lr = len(self.history) + 1, self.lr
        trained = self._training_means(losses, hits)
        self.schedule.step()
        had_begun = self.method.has_begun
        with self._finite_weights(f"at the end of epoch {epoch}"):
            self.method.after_epoch(self.num_steps)
        if self.method.has_begun != had_begun:
            self.best = self.marked = None
        inputs = training_inputs(self.model, self.dataset, self.recipe.batches)
        self.method.before_validation(self.model, inputs)
        self._keep()
        val_loss, val_accuracy = self._validate()
        if not math.isfinite(val_loss):
            where = f"validation loss is {val_loss} after epoch {epoch}"
            raise TrainingDiverged(where, self.history)
        row: Row = {"epoch": epoch, "lr": lr, **trained}
        row |= {"val_loss": val_loss, "val_accuracy": val_accuracy, **self.method.history()}
        self.history.append({name: row[name] for name in HISTORY_COLUMNS})
        if self.best is None or val_loss < self.best.val_loss:
            self.best = Best(epoch, val_loss, cpu_state(self.model), self.method.usage)
        if self.marked is None and self._is_over(self.recipe.loop.mark_patience):
            best = self._best()
            self.marked = Marked(epoch, best.epoch, best.state, cpu_state(self.model))

    def _training_means(self, losses: Tensor, hits: Tensor) -> dict[str, float]:
        """Means over images. Raises TrainingDiverged at the first loss that is not finite."""
        num_images, losses = len(self.dataset.train), losses.cpu()
        if not torch.isfinite(losses).all():
            step = int((~torch.isfinite(losses)).nonzero()[0]) + 1
            place = f"epoch {len(self.history) + 1}, step {step} of {len(losses)}"
            raise TrainingDiverged(
                f"training loss is {losses[step - 1].item()} at {place}", self.history
            )
        total = losses.double().sum().item()
        return {
            "train_loss": total / num_images,
            "train_accuracy": hits.sum().item() / num_images,
        }

    def _validate(self) -> tuple[float, float]:
        """Loss and accuracy on the validation images."""
        images = self.images[self.dataset.validation]
        labels = self.labels[self.dataset.validation]
        return loss_and_accuracy(
            self.model, images, labels, self.recipe.batches, forward=self.method.forward
        )

    def epoch_batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """All training images once, in random order, augmented.

        Yields (n, C, H, W) uint8 and labels (n,), on the device. What chance decides is drawn for
        the whole epoch at once, and many batches are augmented together.
        """
        train = self.dataset.train[torch.randperm(len(self.dataset.train), generator=self.order)]
        a, batches = self.recipe.augmentation, self.recipe.batches
        draws = draw(
            len(train),
            generator=self.draws,
            flip=a.flip,
            crop_padding=a.crop_padding,
            rand_augment_ops=a.rand_augment_ops,
        )
        chunk = self._chunk()
        for start in range(0, len(train), chunk):
            part = slice(start, start + chunk)
            images = augment.apply(
                self.images,
                draws.at(part),
                indices=train[part],
                crop_padding=a.crop_padding,
                image_size=batches.image_size,
                magnitude=a.rand_augment_magnitude,
            )
            labels = self.labels[train[part].to(self.labels.device)]
            yield from zip(images.split(batches.size), labels.split(batches.size), strict=True)

    def _chunk(self) -> int:
        """Number of images to augment together, a whole number of batches."""
        batches = self.recipe.batches
        pixels = max(self.images[0, 0].numel(), batches.image_size**2)
        limit = CHUNK_BYTES["cpu" if batches.device.type == "cpu" else "gpu"]
        return max(limit // (self.images.shape[1] * pixels) // batches.size, 1) * batches.size

    @contextlib.contextmanager
    def _finite_weights(self, when: str) -> Iterator[None]:
        """Raises TrainingDiverged for weights that the method finds to be no longer finite."""
        try:
            yield
        except methods.NotFinite as error:
            where = f"weights are no longer finite {when}"
            raise TrainingDiverged(where, self.history) from error


def cpu_state(model: nn.Module) -> State:
    """Copy the state dict to the CPU, in the ordinary memory layout."""
    state = {
        name: tensor.detach().to("cpu", copy=True) for name, tensor in model.state_dict().items()
    }
    return {name: tensor.contiguous() for name, tensor in state.items()}
