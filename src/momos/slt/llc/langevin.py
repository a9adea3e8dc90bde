"""The sampler's Markov chain: steps of SGLD or pSGLD over flat buffers, in place.

With g the gradient of a batch's loss and xi standard normal, elementwise:

    V <- alpha V + (1 - alpha) g^2          G = 1 / (eps + sqrt V)
    w <- w - (lr / 2) G (nbeta g + localization (w - w*)) + sqrt(lr G) xi

V starts at 0. This is pSGLD (Li et al. 2015), without its Gamma term, as in practice; in SGLD, G is
1. The localisation is that of Lau et al. 2024.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

ALPHA = 0.99  # decay of V, the running mean of squared gradients
EPS = 0.1  # added to the root of V
SAMPLERS = ("psgld", "sgld")
# Elements that are updated together. CPU: measured fastest on a core. GPU: few calls, as far as the
# memory allows.
CHUNK = {"cpu": 2**17, "gpu": 2**26}
NOISE_BLOCK = 16  # elements that PyTorch's CPU generator fills at a time
Piece = tuple[Tensor, Tensor, Tensor, Tensor | None, Tensor, list[Tensor]]  # of Langevin._update


class Langevin:
    """A Markov chain over a list of parameters, which it changes in place.

    Gradients are read from `.grad`, and are zero after a step. A parameter without influence on the
    loss has gradient zero. The parameters move into one flat buffer, in their order and each in its
    own memory layout. A step is then a few passes over pieces that stay in cache, whatever the
    number of tensors. Noise is drawn tensor by tensor from the generator.
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
        self.lr, self.nbeta, self.localization = lr, nbeta, localization
        self.alpha, self.eps = alpha, eps
        self.frozen = False  # whether V stays as it is
        self.weights = _flatten_(parameters)
        self.center = self.weights.clone()
        self.gradient = torch.zeros_like(self.weights)
        self.square = torch.zeros_like(self.weights) if sampler == "psgld" else None
        self.gradients = list(zip(parameters, _views(self.gradient, parameters), strict=True))
        for parameter, gradient in self.gradients:
            parameter.grad = gradient
        self.pieces = self._pieces([parameter.numel() for parameter in parameters])

    def restart(self) -> None:
        """Go back to the centre, without memory of the chain before."""
        self.weights.copy_(self.center)
        self.gradient.zero_()
        if self.square is not None:
            self.square.zero_()
        self.frozen = False

    def mean_scale(self) -> float:
        """The mean of G over the weights."""
        if self.square is None:
            return 1.0
        return self.square.sqrt().add_(self.eps).reciprocal_().mean().item()

    @torch.no_grad()
    def step(self, generator: torch.Generator) -> None:
        """Take one step with the gradients in `.grad` and noise from the generator."""
        for parameter, gradient in self.gradients:
            if parameter.grad is not gradient:  # zero_grad was called
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
        """Update one piece of every buffer, each (n,).

        The order of operations is that of devinterp, so that the rounding is the same too.
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

    def _pieces(self, sizes: list[int]) -> list[tuple[list[Tensor], Piece]]:
        """Neighbouring tensors, or parts of a large one, that are updated together.

        Each piece has the noise of its tensors and the arguments of `_update`.
        """
        on_cpu = self.weights.device.type == "cpu"
        spans = _spans(sizes, CHUNK["cpu"] * torch.get_num_threads() if on_cpu else CHUNK["gpu"])
        lengths = [sum(span) for span in spans]
        noise, *scratch = (self.weights.new_empty(max(lengths)) for _ in range(4))
        weights, center, gradient = (
            buffer.split(lengths) for buffer in (self.weights, self.center, self.gradient)
        )
        square = [None] * len(spans) if self.square is None else self.square.split(lengths)
        buffers = zip(weights, center, gradient, square, strict=True)
        return [
            (
                list(noise[:length].split(span)),
                (*here, noise[:length], [buffer[:length] for buffer in scratch]),
            )
            for span, length, here in zip(spans, lengths, buffers, strict=True)
        ]


def _spans(sizes: list[int], chunk: int) -> list[list[int]]:
    """Sizes of tensors, cut into parts of about a chunk, with small neighbours gathered in one.

    A part of a larger tensor has at least NOISE_BLOCK elements, and a chunk is a multiple of them.
    A CPU makes noise in such blocks, so the noise of the parts equals that of the whole.
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
    """Move the parameters into one buffer (num_weights,), of which they become views."""
    num_weights = sum(parameter.numel() for parameter in parameters)
    flat = torch.empty(num_weights, dtype=parameters[0].dtype, device=parameters[0].device)
    for parameter, view in zip(parameters, _views(flat, parameters), strict=True):
        view.copy_(parameter)
        parameter.data = view
    return flat


def _views(flat: Tensor, parameters: Sequence[Tensor]) -> list[Tensor]:
    """The buffer (num_weights,) as tensors of the parameters' shapes and memory layouts."""
    ends = np.cumsum([parameter.numel() for parameter in parameters]).tolist()
    strides = [torch.empty_like(parameter, device="meta").stride() for parameter in parameters]
    places = zip(parameters, strides, ends, strict=True)
    return [flat.as_strided(p.shape, stride, end - p.numel()) for p, stride, end in places]
