"""The exact nearest motif of every block.

All paths share one meaning of nearest: the smallest squared distance in float64, summed over direct
differences from coordinate 0 on, and of equal distances the lowest index. So they agree index for
index, and a path is chosen by speed alone. Inputs are finite, of one dtype, and such that float64
squares stay in range: float32, or float64 scaled as `momos.methods.mosaic.assign` does.
"""

from __future__ import annotations  # the kernel's name Triton

import functools
import math
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    import triton.language as tl

TILE = 128  # motifs in a tile, on a GPU
CHUNK = 2**16  # blocks whose tiles are searched together
MAX_PAIRS = 2**22  # (block, tile) pairs held at a time
# Pairs that brute force may compare, in all, in the time that loading the compiled tree takes:
# 0.2 s in a fork of the warm interpreter, which has numba, else 0.45 s.
PATIENCE = 10**8
PER_CALL = 2 * 10**5  # pairs whose comparison takes as long as calling brute force
FUSED = 10**10  # pairs up to which brute force on a GPU is faster than tiles


def nearest(blocks: Tensor, motifs: Tensor) -> Tensor:
    """Find the nearest motif of every block, in the way that is fastest on their device.

    blocks (num_blocks, block_size), motifs (num_motifs, block_size) -> (num_blocks,) int64, on the
    device of the blocks. CPU: a k-d tree; brute force in dimensions where a tree prunes nothing,
    and until numba is worth loading. CUDA: brute force in one kernel; tiles above 1e10 pairs and
    without Triton. Devices without float64 (MPS) use the CPU.
    """
    if blocks.device.type == "cuda":
        in_one_kernel = len(blocks) * len(motifs) <= FUSED and _triton_kernel() is not None
        return (fused if in_one_kernel else tiles)(blocks, motifs)
    rows, candidates = (tensor.cpu().contiguous().numpy() for tensor in (blocks, motifs))
    num_blocks, block_size = rows.shape
    by_brute_force = _prefers_brute(num_blocks, block_size, len(candidates))
    nearest_of = brute if by_brute_force else tree
    return torch.from_numpy(nearest_of(rows, candidates)).to(blocks.device)


def _prefers_brute(num_blocks: int, block_size: int, num_motifs: int) -> bool:
    """Whether brute force is faster than a tree. Constants are measured.

    A tree over num_motifs points halves each coordinate only log2(num_motifs) / block_size times.
    """
    return num_motifs < 2 ** (block_size + 2) or not _worth_compiling(num_blocks * num_motifs)


_compared = 0


def _worth_compiling(pairs: int) -> bool:
    """Say whether the tree is loaded, or brute force has used up what loading it costs."""
    global _compared
    _compared += pairs + PER_CALL
    return _compared > PATIENCE or "momos.methods.kdtree" in sys.modules


# --- brute force: products in float32 leave one or a few motifs per block, settled in float64


