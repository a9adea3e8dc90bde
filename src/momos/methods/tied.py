"""Weights that are held to a mosaic while an optimiser acts on them (method A13).

`Tied`: motifs are trained, their mosaic fixed, and all blocks of a motif move as one.

The weights stay ordinary parameters, so that any network and optimiser goes on as it is. Two things
make the motifs the parameters. Before the optimiser's update, each block's gradient becomes the
mean over its motif's blocks: the sum, which is the motif's own gradient, divided by their number.
That is the projection of the gradient onto the mosaic's subspace, in which the learning rate means
what it meant before; weight decay and momentum act on copies alike. After the update, each block
becomes its motif's first one, because a vectorised kernel rounds its last few weights otherwise.

`Latent`: behind each weight stands a latent one, which gets what the optimiser adds to the weight:
a straight-through gradient (Bengio et al. 2013, arXiv:1308.3432), for which the mosaic is the
identity.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from momos.methods.codebook import Codebook, grouped, sums_of
from momos.weights.blocks import real_weights

if TYPE_CHECKING:
    from momos.methods.tied_blocks import InPlace


class Tied:
    """Tensors of the weights' shapes that are held to a mosaic.

    weights: all trainable ones, in model order. codebook: its motifs stay where no block uses them.
    mosaic (num_blocks,) int64: the index of each block's motif. zeros: indices of motifs that stay
    zero, whatever their blocks' gradients.
    """

    def __init__(
        self,
        weights: Sequence[Tensor],
        codebook: Codebook,
        mosaic: Tensor,
        *,
        slicing: str,
        zeros: Sequence[int] = (),
    ) -> None:
        self.weights, device = list(weights), weights[0].device
        # sums in float32 at least, whatever the weights are
        dtypes = (weight.dtype for weight in weights)
        dtype = functools.reduce(torch.promote_types, dtypes, torch.float32)
        mosaic = mosaic.to(device)
        self.codebook = Codebook(codebook.motifs.to(device, dtype, copy=True), codebook.usage)
        sizes, block_size = [weight.numel() for weight in weights], codebook.motifs.shape[1]
        real = real_weights(sizes, block_size, slicing, device=device)
        rows, starts = grouped(mosaic, codebook.usage)
        counts = sums_of(real.double().view(-1, block_size), rows, starts)
        shares = counts.clamp(min=1).reciprocal()
        shares[list(zeros)] = 0
        self.shares = shares.to(dtype)
        # a block without padding stands for all of its motif, where there is one
        is_ragged = ~real.view(-1, block_size).all(1)
        by_motif = (2 * mosaic + is_ragged).argsort(stable=True)
        self.used = codebook.usage.to(device).nonzero()[:, 0]
        first = by_motif[starts[self.used]]
        self.blocks: Buffer | InPlace
        if slicing == "tensor" and device.type == "cpu":
            from momos.methods.tied_blocks import InPlace  # imports numba

            self.blocks = InPlace(self.weights, self.codebook.motifs, mosaic, first)
        else:
            self.blocks = Buffer(self.weights, self.codebook, mosaic, first, slicing)

    @torch.no_grad()
    def average_(self, gradients: Sequence[Tensor]) -> None:
        """Set each block of the gradients to the mean over the blocks of its motif, in place.

        gradients: of the weights, in their order and shapes. Of a motif that stays zero: zero.
        """
        self.blocks.write(self._means(gradients), gradients)

    @torch.no_grad()
    def gather_(self) -> None:
        """Set each block of the weights to the first one of its motif, and keep these motifs."""
        self.codebook.motifs[self.used] = self.blocks.firsts(self.weights)
        self.blocks.write(self.codebook.motifs, self.weights)

    def _means(self, tensors: Sequence[Tensor]) -> Tensor:
        """The mean of each motif's blocks: (num_motifs, block_size)."""
        return self.blocks.sums(tensors).mul_(self.shares)


