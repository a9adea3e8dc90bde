"""One optimiser update, made fast: nothing in it waits for the device, and what it returns stays
there.
"""

import contextlib
import inspect
from collections.abc import Collection

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from momos import config
from momos.methods.quantize import quantized_forward

WARM_UP_STEPS = 3  # before a CUDA graph is captured, as PyTorch's documentation asks


def make_optimizer(
    model: nn.Module, recipe: config.Model, *, capturable: bool = False
) -> torch.optim.Optimizer:
    """SGD with momentum, or AdamW, over the trainable weights (method A9); one fused kernel where
    the device has it.

    capturable: for a CUDA graph, whose learning rate has to be a tensor.
    """
    weights = [parameter for parameter in model.parameters() if parameter.requires_grad]
    fused = all(
        weight.device.type in ("cpu", "cuda") and weight.is_floating_point() for weight in weights
    )
    lr = torch.tensor(recipe.lr, device=weights[0].device) if capturable else recipe.lr
    if recipe.optimizer == "sgd":
        return _eager(torch.optim.SGD)(
            weights, lr=lr, momentum=recipe.momentum, weight_decay=recipe.weight_decay, fused=fused
        )
    return _eager(torch.optim.AdamW)(
        weights, lr=lr, weight_decay=recipe.weight_decay, fused=fused, capturable=capturable
    )


def _eager(kind: type[torch.optim.Optimizer]) -> type[torch.optim.Optimizer]:
    """The optimiser without its note to torch.compile to leave it alone: that imports the compiler,
    longer than some trainings take.
    """
    methods = {
        name: inspect.unwrap(getattr(kind, name))
        for name in ("add_param_group", "zero_grad", "step")
    }
    return type(kind.__name__, (kind,), methods | {"step": torch.no_grad()(methods["step"])})


class Step:
    """Updates the model on a batch of network inputs: (n, C, H, W) float32, (n,) int64 -> mean loss
    and number of hits, on the device.

    The settings' `precision` is that of the forward pass; `compile` hands it to torch.compile;
    `cuda_graphs` records the whole update once and replays it for every batch of `batch_size`.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        *,
        settings: config.Train,
        bits: int,
        quantized: Collection[str],
    ) -> None:
        self.model, self.optimizer, self.bits, self.quantized = model, optimizer, bits, quantized
        self.bf16 = settings.precision == "bf16"
        self.forward = (
            torch.compile(self._forward, dynamic=False) if settings.compile else self._forward
        )
        self.graph_size = settings.batch_size if settings.cuda_graphs else None
        self.graph: _Graph | None = None

    def __call__(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        if labels.shape[-1] != self.graph_size:
            return self.update(images, labels)
        if self.graph is None:
            self.graph = _Graph(self, images, labels)
        return self.graph.replay(images, labels)

    def update(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        with (
            torch.autocast(images.device.type, torch.bfloat16, cache_enabled=False)
            if self.bf16
            else contextlib.nullcontext()
        ):
            output = self.forward(images).float()
        loss = self._loss(output, labels)
        self.optimizer.zero_grad(set_to_none=True)
        self._backward(loss)
        self.optimizer.step()
        return loss.detach(), (output.detach().argmax(-1) == labels).sum(-1)

    def _loss(self, output: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(output, labels)

    def _backward(self, loss: Tensor) -> None:
        loss.backward()

    def _forward(self, images: Tensor) -> Tensor:
        return quantized_forward(self.model, images, bits=self.bits, names=self.quantized)


class _Graph:
    """The update as one CUDA graph over fixed buffers: what launching its many small kernels costs
    is paid once.
    """

    def __init__(self, step: Step, images: Tensor, labels: Tensor) -> None:
        self.images, self.labels = images.clone(memory_format=torch.preserve_format), labels.clone()
        weights, moments = (
            _copy(step.model.state_dict()),
            {key: _copy(state) for key, state in step.optimizer.state.items()},
        )
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
        """The warm-up was no training: weights and optimiser as before, in the same memory; zeros
        where it had seen nothing.
        """
        for name, tensor in step.model.state_dict().items():
            tensor.copy_(weights[name])
        for weight, state in step.optimizer.state.items():
            for name, value in state.items():
                if torch.is_tensor(value):
                    value.copy_(moments[weight][name]) if weight in moments else value.zero_()

    def replay(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        self.images.copy_(images)
        self.labels.copy_(labels)
        self.graph.replay()
        loss, hits = self.outputs
        return loss.clone(), hits.clone()


def _copy(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {
        name: tensor.detach().clone() for name, tensor in state.items() if torch.is_tensor(tensor)
    }
