"""Tensors' blocks in their own memory: loops compiled by numba for `momos.methods.tied` on a CPU.

A loop passes over one tensor. values (m,) are the tensor's, and its last block may be short.
mosaic (num_blocks,) has the motif of each of its blocks. coordinate is a tuple of block_size
numbers: the compiler knows its length.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numba import njit
from torch import Tensor

compiled = njit(cache=True, nogil=True)


class Part(NamedTuple):
    """The mosaic of one tensor, and which of its blocks stand for their motifs.

    size: of the tensor. mosaic (num_blocks,): the motif of each block. rows: the blocks that stand
    for a motif; places: their positions among those of all tensors. Arrays are uint32: half the
    memory of int64, and compiled code checks no sign.
    """

    size: int
    mosaic: np.ndarray
    rows: np.ndarray
    places: np.ndarray


class InPlace:
    """Blocks of tensors of the weights' shapes, each cut by itself.

    motifs (num_motifs, block_size): their shape and dtype count. mosaic (num_blocks,) int64.
    first (num_used,) int64: a block of each motif that is in use. A tensor of another dtype, or
    that is not contiguous, is copied, and the result copied back. Raises IndexError for a mosaic
    with an index that is no motif's, or of another length: compiled loops check no bounds.
    """

    def __init__(
        self, weights: Sequence[Tensor], motifs: Tensor, mosaic: Tensor, first: Tensor
    ) -> None:
        if mosaic.min() < 0 or mosaic.max() >= len(motifs):
            given = f"{mosaic.min()} to {mosaic.max()}"
            raise IndexError(f"mosaic must be in 0..{len(motifs) - 1}, got {given}")
        self.motifs, self.num_used = motifs, len(first)
        self.coordinate = (0,) * motifs.shape[1]
        self.parts, begin = [], 0
        for weight in weights:
            end = begin - (-weight.numel() // motifs.shape[1])
            places = ((first >= begin) & (first < end)).nonzero()[:, 0]
            found = mosaic[begin:end], first[places] - begin, places
            arrays = (tensor.numpy().astype(np.uint32) for tensor in found)
            self.parts.append(Part(weight.numel(), *arrays))
            begin = end
        if begin != len(mosaic):
            raise IndexError(f"mosaic must have {begin} blocks, got {len(mosaic)}")

    def sums(self, tensors: Sequence[Tensor]) -> Tensor:
        """Sum each motif's blocks, in their order: (num_motifs, block_size)."""
        sums = torch.zeros_like(self.motifs)
        for values, part in zip(self._read(tensors), self.parts, strict=True):
            add(_array(values, part), part.mosaic, sums.numpy(), self.coordinate)
        return sums

    def firsts(self, tensors: Sequence[Tensor]) -> Tensor:
        """Return the first block of each motif in use: (num_used, block_size)."""
        firsts = self.motifs.new_zeros(self.num_used, self.motifs.shape[1])
        for values, part in zip(self._read(tensors), self.parts, strict=True):
            take(_array(values, part), part.rows, part.places, firsts.numpy())
        return firsts

    def write(self, motifs: Tensor, tensors: Sequence[Tensor]) -> None:
        """Write motifs (num_motifs, block_size) where the mosaic has them."""
        written = [tensor if self._fits(tensor) else self._like(tensor) for tensor in tensors]
        for values, part in zip(written, self.parts, strict=True):
            spread(motifs.numpy(), part.mosaic, _array(values, part), self.coordinate)
        # copies nothing within the same memory, but autograd takes note
        torch._foreach_copy_(list(tensors), written)

    def _read(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        return [tensor.to(self.motifs).contiguous() for tensor in tensors]

    def _fits(self, tensor: Tensor) -> bool:
        return tensor.dtype == self.motifs.dtype and tensor.is_contiguous()

    def _like(self, tensor: Tensor) -> Tensor:
        return self.motifs.new_empty(tensor.shape)


def _array(tensor: Tensor, part: Part) -> np.ndarray:
    return tensor.detach().view(part.size).numpy()


@compiled
def add(values, mosaic, sums, coordinate):
    """Add each block to the sum of its motif."""
    size = len(coordinate)
    whole = len(values) // size
    for block in range(whole):
        motif = mosaic[block]
        for c in range(size):
            sums[motif, c] += values[size * block + c]
    for c in range(len(values) - size * whole):
        sums[mosaic[whole], c] += values[size * whole + c]


@compiled
def spread(motifs, mosaic, values, coordinate):
    """Set each block to its motif."""
    size = len(coordinate)
    whole = len(values) // size
    for block in range(whole):
        motif = mosaic[block]
        for c in range(size):
            values[size * block + c] = motifs[motif, c]
    for c in range(len(values) - size * whole):
        values[size * whole + c] = motifs[mosaic[whole], c]


@compiled
def take(values, rows, places, blocks):
    """Copy blocks `rows` to `places` of blocks (n, block_size)."""
    size = blocks.shape[1]
    for i in range(len(rows)):
        begin = size * rows[i]
        for c in range(min(size, len(values) - begin)):
            blocks[places[i], c] = values[begin + c]
