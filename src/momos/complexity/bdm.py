"""Algorithmic complexity by the block decomposition method, BDM (MoMos, Eq. 2 and 22).

    BDM(x) = sum over distinct blocks b of [ CTM(b) + log2(count of b) ]        in bits

A block is 12 bits (1-D) or 4x4 bits (2-D). Incomplete blocks are ignored. The CTM tables are those
of the package pybdm (CTM-B2-D12, CTM-B2-D4x4), and the values equal pybdm's. This module is faster
because it counts blocks in arrays, where pybdm uses dictionaries.

There are only 4,096 one-dimensional blocks, so 1-D BDM saturates near 1.5e5 bits beyond about a
million weights. Read the 2-D value (65,536 blocks) and the normalised value beside it.
"""

import functools
import gzip
import importlib.util
import io
import pickle
from collections import OrderedDict, defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

WORD = 12  # bits in a 1-D block
SIDE = 4  # rows and columns of a 2-D block
TABLES = {1: ("ctm-b2-d12.pkl.gz", (WORD,)), 2: ("ctm-b2-d4x4.pkl.gz", (SIDE, SIDE))}
CHUNK_BITS = 1 << 20  # bits indexed at once, so that memory does not grow with the model


def bdm(bits: np.ndarray, ndim: int = 1) -> float:
    """BDM of a binary array in bits, equal to `pybdm.BDM(ndim).bdm(bits)`.

    bits: bool or 0/1 integers, (length,) for ndim=1 and (rows, columns) for ndim=2.
    Raises ValueError for other values or axes, and, as pybdm does, where no block is complete.
    """
    return complexity(_count(bits, ndim))


def bdm_normalized(bits: np.ndarray, ndim: int = 1) -> float:
    """BDM on pybdm's scale from 0 (one simple block repeated) to 1, as `normalized` defines it.

    Arguments and errors as in `bdm`.
    """
    return normalized(_count(bits, ndim))


def bdm_ratio(trained_weights: np.ndarray, init_weights: np.ndarray) -> float:
    """1-D BDM of the trained weights' signs over that of the initial ones (MoMos, Eq. 22).

    trained_weights, init_weights: (num_weights,) float; a bit is 1 where the weight is positive.
    Raises ValueError for other shapes, unequal lengths, NaN or infinity, and fewer than 12 weights.
    """
    trained, initial = np.asarray(trained_weights), np.asarray(init_weights)
    if trained.ndim != 1 or trained.shape != initial.shape:
        shapes = f"{trained.shape} and {initial.shape}"
        raise ValueError(f"bdm_ratio needs two flat arrays of equal length, got shapes {shapes}")
    for name, weights in (("trained", trained), ("initial", initial)):
        if not np.isfinite(weights).all():
            raise ValueError(f"bdm_ratio: the {name} weights hold NaN or infinity")
    return bdm(trained > 0) / bdm(initial > 0)


class BlockCounts:
    """Counts of the binary blocks of a model, filled tensor by tensor in model order.

    words (4096,) int64: 12-bit blocks of all tensors joined end to end, across tensor borders.
    squares (65536,) int64: 4x4 blocks of every tensor with at least two axes, reshaped to
    (shape[0], -1). The counts of all tensors are added up.
    """

    def __init__(self, tensors: Iterable[np.ndarray] = ()):
        self.words = np.zeros(1 << WORD, dtype=np.int64)
        self.squares = np.zeros(1 << SIDE * SIDE, dtype=np.int64)
        self._carry = np.zeros(0, dtype=bool)
        for bits in tensors:
            self.add(bits)

    def add(self, bits: np.ndarray) -> None:
        """Count one tensor's bits (bool, any shape).

        Bits that do not fill a word are kept for the next tensor.
        """
        flat = bits.reshape(-1)
        for start in range(0, flat.size, CHUNK_BITS):
            joined = np.concatenate([self._carry, flat[start : start + CHUNK_BITS]])
            whole = joined.size - joined.size % WORD
            self.words += np.bincount(_word_codes(joined[:whole]), minlength=self.words.size)
            self._carry = joined[whole:]
        if bits.ndim >= 2 and bits.size:
            for tile in tiles(bits.reshape(bits.shape[0], -1), CHUNK_BITS):
                self.squares += np.bincount(_square_codes(tile), minlength=self.squares.size)


def complexity(counts: np.ndarray) -> float:
    """BDM in bits of block counts, (4096,) of 12-bit words or (65536,) of 4x4 squares.

    Raises ValueError if all counts are zero.
    """
    _require_blocks(counts)
    return _sum(counts, _table_of(counts))


def normalized(counts: np.ndarray) -> float:
    """(BDM - min) / (max - min) for the same number of blocks n, pybdm's `normalized=True`.

    min: the simplest block, n times. max: the blocks of the table in falling order of CTM, each
    used once before any is used again. In 2-D, n is the number of squares of all tensors.
    Raises ValueError if all counts are zero.
    """
    _require_blocks(counts)
    table = np.sort(_table_of(counts))[::-1]
    total = int(counts.sum())
    rounds, extra = divmod(total, table.size)
    largest = _sum(np.where(np.arange(table.size) < extra, rounds + 1, rounds), table)
    smallest = float(table[-1] + np.log2(total))
    return (_sum(counts, _table_of(counts)) - smallest) / (largest - smallest)


def shuffled(tensors: Iterable[np.ndarray], seed: int) -> Iterator[np.ndarray]:
    """The control: each tensor's bits permuted within it, which keeps only the share of ones.

    Tensor number i has its own generator, seeded with (seed, i).
    """
    for index, bits in enumerate(tensors):
        yield np.random.default_rng([seed, index]).permutation(bits.reshape(-1)).reshape(bits.shape)


