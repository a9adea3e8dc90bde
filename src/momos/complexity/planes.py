"""Algorithmic complexity of weights by bit planes (arXiv 2605.15551, "QuBD").

BDM of signs sees one bit of a weight. Here each weight tensor with at least two axes, as
(shape[0], -1) with both sides 4 or more, is quantised uniformly to 2^B levels:

    code = round((w - low) / delta),    delta = (high - low) / (2^B - 1)

low and high are the tensor's minimum and maximum, or percentiles of it, to which weights are then
clamped. Plane i holds bit i of the codes: i = B - 1 is the most significant. Its complexity is the
2-D BDM of its 4x4 blocks, incomplete ones ignored, in bits. A model's is the sum over its tensors.
A tensor without spread has planes of zeros.

All tables take percentiles (p = 99.9), as the authors do. Between minimum and maximum a tensor's
largest weight decides how many levels the others have, and initialisations differ by that more than
by anything else: their deviation is 10 times as large, and skewed.

Codes are computed in float64, whatever the weights' type. Tensors arrive one after the other.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from momos.complexity import bdm

BIT_DEPTHS = range(1, 17)
SIDE = bdm.SIDE
NUM_SQUARES = 1 << SIDE * SIDE
CHUNK = 1 << 18  # weights quantised at once: what a processor's cache takes
FEW = 1 << 14  # squares of all planes below which sorting them is faster than 65,536 counters
ONES = np.uint32(0x01010101)  # the lowest bit of each of four bytes
# times that, the top byte holds the four bits, the first byte's highest
GATHER = np.uint32(0x08040201 if np.little_endian else 0x01020408)
PERCENTILE = 99.9  # of the tables
NamedTensors = Mapping[str, Tensor] | Iterable[tuple[str, Tensor]]


def complexity(
    tensors: NamedTensors, bit_depth: int = 8, percentile: float | None = None
) -> np.ndarray:
    """BDM in bits of every plane of a model, (bit_depth,) float64; the total is its sum.

    tensors: by name, or pairs (name, tensor), of any floating-point type. Those with a side below 4
    take no part. bit_depth: B, 1 to 16. percentile: p in (0, 100], so that a tensor's levels span
    its percentiles (100 - p) / 2 and 100 - (100 - p) / 2; None: minimum and maximum.
    Element i is plane i, so the last one is the most significant.
    Raises ValueError for a bit depth or a percentile out of range, NaN or infinite weights, integer
    ones, and where no tensor has a complete 4x4 block.
    """
    total = np.zeros(_checked_depth(bit_depth))
    num_measured = 0
    for _, planes in by_tensor(tensors, bit_depth, percentile):
        total += planes
        num_measured += 1
    if not num_measured:
        raise ValueError("bit planes are undefined: no tensor has a complete block of 4x4 weights")
    return total


def by_tensor(
    tensors: NamedTensors, bit_depth: int = 8, percentile: float | None = None
) -> Iterator[tuple[str, np.ndarray]]:
    """(name, BDM of its planes) of every tensor that takes part, in the order given.

    Arguments, elements and errors as in `complexity`, but nothing is raised where none takes part.
    """
    _checked_depth(bit_depth)
    if percentile is not None and not 0 < percentile <= 100:
        raise ValueError(f"percentile must be in (0, 100], or None, got {percentile!r}")
    for name, tensor in tensors.items() if isinstance(tensors, Mapping) else tensors:
        if takes_part(tensor.shape):
            yield name, _planes(_matrix(name, tensor), bit_depth, percentile)


def model_planes(tensors: NamedTensors, bit_depth: int = 8) -> np.ndarray:
    """As `complexity`, between the percentiles of tables, but zeros where no tensor takes part."""
    parts = by_tensor(tensors, bit_depth, PERCENTILE)
    return sum((own for _, own in parts), np.zeros(bit_depth))


def against(trained: np.ndarray, initial: Sequence[ArrayLike]) -> dict[str, float | None]:
    """Columns of a table: BDM of planes, and where it lies among those of initialisations.

    trained: (bit_depth,) bits, as `complexity` returns them; initial: a row an initialisation.
    Returns planes (the total) with planes_initial (its mean over initialisations), planes_ratio and
    planes_z (in their standard deviations; None without a spread), then plane_<i> with
    plane_<i>_ratio (to the mean), the most significant first. A ratio to zero bits is None.
    """
    starts = np.asarray(initial, dtype=float)
    totals, total = starts.sum(axis=1), float(trained.sum())
    mean = float(totals.mean())
    std = float(totals.std(ddof=1)) if len(totals) > 1 else 0.0
    columns: dict[str, float | None] = {
        "planes": total,
        "planes_initial": mean,
        "planes_ratio": total / mean if mean else None,
        "planes_z": (total - mean) / std if std else None,
    }
    for plane in reversed(range(len(trained))):
        start = float(starts[:, plane].mean())
        columns[f"plane_{plane}"] = float(trained[plane])
        columns[f"plane_{plane}_ratio"] = float(trained[plane]) / start if start else None
    return columns


def takes_part(shape: Sequence[int]) -> bool:
    """Whether a tensor of this shape has a complete block of 4x4 weights."""
    return len(shape) >= 2 and shape[0] >= SIDE and math.prod(shape[1:]) >= SIDE


def quantize(
    weights: np.ndarray, bit_depth: int = 8, percentile: float | None = None
) -> np.ndarray:
    """Codes (uint16) of the weights' shape, as the module's docstring defines them.

    Raises ValueError for a bit depth out of range.
    """
    _checked_depth(bit_depth)
    low, high = _span(weights, percentile)
    return _codes(weights, low, high, bit_depth).astype(np.uint16)


def _checked_depth(bit_depth: int) -> int:
    if isinstance(bit_depth, bool) or bit_depth not in BIT_DEPTHS:
        expected = f"{BIT_DEPTHS[0]}..{BIT_DEPTHS[-1]}"
        raise ValueError(f"bit_depth must be in {expected}, got {bit_depth!r}")
    return bit_depth


def _matrix(name: str, tensor: Tensor) -> np.ndarray:
    """The tensor as (shape[0], -1), float32 or float64, without a copy where that is possible."""
    if not tensor.is_floating_point():
        raise ValueError(f"tensor {name} must hold floating-point weights, got {tensor.dtype}")
    plain = tensor.detach().cpu()
    if plain.dtype not in (torch.float32, torch.float64):
        plain = plain.float()
    matrix = plain.reshape(len(plain), -1).numpy()
    if not (np.isfinite(matrix.min()) and np.isfinite(matrix.max())):
        raise ValueError(f"tensor {name} holds NaN or infinite weights")
    return matrix


def _span(matrix: np.ndarray, percentile: float | None) -> tuple[float, float]:
    """The weights of the lowest and the highest level."""
    if percentile is None:
        return float(matrix.min()), float(matrix.max())
    tail = (100 - percentile) / 2 / 100
    # as np.percentile does, which would copy all of it to float64
    places = [(matrix.size - 1) * share for share in (tail, 1 - tail)]
    bounds = [min(int(place) + step, matrix.size - 1) for place in places for step in (0, 1)]
    ordered = np.partition(matrix.reshape(-1), sorted(set(bounds)))
    low, above_low, high, above_high = (float(ordered[bound]) for bound in bounds)
    return (
        _between(low, above_low, places[0] % 1),
        _between(high, above_high, places[1] % 1),
    )


def _between(low: float, high: float, share: float) -> float:
    """Linear interpolation in numpy's order of operations."""
    if share >= 0.5:
        return high - (high - low) * (1 - share)
    return low + (high - low) * share


