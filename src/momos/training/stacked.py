"""Several seeds trained together: weights stacked, one batched step for all.

A step of a small network on a GPU is mostly the launching of its kernels; a stack launches them
once for all seeds (torch.func's model ensembling). Each seed keeps its own initial weights, order,
augmentation and motifs, as when it is trained alone, and its losses differ by float32 rounding
only. A seed that ends before the others leaves the stack.
"""

import contextlib
import copy
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from momos import config
from momos.images.dataset import Dataset
from momos.methods.method import AppliedMethod
from momos.resume.checkpoints import Checkpoints, Saved
from momos.training.loop import Result, Row, Training, TrainingDiverged, layers_seeded
from momos.training.recipe import Recipe
from momos.training.step import Step, make_optimizer


def train_stack(
    models: Mapping[int, nn.Module],
    dataset: Dataset,
    recipe: Recipe,
    *,
    on_epoch: Callable[[int, Row], None] = lambda seed, row: None,
    checkpoints: Checkpoints | None = None,
) -> dict[int, Result | TrainingDiverged]:
    """Train the models, each under its seed, in place and together.

    Returns by seed what `momos.training.loop.train` would return, or raise. on_epoch sees the seed
    and each of its history rows. With `checkpoints` the training goes on from the last of them; at
    the end there is one too. Raises ValueError for a model that torch can't stack, for instance one
    with layers that draw random numbers.
    """
    first, device = next(iter(models)), recipe.batches.device
    pattern = copy.deepcopy(models[first]).to(device).train()
    dataset = dataset._replace(images=dataset.images.to(device), labels=dataset.labels.to(device))
    with layers_seeded(first, device):
        runs = {seed: Training(model, dataset, recipe, seed) for seed, model in models.items()}
        return _Group(runs, pattern).to_the_end(on_epoch, checkpoints)


class _Group:
    """The seeds' trainings, of which `stack` joins those that have not ended."""

    def __init__(self, runs: Mapping[int, Training], pattern: nn.Module) -> None:
        self.runs, self.pattern = runs, pattern
        self.failed: dict[int, TrainingDiverged] = {}
        self.stack: _Stack | None = None

    def to_the_end(
        self, on_epoch: Callable[[int, Row], None], checkpoints: Checkpoints | None
    ) -> dict[int, Result | TrainingDiverged]:
        if checkpoints is not None and (saved := checkpoints.load()) is not None:
            self._restore(saved)
            for seed, history in self._histories().items():
                for row in history:
                    on_epoch(seed, row)
        while active := self._active():
            before = {seed: len(run.history) for seed, run in active.items()}
            stack = self._epoch(active)
            for seed, run in active.items():
                for row in run.history[before[seed] :]:
                    on_epoch(seed, row)
            if checkpoints is not None and (checkpoints.due() or not self._active()):
                self._save(checkpoints, stack)
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

    def _epoch(self, active: Mapping[int, Training]) -> "_Stack":
        """Train all active seeds for an epoch; returns their stack."""
        if self.stack is None or self.stack.runs.keys() != active.keys():
            if self.stack is not None:
                self.stack.separate()
            self.stack = _Stack(active, self.pattern)
        tied = self._is_tied()
        losses, hits = self.stack.steps(self._after_step)
        for (seed, run), *of_seed in zip(active.items(), losses, hits, strict=True):
            if seed not in self.failed:
                with self._recording(seed), warnings.catch_warnings():
                    # it is the stack's optimiser that makes the steps
                    warnings.filterwarnings("ignore", "Detected call of", UserWarning)
                    run.end_epoch(*of_seed)
        if self._is_tied() != tied:
            self.stack.step.begin_anew()
        return self.stack

    def _is_tied(self) -> bool:
        """Whether the method ties weights: for all active seeds at once, in step as they are."""
        return any(run.method.is_tied for run in self._active().values())

    def _after_step(self, seed: int) -> None:
        if seed not in self.failed:
            with self._recording(seed):
                self.runs[seed].after_step()

    @contextlib.contextmanager
    def _recording(self, seed: int) -> Iterator[None]:
        """Record this seed's divergence; the other seeds continue."""
        try:
            yield
        except TrainingDiverged as error:
            self.failed[seed] = error

    def _save(self, checkpoints: Checkpoints, stack: "_Stack") -> None:
        stack.separate()
        failed = {
            seed: {"where": error.where, "history": error.history}
            for seed, error in self.failed.items()
        }
        runs: dict[int, dict[str, Any]] = {}
        tensors: dict[str, Tensor] = {}
        for seed, run in self.runs.items():
            if seed not in self.failed:
                runs[seed], state = run.state()
                tensors |= {f"{seed}/{name}": tensor for name, tensor in state.items()}
        position = max(map(len, self._histories().values()))
        checkpoints.save(position, {"failed": failed, "runs": runs}, tensors)

    def _restore(self, saved: Saved) -> None:
        self.failed = {
            int(seed): TrainingDiverged(**error) for seed, error in saved.values["failed"].items()
        }
        for seed, values in saved.values["runs"].items():
            part = Saved(len(values["history"]), values, saved.part(seed))
            self.runs[int(seed)].restore(part)


