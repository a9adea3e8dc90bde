"""Several seeds of one run trained together: their weights stacked, one batched step for all
(torch.func's model ensembling).

A step of a small network on a GPU is mostly the launching of its kernels; a stack launches them
once for all seeds. Each seed keeps its own initial weights, order, augmentation and motifs, as when
it is trained alone, and its losses differ by float32 rounding only. A seed that ends before the
others leaves the stack.
"""

import contextlib
import copy
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from momos import config
from momos.images.dataset import Dataset
from momos.images.inputs import Batches
from momos.methods.quantize import fake_quantize
from momos.resume.checkpoints import Checkpoints, Saved
from momos.training.loop import Diverged, Result, Row, Training, layers_seeded
from momos.training.step import Step, make_optimizer


def train(
    models: Mapping[int, nn.Module],
    dataset: Dataset,
    batches: Batches,
    *,
    settings: config.Train,
    recipe: config.Model,
    augmentation: config.Augment,
    method: config.Method,
    mosaic: config.Mosaic,
    quantized: Collection[str],
    on_epoch: Callable[[int, Row], None] = lambda seed, row: None,
    checkpoints: Checkpoints | None = None,
) -> dict[int, Result | Diverged]:
    """Train the models in place and together, each under its seed -> by seed, what
    `momos.training.loop.train` would return, or raise.

    on_epoch sees the seed and each of its history rows. With `checkpoints` it goes on from the last
    of them; at the end there is one too.

    Raises ValueError for a model that torch can't stack, for instance one with layers that draw
    random numbers.
    """
    first = next(iter(models))
    pattern = copy.deepcopy(models[first]).to(batches.device).train()
    dataset = dataset._replace(
        images=dataset.images.to(batches.device), labels=dataset.labels.to(batches.device)
    )
    setting = {
        "dataset": dataset,
        "batches": batches,
        "settings": settings,
        "recipe": recipe,
        "augmentation": augmentation,
    }
    setting |= {"method": method, "mosaic": mosaic, "quantized": quantized}
    with layers_seeded(first, batches.device):
        group = _Group(
            {seed: Training(model=model, seed=seed, **setting) for seed, model in models.items()},
            pattern,
        )
        return group.to_the_end(on_epoch, checkpoints)


class _Group:
    """The seeds' trainings, of which `stack` joins those that have not ended."""

    def __init__(self, runs: Mapping[int, Training], pattern: nn.Module) -> None:
        self.runs, self.pattern = runs, pattern
        self.failed: dict[int, Diverged] = {}
        self.stack: _Stack | None = None

    def to_the_end(
        self, on_epoch: Callable[[int, Row], None], checkpoints: Checkpoints | None
    ) -> dict[int, Result | Diverged]:
        if checkpoints is not None and (saved := checkpoints.load()) is not None:
            self._restore(saved)
            for seed, history in self._histories().items():
                for row in history:
                    on_epoch(seed, row)
        while active := self._active():
            before = {seed: len(run.history) for seed, run in active.items()}
            self._epoch(active)
            for seed, run in active.items():
                for row in run.history[before[seed] :]:
                    on_epoch(seed, row)
            if checkpoints is not None and (checkpoints.due() or not self._active()):
                self._save(checkpoints)
        return {
            seed: self.failed[seed] if seed in self.failed else run.result()
            for seed, run in self.runs.items()
        }

    def _active(self) -> dict[int, Training]:
        return {
            seed: run
            for seed, run in self.runs.items()
            if seed not in self.failed and not run.ended
        }

    def _histories(self) -> dict[int, list[Row]]:
        return {
            seed: self.failed[seed].history if seed in self.failed else run.history
            for seed, run in self.runs.items()
        }

    def _epoch(self, active: Mapping[int, Training]) -> None:
        if self.stack is None or self.stack.runs.keys() != active.keys():
            if self.stack is not None:
                self.stack.separate()
            self.stack = _Stack(active, self.pattern)
        losses, hits = self.stack.steps(self._after_step)
        for (seed, run), *of_seed in zip(active.items(), losses, hits, strict=True):
            if seed not in self.failed:
                with self._noting(seed), warnings.catch_warnings():
                    warnings.filterwarnings(
                        "ignore", "Detected call of", UserWarning
                    )  # it is the stack's optimiser that makes the steps
                    run.end_epoch(*of_seed)

    def _after_step(self, seed: int) -> None:
        if seed not in self.failed:
            with self._noting(seed):
                self.runs[seed].after_step()

    @contextlib.contextmanager
    def _noting(self, seed: int) -> Iterator[None]:
        """What goes wrong with this seed is no matter of the others."""
        try:
            yield
        except Diverged as error:
            self.failed[seed] = error

    def _save(self, checkpoints: Checkpoints) -> None:
        self.stack.separate()
        values = {
            "failed": {
                seed: {"where": error.where, "history": error.history}
                for seed, error in self.failed.items()
            },
            "runs": {},
        }
        tensors = {}
        for seed, run in self.runs.items():
            if seed not in self.failed:
                values["runs"][seed], state = run.state()
                tensors |= {f"{seed}/{name}": tensor for name, tensor in state.items()}
        checkpoints.save(max(map(len, self._histories().values())), values, tensors)

    def _restore(self, saved: Saved) -> None:
        self.failed = {
            int(seed): Diverged(**error) for seed, error in saved.values["failed"].items()
        }
        for seed, values in saved.values["runs"].items():
            self.runs[int(seed)].restore(Saved(len(values["history"]), values, saved.part(seed)))