def _codes(weights: np.ndarray, low: float, high: float, bit_depth: int) -> np.ndarray:
    """Whole numbers (float64) in 0 .. 2^bit_depth - 1, of the weights' shape."""
    if not high > low:
        return np.zeros(weights.shape)
    top = (1 << bit_depth) - 1
    codes = weights.astype(np.float64)
    np.clip(codes, low, high, out=codes)
    codes -= low
    codes /= (high - low) / top
    np.rint(codes, out=codes)
    return np.clip(codes, 0, top, out=codes)


def _planes(matrix: np.ndarray, bit_depth: int, percentile: float | None) -> np.ndarray:
    """(rows, columns) -> BDM of each plane, (bit_depth,)."""
    low, high = _span(matrix, percentile)
    rows, columns = (size - size % SIDE for size in matrix.shape)
    if bit_depth * rows * columns // SIDE**2 <= FEW:
        codes = _codes(matrix[:rows, :columns], low, high, bit_depth)
        return _bdm_of_few(list(_squares(codes, bit_depth)))
    counts = np.zeros((bit_depth, NUM_SQUARES), dtype=np.int64)
    for tile in bdm.tiles(matrix, CHUNK):
        codes = _codes(tile, low, high, bit_depth)
        for plane, squares in enumerate(_squares(codes, bit_depth)):
            counts[plane] += np.bincount(squares, minlength=NUM_SQUARES)
    return np.array([bdm.complexity(count) for count in counts])


def _squares(codes: np.ndarray, bit_depth: int) -> Iterator[np.ndarray]:
    """Codes (4 * a, 4 * b) -> of each plane its 4x4 blocks as numbers, (a * b,) uint16.

    A block's number is its bits read row by row, the first bit highest, as in `bdm`.
    """
    rows, columns = codes.shape
    whole = codes.astype(np.uint16)
    for byte in range(-(-bit_depth // 8)):
        four = np.ascontiguousarray((whole >> 8 * byte).astype(np.uint8)).view(np.uint32)
        for bit in range(min(bit_depth - 8 * byte, 8)):
            nibbles = ((four >> np.uint32(bit) & ONES) * GATHER) >> np.uint32(24)
            first, second, third, fourth = (
                nibbles.astype(np.uint16).reshape(rows // SIDE, SIDE, -1).transpose(1, 0, 2)
            )
            yield (first << 12 | second << 8 | third << 4 | fourth).reshape(-1)


def _bdm_of_few(squares: list[np.ndarray]) -> np.ndarray:
    """BDM of each plane from its blocks' numbers."""
    keys = np.concatenate(
        [own.astype(np.int64) + plane * NUM_SQUARES for plane, own in enumerate(squares)]
    )
    distinct, counts = np.unique(keys, return_counts=True)
    planes, blocks = np.divmod(distinct, NUM_SQUARES)
    return np.bincount(planes, bdm.ctm(2)[blocks] + np.log2(counts), minlength=len(squares))
