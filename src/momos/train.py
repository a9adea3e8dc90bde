"""The training loop (MoMos, Sec. 4 and Algorithm 1): baseline, QAT, MoMos and both together, all by one loop.

An epoch is: optimiser steps on augmented batches, the projection (MoMos), validation of the projected weights. Every random draw has a
generator of its own, seeded from the run's seed; the global RNG state is as before when training ends.
"""

import hashlib
import math
import os
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from momos import augment, config
from momos.data import Dataset
from momos.mosaic import NotFinite, Projection, project_
from momos.quantize import quantized_forward

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
    """A loss or weight became NaN or infinite. `history` holds the epochs before."""

    def __init__(self, where: str, history: list[Row]):
        super().__init__(f"training diverged: {where}; {len(history)} epochs finished before (try a lower lr)")
        self.history = history


class Batches(NamedTuple):
    """How images become the network's input: resized, normalised, on the device, batch by batch."""

    size: int  # images per batch
    image_size: int  # pixels
    mean: tuple[float, ...]
    std: tuple[float, ...]
    device: torch.device

    def to_input(self, images: Tensor) -> Tensor:
        """(n, C, H, W) uint8 -> (n, C, image_size, image_size) float32 on the device"""
        return augment.normalize(augment.resize(images, self.image_size).to(self.device), self.mean, self.std)


def prepare_device(name: str, num_threads: int) -> torch.device:
    """Threads and deterministic algorithms for this process, and the device of that name (auto: cuda, mps, cpu, the first there is).

    Raises ValueError for a device that this machine lacks.
    """
    torch.set_num_threads(num_threads)
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS is deterministic only with this
    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name == "auto":
        name = next(kind for kind in ("cuda", "mps", "cpu") if available[kind])
    kind, _, index = name.partition(":")
    present = [kind for kind, there in available.items() if there]
    if not available[kind] or (index and int(index) >= torch.cuda.device_count()):
        raise ValueError(f"train.device is {name}, which this machine lacks: expected auto, or one of {', '.join(present)}")
    if kind != "cpu" or num_threads > 1:  # one thread of the CPU is deterministic anyway, and this imports for a second
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.backends.cudnn.benchmark = False
    return torch.device(name)


def generator_for(purpose: str, seed: int) -> torch.Generator:
    """A CPU generator that depends on the purpose and the run's seed alone, so that one stream never shifts another."""
    digest = hashlib.sha256(f"{purpose}:{seed}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))


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
) -> Result:
    """Train `model` in place. `quantized`: the tensors that QAT quantises (of no effect at 32 bits); on_epoch sees each history row.

    Raises Diverged, with the history so far, at the first loss or weight that is not finite.
    """
    devices = [batches.device] if batches.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):  # layers such as dropout draw from the global state
        torch.manual_seed(generator_for("layers", seed).initial_seed())
        run = _Run(
            model=model.to(batches.device),
            dataset=dataset,
            batches=batches,
            settings=settings,
            augmentation=augmentation,
            method=method,
            mosaic=mosaic,
            quantized=quantized,
            optimizer=make_optimizer(model, recipe),
            order=generator_for("order", seed),
            draws=generator_for("augment", seed),
            motifs=generator_for("motifs", seed),
        )
        return run.to_the_end(on_epoch)