class _Stack:
    """Trainings whose models and moments lie side by side in memory: each run's own weights are a
    part of the stacked ones.
    """

    def __init__(self, runs: Mapping[int, Training], pattern: nn.Module) -> None:
        self.runs, self.model = runs, copy.deepcopy(pattern)
        self.first = next(iter(runs.values()))
        settings, method = self.first.settings, self.first.method
        for names in (nn.Module.named_parameters, nn.Module.named_buffers):
            of_runs = [dict(names(run.model)) for run in runs.values()]
            for name, tensor in names(self.model):
                _join_(tensor, [tensors[name] for tensors in of_runs])
        self.optimizer = make_optimizer(
            self.model, self.first.recipe, capturable=settings.cuda_graphs
        )
        for stacked, weights in self._weights():
            states = [
                run.optimizer.state.get(weight, {})
                for run, weight in zip(runs.values(), weights, strict=True)
            ]
            for name, value in states[0].items():
                self.optimizer.state[stacked][name] = (
                    value.clone()
                    if name == "step"
                    else _side_by_side([state[name] for state in states])
                )
        # torch compiles a function anew for so many shapes at most: a count that an interruption
        # must not change
        if settings.compile:
            torch.compiler.reset()
        self.step = _Step(
            self.model,
            self.optimizer,
            settings=settings,
            bits=method.bits,
            quantized=self.first.quantized,
        )

    def steps(self, after_step: Callable[[int], None]) -> tuple[Tensor, Tensor]:
        """As `Training.steps`, of all runs: (num_runs, num_batches) each. after_step: is told of
        each seed that has made one.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = (
                group["lr"].fill_(self.first.lr) if torch.is_tensor(group["lr"]) else self.first.lr
            )
        for run in (
            self.runs.values()
        ):  # a layer may forget in training what it has kept of its weights in validation
            run.model.train()
        losses, hits = [], []
        to_input = self.first.batches.to_input
        for parts in zip(*(run.epoch_batches() for run in self.runs.values()), strict=True):
            images, labels = (
                torch.stack([to_input(some) for some, _ in parts]),
                torch.stack([some for _, some in parts]),
            )
            loss, hit = self.step(images, labels)
            losses.append(loss * labels.shape[1])
            hits.append(hit)
            for seed in self.runs:
                after_step(seed)
        return torch.stack(losses, 1), torch.stack(hits, 1)

    def separate(self) -> None:
        """Hands each run's optimiser its part of the moments; the weights are its own already."""
        for stacked, weights in self._weights():
            for place, (run, weight) in enumerate(zip(self.runs.values(), weights, strict=True)):
                state = self.optimizer.state[stacked]
                run.optimizer.state[weight] = {
                    name: value if name == "step" else value[place] for name, value in state.items()
                }

    def _weights(self) -> Iterator[tuple[Tensor, tuple[Tensor, ...]]]:
        """Each stacked weight that is optimised, and the runs' own."""
        optimizers = [self.optimizer, *(run.optimizer for run in self.runs.values())]
        for stacked, *weights in zip(
            *(optimizer.param_groups[0]["params"] for optimizer in optimizers), strict=True
        ):
            yield stacked, tuple(weights)


@torch.no_grad()
def _join_(stacked: Tensor, tensors: list[Tensor]) -> None:
    """`stacked` becomes all of them, and each of them its part of `stacked`, in the same memory."""
    stacked.data = _side_by_side([tensor.detach() for tensor in tensors])
    for tensor, part in zip(tensors, stacked.detach(), strict=True):
        tensor.data = part


def _side_by_side(tensors: list[Tensor]) -> Tensor:
    """(num_runs, ..), weights and their moments in the same order in memory: fused optimisers take
    that for granted.
    """
    return torch.stack([tensor.contiguous() for tensor in tensors]).contiguous()


class _Step(Step):
    """On inputs (num_runs, n, C, H, W) and labels (num_runs, n) -> losses and hits (num_runs,)."""

    def update(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        try:
            return super().update(images, labels)
        except RuntimeError as error:
            if "vmap" not in str(error):
                raise
            raise ValueError(
                f"train.stacked_seeds: expected 1 for this model, whose layers torch can't stack ({error})"
            ) from error

    def _forward(self, images: Tensor) -> Tensor:
        weights = dict(self.model.named_parameters())
        if self.bits < 32:
            quantized = {
                name: [fake_quantize(weight, self.bits) for weight in weights[name]]
                for name in self.quantized
            }
            weights |= {name: torch.stack(of_runs) for name, of_runs in quantized.items()}
        with sdpa_kernel(
            SDPBackend.MATH
        ):  # fused attention on a GPU wants its bias aligned in memory, which vmap does not keep
            return torch.vmap(self._of_one)(weights, dict(self.model.named_buffers()), images)

    def _of_one(
        self, weights: dict[str, Tensor], buffers: dict[str, Tensor], images: Tensor
    ) -> Tensor:
        return torch.func.functional_call(self.model, (weights, buffers), (images,))

    def _loss(self, output: Tensor, labels: Tensor) -> Tensor:
        """Each run's mean, as if it were alone."""
        return (
            F.cross_entropy(output.flatten(0, 1), labels.flatten(), reduction="none")
            .view(labels.shape)
            .mean(1)
        )

    def _backward(self, loss: Tensor) -> None:
        loss.sum().backward()