def brute(blocks: np.ndarray, motifs: np.ndarray) -> np.ndarray:
    """Find the nearest motifs by matrix products: (n, s), (k, s) -> (n,) int64.

    Lower bounds on score = |m|^2 / 2 - b.m, centred, rule out all but the nearest. A score in
    float32 errs by at most error * (|b| |m| + |m|^2 / 2): a dot product of s + 2 terms in any
    order, its operands rounded once. The product of matrices holds that error already, each motif's
    its own, so that outliers blur no other motif.
    """
    first = _first_of_each(motifs)
    motifs = motifs[first].astype(np.float64)
    scale = -math.frexp(max(np.abs(blocks).max(initial=0), np.abs(motifs).max()))[1]
    centre, s = motifs.mean(axis=0), motifs.shape[1]
    centred = np.ldexp(motifs - centre, scale)
    norms = _norms(centred)
    error = 1.2 * 2**-24 * (s + 5)
    columns = np.vstack([-centred.T, norms**2 / 2 * (1 - error), -norms * error]).astype(np.float32)
    nearest = np.empty(len(blocks), np.int64)
    step = max(64, 2**20 // max(motifs.shape))
    for start in range(0, len(blocks), step):
        rows = blocks[start : start + step].astype(np.float64)
        shifted = np.ldexp(rows - centre, scale)
        lengths = _norms(shifted)
        lower = np.column_stack([shifted, np.ones(len(rows)), lengths]).astype(np.float32) @ columns
        best = lower.argmin(axis=1)
        largest = lengths * norms[best] + norms[best] ** 2 / 2
        limit = lower[np.arange(len(rows)), best] + 2 * error * largest
        # rounding of float64 distances; float32 underflow, flushed or not
        limit += 2**-49 * (s + 4) * lengths**2 + 1e-36 * (s + 2)
        limit = np.nextafter(limit.astype(np.float32), np.float32(np.inf))
        row, motif = np.divmod(np.flatnonzero(lower <= limit[:, None]), len(motifs))
        nearest[start : start + step] = _settle(rows, motifs, row, motif)
    return first[nearest]


def _norms(rows: np.ndarray) -> np.ndarray:
    return np.sqrt(np.square(rows).sum(axis=1))


def _settle(
    blocks: np.ndarray, motifs: np.ndarray, row: np.ndarray, motif: np.ndarray
) -> np.ndarray:
    """Pick each row's nearest among candidate pairs (row, motif) -> (len(blocks),) int64.

    The pairs are sorted, with at least one for every row.
    """
    distance = np.zeros(len(row))
    for block, candidate in zip(blocks.T, motifs.T, strict=True):
        distance += np.square(block[row] - candidate[motif])
    starts = np.searchsorted(row, np.arange(len(blocks)))
    closest = np.flatnonzero(distance == np.minimum.reduceat(distance, starts)[row])[::-1]
    nearest = np.empty(len(blocks), np.int64)
    nearest[row[closest]] = motif[closest]  # the last one written is the lowest index
    return nearest


def _first_of_each(rows: np.ndarray) -> np.ndarray:
    """Return the index of the first of every distinct row, ascending."""
    whole = np.ascontiguousarray(rows + 0.0)  # both zeros get the same bytes
    keys = whole.view(f"V{rows.itemsize * rows.shape[1]}")[:, 0]
    return np.sort(np.unique(keys, return_index=True)[1])


# --- k-d tree


def tree(blocks: np.ndarray, motifs: np.ndarray) -> np.ndarray:
    """Find the nearest motifs by a k-d tree: (n, s), (k, s) -> (n,) int64."""
    from momos.methods import kdtree  # imports numba: see _worth_compiling

    return kdtree.search(blocks, motifs)


# --- GPU: brute force in one kernel


def fused(blocks: Tensor, motifs: Tensor) -> Tensor:
    """Find the nearest motifs by a Triton kernel: (n, s), (k, s) -> (n,) int64.

    It holds no matrix of distances in memory, and the host does not wait.
    """
    (n, s), k = blocks.shape, len(motifs)
    nearest = torch.empty(n, dtype=torch.int64, device=blocks.device)
    grid = (-(-n // 64),)
    _triton_kernel()[grid](
        blocks.T.contiguous(),
        motifs.T.contiguous(),
        nearest,
        n,
        k,
        s,
        ROWS=64,
        COLUMNS=32,
        enable_fp_fusion=False,
    )
    return nearest


@functools.cache
def _triton_kernel() -> Any:
    """Compile the kernel; None without Triton."""
    global tl
    try:
        import triton
        import triton.language as tl
    except ImportError:
        return None
    return triton.jit(_fused_kernel, do_not_specialize=["n", "k", "s"])


def _fused_kernel(blocks, motifs, nearest, n, k, s, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Compare all pairs of blocks (s, n) and motifs (s, k); every lane keeps its own best.

    Float64, and no fused multiply-add: all searches share one meaning of nearest.
    """
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    best = tl.full((ROWS, COLUMNS), float("inf"), tl.float64)
    chosen = tl.full((ROWS, COLUMNS), 0, tl.int32)
    for start in range(0, k, COLUMNS):
        column = start + tl.arange(0, COLUMNS)
        distance = tl.zeros((ROWS, COLUMNS), tl.float64)
        block_at, motif_at = blocks + row, motifs + column
        for _ in range(s):
            block = tl.load(block_at, mask=row < n, other=0.0).to(tl.float64)
            motif = tl.load(motif_at, mask=column < k, other=float("inf")).to(tl.float64)
            difference = block[:, None] - motif[None, :]
            distance += difference * difference
            block_at += n
            motif_at += k
        closer = distance < best
        best = tl.where(closer, distance, best)
        chosen = tl.where(closer, column[None, :], chosen)
    least = tl.min(best, axis=1)
    lowest = tl.min(tl.where(best == least[:, None], chosen, k), axis=1)
    tl.store(nearest + row, lowest.to(tl.int64), mask=row < n)


# --- GPU: tiles, in plain torch


def tiles(blocks: Tensor, motifs: Tensor) -> Tensor:
    """Find the nearest motifs tile by tile, in bounded memory: (n, s), (k, s) -> (n,) int64."""
    first = _first_rows(motifs)
    cut = _Tiles(motifs[first].double())
    return torch.cat([first[cut.search(chunk.double())] for chunk in blocks.split(CHUNK)])


def _first_rows(rows: Tensor) -> Tensor:
    """As `_first_of_each`: copies of a motif may fill many tiles."""
    distinct, inverse = torch.unique(rows + 0.0, dim=0, return_inverse=True)
    index = torch.arange(len(rows), device=rows.device)
    first = index.new_full((len(distinct),), len(rows)).scatter_reduce_(0, inverse, index, "amin")
    return first.sort().values


class _Tiles:
    """Motifs (k, s) float64, halved level by level at the median of the widest coordinate.

    Motif k-1 fills the last tile up.
    """

    def __init__(self, motifs: Tensor):
        k, s = motifs.shape
        levels = max(0, math.ceil(math.log2(k / TILE)))
        places = torch.arange(2**levels * -(-k // 2**levels), device=motifs.device)
        self.index = places.clamp_(max=k - 1)
        self.axes, self.planes = [], []
        for level in range(levels):
            groups = self.index.reshape(2**level, -1)
            points = motifs[groups]  # (2^level, motifs of a group, s)
            axis = (points.amax(1) - points.amin(1)).argmax(1)
            widest = axis[:, None, None].expand(-1, points.shape[1], 1)
            keys, order = points.gather(2, widest)[..., 0].sort(1)
            self.index = groups.gather(1, order)
            self.axes.append(axis)
            self.planes.append(keys[:, keys.shape[1] // 2])
        self.index = self.index.reshape(2**levels, -1)
        # (s, tiles, motifs of a tile)
        self.motifs = motifs[self.index].permute(2, 0, 1).contiguous()
        self.boxes = [(self.motifs.amin(2), self.motifs.amax(2))]  # of every level, (s, 2^level)
        for _ in range(levels):
            low, high = (side.reshape(s, -1, 2) for side in self.boxes[0])
            self.boxes.insert(0, (low.amin(2), high.amax(2)))

    def search(self, blocks: Tensor) -> Tensor:
        """(n, s) float64 -> (n,) int64."""
        rows = torch.arange(len(blocks), device=blocks.device)
        home = torch.zeros_like(rows)
        for axis, plane in zip(self.axes, self.planes, strict=True):
            home = 2 * home + (blocks[rows, axis[home]] >= plane[home])
        closest, chosen = self._scan(blocks, rows, home)
        return self._improve(blocks, home, closest, chosen)

    def _improve(self, blocks: Tensor, home: Tensor, closest: Tensor, chosen: Tensor) -> Tensor:
        rows = torch.arange(len(blocks), device=blocks.device)
        node = torch.zeros_like(rows)
        for low, high in self.boxes[1:]:
            rows, node = (
                rows.repeat_interleave(2),
                (2 * node[:, None] + torch.arange(2, device=node.device)).reshape(-1),
            )
            bound = torch.zeros(len(rows), dtype=torch.float64, device=rows.device)
            for block, below, above in zip(blocks.T, low, high, strict=True):
                value = block[rows]
                bound += (
                    torch.maximum(below[node] - value, value - above[node]).clamp_(min=0).square_()
                )
            keep = bound <= closest[rows]
            rows, node = rows[keep], node[keep]
            if len(rows) > MAX_PAIRS and len(blocks) > 1:
                halves = zip(
                    *(tensor.chunk(2) for tensor in (blocks, home, closest, chosen)), strict=True
                )
                return torch.cat([self._improve(*half) for half in halves])
        other = node != home[rows]
        rows, node = rows[other], node[other]
        step = max(1, MAX_PAIRS // self.index.shape[1])
        for some, theirs in zip(rows.split(step), node.split(step), strict=True):
            distance, index = self._scan(blocks, some, theirs)
            nearer = closest.scatter_reduce(0, some, distance, "amin")
            chosen = torch.where(nearer < closest, torch.iinfo(torch.int64).max, chosen)
            index = torch.where(distance == nearer[some], index, torch.iinfo(torch.int64).max)
            closest, chosen = nearer, chosen.scatter_reduce(0, some, index, "amin")
        return chosen

    def _scan(self, blocks: Tensor, rows: Tensor, tile: Tensor) -> tuple[Tensor, Tensor]:
        """The smallest squared distance of block rows[i] to the motifs of tile[i], and the lowest
        index that has it.
        """
        distance = torch.zeros(
            len(rows), self.index.shape[1], dtype=torch.float64, device=rows.device
        )
        for block, motif in zip(blocks.T, self.motifs, strict=True):
            distance += (block[rows, None] - motif[tile]).square_()
        least = distance.amin(1)
        index = torch.where(
            distance == least[:, None], self.index[tile], torch.iinfo(torch.int64).max
        )
        return least, index.amin(1)
