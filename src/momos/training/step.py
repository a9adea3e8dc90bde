"""One optimiser update, made fast: nothing in it waits for the device."""

import contextlib
import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from momos import config
from momos.methods.method import AppliedMethod
from momos.methods.tied import gradients_of
from momos.models.evaluate import Forward

WARM_UP_STEPS = 3  # before a CUDA graph is captured, as PyTorch's documentation asks


def make_optimizer(
    model: nn.Module, settings: config.Model, *, capturable: bool = False
) -> torch.optim.Optimizer:
    """Return SGD with momentum, or AdamW, over the trainable weights (method A9).

    One fused kernel does the update where the device has it. capturable: for a CUDA graph, whose
    learning rate has to be a tensor.
    """
    weights = [parameter for parameter in model.parameters() if parameter.requires_grad]
    kinds = {(weight.device.type, weight.is_floating_point()) for weight in weights}
    fused = kinds <= {("cpu", True), ("cuda", True)}
    lr = torch.tensor(settings.lr, device=weights[0].device) if capturable else settings.lr
    options: dict[str, Any] = {"lr": lr, "weight_decay": settings.weight_decay, "fused": fused}
    if settings.optimizer == "sgd":
        return _eager(torch.optim.SGD)(weights, momentum=settings.momentum, **options)
    return _eager(torch.optim.AdamW)(weights, capturable=capturable, **options)


def _eager(kind: type[torch.optim.Optimizer]) -> Any:
    """Derive the optimiser without its note to torch.compile to leave it alone.

    That note imports the compiler, which takes longer than some trainings.
    """
    names = "add_param_group", "load_state_dict", "state_dict", "step", "zero_grad"
    methods = {name: inspect.unwrap(getattr(kind, name)) for name in names}
    return type(kind.__name__, (kind,), methods | {"step": torch.no_grad()(methods["step"])})


class Step:
    """An update of the model on a batch of network inputs.

    Called with (n, C, H, W) float32 and labels (n,) int64 it returns the mean loss and the number
    of hits, both on the device. Of the settings, `precision` is that of the forward pass, `compile`
    hands it to torch.compile, `cuda_graphs` records the whole update once and replays it for every
    batch of `batch_size`. method: what may change gradients before the optimiser's update.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        forward: Forward,
        *,
        settings: config.Train,
        method: AppliedMethod | None = None,
    ) -> None:
        self.model, self.optimizer, self.call_model = model, optimizer, forward
        self.methods = [] if method is None else [method]
        self.bf16 = settings.precision == "bf16"
        compiled = settings.compile
        self.forward = torch.compile(self._forward, dynamic=False) if compiled else self._forward
        self.graph_size = settings.batch_size if settings.cuda_graphs else None
        self.graph: _Graph | None = None

    def __call__(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        if labels.shape[-1] != self.graph_size:
            return self.update(images, labels)
        if self.graph is None:
            self.graph = _Graph(self, images, labels)
        return self.graph.replay(images, labels)

    def update(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Do the update without a graph."""
        with self._precision(images.device):
            output = self.forward(images).float()
        loss = self._loss(output, labels)
        self.optimizer.zero_grad(set_to_none=True)
        self._backward(loss)
        if any(method.is_tied for method in self.methods):
            groups = self.optimizer.param_groups
            self._tie(gradients_of(weight for group in groups for weight in group["params"]))
        self.optimizer.step()
        return loss.detach(), (output.detach().argmax(-1) == labels).sum(-1)

    def begin_anew(self) -> None:
        """Forget the optimiser's moments, as before its first step, and record the graph again."""
        for state in self.optimizer.state.values():
            for value in state.values():
                if torch.is_tensor(value):
                    value.zero_()
        self.graph = None

    def _tie(self, gradients: list[Tensor]) -> None:
        self.methods[0].before_update(gradients)

    def _precision(self, device: torch.device) -> contextlib.AbstractContextManager:
        if not self.bf16:
            return contextlib.nullcontext()
        return torch.autocast(device.type, torch.bfloat16, cache_enabled=False)

    def _loss(self, output: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(output, labels)

    def _backward(self, loss: Tensor) -> None:
        loss.backward()

    def _forward(self, images: Tensor) -> Tensor:
        return self.call_model(self.model, images)


class _Graph:
    """The update as one CUDA graph over fixed buffers: its many small kernels are launched once."""

    def __init__(self, step: Step, images: Tensor, labels: Tensor) -> None:
        self.images, self.labels = images.clone(memory_format=torch.preserve_format), labels.clone()
        weights = _copy(step.model.state_dict())
        moments = {key: _copy(state) for key, state in step.optimizer.state.items()}
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(WARM_UP_STEPS):
                step.update(self.images, self.labels)
        torch.cuda.current_stream().wait_stream(stream)
        self._undo(step, weights, moments)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self.outputs = step.update(self.images, self.labels)

    @staticmethod
    @torch.no_grad()
    def _undo(
        step: Step, weights: dict[str, Tensor], moments: dict[Tensor, dict[str, Tensor]]
    ) -> None:
        """Undo the warm-up: weights and moments as before it, zeros where there were none."""
        for name, tensor in step.model.state_dict().items():
            tensor.copy_(weights[name])
        for weight, state in step.optimizer.state.items():
            for name, value in state.items():
                if torch.is_tensor(value):
                    value.copy_(moments[weight][name]) if weight in moments else value.zero_()

    def replay(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Do the recorded update on this batch."""
        self.images.copy_(images)
        self.labels.copy_(labels)
        self.graph.replay()
        loss, hits = self.outputs
        return loss.clone(), hits.clone()


def _copy(state: Mapping[str, Any]) -> dict[str, Tensor]:
    return {
        name: tensor.detach().clone() for name, tensor in state.items() if torch.is_tensor(tensor)
    }
