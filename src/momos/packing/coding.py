"""Codes of integers and bytes: bits, ranks of motifs, zstandard, and values on a grid."""

import struct
from typing import NamedTuple

import numpy as np
import zstandard
from scipy.special import xlogy

CHUNK = 2**17  # words or indices that are coded together: one block of zstandard
SMALL = 2**20  # bytes up to which the slow level of zstandard is worth its time
GRID = struct.Struct("<Bf")  # bits, step; 0 bits: the values as they are
WORTHWHILE = 32  # a tensor of fewer indices, about, is not worth a code of its own
MOST_PARTS = 256  # tensors that are considered for codes of their own
BLOCK_BYTES = 10  # headers of a block of zstandard, about
TABLE_BYTES = 0.5  # a symbol in the Huffman code of a block, about
LEADING = 3  # bits of an index, below its highest, that its byte code holds


def coded_ranks(
    indices: np.ndarray, starts: np.ndarray, codes: np.ndarray, width: int, num_bytes: int
) -> bytes:
    """The coded indices of one chunk: length of the compressed byte codes, these, bits that follow.

    Where fixed width is smaller, they are length 0 and indices of fixed width. starts: where
    tensors begin among the indices. codes: the byte code of each rank. num_bytes: byte codes in the
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


def compress(data: bytes | np.ndarray, num_bytes: int) -> bytes:
    """Compress a part of a section of num_bytes with zstandard."""
    # The slowest usual level is not always the better one.
    levels = (1, 19) if num_bytes <= SMALL else (1,)
    content = data.data if isinstance(data, np.ndarray) else data
    coded = [zstandard.ZstdCompressor(level=level).compress(content) for level in levels]
    return min(coded, key=len)


def compress_apart(parts: list[np.ndarray]) -> bytes:
    """Compress parts of bytes into one frame of zstandard.

    Each part begins a block, which has a Huffman code of its own.
    """
    coder = zstandard.ZstdCompressor(level=1).compressobj(size=sum(map(len, parts)))
    coded = [
        piece
        for part in parts[:-1]
        for piece in (coder.compress(part.data), coder.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK))
    ]
    return b"".join([*coded, coder.compress(parts[-1].data), coder.flush()])


def cheapest_cuts(codes: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """The starts of parts that are worth a Huffman code of their own.

    They have the least entropy and tables together, by dynamic programming over all ways to join
    neighbours. codes: (n,) uint8. starts: ascending.
    """
    starts = starts[(starts > 0) & (starts < len(codes))]
    starts = starts[np.diff(starts // max(WORTHWHILE, len(codes) // MOST_PARTS), prepend=0) > 0]
    counts = np.array([np.bincount(part, minlength=256) for part in np.split(codes, starts)])
    upto = np.concatenate([np.zeros((1, 256), dtype=np.int64), counts.cumsum(0)])
    nats = xlogy(whole := np.arange(len(codes) + 1), whole)
    best, before = np.zeros(len(upto)), np.zeros(len(upto), dtype=np.int64)
    for end in range(1, len(upto)):
        part = upto[end] - upto[:end]  # counts of the part that begins at each place before
        entropy = (nats[part.sum(1)] - nats[part].sum(1)) / np.log(2) / 8
        bytes_up_to_end = best[:end] + entropy + BLOCK_BYTES + TABLE_BYTES * (part > 0).sum(1)
        before[end] = bytes_up_to_end.argmin()
        best[end] = bytes_up_to_end[before[end]]
    cuts, end = [], before[-1]
    while end:
        cuts.append(starts[end - 1])
        end = before[end]
    return np.array(cuts[::-1], dtype=np.int64)


def first_word(motifs: np.ndarray, word: int) -> np.ndarray:
    """The first `word` bytes of each motif as an unsigned integer: (num_motifs,)."""
    return np.ascontiguousarray(motifs[:, :word]).view(f"<u{word}")[:, 0]


def rank_codes(num_motifs: int) -> np.ndarray:
    """The byte code of each rank, (num_motifs,) uint8; bits that follow tell equal codes apart."""
    ranks = np.arange(num_motifs)
    follow = np.maximum(np.frexp(ranks.astype(np.float64))[1] - 1 - LEADING, 0)
    return ((follow << LEADING) + (ranks >> follow)).astype(np.uint8)


_CODES = np.arange(256)
FOLLOWING = np.maximum((_CODES >> LEADING) - 1, 0)  # (256,): bits that follow a byte code
SMALLEST = (_CODES - (FOLLOWING << LEADING)) << FOLLOWING  # (256,): its first rank


def pack_bits(values: np.ndarray, width: int) -> bytes:
    """Pack (count,) integers below 2^width into ceil(count * width / 8) bytes.

    Value i stands at bits i*width .. (i+1)*width - 1, the lowest first.
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
    """Decompress one frame of num_bytes. Raises ValueError or ZstdError, before memory is taken."""
    if zstandard.frame_content_size(coded) != num_bytes:
        raise ValueError(f"expected {num_bytes} bytes")
    return zstandard.ZstdDecompressor().decompress(coded)


class ValueGrid(NamedTuple):
    """float32 values that are whole multiples of a step, as quantisation leaves them.

    The code of k * step with |k| <= Q is k + Q; that of -0 is 2Q + 1.
    """

    bits: int  # Q = 2^(bits - 1) - 1
    step: np.float32

    @property
    def word(self) -> int:
        """Bytes of a code that is not packed with others."""
        return 1 if self.bits <= 8 else 2

    def header(self) -> bytes:
        """Bits and step as they are stored."""
        return GRID.pack(self.bits, self.step)

    def codes(self, values: np.ndarray) -> np.ndarray:
        """Codes of values (n,) float32: (n,) unsigned integers of `word` bytes."""
        half = (1 << self.bits - 1) - 1
        codes = np.clip(np.rint(values / self.step), -half, half) + half
        is_minus_zero = (values == 0) & np.signbit(values)
        return np.where(is_minus_zero, 2 * half + 1, codes).astype(f"<u{self.word}")

    def values(self, codes: np.ndarray) -> np.ndarray:
        """The inverse of `codes`. Raises IndexError for a code that is none."""
        half = (1 << self.bits - 1) - 1
        multiples = np.arange(-half, half + 1).astype(np.float32) * self.step
        return np.append(multiples, np.float32(-0.0))[codes].astype("<f4")


def find_grid(values: np.ndarray) -> ValueGrid | None:
    """The grid of the fewest bits, 2 to 16, that gives back values (n,) float32 bit for bit.

    None where there is no such grid whose largest code is taken. A few values exclude most grids.
    The step is known up to rounding: quantisation rounded it, and then the largest value.
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
        grid = ValueGrid(int(bits[row]), steps[row, column])
        if np.array_equal(grid.values(grid.codes(values)).view(np.uint32), values.view(np.uint32)):
            return grid
    return None


def entropy_bits(counts: np.ndarray) -> float:
    """Entropy in bits of all symbols together, where each occurs `counts` times."""
    counts = counts[counts > 0]
    return float(-(counts * np.log2(counts / counts.sum())).sum())
