"""Write a .momos file: distinct blocks, then section after section, with a digest of all."""

import base64
import contextlib
import hashlib
import json
import os
import struct
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO, Self

import numpy as np
from torch import Tensor

from momos.packing.coding import (
    CHUNK,
    GRID,
    ValueGrid,
    coded_ranks,
    compress,
    entropy_bits,
    find_grid,
    first_word,
    pack_bits,
    rank_codes,
)
from momos.packing.layout import (
    Directory,
    Layout,
    Section,
    as_bytes,
    header,
    layout_of,
    places,
    to_json,
    word_of,
)

TINY = 256  # fewer bytes are not worth coding
BUFFER = 2**20  # bytes moved at a time


class Writer:
    """A file whose sections are written beside it, since its header needs their sizes.

    Context manager: what lies beside the file is gone when it ends.
    """

    def __init__(self, file: BinaryIO):
        self.file, self.num_bytes = file, 0
        self.sections = tempfile.TemporaryFile(dir=Path(file.name).parent)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):  # of a full disk, which a write has told already
            self.sections.close()

    def write(self, data: bytes | np.ndarray) -> None:
        """Write the next bytes of a section."""
        self.sections.write(data.data if isinstance(data, np.ndarray) else data)
        self.num_bytes += len(data) if isinstance(data, bytes) else data.nbytes

    def finish(self, directory: Directory) -> None:
        """Write the header and all sections to the file."""
        content = json.dumps(to_json(directory), separators=(",", ":")).encode()
        coded = base64.b85encode(compress(content, len(content))).decode()
        digest = hashlib.sha256(coded.encode())
        self.file.write(header(directory, coded, digest.hexdigest()))
        starts = np.cumsum([0, *(section.num_bytes for section in directory.sections)])
        for place, start in sorted(
            zip(places(directory), starts, strict=False), key=lambda pair: pair[0].start
        ):
            self.sections.seek(start)
            for size in _sizes(place.stop - place.start):
                part = self.sections.read(size)
                digest.update(part)
                self.file.write(part)
        self.file.seek(0)
        self.file.write(header(directory, coded, digest.hexdigest()))


def _sizes(num_bytes: int) -> Iterator[int]:
    """Cut num_bytes into parts of at most BUFFER."""
    for start in range(0, num_bytes, BUFFER):
        yield min(BUFFER, num_bytes - start)


@contextlib.contextmanager
def atomically(path: Path) -> Iterator[BinaryIO]:
    """Open a file beside the target, which replaces it if the block ends without an error.

    Raises OSError naming the target that can't be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        if isinstance(error, OSError):
            raise OSError(
                error.errno, f"{path} can't be written: {error.strerror or error}"
            ) from error
        raise


def write(writer: Writer, tensors: Mapping[str, Tensor], directory: Directory) -> None:
    """Write all sections; this fills in the directory's num_motifs and sections."""
    weights = set(directory.weights)
    for dtype in dict.fromkeys(directory.dtypes[name] for name in directory.weights):
        members = [tensors[name] for name in directory.weights if directory.dtypes[name] == dtype]
        _write_weights(writer, directory, dtype, members)
    rest = [name for name in tensors if name not in weights]
    for dtype in dict.fromkeys(directory.dtypes[name] for name in rest):
        members = [tensors[name] for name in rest if directory.dtypes[name] == dtype]
        num_bytes = sum(tensor.nbytes for tensor in members)
        _write_section(writer, directory, "other", dtype, map(as_bytes, members), num_bytes)
    writer.finish(directory)


