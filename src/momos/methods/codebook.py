"""Which motifs a projection uses: new ones, those of the last projection, or their blocks' means.

Draws are made on the CPU by a generator that is given, so that they are the same on every device.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from momos.methods.mosaic import assign, draw_motifs
from momos.methods.schedule import MOVING

LLOYD_STEPS = 4  # at most, before each projection
FIRST_STEPS = 20  # at most, of motifs that were just drawn from dense weights


class Codebook(NamedTuple):
    """Motifs (num_motifs, block_size) and how often each is used, (num_motifs,) int64."""

    motifs: Tensor
    usage: Tensor

    def split(self, counts: Sequence[int]) -> list["Codebook"]:
        """The codebooks of several tensors, whose motifs stand one after the other."""
        parts = zip(self.motifs.split(list(counts)), self.usage.split(list(counts)), strict=True)
        return [Codebook(*part) for part in parts]


def choose(
    blocks: Tensor,
    num_motifs: int,
    how: str,
    last: Codebook | None,
    *,
    force_zero: bool,
    generator: torch.Generator,
) -> Tensor:
    """Choose motifs from the blocks, (num_blocks, block_size) -> (num_motifs, block_size).

    how: "uniform" (the paper); "kmeans++" (`spread`); "usage": the half of the last motifs that
    more blocks use stays, the others are drawn uniformly. force_zero: the first motif is the zero
    block. Raises ValueError unless 1 <= num_motifs <= num_blocks.
    """
    if how == "kmeans++" and num_motifs < len(blocks):
        return spread(blocks, num_motifs, force_zero=force_zero, generator=generator)
    motifs = draw_motifs(blocks, num_motifs, force_zero=force_zero, generator=generator)
    if how == "usage" and last is not None:
        first = int(force_zero)  # the zero block stays in any case
        ranked = last.usage[first:].sort(descending=True, stable=True).indices + first
        kept = ranked[: len(ranked) // 2].to(blocks.device)
        motifs[first : first + len(kept)] = last.motifs.to(blocks)[kept]
    return motifs


def spread(
    blocks: Tensor, num_motifs: int, *, force_zero: bool, generator: torch.Generator
) -> Tensor:
    """Draw motifs that lie apart: blocks by their squared distance from the motifs before them.

    (num_blocks, block_size) -> (num_motifs, block_size). Of k-means++ (Arthur and Vassilvitskii
    2007), but each draw after the first takes as many blocks as there are motifs already, as
    k-means|| does, so that a large model needs few passes. Where fewer blocks differ, the rest is
    drawn uniformly.
    """
    motifs = draw_motifs(blocks, 1, force_zero=force_zero, generator=generator)
    distance = _squared_distance(blocks, motifs)
    while len(motifs) < num_motifs:
        rows = _drawn(distance, min(len(motifs), num_motifs - len(motifs)), generator)
        if len(rows) == 0:
            left = num_motifs - len(motifs)
            more = draw_motifs(blocks, left, force_zero=False, generator=generator)
            return torch.cat([motifs, more])
        motifs = torch.cat([motifs, blocks[rows]])
        distance = torch.minimum(distance, _squared_distance(blocks, blocks[rows]))
    return motifs


def lloyd(
    blocks: Tensor,
    motifs: Tensor,
    *,
    force_zero: bool,
    generator: torch.Generator,
    steps: int = LLOYD_STEPS,
) -> Tensor:
    """Move each motif to the mean of the blocks that are nearest to it, at most `steps` times.

    blocks (num_blocks, block_size), motifs (num_motifs, block_size) -> the same shape as motifs.
    Means are taken in float64. A motif that no block uses becomes a block, drawn by its squared
    distance from its own motif; it stays where all blocks are motifs. force_zero: the first motif
    stays the zero block. Source: Lloyd 1982.
    """
    before = None
    for _ in range(steps):
        nearest = assign(blocks, motifs)
        if before is not None and torch.equal(nearest, before):
            break
        before, usage = nearest, torch.bincount(nearest, minlength=len(motifs))
        means = sums_of(blocks.double(), *grouped(nearest, usage)) / usage.clamp(min=1)[:, None]
        moved = torch.where((usage > 0)[:, None], means.to(motifs.dtype), motifs)
        unused = (usage == 0).nonzero()[:, 0]
        unused = unused[unused > 0] if force_zero else unused
        if len(unused):
            distance = _squared_distance(blocks, motifs, nearest)
            rows = _drawn(distance, len(unused), generator)
            moved[unused[: len(rows)]] = blocks[rows]
        if force_zero:
            moved[0] = 0
        motifs = moved
    return motifs


def renewed(
    kind: str,
    how: str,
    blocks: Tensor,
    num_motifs: int,
    last: Codebook | None,
    *,
    force_zero: bool,
    generator: torch.Generator,
) -> Tensor:
    """Return the motifs of the next projection: (num_motifs, block_size).

    kind: of the phase (`momos.methods.schedule`); how: as of `choose`, which the first projection
    needs in any phase. last: of the last projection, if there was one.
    """
    if last is None or kind == "redrawn":
        motifs = choose(blocks, num_motifs, how, last, force_zero=force_zero, generator=generator)
    else:
        motifs = last.motifs.to(blocks)
    if kind in MOVING:
        steps = FIRST_STEPS if kind == "dense" else LLOYD_STEPS
        motifs = lloyd(blocks, motifs, force_zero=force_zero, generator=generator, steps=steps)
    return motifs


def grouped(mosaic: Tensor, usage: Tensor) -> tuple[Tensor, Tensor]:
    """Order blocks by motif: their rows (num_blocks,), and where each motif's begin (num_motifs,).

    mosaic (num_blocks,) int64; usage (num_motifs,) int64.
    """
    usage = usage.to(mosaic.device)
    return mosaic.argsort(stable=True), usage.cumsum(0) - usage


def sums_of(blocks: Tensor, rows: Tensor, starts: Tensor) -> Tensor:
    """Sum the blocks of each motif, in their order: the same bits each time, on a GPU too.

    blocks (num_blocks, block_size); rows, starts: as from `grouped` -> (num_motifs, block_size).
    """
    return F.embedding_bag(rows, blocks, starts, mode="sum")


def _squared_distance(blocks: Tensor, motifs: Tensor, nearest: Tensor | None = None) -> Tensor:
    """Squared distance of each block to its nearest motif: (num_blocks,) float64."""
    nearest = assign(blocks, motifs) if nearest is None else nearest
    return (blocks.double() - motifs.double()[nearest]).square_().sum(1)


def _drawn(weights: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Draw rows without replacement with probabilities as the weights, never one of weight 0.

    weights (n,) float64 -> at most (count,) int64. The `count` that come first in a race of
    exponential times are such a draw (Efraimidis and Spirakis 2006).
    """
    weights = weights.cpu()
    times = -torch.rand(len(weights), generator=generator, dtype=torch.float64).log() / weights
    count = min(count, int((weights > 0).sum()))
    return times.topk(count, largest=False).indices