class Latent(Tied):
    """Weights that show a mosaic of latent ones: motifs are the means of the latent blocks.

    latent: of the weights' shapes. The weights hold the mosaic already. Others: as of `Tied`.
    """

    def __init__(
        self,
        weights: Sequence[Tensor],
        latent: Sequence[Tensor],
        codebook: Codebook,
        mosaic: Tensor,
        *,
        slicing: str,
        zeros: Sequence[int] = (),
    ) -> None:
        super().__init__(weights, codebook, mosaic, slicing=slicing, zeros=zeros)
        self.latent = [tensor.detach().to(weights[0].device, copy=True) for tensor in latent]
        self.shown = [weight.detach().clone() for weight in weights]

    @torch.no_grad()
    def follow_(self) -> None:
        """Add to the latent weights what the weights have moved by, and show their mosaic again."""
        moved = torch._foreach_sub(self.weights, self.shown)
        torch._foreach_add_(self.latent, moved)
        self.codebook.motifs[self.used] = self._means(self.latent)[self.used]
        self.blocks.write(self.codebook.motifs, self.weights)
        torch._foreach_copy_(self.shown, self.weights)

    def flat(self) -> Tensor:
        """The latent weights as one vector, in model order."""
        return torch.cat([tensor.reshape(-1) for tensor in self.latent])

    @torch.no_grad()
    def recall_(self) -> None:
        """Let the weights be the latent ones."""
        torch._foreach_copy_(self.weights, self.latent)


class Buffer:
    """Blocks of tensors in memory of their own, on any device, with any slicing.

    Its methods are those of `momos.methods.tied_blocks.InPlace`, to the bit.
    """

    def __init__(
        self,
        weights: Sequence[Tensor],
        codebook: Codebook,
        mosaic: Tensor,
        first: Tensor,
        slicing: str,
    ) -> None:
        block_size = codebook.motifs.shape[1]
        sizes = [weight.numel() for weight in weights]
        real = real_weights(sizes, block_size, slicing, device=mosaic.device)
        self.mosaic, self.first, self.padding = mosaic, first, (~real).nonzero()[:, 0]
        self.groups = grouped(mosaic, codebook.usage)
        self.blocks = codebook.motifs.new_zeros(len(mosaic), block_size)
        self.parts = _parts(self.blocks, weights, slicing)

    def sums(self, tensors: Sequence[Tensor]) -> Tensor:
        self._read(tensors)
        return sums_of(self.blocks, *self.groups)

    def firsts(self, tensors: Sequence[Tensor]) -> Tensor:
        self._read(tensors)
        return self.blocks.index_select(0, self.first)

    def write(self, motifs: Tensor, tensors: Sequence[Tensor]) -> None:
        _spread(motifs, self.mosaic, self.blocks)
        torch._foreach_copy_(list(tensors), self.parts)

    def _read(self, tensors: Sequence[Tensor]) -> None:
        torch._foreach_copy_(self.parts, list(tensors))
        self.blocks.view(-1).index_fill_(0, self.padding, 0)


def _parts(blocks: Tensor, tensors: Sequence[Tensor], slicing: str) -> list[Tensor]:
    """Views of the blocks (num_blocks, block_size) in the tensors' shapes, without padding."""
    unit = blocks.shape[1] if slicing == "tensor" else 1
    parts, begin = [], 0
    for tensor in tensors:
        parts.append(blocks.view(-1)[begin : begin + tensor.numel()].view(tensor.shape))
        begin += -(-tensor.numel() // unit) * unit
    return parts


def _spread(motifs: Tensor, mosaic: Tensor, blocks: Tensor) -> None:
    """Write motifs (k, s) where the mosaic (n,) has them, into blocks (n, s).

    A CPU copies rows of 8 and 16 bytes three times as fast as one number each.
    """
    as_number = {8: torch.float64, 16: torch.complex128}.get(motifs.shape[1] * motifs.itemsize)
    if motifs.device.type != "cpu" or as_number is None:
        torch.index_select(motifs, 0, mosaic, out=blocks)
        return
    one, other = (values.view(-1).view(as_number) for values in (motifs, blocks))
    torch.index_select(one, 0, mosaic, out=other)


def gradients_of(weights: Iterable[Tensor]) -> list[Tensor]:
    """Return the weights' gradients in order, zeros made for those that have none."""
    gradients = []
    for weight in weights:
        if weight.grad is None:
            weight.grad = torch.zeros_like(weight)
        gradients.append(weight.grad)
    return gradients
