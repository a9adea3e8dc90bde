"""Reading a .momos file: checked whole before anything is given out, in parts that the caller takes
one by one.
"""

import contextlib
import hashlib
import json
import math
import os
import struct
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
import zstandard
from torch import Tensor

from momos.packing.coding import (
    CHUNK,
    FOLLOWING,
    GRID,
    LEADING,
    SMALLEST,
    Grid,
    decompress,
    unpack_bits,
)
from momos.packing.layout import (  # fmt: skip
    DIGEST,
    DTYPES,
    MAGIC,
    MAX_DIRECTORY,
    PREAMBLE,
    VERSION,
    Bad,
    Directory,
    Layout,
    Section,
    aliases_of,
    as_bytes,
    check_tensor,
    dtype_name,
    fixed_bytes,
    from_json,
    layout_of,
    some,
    word_of,
)

BUFFER = 2**20  # bytes moved at a time


def store(parts: Iterator[np.ndarray], tensor: Tensor) -> None:
    own = (
        tensor.device.type == "cpu"
        and tensor.is_contiguous()
        and not (tensor.is_conj() or tensor.is_neg())
    )
    target = tensor if own else torch.empty(tensor.shape, dtype=tensor.dtype)
    view, start = as_bytes(target), 0
    for part in parts:
        view[start : start + len(part)] = part
        start += len(part)
    if not own:
        tensor.detach().copy_(target)


@contextlib.contextmanager
def opened_file(path: Path | str) -> Iterator["Opened"]:
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{path} is missing: expected a .momos file")
    with path.open("rb") as file:
        try:
            yield Opened(file)
        except Bad as error:
            raise ValueError(f"{path}: {error}") from error