@dataclass(kw_only=True)
class _Run:
    """The state of one training between epochs."""

    model: nn.Module
    dataset: Dataset
    batches: Batches
    settings: config.Train
    augmentation: config.Augment
    method: config.Method
    mosaic: config.Mosaic
    quantized: Collection[str]
    optimizer: torch.optim.Optimizer
    order: torch.Generator  # of the training images
    draws: torch.Generator  # of augmentation
    motifs: torch.Generator
    history: list[Row] = field(default_factory=list)
    projection: Projection | None = None
    num_steps: int = 0
    projected_at: int = 0  # the step of the last projection

    def __post_init__(self) -> None:
        self.schedule = torch.optim.lr_scheduler.CosineAnnealingLR(self.optimizer, T_max=self.settings.epochs)

    def to_the_end(self, on_epoch: Callable[[Row], None]) -> Result:
        initial, best, stopped = state_of(self.model), None, False
        for epoch in range(1, self.settings.epochs + 1):
            row = self._epoch(epoch)
            self.history.append(row)
            on_epoch(row)
            if best is None or row["val_loss"] < best.val_loss:
                best = Best(epoch, row["val_loss"], state_of(self.model), self._usage())
            stopped = self.settings.patience is not None and epoch - best.epoch >= self.settings.patience
            if stopped:
                break
        return Result(self.history, initial, best, state_of(self.model), self._usage(), stopped and epoch < self.settings.epochs)

    def _epoch(self, epoch: int) -> Row:
        lr = self.schedule.get_last_lr()[0]
        train_loss, train_accuracy = self._steps(epoch)
        self.schedule.step()
        if self.method.is_momos and self.projected_at != self.num_steps:
            self._project(f"at the end of epoch {epoch}")
        validation = self.dataset.validation
        images, labels = self.dataset.images[validation], self.dataset.labels[validation]
        val_loss, val_accuracy = evaluate(self.model, images, labels, self.batches, bits=self.method.bits, quantized=self.quantized)
        if not math.isfinite(val_loss):
            raise Diverged(f"validation loss is {val_loss} after epoch {epoch}", self.history)
        return dict(zip(HISTORY_COLUMNS, (epoch, lr, train_loss, train_accuracy, val_loss, val_accuracy, *self._distortion()), strict=True))

    def _steps(self, epoch: int) -> tuple[float, float]:
        """One pass over the training images; the loss stays on the device until its end."""
        self.model.train()
        train = self.dataset.train[torch.randperm(len(self.dataset.train), generator=self.order)]
        losses, hits = [], []
        for indices in train.split(self.batches.size):
            loss, hit = self._step(indices)
            losses.append(loss * len(indices))
            hits.append(hit)
            self._after_step(loss, epoch)
        totals = torch.stack(losses).cpu()
        if not torch.isfinite(totals).all():
            step = int((~torch.isfinite(totals)).nonzero()[0]) + 1
            raise Diverged(f"training loss is {totals[step - 1].item()} at epoch {epoch}, step {step} of {len(totals)}", self.history)
        return totals.double().sum().item() / len(train), torch.stack(hits).sum().item() / len(train)

    def _step(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """An optimiser update on images of the given indices -> (mean loss, number of hits), on the device."""
        images = augment.augment(
            self.dataset.images[indices], generator=self.draws, image_size=self.batches.image_size, **vars(self.augmentation)
        )
        labels = self.dataset.labels[indices].to(self.batches.device)
        output = quantized_forward(self.model, self.batches.to_input(images), bits=self.method.bits, names=self.quantized)
        loss = F.cross_entropy(output, labels)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        return loss.detach(), (output.detach().argmax(1) == labels).sum()

    def _after_step(self, loss: Tensor, epoch: int) -> None:
        """Projections within an epoch: `step`, or every so many steps counted over the whole training."""
        self.num_steps += 1
        every = {"epoch": None, "step": 1}.get(self.mosaic.projection_every, self.mosaic.projection_every)
        if self.method.is_momos and every is not None and self.num_steps % every == 0:
            if not torch.isfinite(loss):
                raise Diverged(f"training loss is {loss.item()} at epoch {epoch}, step {self.num_steps} in all", self.history)
            self._project(f"at epoch {epoch}, step {self.num_steps} in all")

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
            self.projected_at = self.num_steps
        except NotFinite as error:
            raise Diverged(f"weights are no longer finite {when}", self.history) from error

    def _distortion(self) -> tuple[float | int | None, ...]:
        """Of the last projection, that is of the weights which validation sees."""
        p = self.projection
        if p is None:
            return (None,) * 5
        return p.distortion, p.distortion_per_weight, p.relative_distortion, p.num_changed, p.motifs_used

    def _usage(self) -> Tensor | None:
        return None if self.projection is None else self.projection.usage


def make_optimizer(model: nn.Module, recipe: config.Model) -> torch.optim.Optimizer:
    """SGD with momentum, or AdamW, over the trainable weights (method A9)."""
    weights = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(weights, lr=recipe.lr, momentum=recipe.momentum, weight_decay=recipe.weight_decay)
    return torch.optim.AdamW(weights, lr=recipe.lr, weight_decay=recipe.weight_decay)


@torch.no_grad()
def evaluate(
    model: nn.Module, images: Tensor, labels: Tensor, batches: Batches, *, bits: int = 32, quantized: Collection[str] = ()
) -> tuple[float, float]:
    """(mean cross entropy in nats, accuracy in [0, 1]) over all images (n, C, H, W) uint8 with labels (n,), in eval mode."""
    model.eval()
    losses, hits = [], []
    for some, expected in zip(images.split(batches.size), labels.to(batches.device).split(batches.size), strict=True):
        output = quantized_forward(model, batches.to_input(some), bits=bits, names=quantized)
        losses.append(F.cross_entropy(output, expected, reduction="sum"))
        hits.append((output.argmax(1) == expected).sum())
    return torch.stack(losses).cpu().double().sum().item() / len(labels), torch.stack(hits).sum().item() / len(labels)


def state_of(model: nn.Module) -> State:
    """A copy of the state dict on the CPU."""
    return {name: tensor.detach().to("cpu", copy=True) for name, tensor in model.state_dict().items()}


def describe(
    settings: config.Train, recipe: config.Model, images: config.Data, augmentation: config.Augment, device: torch.device
) -> dict[str, str | float | int | list | None]:
    """What run.json says of how a training is done."""
    about = {key: getattr(recipe, key) for key in ("optimizer", "lr", "momentum", "weight_decay")}
    about |= {"mean": list(images.mean), "std": list(images.std)} | vars(augmentation) | vars(settings)
    return about | {"device": device.type, "torch": torch.__version__}


def summary(result: Result) -> dict[str, float | int | bool]:
    """What run.json says of how a training went."""
    return {
        "best_epoch": result.best.epoch,
        "best_val_loss": result.best.val_loss,
        "num_epochs": len(result.history),
        "stopped_early": result.stopped_early,
    }