class _Stack:
    """Trainings whose models and moments lie side by side in memory.

    Each run's own weights are a part of the stacked ones.
    """

    def __init__(self, runs: Mapping[int, Training], pattern: nn.Module) -> None:
        self.runs, self.model = runs, copy.deepcopy(pattern)
        self.first = next(iter(runs.values()))
        loop = self.first.recipe.loop
        for names in (nn.Module.named_parameters, nn.Module.named_buffers):
            of_runs = [dict(names(run.model)) for run in runs.values()]
            for name, tensor in names(self.model):
                _join_(tensor, [tensors[name] for tensors in of_runs])
        self.optimizer = make_optimizer(
            self.model, self.first.recipe.model, capturable=loop.cuda_graphs
        )
        self._join_moments()
        if loop.compile:
            # torch compiles a function anew for so many shapes at most: a count that an
            # interruption must not change
            torch.compiler.reset()
        methods = [run.method for run in runs.values()]
        self.step = _StackedStep(self.model, self.optimizer, methods, settings=loop)

    def _join_moments(self) -> None:
        """Give the stack's optimiser the moments of all runs' own."""
        for stacked, weights in self._weights():
            states = [
                run.optimizer.state.get(weight, {})
                for run, weight in zip(self.runs.values(), weights, strict=True)
            ]
            for name, value in states[0].items():
                moments = [state[name] for state in states]
                joined = value.clone() if name == "step" else _side_by_side(moments)
                self.optimizer.state[stacked][name] = joined

    def steps(self, after_step: Callable[[int], None]) -> tuple[Tensor, Tensor]:
        """Pass once over the training images, as `Training.steps` does, for all runs.

        Returns losses and hits, (num_runs, num_batches) each. after_step is called with each seed
        that has made a step.
        """
        for group in self.optimizer.param_groups:
            lr = self.first.lr
            group["lr"] = group["lr"].fill_(lr) if torch.is_tensor(group["lr"]) else lr
        # a layer may forget in training what it has kept of its weights in validation
        for run in self.runs.values():
            run.model.train()
        losses, hits = [], []
        to_input = self.first.recipe.batches.to_input
        for parts in zip(*(run.epoch_batches() for run in self.runs.values()), strict=True):
            images = torch.stack([to_input(some) for some, _ in parts])
            labels = torch.stack([some for _, some in parts])
            loss, hit = self.step(images, labels)
            losses.append(loss * labels.shape[1])
            hits.append(hit)
            for seed in self.runs:
                after_step(seed)
        return torch.stack(losses, 1), torch.stack(hits, 1)

    def separate(self) -> None:
        """Hand each run's optimiser its part of the moments; the weights are its own already."""
        for stacked, weights in self._weights():
            state = self.optimizer.state[stacked]
            pairs = zip(self.runs.values(), weights, strict=True)
            for place, (run, weight) in enumerate(pairs):
                run.optimizer.state[weight] = {
                    name: value if name == "step" else value[place] for name, value in state.items()
                }

    def _weights(self) -> Iterator[tuple[Tensor, tuple[Tensor, ...]]]:
        """Each stacked weight that is optimised, and the runs' own."""
        optimizers = [self.optimizer, *(run.optimizer for run in self.runs.values())]
        columns = (optimizer.param_groups[0]["params"] for optimizer in optimizers)
        for stacked, *weights in zip(*columns, strict=True):
            yield stacked, tuple(weights)


@torch.no_grad()
def _join_(stacked: Tensor, tensors: list[Tensor]) -> None:
    """Make `stacked` all of them, and each of them its part of `stacked`, in the same memory."""
    stacked.data = _side_by_side([tensor.detach() for tensor in tensors])
    for tensor, part in zip(tensors, stacked.detach(), strict=True):
        tensor.data = part


def _side_by_side(tensors: list[Tensor]) -> Tensor:
    """Stack them to (num_runs, ..).

    Weights and their moments come in the same order in memory: fused optimisers take that for
    granted.
    """
    return torch.stack([tensor.contiguous() for tensor in tensors]).contiguous()


class _StackedStep(Step):
    """An update on inputs (num_runs, n, C, H, W) and labels (num_runs, n).

    Returns losses and hits, (num_runs,) each.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        methods: list[AppliedMethod],
        *,
        settings: config.Train,
    ) -> None:
        super().__init__(model, optimizer, self._stacked_forward, settings=settings)
        self.methods = methods

    def update(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        try:
            return super().update(images, labels)
        except RuntimeError as error:
            if "vmap" not in str(error):
                raise
            expected = "expected 1 for this model, whose layers torch can't stack"
            raise ValueError(f"train.stacked_seeds: {expected} ({error})") from error

    def _tie(self, gradients: list[Tensor]) -> None:
        for place, method in enumerate(self.methods):
            method.before_update([gradient[place] for gradient in gradients])

    def _stacked_forward(self, model: nn.Module, images: Tensor) -> Tensor:
        weights: dict[str, Tensor] = dict(model.named_parameters())
        weights |= self._changed(weights)
        # fused attention on a GPU wants its bias aligned in memory, which vmap does not keep
        with sdpa_kernel(SDPBackend.MATH):
            return torch.vmap(self._of_one)(weights, dict(model.named_buffers()), images)

    def _changed(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What each run's method changes for the forward pass, stacked again."""
        if not self.methods[0].changing:
            return {}
        by_run = [
            method.forward_weights({name: weight[place] for name, weight in weights.items()})
            for place, method in enumerate(self.methods)
        ]
        return {name: torch.stack([changed[name] for changed in by_run]) for name in by_run[0]}

    def _of_one(
        self, weights: dict[str, Tensor], buffers: dict[str, Tensor], images: Tensor
    ) -> Tensor:
        return torch.func.functional_call(self.model, (weights, buffers), (images,))

    def _loss(self, output: Tensor, labels: Tensor) -> Tensor:
        """Each run's mean, as if it were alone."""
        losses = F.cross_entropy(output.flatten(0, 1), labels.flatten(), reduction="none")
        return losses.view(labels.shape).mean(1)

    def _backward(self, loss: Tensor) -> None:
        loss.sum().backward()
