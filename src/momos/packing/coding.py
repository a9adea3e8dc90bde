"""Integers and bytes there and back: bits, ranks of motifs, zstandard, and values on a grid."""

import struct
from typing import NamedTuple

import numpy as np
import zstandard
from scipy.special import xlogy

CHUNK = 2**17  # words or indices that are coded together: one block of zstandard
SMALL = 2**20  # bytes up to which the slow level of zstandard is worth its time
GRID = struct.Struct("<Bf")  # bits, step; 0 bits: the values as they are
WORTHWHILE, MOST_PARTS = (
    32,
    256,
)  # indices, about, below which a tensor is not worth a code of its own; tensors that are considered
BLOCK_BYTES, TABLE_BYTES = (
    10,
    0.5,
)  # what a block of zstandard takes beside its content, about: headers, and a symbol of its Huffman code
LEADING = 3  # bits of an index, below its highest, that its byte code holds


def coded_ranks(
    indices: np.ndarray, starts: np.ndarray, codes: np.ndarray, width: int, num_bytes: int
) -> bytes:
    """The length of the compressed byte codes, these, and the bits that follow; or length 0 and
    fixed width where that is smaller.

    starts: among the indices, of tensors. codes: of each rank. num_bytes: byte codes in the
    section.
    """
    chosen = codes[indices]
    coded, follow = compress(chosen, num_bytes), FOLLOWING[chosen]
    if len(cuts := cheapest_cuts(chosen, starts)):
        coded = min(coded, compress_apart(np.split(chosen, cuts)), key=len)
    bits = [
        pack_bits(indices[follow == size] & ((1 << size) - 1), size)
        for size in range(1, width - LEADING)
    ]
    fixed = pack_bits(indices, width)
    if len(coded) + sum(map(len, bits)) < len(fixed):
        return b"".join([struct.pack("<I", len(coded)), coded, *bits])
    return struct.pack("<I", 0) + fixed


def compress(data, num_bytes: int) -> bytes:
    """The smaller of the fastest and the slowest usual level, which either may be, as part of a
    section of num_bytes; else the fastest.
    """
    levels = (1, 19) if num_bytes <= SMALL else (1,)
    return min((zstandard.ZstdCompressor(level=level).compress(data) for level in levels), key=len)


def compress_apart(parts: list[np.ndarray]) -> bytes:
    """One frame of zstandard in which each part of bytes begins a block, which has a Huffman code
    of its own.
    """
    coder = zstandard.ZstdCompressor(level=1).compressobj(size=sum(map(len, parts)))
    coded = [
        piece
        for part in parts[:-1]
        for piece in (coder.compress(part), coder.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK))
    ]
    return b"".join([*coded, coder.compress(parts[-1]), coder.flush()])