class Opened:
    """A file whose digest is right and whose directory is consistent with its size. Raises Bad."""

    def __init__(self, file: BinaryIO):
        self.file, self.file_bytes = file, os.fstat(file.fileno()).st_size
        directory_bytes = self._check_preamble()
        self.directory = self._load_directory(directory_bytes)
        self.starts, position = [], PREAMBLE.size + DIGEST
        for section in self.directory.sections:
            self.starts.append(position)
            position += section.num_bytes
        if position != self.file_bytes - directory_bytes:
            raise Bad(
                "its directory is inconsistent: the sizes of its sections do not add up to the file's"
            )

    def _check_preamble(self) -> int:
        start = self.file.read(PREAMBLE.size)
        if not start.startswith(MAGIC):
            raise Bad(
                "is no .momos file" if not MAGIC.startswith(start[: len(MAGIC)]) else "is cut short"
            )
        digest = self.file.read(DIGEST)
        if len(digest) < DIGEST:
            raise Bad("is cut short")
        _, version, directory_bytes, file_bytes = PREAMBLE.unpack(start)
        if version != VERSION:
            raise Bad(f"has version {version}, expected {VERSION}")
        if file_bytes != self.file_bytes:
            raise Bad(
                f"has {self.file_bytes} bytes and should have {file_bytes}: it is cut short or damaged"
            )
        if directory_bytes > file_bytes - PREAMBLE.size - DIGEST:
            raise Bad(f"declares a directory of {directory_bytes} bytes in a file of {file_bytes}")
        self._check_digest(start, digest)
        return directory_bytes

    def _check_digest(self, preamble: bytes, expected: bytes) -> None:
        found = hashlib.sha256()
        while part := self.file.read(BUFFER):
            found.update(part)
        found.update(preamble)
        if found.digest() != expected:
            raise Bad("is damaged: its checksum does not match its content")

    def _load_directory(self, num_bytes: int) -> Directory:
        self.file.seek(self.file_bytes - num_bytes)
        coded = self.file.read(num_bytes)
        try:
            size = zstandard.frame_content_size(coded)
            if not 0 < size <= MAX_DIRECTORY:
                raise ValueError(f"{size} bytes long")
            return from_json(json.loads(decompress(coded, size)))
        except (
            ValueError,
            KeyError,
            TypeError,
            AttributeError,
            RecursionError,
            zstandard.ZstdError,
        ) as error:
            raise Bad(f"its directory is inconsistent: {error}") from error

    def check_fit(self, tensors: Mapping[str, Tensor], *, tied: bool = True) -> None:
        """tied: whether tensors that share memory must do so in the file, as they must where it is
        loaded into them.
        """
        directory = self.directory
        origins = {name: name for name in directory.shapes} | directory.aliases
        missing, unexpected = (
            [name for name in tensors if name not in origins],
            [name for name in origins if name not in tensors],
        )
        if missing or unexpected:
            raise Bad(
                f"holds another model: it lacks {some(missing)}; the model lacks {some(unexpected)}"
            )
        wrong = []
        for name, origin in origins.items():
            check_tensor(name, tensors[name])
            held = f"{directory.dtypes[origin]} {directory.shapes[origin]}"
            wanted = f"{dtype_name(tensors[name])} {tuple(tensors[name].shape)}"
            wrong += [f"{name} is {held} instead of {wanted}"] if held != wanted else []
        if wrong:
            raise Bad(f"holds another model: {some(wrong)}")
        if tied:
            self._check_writable(tensors, origins)

    def _check_writable(self, tensors: Mapping[str, Tensor], origins: Mapping[str, str]) -> None:
        folded = [
            name
            for name, tensor in tensors.items()
            if 0 in tensor.stride() and tensor.numel() > 1 and not tensor.is_contiguous()
        ]
        if folded:
            raise Bad(f"can't be loaded into tensors whose elements share memory: {some(folded)}")
        apart = [
            f"{name} and {other}"
            for name, other in aliases_of(tensors).items()
            if origins[name] != origins[other]
        ]
        if apart:
            raise Bad(f"holds another model: it keeps apart what the model ties, {some(apart)}")

    def check_total(self, max_bytes: int | None) -> None:
        limit = 2**30 + 1000 * self.file_bytes if max_bytes is None else max_bytes
        directory = self.directory
        total = sum(
            math.prod(shape) * DTYPES[directory.dtypes[name]].itemsize
            for name, shape in directory.shapes.items()
        )
        if total > limit:
            raise Bad(
                f"declares {total} bytes of tensors in a file of {self.file_bytes}; up to {limit} are read without a model"
            )

    def check(self) -> None:
        """Decode everything once and keep nothing."""
        for _ in self.walk():
            pass

    def walk(self) -> Iterator[tuple[str, Iterator[np.ndarray]]]:
        """Name and bytes, in parts of uint8, of each tensor; parts that the caller leaves are
        passed over.
        """
        directory, weights = self.directory, set(self.directory.weights)
        for dtype, k in directory.num_motifs.items():
            names = [name for name in directory.weights if directory.dtypes[name] == dtype]
            layout = layout_of(directory, dtype)
            yield from self._tensors(
                names, self._mosaic_bytes(dtype, layout) if k else self._apart(dtype, names)
            )
        for dtype in dict.fromkeys(
            dtype for name, dtype in directory.dtypes.items() if name not in weights
        ):
            names = [
                name
                for name in directory.shapes
                if directory.dtypes[name] == dtype and name not in weights
            ]
            yield from self._tensors(names, self._plain("other", dtype))

    def _tensors(
        self, names: Sequence[str], stream: Iterator[np.ndarray]
    ) -> Iterator[tuple[str, Iterator[np.ndarray]]]:
        source = _Source(stream)
        for name in names:
            parts = source.take(
                math.prod(self.directory.shapes[name])
                * DTYPES[self.directory.dtypes[name]].itemsize
            )
            yield name, parts
            for _ in parts:
                pass
        source.end()

    def _mosaic_bytes(self, dtype: str, layout: Layout) -> Iterator[np.ndarray]:
        """The bytes of the weights of one dtype: each piece's whole blocks, then its tail."""
        motifs = self._motifs(dtype, layout)
        blocks, tails = (
            _Source(self._blocks(motifs, self.mosaic(dtype, layout))),
            _Source(self._plain("tails", dtype)),
        )
        for whole, tail in layout.pieces:
            yield from blocks.take(whole)
            yield from tails.take(tail)
        blocks.end()
        tails.end()

    def _blocks(self, motifs: np.ndarray, mosaic: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
        step = max(BUFFER // motifs.shape[1], 1)
        # rows of one scalar are gathered several times faster than rows of bytes
        rows = motifs.view(
            f"V{motifs.shape[1]}" if motifs.shape[1] not in (1, 2, 4, 8) else f"<u{motifs.shape[1]}"
        )[:, 0]
        for indices in mosaic:
            for start in range(0, len(indices), step):
                yield rows[indices[start : start + step]].view(np.uint8)

    def _section(self, kind: str, dtype: str) -> tuple["_Cursor", Section]:
        for section, start in zip(self.directory.sections, self.starts, strict=True):
            if (section.kind, section.dtype) == (kind, dtype):
                return _Cursor(self.file, start, section), section
        raise AssertionError(f"no section {kind} of {dtype}")  # _check_sections has seen to it

    def _plain(self, kind: str, dtype: str) -> Iterator[np.ndarray]:
        cursor, section = self._section(kind, dtype)
        rest = fixed_bytes(self.directory, section)
        yield from _plain_parts(cursor, rest, word_of(dtype), section.coding)
        cursor.end()

    def _motifs(self, dtype: str, layout: Layout) -> np.ndarray:
        """(num_motifs, block_bytes) uint8"""
        cursor, section = self._section("motifs", dtype)
        k, word = self.directory.num_motifs[dtype], word_of(dtype)
        if section.coding == "raw":
            motifs = np.frombuffer(cursor.read(section.num_bytes), dtype=np.uint8).reshape(
                k, layout.block_bytes
            )
        elif section.coding == "motifs":
            motifs = _sums(cursor, k, layout.block_bytes, word)
        else:
            motifs = _grid_motifs(cursor, section.coding, k, layout.block_bytes // word)
        cursor.end()
        return motifs

    def _apart(self, dtype: str, names: Sequence[str]) -> Iterator[np.ndarray]:
        """The bytes of weights without a mosaic."""
        cursor, section = self._section("weights", dtype)
        if not section.coding.startswith("grid"):
            yield from self._plain("weights", dtype)
            return
        plain = "raw" if section.coding == "grids" else "planes"
        for name in names:
            count, grid = math.prod(self.directory.shapes[name]), cursor.read_grid()
            if grid is None:
                yield from _plain_parts(cursor, count * word_of(dtype), word_of(dtype), plain)
            else:
                yield from _grid_parts(cursor, count, grid, packed=plain == "raw")
        cursor.end()

    def mosaic(self, dtype: str, layout: Layout) -> Iterator[np.ndarray]:
        """Indices of motifs, int64, in parts of CHUNK."""
        cursor, section = self._section("mosaic", dtype)
        k = self.directory.num_motifs[dtype]
        width = (k - 1).bit_length()
        for start in range(0, layout.num_blocks, CHUNK):
            count = min(CHUNK, layout.num_blocks - start)
            coded = cursor.read_size(count) if section.coding == "ranks" else 0
            read = (
                cursor.read_ranks(coded, count, width)
                if coded
                else unpack_bits(cursor.read(-(-count * width // 8)), count, width)
            )
            if read.max() >= k:
                raise Bad(f"names motif {read.max()} of {k}")
            yield read
        cursor.end()


class _Cursor:
    """Reads a section in order and never beyond its end. Raises Bad."""

    def __init__(self, file: BinaryIO, start: int, section: Section):
        self.file, self.position, self.rest, self.kind = (
            file,
            start,
            section.num_bytes,
            section.kind,
        )

    def read(self, num_bytes: int) -> bytes:
        if num_bytes > self.rest:
            raise Bad(f"section {self.kind} ends early")
        self.file.seek(self.position)
        data = self.file.read(num_bytes)
        if len(data) != num_bytes:
            raise Bad(f"section {self.kind} can't be read")
        self.position += num_bytes
        self.rest -= num_bytes
        return data

    def read_size(self, most: int) -> int:
        (size,) = struct.unpack("<I", self.read(4))
        if size > most:
            raise Bad(f"section {self.kind} declares {size} bytes where {most} suffice")
        return size

    def read_grid(self) -> Grid | None:
        bits, step = GRID.unpack(self.read(GRID.size))
        if bits and not (2 <= bits <= 16 and 0 < step < math.inf):
            raise Bad(f"section {self.kind} declares a grid of {bits} bits and step {step}")
        return Grid(bits, np.float32(step)) if bits else None

    def read_plane(self, count: int) -> np.ndarray:
        """(count,) uint8"""
        coded = self.read(self.read_size(count))
        return self._bytes(coded if len(coded) == count else None, coded, count)

    def read_ranks(self, num_coded: int, count: int, width: int) -> np.ndarray:
        """(count,) int64"""
        codes = self._bytes(None, self.read(num_coded), count)
        follow, ranks = FOLLOWING[codes], SMALLEST[codes]
        for size in range(1, width - LEADING):
            places = np.flatnonzero(follow == size)
            ranks[places] |= unpack_bits(self.read(-(-len(places) * size // 8)), len(places), size)
        return ranks

    def _bytes(self, plain: bytes | None, coded: bytes, count: int) -> np.ndarray:
        try:
            return np.frombuffer(
                decompress(coded, count) if plain is None else plain, dtype=np.uint8
            )
        except (zstandard.ZstdError, ValueError) as error:
            raise Bad(f"section {self.kind} can't be decompressed: {error}") from error

    def end(self) -> None:
        if self.rest:
            raise Bad(f"section {self.kind} has {self.rest} bytes too many")


class _Source:
    """A stream of byte arrays, to be taken in other lengths. Raises Bad."""

    def __init__(self, stream: Iterator[np.ndarray]):
        self.stream, self.held = stream, np.empty(0, dtype=np.uint8)

    def take(self, num_bytes: int) -> Iterator[np.ndarray]:
        while num_bytes:
            if not len(self.held):
                self.held = next(self.stream, None)
                if self.held is None:
                    raise Bad("a section ends early")
            part, self.held = self.held[:num_bytes], self.held[num_bytes:]
            num_bytes -= len(part)
            yield part

    def end(self) -> None:
        """Lets the stream make its own checks at its end."""
        if len(self.held) or next(self.stream, None) is not None:
            raise Bad("a section is too long")


def _sums(cursor: _Cursor, k: int, width: int, word: int) -> np.ndarray:
    """(k, width) uint8 of rows whose first words are stored as differences."""
    steps = np.concatenate(list(_plain_parts(cursor, k * word, word, "planes"))).view(f"<u{word}")
    others = list(_plain_parts(cursor, k * (width - word), word, "planes"))
    rows = np.empty((k, width), dtype=np.uint8)
    rows[:, :word] = np.cumsum(steps, dtype=steps.dtype).view(np.uint8).reshape(k, word)
    if others:
        rows[:, word:] = np.concatenate(others).reshape(k, -1)
    return rows


def _grid_motifs(cursor: _Cursor, coding: str, k: int, size: int) -> np.ndarray:
    """(k, 4 * size) uint8: motifs of `size` float32 values on one grid."""
    grid = cursor.read_grid()
    if grid is None:
        raise Bad("section motifs declares no grid")
    if coding == "grid":
        codes = unpack_bits(cursor.read(-(-k * size * grid.bits // 8)), k * size, grid.bits)
    else:
        codes = _sums(cursor, k, size * grid.word, grid.word).reshape(-1).view(f"<u{grid.word}")
    return _values(grid, codes, cursor.kind).reshape(k, -1)


def _grid_parts(cursor: _Cursor, count: int, grid: Grid, *, packed: bool) -> Iterator[np.ndarray]:
    """The bytes of `count` values on a grid. packed: their codes are as wide as they need."""
    for start in range(0, count, CHUNK):
        size = min(CHUNK, count - start)
        if packed:
            codes = unpack_bits(cursor.read(-(-size * grid.bits // 8)), size, grid.bits)
        else:
            codes = next(_plain_parts(cursor, size * grid.word, grid.word, "planes")).view(
                f"<u{grid.word}"
            )
        yield _values(grid, codes, cursor.kind)


def _values(grid: Grid, codes: np.ndarray, kind: str) -> np.ndarray:
    """(bytes,) uint8"""
    try:
        with np.errstate(over="ignore"):
            return grid.values(codes).view(np.uint8)
    except IndexError as error:
        raise Bad(f"section {kind} has a code that is none of its grid") from error


def _plain_parts(cursor: _Cursor, num_bytes: int, word: int, coding: str) -> Iterator[np.ndarray]:
    while num_bytes:
        size = min(CHUNK * word, num_bytes)
        if coding == "raw":
            yield np.frombuffer(cursor.read(size), dtype=np.uint8)
        else:
            planes = np.stack([cursor.read_plane(size // word) for _ in range(word)])
            yield np.ascontiguousarray(planes.T).reshape(-1)
        num_bytes -= size
