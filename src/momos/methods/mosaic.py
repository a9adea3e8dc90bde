"""Projection onto a mosaic of motifs (MoMos, Algorithm 1).

Motifs are picked from the model's own blocks, and the nearest one takes each block's place.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from momos.methods import nearest
from momos.methods.method import NotFinite
from momos.weights.blocks import num_blocks, to_blocks, trainable
from momos.weights.blocks import num_motifs as motifs_for_capacity

REPORTED = 2**16  # weights whose differences are held in float64 at a time
# Blocks (n, s) of each codebook, and how many motifs it has -> its motifs (k, s)
MotifsOf = Callable[[Sequence[Tensor], Sequence[int]], Sequence[Tensor]]


class Projection(NamedTuple):
    """What one projection did (method A3).

    Distortion counts real weights alone, never padding. motifs and mosaic stay on the model's
    device; usage is on the CPU.
    """

    motifs: Tensor  # (num_motifs, block_size)
    mosaic: Tensor  # (num_blocks,) int64: the index of each block's motif
    usage: Tensor  # (num_motifs,) int64: how often each motif is used
    distortion: float  # sum of (w - w_hat)^2
    distortion_per_weight: float
    relative_distortion: float  # ||w - w_hat|| / ||w||; 0 for a model of zeros
    num_changed: int  # weights that differ from before

    @property
    def motifs_used(self) -> int:
        """Number of motifs that at least one block uses."""
        return int((self.usage > 0).sum())


def draw_motifs(
    blocks: Tensor, num_motifs: int, *, force_zero: bool = True, generator: torch.Generator
) -> Tensor:
    """Draw motifs uniformly without replacement from the blocks (Algorithm 1, step 1).

    blocks (num_blocks, block_size) -> (num_motifs, block_size). force_zero: the first motif is the
    zero block. The draw is made on the CPU, so that it is the same on every device. Raises
    ValueError unless 1 <= num_motifs <= num_blocks.
    """
    if not 1 <= num_motifs <= len(blocks):
        raise ValueError(
            f"num_motifs must be in 1..{len(blocks)} (the number of blocks), got {num_motifs}"
        )
    num_drawn = num_motifs - 1 if force_zero else num_motifs
    drawn = blocks[torch.randperm(len(blocks), generator=generator)[:num_drawn].to(blocks.device)]
    return torch.cat([torch.zeros_like(blocks[:1]), drawn]) if force_zero else drawn


def assign(blocks: Tensor, motifs: Tensor) -> Tensor:
    """Find the nearest motif of each block in Euclidean distance (Algorithm 1, step 2).

    blocks (num_blocks, block_size), motifs (num_motifs, block_size) -> (num_blocks,) int64, on the
    device of the blocks. The search is exact: the smallest squared distance in float64 by direct
    differences; of equal distances, the lowest index (`momos.methods.nearest`). Raises ValueError
    for shapes that do not match, NotFinite for NaN and infinity.
    """
    matrices = blocks.ndim == motifs.ndim == 2 and len(motifs) > 0
    if not matrices or blocks.shape[1] != motifs.shape[1]:
        got = f"{tuple(blocks.shape)} and {tuple(motifs.shape)}"
        raise ValueError(f"expected blocks (n, s) and motifs (k >= 1, s), got {got}")
    single = {blocks.dtype, motifs.dtype} <= {torch.float32, torch.float16, torch.bfloat16}
    dtype = torch.float32 if single else torch.float64
    queries, candidates = blocks.detach().to(dtype), motifs.detach().to(blocks.device, dtype)
    peak = _largest(queries, candidates)
    if not single and peak > 0:  # float64 squares of float32 values neither overflow nor vanish
        exponent = -math.frexp(peak)[1]
        queries, candidates = _scaled(queries, exponent), _scaled(candidates, exponent)
    return nearest.nearest(queries, candidates)


def _largest(blocks: Tensor, motifs: Tensor) -> float:
    """Return the largest magnitude of all, waiting for the device once. Raises NotFinite."""
    ends = [
        torch.stack(values.aminmax()) if values.numel() else values.new_zeros(2)
        for values in (blocks, motifs)
    ]
    peaks = torch.stack(ends).abs().amax(1).tolist()
    for peak, what in zip(peaks, ("blocks", "motifs"), strict=True):
        if not math.isfinite(peak):
            raise NotFinite(f"{what} hold values that are not finite")
    return max(peaks)


def _scaled(values: Tensor, exponent: int) -> Tensor:
    """Multiply by 2^exponent, which rounds nothing, in two steps: 2^exponent may overflow."""
    return values * 2.0 ** (exponent // 2) * 2.0 ** (exponent - exponent // 2)


@torch.no_grad()
def project_(
    model: nn.Module,
    block_size: int,
    *,
    capacity: float | None = None,
    num_motifs: int | None = None,
    force_zero: bool = True,
    generator: torch.Generator,
    motifs: Tensor | MotifsOf | None = None,
    slicing: str = "tensor",
    codebook: str = "model",
) -> Projection:
    """Project all trainable weights in place onto at most num_motifs distinct blocks (Algorithm 1).

    block_size: weights per block (s). Exactly one of capacity (C) and num_motifs (k) is given.
    force_zero: the zero block is always a motif. motifs (num_motifs, block_size): take these
    instead of a draw, or those of a function: blocks and number of motifs of each codebook -> its
    motifs. slicing: "tensor" cuts each tensor by itself, "model" all as one vector. A ragged last
    block takes part padded with zeros; its padding is never written back nor counted.
    codebook: "model" draws motifs from all blocks; "tensor" draws as many for each tensor from its
    own, all of them where it has fewer, as the authors' older code does (method A12): motifs of all
    tensors then stand one after the other. Raises ValueError for a bad block size, capacity or
    number of motifs, and for a codebook per tensor with motifs that are given or with slicing
    "model", NotFinite for weights that hold NaN or infinity.
    """
    weights = list(trainable(model).values())
    blocks = to_blocks(weights, block_size, slicing)
    parts = [blocks]
    if codebook != "model":
        _check_codebook(codebook, slicing, motifs)
        parts = list(blocks.split([num_blocks([w.numel()], block_size) for w in weights]))
    if isinstance(motifs, Tensor):
        drawn = [motifs.detach().to(blocks)]
    else:
        numbers = _counts(parts, _budget(len(blocks), capacity, num_motifs), codebook)
        draw = functools.partial(draw_motifs, force_zero=force_zero, generator=generator)
        drawn = list(motifs(parts, numbers) if motifs else map(draw, parts, numbers))
    starts = np.cumsum([0, *map(len, drawn)])[:-1].tolist()
    mosaic = torch.cat(
        [assign(part, own) + start for part, own, start in zip(parts, drawn, starts, strict=True)]
    )
    chosen = torch.cat(drawn)
    before = _flat(weights)
    _write(chosen.index_select(0, mosaic), weights, slicing)
    return _report(chosen, mosaic, before, _flat(weights))


def _counts(parts: Sequence[Tensor], count: int, codebook: str) -> list[int]:
    """The number of motifs of each part."""
    return [count if codebook == "model" else min(count, len(part)) for part in parts]


def _check_codebook(codebook: str, slicing: str, motifs: Tensor | MotifsOf | None) -> None:
    if codebook != "tensor":
        raise ValueError(f"codebook must be model or tensor, got {codebook!r}")
    if slicing != "tensor" or isinstance(motifs, Tensor):
        got = f"slicing {slicing!r}" if slicing != "tensor" else "given motifs"
        raise ValueError(f'codebook "tensor" expects slicing "tensor" and no motifs, got {got}')


def _flat(weights: Sequence[Tensor]) -> Tensor:
    """Join all weights to one vector, on the CPU where the device has no float64 (MPS)."""
    flat = torch.cat([weight.reshape(-1) for weight in weights])
    return flat.cpu() if flat.device.type == "mps" else flat


def _write(blocks: Tensor, weights: Sequence[Tensor], slicing: str) -> None:
    """Write blocks back into the weights: `to_blocks` backwards, without a mask over all."""
    padding = blocks.shape[1] if slicing == "tensor" else 1
    start = 0
    for weight in weights:
        weight.copy_(blocks.view(-1)[start : start + weight.numel()].view(weight.shape))
        start += -(-weight.numel() // padding) * padding


def _budget(num_blocks: int, capacity: float | None, count: int | None) -> int:
    if capacity is not None and count is None:
        return motifs_for_capacity(num_blocks, capacity)
    if capacity is None and count is not None:
        return count
    raise ValueError(f"give exactly one of capacity and num_motifs, got {capacity!r} and {count!r}")


def _report(motifs: Tensor, mosaic: Tensor, before: Tensor, after: Tensor) -> Projection:
    parts = zip(before.split(REPORTED), after.split(REPORTED), strict=True)
    squares = sum((old.double() - new.double()).square().sum() for old, new in parts)
    total = torch.linalg.vector_norm(before, dtype=torch.float64)
    changed = (before != after).sum()
    distortion, norm, num_changed = torch.stack([torch.as_tensor(squares), total, changed]).tolist()
    return Projection(
        motifs=motifs,
        mosaic=mosaic,
        usage=torch.bincount(mosaic, minlength=len(motifs)).cpu(),
        distortion=distortion,
        distortion_per_weight=distortion / len(before),
        relative_distortion=math.sqrt(distortion) / norm if norm > 0 else 0.0,
        num_changed=int(num_changed),
    )


def sizes(
    model: nn.Module,
    block_size: int,
    *,
    capacity: float | None,
    num_motifs: int | None,
    slicing: str,
) -> tuple[int, int]:
    """Return (num_blocks, num_motifs) of the model's mosaic.

    Raises ValueError as `project_` would, before any training.
    """
    weights = trainable(model).values()
    total = num_blocks([weight.numel() for weight in weights], block_size, slicing)
    count = _budget(total, capacity, num_motifs)
    if count > total:
        raise ValueError(f"num_motifs must be in 1..{total} (the number of blocks), got {count}")
    return total, count


def check_distinct(model: nn.Module, block_size: int, num_motifs: int, *, slicing: str) -> None:
    """Raises ValueError where fewer of the model's blocks differ than there shall be motifs."""
    blocks = to_blocks(list(trainable(model).values()), block_size, slicing)
    distinct = len(torch.unique(blocks, dim=0))
    if num_motifs > distinct:
        expected = f"num_motifs must be in 1..{distinct} (the distinct blocks) for k-means"
        raise ValueError(f"{expected}, got {num_motifs}")


def codebooks(model: nn.Module, block_size: int, num_motifs: int) -> list[list[int]]:
    """Return [num_blocks, num_motifs] of each tensor that has motifs of its own, in model order.

    num_motifs: of the whole model; a tensor has at most its blocks.
    """
    totals = [num_blocks([w.numel()], block_size) for w in trainable(model).values()]
    return [[total, min(num_motifs, total)] for total in totals]


def first_motifs(model: nn.Module, block_size: int, num_motifs: int, codebook: str) -> list[int]:
    """Return the index of each codebook's first motif, which `force_zero` makes the zero block."""
    if codebook == "model":
        return [0]
    counts = [count for _, count in codebooks(model, block_size, num_motifs)]
    return np.cumsum([0, *counts])[:-1].tolist()