def cheapest_cuts(codes: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """Those of the starts where bytes begin that are worth a Huffman code of their own: least
    entropy and tables together.

    Found by dynamic programming over all ways to join neighbours. codes: (n,) uint8. starts:
    ascending.
    """
    starts = starts[(starts > 0) & (starts < len(codes))]
    starts = starts[np.diff(starts // max(WORTHWHILE, len(codes) // MOST_PARTS), prepend=0) > 0]
    counts = np.array([np.bincount(part, minlength=256) for part in np.split(codes, starts)])
    upto = np.concatenate([np.zeros((1, 256), dtype=np.int64), counts.cumsum(0)])
    nats = xlogy(whole := np.arange(len(codes) + 1), whole)
    best, before = np.zeros(len(upto)), np.zeros(len(upto), dtype=np.int64)
    for end in range(1, len(upto)):
        part = upto[end] - upto[:end]  # that begins at each place before
        entropy = (nats[part.sum(1)] - nats[part].sum(1)) / np.log(2) / 8
        bytes_up_to_here = best[:end] + entropy + BLOCK_BYTES + TABLE_BYTES * (part > 0).sum(1)
        before[end] = bytes_up_to_here.argmin()
        best[end] = bytes_up_to_here[before[end]]
    found, end = [], before[-1]
    while end:
        found.append(starts[end - 1])
        end = before[end]
    return np.array(found[::-1], dtype=np.int64)


def first_word(motifs: np.ndarray, word: int) -> np.ndarray:
    return np.ascontiguousarray(motifs[:, :word]).view(f"<u{word}")[:, 0]


def rank_codes(k: int) -> np.ndarray:
    """(k,) uint8: the byte code of each rank. Ranks with the same code differ in the bits that
    follow.
    """
    ranks = np.arange(k)
    follow = np.maximum(np.frexp(ranks.astype(np.float64))[1] - 1 - LEADING, 0)
    return ((follow << LEADING) + (ranks >> follow)).astype(np.uint8)


_CODES = np.arange(256)
FOLLOWING = np.maximum((_CODES >> LEADING) - 1, 0)  # (256,): bits that follow a byte code
SMALLEST = (_CODES - (FOLLOWING << LEADING)) << FOLLOWING  # (256,): its first rank


def pack_bits(values: np.ndarray, width: int) -> bytes:
    """(count,) integers below 2^width -> ceil(count * width / 8) bytes: value i at bits i*width ..
    (i+1)*width - 1, lowest first.
    """
    count, groups = len(values), -(-len(values) // 64)
    lanes = np.zeros((groups, 64), dtype=np.uint64)  # 64 values fill `width` words
    lanes.reshape(-1)[:count] = values
    lanes, words = np.ascontiguousarray(lanes.T), np.zeros((width, groups), dtype=np.uint64)
    for lane in range(64 if width else 0):
        word, shift = divmod(lane * width, 64)
        words[word] |= lanes[lane] << np.uint64(shift)
        if shift + width > 64:
            words[word + 1] |= lanes[lane] >> np.uint64(64 - shift)
    return words.T.astype("<u8").tobytes()[: -(-count * width // 8)]


def unpack_bits(data: bytes, count: int, width: int) -> np.ndarray:
    """The inverse of `pack_bits`: (count,) int64."""
    groups = -(-count // 64)
    words = (
        np.frombuffer(data.ljust(groups * width * 8, b"\0"), dtype="<u8")
        .reshape(groups, width)
        .T.astype(np.uint64, order="C")
    )
    lanes, mask = np.zeros((64, groups), dtype=np.uint64), np.uint64((1 << width) - 1)
    for lane in range(64 if width else 0):
        word, shift = divmod(lane * width, 64)
        lanes[lane] = words[word] >> np.uint64(shift)
        if shift + width > 64:
            lanes[lane] |= words[word + 1] << np.uint64(64 - shift)
        lanes[lane] &= mask
    return lanes.T.reshape(-1)[:count].astype(np.int64)


def decompress(coded: bytes, num_bytes: int) -> bytes:
    """Raises ValueError or ZstdError unless it is one frame of num_bytes; checked before anything
    of that size is allocated.
    """
    if zstandard.frame_content_size(coded) != num_bytes:
        raise ValueError(f"expected {num_bytes} bytes")
    return zstandard.ZstdDecompressor().decompress(coded)


class Grid(NamedTuple):
    """float32 values that are whole multiples of a step, as quantisation leaves them: code k + Q
    for k * step, |k| <= Q; 2Q + 1 for -0.
    """

    bits: int  # Q = 2^(bits - 1) - 1
    step: np.float32

    @property
    def word(self) -> int:
        """Bytes of a code that stands by itself."""
        return 1 if self.bits <= 8 else 2

    def header(self) -> bytes:
        return GRID.pack(self.bits, self.step)

    def codes(self, values: np.ndarray) -> np.ndarray:
        """(n,) float32 -> (n,) of `word` bytes"""
        half = (1 << self.bits - 1) - 1
        found = np.clip(np.rint(values / self.step), -half, half) + half
        return np.where((values == 0) & np.signbit(values), 2 * half + 1, found).astype(
            f"<u{self.word}"
        )

    def values(self, codes: np.ndarray) -> np.ndarray:
        """The inverse of `codes`. Raises IndexError for a code that is none."""
        half = (1 << self.bits - 1) - 1
        table = np.append(
            np.arange(-half, half + 1).astype(np.float32) * self.step, np.float32(-0.0)
        )
        return table[codes].astype("<f4")


def find_grid(values: np.ndarray) -> Grid | None:
    """The grid of the fewest bits, 2 to 16, that gives back (n,) float32 bit for bit, if there is
    one whose largest code is taken.

    A few values exclude most grids. The step is known up to rounding: quantisation rounded it, and
    then the largest value.
    """
    peak = np.abs(values).max(initial=0)
    if not 0 < peak < np.inf:
        return None
    bits, few = np.arange(2, 17), values[:: max(len(values) // 64, 1)]
    largest = ((1 << bits - 1) - 1).astype(np.float32)
    near = (peak / largest)[:, None].view(np.int32) + np.arange(-2, 3, dtype=np.int32)
    steps = np.maximum(near, 1).view(np.float32)  # (bits, 5)
    with np.errstate(over="ignore"):
        fits = (np.rint(few / steps[..., None]) * steps[..., None] == few).all(-1) & (
            steps.T * largest < np.inf
        ).T
    for row, column in np.argwhere(fits):
        grid = Grid(int(bits[row]), steps[row, column])
        if np.array_equal(grid.values(grid.codes(values)).view(np.uint32), values.view(np.uint32)):
            return grid
    return None


def entropy_bits(counts: np.ndarray) -> float:
    """Of all symbols together that occur so often."""
    counts = counts[counts > 0]
    return float(-(counts * np.log2(counts / counts.sum())).sum())