def _write_weights(
    writer: Writer, directory: Directory, dtype: str, tensors: Sequence[Tensor]
) -> None:
    layout, flat = layout_of(directory, dtype), [as_bytes(tensor) for tensor in tensors]
    grids = [_grid(values, dtype) for values in flat]
    blocks, tails = _cut(flat, layout)
    apart = _bits_apart(flat, grids, directory.level) - 8 * layout.tail_bytes
    level = directory.level if any(grids) else "fixed"
    motifs, mosaic = _mosaic(blocks, dtype, apart, level, hasty=not any(grids))
    directory.num_motifs[dtype] = len(motifs)
    if len(motifs):
        if directory.level == "entropy":
            motifs, mosaic = _ranked(motifs, mosaic, word_of(dtype))
        _write_motifs(writer, directory, dtype, motifs)
        starts = np.cumsum([0, *(size // layout.block_bytes for size, _ in layout.pieces)])[:-1]
        _write_mosaic(writer, directory, dtype, mosaic, starts, len(motifs))
        _write_section(writer, directory, "tails", dtype, tails, layout.tail_bytes)
    elif any(grids):
        _write_grids(writer, directory, dtype, flat, grids)
    else:
        _write_section(writer, directory, "weights", dtype, flat, sum(map(sum, layout.pieces)))


@contextlib.contextmanager
def _section(
    writer: Writer, directory: Directory, kind: str, dtype: str, coding: str
) -> Iterator[None]:
    """Enter what is written inside the block into the directory, as a section."""
    start = writer.num_bytes
    yield
    directory.sections.append(Section(kind, dtype, coding, writer.num_bytes - start))


def _grid(values: np.ndarray, dtype: str) -> ValueGrid | None:
    """The grid of values, given as (num_bytes,) uint8, if they lie on one."""
    return find_grid(values.view("<f4")) if dtype == "float32" else None


def _bits_apart(flat: Sequence[np.ndarray], grids: Sequence[ValueGrid | None], level: str) -> float:
    """Bits that tensors take without a mosaic.

    Entropy-coded tensors take the entropy of their codes, others fixed widths.
    """
    total = 0.0
    for values, grid in zip(flat, grids, strict=True):
        if grid is None:
            total += 8 * len(values)
        elif level == "fixed":
            total += len(values) // 4 * grid.bits
        else:
            total += entropy_bits(np.bincount(grid.codes(values.view("<f4"))))
    return total


def _mosaic(
    blocks: np.ndarray, dtype: str, apart: float, level: str, *, hasty: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Motifs (num_motifs, block_bytes) uint8 and mosaic (num_blocks,) int64.

    Both are empty where they would not be smaller than `apart` bits. hasty: give up where a lower
    bound on the number of motifs is too many, which is known far sooner than the number itself.
    """
    no_mosaic = blocks[:0], np.empty(0, dtype=np.int64)
    least = fewest(blocks) if hasty else 0
    least_bits = 8 * least * blocks.shape[1] + len(blocks) * max(least - 1, 0).bit_length()
    if not len(blocks) or least_bits >= apart:
        return no_mosaic
    mosaic, first = distinct(blocks)
    motifs = blocks[first]
    grid = _grid(motifs.reshape(-1), dtype)
    motif_bits = 8 * motifs.nbytes if grid is None else motifs.nbytes // 4 * grid.bits
    if level == "fixed":
        mosaic_bits = float(len(mosaic) * (len(motifs) - 1).bit_length())
    else:
        mosaic_bits = entropy_bits(np.bincount(mosaic))
    return (motifs, mosaic) if motif_bits + mosaic_bits < apart else no_mosaic


def _cut(flat: Sequence[np.ndarray], layout: Layout) -> tuple[np.ndarray, list[np.ndarray]]:
    """Whole blocks (num_blocks, block_bytes) uint8, and the tail of each piece.

    flat: the bytes of each tensor.
    """
    if len(layout.pieces) != len(flat) or len(flat) == 1:
        flat = [np.concatenate(flat)] if len(flat) > 1 else flat
    whole = [piece[:size] for piece, (size, _) in zip(flat, layout.pieces, strict=True)]
    tails = [piece[size:] for piece, (size, _) in zip(flat, layout.pieces, strict=True)]
    return np.concatenate(whole).reshape(-1, layout.block_bytes), tails


def distinct(blocks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Number distinct blocks in the order of their first appearance.

    blocks (n, block_bytes) uint8 -> the number of each block (n,) int64, and the index at which
    each number appears first (k,) int64. Exact: blocks are told apart 64 bits at a time, by hash
    tables of integers.
    """
    from pandas import factorize

    numbers = np.zeros(len(blocks), dtype=np.int64)
    num_distinct = min(len(blocks), 1)
    for column in _columns(blocks):
        other, values = factorize(np.ascontiguousarray(column))
        if num_distinct > 1:  # below 2^31 distinct values each, so that the product can't overflow
            other, values = factorize(numbers * len(values) + other)
        numbers, num_distinct = other, len(values)
        if num_distinct == len(blocks):
            break
    highest = np.maximum.accumulate(numbers)
    return numbers, np.flatnonzero(np.diff(highest, prepend=-1))


def fewest(blocks: np.ndarray) -> int:
    """A lower bound on the number of distinct blocks, far faster than the exact number.

    It is the number of cells of a hash table that the blocks hit.
    """
    bits = max(4 * len(blocks), 2).bit_length()
    hit = np.zeros(1 << bits, dtype=bool)
    for start in range(0, len(blocks), CHUNK):
        hashed = np.uint64(0)
        for column in _columns(blocks[start : start + CHUNK]):
            hashed = (hashed ^ column.astype(np.uint64)) * np.uint64(0x9E3779B97F4A7C15)
            hashed ^= hashed >> np.uint64(32)
        hit[hashed * np.uint64(0x9E3779B97F4A7C15) >> np.uint64(64 - bits)] = True
    return int(np.count_nonzero(hit))


def _columns(blocks: np.ndarray) -> np.ndarray:
    """Columns of blocks (n, block_bytes) uint8, as (columns, n) unsigned integers.

    An integer has at most 64 bits; blocks are padded with zeros to a multiple of it.
    """
    width = blocks.shape[1]
    if width in (1, 2, 4):
        return blocks.view(f"<u{width}").T
    if width % 8:
        blocks = np.pad(blocks, ((0, 0), (0, -width % 8)))
    return blocks.view("<u8").T


def _write_section(
    writer: Writer,
    directory: Directory,
    kind: str,
    dtype: str,
    arrays: Iterable[np.ndarray],
    num_bytes: int,
) -> None:
    coding = "planes" if directory.level == "entropy" and num_bytes >= TINY else "raw"
    with _section(writer, directory, kind, dtype, coding):
        for part in _regrouped(arrays, CHUNK * word_of(dtype)):
            if coding == "raw":
                writer.write(part)
            else:
                _write_planes(writer, part, word_of(dtype), num_bytes)


def _write_grids(
    writer: Writer,
    directory: Directory,
    dtype: str,
    flat: Sequence[np.ndarray],
    grids: Sequence[ValueGrid | None],
) -> None:
    """Write tensor after tensor: its grid and codes, or no grid and its values."""
    fixed, num_bytes = directory.level == "fixed", sum(map(len, flat))
    with _section(writer, directory, "weights", dtype, "grids" if fixed else "grid planes"):
        for values, grid in zip(flat, grids, strict=True):
            if grid is None:
                writer.write(GRID.pack(0, 0.0))
                data, word = values, word_of(dtype)
            else:
                writer.write(grid.header())
                codes = grid.codes(values.view("<f4"))
                data, word = codes.view(np.uint8), grid.word
            if fixed:
                writer.write(values if grid is None else pack_bits(codes, grid.bits))
                continue
            for part in _regrouped([data], CHUNK * word):
                _write_planes(writer, part, word, num_bytes)


def _write_motifs(writer: Writer, directory: Directory, dtype: str, motifs: np.ndarray) -> None:
    word, grid, fixed = word_of(dtype), _grid(motifs.reshape(-1), dtype), directory.level == "fixed"
    if motifs.nbytes < TINY or (fixed and grid is None):
        with _section(writer, directory, "motifs", dtype, "raw"):
            writer.write(motifs)
    elif grid is None:
        with _section(writer, directory, "motifs", dtype, "motifs"):
            _write_differences(writer, motifs, word)
    else:
        codes = grid.codes(motifs.reshape(-1).view("<f4"))
        with _section(writer, directory, "motifs", dtype, "grid" if fixed else "grid motifs"):
            writer.write(grid.header())
            if fixed:
                writer.write(pack_bits(codes, grid.bits))
            else:
                _write_differences(writer, codes.view(np.uint8).reshape(len(motifs), -1), grid.word)


def _write_differences(writer: Writer, motifs: np.ndarray, word: int) -> None:
    """Write the differences of the first words, which are close to each other; then other words.

    motifs: (num_motifs, num_bytes) uint8.
    """
    value = first_word(motifs, word)
    steps = np.diff(value, prepend=value.dtype.type(0))
    others = np.ascontiguousarray(motifs[:, word:])
    for column in (steps.view(np.uint8), others.reshape(-1)):
        for part in _regrouped([column], CHUNK * word):
            _write_planes(writer, part, word, motifs.nbytes)


def _write_mosaic(
    writer: Writer,
    directory: Directory,
    dtype: str,
    mosaic: np.ndarray,
    starts: np.ndarray,
    num_motifs: int,
) -> None:
    """Write the indices. starts: where each tensor's indices begin."""
    width = (num_motifs - 1).bit_length()
    coding = "ranks" if directory.level == "entropy" and len(mosaic) * width >= 8 * TINY else "bits"
    codes = rank_codes(num_motifs)
    with _section(writer, directory, "mosaic", dtype, coding):
        for start in range(0, len(mosaic), CHUNK):
            part = mosaic[start : start + CHUNK]
            if coding == "bits":
                writer.write(pack_bits(part, width))
            else:
                writer.write(coded_ranks(part, starts - start, codes, width, len(mosaic)))


def _regrouped(arrays: Iterable[np.ndarray], size: int) -> Iterator[np.ndarray]:
    """The same bytes in parts of `size`; the last part may be shorter."""
    held: list[np.ndarray] = []
    num_held = 0
    for array in arrays:
        start = 0
        while len(array) - start + num_held >= size:
            end = start + size - num_held
            yield np.concatenate([*held, array[start:end]]) if held else array[start:end]
            start, held, num_held = end, [], 0
        if start < len(array):
            held.append(array[start:])
            num_held += len(array) - start
    if held:
        yield np.concatenate(held)


def _write_planes(writer: Writer, data: np.ndarray, word: int, num_bytes: int) -> None:
    """Write a plane per byte of a word, of a part with at most CHUNK words of the section."""
    for plane in np.ascontiguousarray(data.reshape(-1, word).T):
        coded = compress(plane, num_bytes)
        coded = coded if len(coded) < len(plane) else plane.tobytes()
        writer.write(struct.pack("<I", len(coded)) + coded)


def _ranked(motifs: np.ndarray, mosaic: np.ndarray, word: int) -> tuple[np.ndarray, np.ndarray]:
    """Motifs ordered by use, those of one byte code by value; and the mosaic of their ranks."""
    value = first_word(motifs, word)
    by_use = np.lexsort((value, -np.bincount(mosaic, minlength=len(motifs))))
    order = by_use[np.lexsort((value[by_use], rank_codes(len(motifs))))]
    rank = np.empty(len(motifs), dtype=np.int64)
    rank[order] = np.arange(len(motifs))
    return motifs[order], rank[mosaic]