@functools.cache
def ctm(ndim: int) -> np.ndarray:
    """CTM complexity in bits of every block: (4096,) for ndim=1, (65536,) for ndim=2, read-only.

    The index of a block is its bits read row by row as a number, first bit highest. pybdm stores a
    block and its complement once, as the one that begins with 0.
    Raises ModuleNotFoundError without pybdm, ValueError for another ndim or a table with gaps.
    """
    if ndim not in TABLES:
        raise ValueError(f"ndim must be 1 or 2, got {ndim!r}")
    file, shape = TABLES[ndim]
    entries = _read_table(file)[shape]
    codes = np.array([int(key, 2) for key in entries])
    table = np.full(1 << int(np.prod(shape)), np.nan)
    table[codes] = table[table.size - 1 - codes] = list(entries.values())
    if np.isnan(table).any():
        gaps = f"{int(np.isnan(table).sum())} of {table.size} blocks"
        raise ValueError(f"pybdm's {file} lacks {gaps}; expected pybdm 0.1.0")
    table.flags.writeable = False
    return table


class _TableUnpickler(pickle.Unpickler):
    """Unpickler for pybdm's tables. It constructs dictionaries of numbers and nothing else."""

    allowed = {
        ("collections", "defaultdict"): defaultdict,
        ("collections", "OrderedDict"): OrderedDict,
    }

    def find_class(self, module: str, name: str) -> type:
        if (module, name) not in self.allowed:
            raise pickle.UnpicklingError(
                f"a CTM table holds dictionaries of numbers only, found {module}.{name}"
            )
        return self.allowed[module, name]


def _read_table(file: str) -> dict[tuple, dict[str, float]]:
    """Block shape -> {bits as text: CTM}.

    The file is found without importing pybdm: that import is slow and warns of pkg_resources.
    """
    spec = importlib.util.find_spec("pybdm")
    if spec is None or not spec.origin:
        raise ModuleNotFoundError(
            "BDM needs the CTM tables of the package pybdm: pip install pybdm==0.1.0", name="pybdm"
        )
    packed = (Path(spec.origin).parent / "ctmdata" / file).read_bytes()
    return _TableUnpickler(io.BytesIO(gzip.decompress(packed))).load()


def _count(bits: np.ndarray, ndim: int) -> np.ndarray:
    """Block counts of one array, (4096,) or (65536,)."""
    bits = np.asarray(bits)
    if ndim not in TABLES:
        raise ValueError(f"ndim must be 1 or 2, got {ndim!r}")
    if bits.ndim != ndim:
        raise ValueError(f"bits must have {ndim} axes for ndim={ndim}, got shape {bits.shape}")
    if not (bits.dtype == bool or np.issubdtype(bits.dtype, np.integer)):
        raise ValueError(f"bits must be bool or 0/1 integers, got {bits.dtype}")
    if bits.size and (bits.min() < 0 or bits.max() > 1):
        raise ValueError(f"bits must be 0 or 1, got values from {bits.min()} to {bits.max()}")
    counts = BlockCounts([bits.astype(bool, copy=False)])
    return counts.words if ndim == 1 else counts.squares


def _word_codes(bits: np.ndarray) -> np.ndarray:
    """(12 * n,) bool -> (n,) uint16 in 0..4095, first bit highest."""
    packed = np.packbits(bits)
    padded = np.zeros(-(-packed.size // 3) * 3, dtype=np.uint16)
    padded[: packed.size] = packed
    first, middle, last = padded.reshape(-1, 3).T  # two words are three bytes
    pairs = np.stack([first << 4 | middle >> 4, (middle & 15) << 8 | last], axis=1)
    return pairs.reshape(-1)[: bits.size // WORD]


def tiles(matrix: np.ndarray, size: int) -> Iterator[np.ndarray]:
    """Cut a matrix, (rows, columns), into pieces whose sides are multiples of 4.

    size: entries of a piece, at most, but for four rows or columns at least. Incomplete 4x4 squares
    at the edges are left out.
    """
    rows, columns = (length - length % SIDE for length in matrix.shape)
    width = max(min(columns, size // SIDE), 1)
    height = max(size // width // SIDE * SIDE, SIDE)
    for top in range(0, rows, height):
        for left in range(0, columns, width):
            yield matrix[top : min(top + height, rows), left : min(left + width, columns)]


def _square_codes(bits: np.ndarray) -> np.ndarray:
    """(4 * a, 4 * b) bool -> (a * b,) uint16: a square's bits row by row, first bit highest."""
    rows, columns = bits.shape
    packed = np.packbits(bits, axis=1)
    nibbles = np.stack([packed >> 4, packed & 15], axis=2).reshape(rows, -1)[:, : columns // SIDE]
    first, second, third, fourth = (
        nibbles.reshape(rows // SIDE, SIDE, -1).astype(np.uint16).transpose(1, 0, 2)
    )
    return (first << 12 | second << 8 | third << 4 | fourth).reshape(-1)


def _table_of(counts: np.ndarray) -> np.ndarray:
    return ctm(1 if counts.size == 1 << WORD else 2)


def _sum(counts: np.ndarray, table: np.ndarray) -> float:
    """Sum of CTM + log2(count) in bits over the blocks that occur; both arguments (num_blocks,)."""
    present = counts > 0
    return float(np.sum(table[present] + np.log2(counts[present])))


def _require_blocks(counts: np.ndarray) -> None:
    if not counts.any():
        block = f"{WORD} bits (1-D)" if counts.size == 1 << WORD else f"{SIDE}x{SIDE} bits (2-D)"
        raise ValueError(f"BDM is undefined: the data holds no complete block of {block}")
