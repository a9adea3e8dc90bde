"""The Markov chain of the LLC's sampler: one step of SGLD or pSGLD over flat buffers, in place.

With g the gradient of a batch's loss and xi standard normal, elementwise:

    V <- alpha V + (1 - alpha) g^2          G = 1 / (eps + sqrt V)          (psgld; V starts at 0; sgld is G = 1)
    w <- w - (lr / 2) G (nbeta g + localization (w - w*)) + sqrt(lr G) xi

(pSGLD: Li et al. 2015, without its Gamma term, as in practice; localisation: Lau et al. 2024.)
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

ALPHA, EPS = 0.99, 0.1  # of the running mean of squared gradients, and what is added to its root
SAMPLERS = ("psgld", "sgld")
CHUNK = {
    "cpu": 2**17,
    "gpu": 2**26,
}  # elements updated together: measured fastest on a core; as few calls as memory allows on a GPU
NOISE_BLOCK = 16  # elements that PyTorch's generator on a CPU fills at a time


class Langevin:
    """The Markov chain's step over a list of parameters, in place; their gradients are read from
    `.grad` and are zero after it.

    The parameters move into one flat buffer (in their order, each in its own memory layout), so
    that the step is a few passes over pieces which stay in cache, whatever the number of tensors. A
    parameter without influence on the loss has gradient zero. Noise is drawn tensor by tensor from
    the generator.
    """

    def __init__(
        self,
        parameters: Sequence[nn.Parameter],
        *,
        lr: float,
        nbeta: float,
        localization: float,
        sampler: str = "psgld",
        alpha: float = ALPHA,
        eps: float = EPS,
    ) -> None:
        self.lr, self.nbeta, self.localization, self.alpha, self.eps = (
            lr,
            nbeta,
            localization,
            alpha,
            eps,
        )
        self.frozen = False  # V, once burn-in is over
        self.weights = _flatten_(parameters)
        self.center = self.weights.clone()
        self.gradient = torch.zeros_like(self.weights)
        self.square = torch.zeros_like(self.weights) if sampler == "psgld" else None
        self.gradients = list(zip(parameters, _views(self.gradient, parameters), strict=True))
        for parameter, gradient in self.gradients:
            parameter.grad = gradient
        self.pieces = self._pieces([parameter.numel() for parameter in parameters])

    def restart(self) -> None:
        """Back to the centre, without memory of a chain before."""
        self.weights.copy_(self.center)
        self.gradient.zero_()
        if self.square is not None:
            self.square.zero_()
        self.frozen = False

    @torch.no_grad()
    def step(self, generator: torch.Generator) -> None:
        for parameter, gradient in self.gradients:
            if parameter.grad is not gradient:  # somebody called zero_grad
                gradient.zero_() if parameter.grad is None else gradient.copy_(parameter.grad)
                parameter.grad = gradient
        for parts, piece in self.pieces:
            for part in parts:
                part.normal_(generator=generator)
            self._update(*piece)

    def _update(
        self,
        weights: Tensor,
        center: Tensor,
        gradient: Tensor,
        square: Tensor | None,
        noise: Tensor,
        scratch: list[Tensor],
    ) -> None:
        """One piece of every buffer, each (n,). The order of operations is devinterp's, so that
        rounding is, too.
        """
        drift, pull, scale = scratch
        torch.mul(gradient, self.nbeta, out=drift)
        torch.sub(weights, center, out=pull).mul_(self.localization)
        if square is not None:
            if not self.frozen:
                square.mul_(self.alpha).addcmul_(gradient, gradient, value=1 - self.alpha)
            torch.sqrt(square, out=scale).add_(self.eps).reciprocal_()
            drift.mul_(scale)
            pull.mul_(scale)
            noise.mul_(scale.sqrt_())
        weights.add_(drift.add_(pull), alpha=-0.5 * self.lr)
        weights.add_(noise, alpha=self.lr**0.5)
        gradient.zero_()

    def _pieces(self, sizes: list[int]) -> list[tuple[list[Tensor], tuple]]:
        """Neighbouring tensors, or parts of a large one, that are updated together: the noise of
        each, and what `_update` takes.
        """
        on_cpu = self.weights.device.type == "cpu"
        spans = _spans(sizes, CHUNK["cpu"] * torch.get_num_threads() if on_cpu else CHUNK["gpu"])
        lengths = [sum(span) for span in spans]
        noise, *scratch = (self.weights.new_empty(max(lengths)) for _ in range(4))
        buffers = [
            [None] * len(spans) if buffer is None else buffer.split(lengths)
            for buffer in (self.weights, self.center, self.gradient, self.square)
        ]
        pieces = []
        for span, length, *here in zip(spans, lengths, *buffers, strict=True):
            pieces.append(
                (
                    noise[:length].split(span),
                    (*here, noise[:length], [buffer[:length] for buffer in scratch]),
                )
            )
        return pieces


def _spans(sizes: list[int], chunk: int) -> list[list[int]]:
    """Tensors' sizes, cut to parts of at most about a chunk, neighbours gathered up to a chunk.

    No part of a larger tensor is below NOISE_BLOCK elements, and a chunk is a multiple of them:
    noise on a CPU is made in such blocks, and that of the parts is thus that of the whole.
    """
    spans: list[list[int]] = []
    for size in sizes:
        while size >= chunk + NOISE_BLOCK:
            spans.append([chunk])
            size -= chunk
        if spans and sum(spans[-1]) + size <= chunk:
            spans[-1].append(size)
        else:
            spans.append([size])
    return spans


@torch.no_grad()
def _flatten_(parameters: Sequence[nn.Parameter]) -> Tensor:
    """The parameters' values as one buffer (num_weights,), which they then look into."""
    flat = torch.empty(
        sum(p.numel() for p in parameters), dtype=parameters[0].dtype, device=parameters[0].device
    )
    for parameter, view in zip(parameters, _views(flat, parameters), strict=True):
        view.copy_(parameter)
        parameter.data = view
    return flat


def _views(flat: Tensor, parameters: Sequence[Tensor]) -> list[Tensor]:
    """The buffer (num_weights,) as tensors of the parameters' shapes and memory layouts."""
    ends = np.cumsum([parameter.numel() for parameter in parameters]).tolist()
    strides = [torch.empty_like(parameter, device="meta").stride() for parameter in parameters]
    return [
        flat.as_strided(p.shape, stride, end - p.numel())
        for p, stride, end in zip(parameters, strides, ends, strict=True)
    ]
