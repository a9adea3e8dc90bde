"""Read a .momos file in parts, after the whole of it has been checked."""

import base64
import contextlib
import hashlib
import json
import math
import os
import struct
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

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
    ValueGrid,
    decompress,
    unpack_bits,
)
from momos.packing.layout import (
    DTYPES,
    LENGTH,
    MAX_DIRECTORY,
    MAX_HEADER,
    VERSION,
    BadFile,
    Directory,
    Layout,
    Section,
    aliases_of,
    as_bytes,
    check_tensor,
    dtype_name,
    fixed_bytes,
    from_json,
    header,
    layout_of,
    places,
    some,
    word_of,
)

BUFFER = 2**20  # bytes moved at a time


def store(parts: Iterator[np.ndarray], tensor: Tensor) -> None:
    """Copy bytes, given in parts of uint8, into a tensor of any device and layout."""
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
    """Open a .momos file. Raises ValueError naming it if it is missing, or for BadFile."""
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{path} is missing: expected a .momos file")
    with path.open("rb") as file:
        try:
            yield Opened(file)
        except BadFile as error:
            raise ValueError(f"{path}: {error}") from error


class Opened:
    """A file whose digest is right and whose directory fits its size. Raises BadFile."""

    def __init__(self, file: BinaryIO):
        self.file, self.file_bytes = file, os.fstat(file.fileno()).st_size
        text = self._read_header()
        entries = _entries(text)
        about = _metadata(entries)
        self._check_size(entries, LENGTH.size + len(text))
        self._check_digest(about)
        self.directory = _load_directory(about["directory"])
        if header(self.directory, about["directory"], about["sha256"])[LENGTH.size :] != text:
            raise BadFile("declares other sections in its header than in its directory")
        data = LENGTH.size + len(text)
        self.starts = [data + place.start for place in places(self.directory)]

    def _read_header(self) -> bytes:
        start = self.file.read(LENGTH.size)
        first = self.file.read(1)
        if not first:
            raise BadFile("is cut short")
        if first != b"{":
            raise BadFile("is no .momos file")
        (length,) = LENGTH.unpack(start)
        if length > MAX_HEADER:
            raise BadFile(f"declares a header of {length} bytes; up to {MAX_HEADER} are read")
        if length > self.file_bytes - LENGTH.size:
            raise BadFile("is cut short within its header")
        return first + self.file.read(length - 1) if length else b""

    def _check_size(self, entries: Mapping[str, Any], data: int) -> None:
        """Hold the file's size against the end of the last section. data: where they begin."""
        try:
            ends = [
                entry["data_offsets"][1]
                for name, entry in entries.items()
                if name != "__metadata__"
            ]
            expected = data + max(ends, default=0)
        except (KeyError, IndexError, TypeError) as error:
            raise BadFile("is damaged: its header lists no sections") from error
        if expected != self.file_bytes:
            raise BadFile(
                f"has {self.file_bytes} bytes and should have {expected}: "
                "it is cut short or damaged"
            )

    def _check_digest(self, about: Mapping[str, str]) -> None:
        """The file is read on from behind the header."""
        total = hashlib.sha256(about["directory"].encode())
        while part := self.file.read(BUFFER):
            total.update(part)
        if total.hexdigest() != about["sha256"]:
            raise BadFile("is damaged: its checksum does not match its content")

    def check_fit(self, tensors: Mapping[str, Tensor], *, tied: bool = True) -> None:
        """Raise BadFile unless the file has the names, dtypes and shapes of these tensors.

        tied: tensors that share memory must also do so in the file, which is needed where the file
        is loaded into them.
        """
        directory = self.directory
        origins = {name: name for name in directory.shapes} | directory.aliases
        missing = [name for name in tensors if name not in origins]
        unexpected = [name for name in origins if name not in tensors]
        if missing or unexpected:
            raise BadFile(
                f"holds another model: it lacks {some(missing)}; the model lacks {some(unexpected)}"
            )
        wrong = []
        for name, origin in origins.items():
            check_tensor(name, tensors[name])
            held = f"{directory.dtypes[origin]} {directory.shapes[origin]}"
            wanted = f"{dtype_name(tensors[name])} {tuple(tensors[name].shape)}"
            wrong += [f"{name} is {held} instead of {wanted}"] if held != wanted else []
        if wrong:
            raise BadFile(f"holds another model: {some(wrong)}")
        if tied:
            self._check_writable(tensors, origins)

    def _check_writable(self, tensors: Mapping[str, Tensor], origins: Mapping[str, str]) -> None:
        folded = [
            name
            for name, tensor in tensors.items()
            if 0 in tensor.stride() and tensor.numel() > 1 and not tensor.is_contiguous()
        ]
        if folded:
            raise BadFile(
                f"can't be loaded into tensors whose elements share memory: {some(folded)}"
            )
        apart = [
            f"{name} and {other}"
            for name, other in aliases_of(tensors).items()
            if origins[name] != origins[other]
        ]
        if apart:
            raise BadFile(f"holds another model: it keeps apart what the model ties, {some(apart)}")

    def check_total(self, max_bytes: int | None) -> None:
        """Raise BadFile for more bytes of tensors than allowed (default: see `read_tensors`)."""
        limit = 2**30 + 1000 * self.file_bytes if max_bytes is None else max_bytes
        directory = self.directory
        total = sum(
            math.prod(shape) * DTYPES[directory.dtypes[name]].itemsize
            for name, shape in directory.shapes.items()
        )
        if total > limit:
            raise BadFile(
                f"declares {total} bytes of tensors in a file of {self.file_bytes}; "
                f"up to {limit} are read without a model"
            )

    def check(self) -> None:
        """Decode everything once and keep nothing."""
        for _ in self.walk():
            pass

    def walk(self) -> Iterator[tuple[str, Iterator[np.ndarray]]]:
        """Name and bytes of each tensor, in parts of uint8.

        Parts that the caller does not take are skipped.
        """
        directory, weights = self.directory, set(self.directory.weights)
        for dtype, num_motifs in directory.num_motifs.items():
            names = [name for name in directory.weights if directory.dtypes[name] == dtype]
            if num_motifs:
                stream = self._mosaic_bytes(dtype, layout_of(directory, dtype))
            else:
                stream = self._apart(dtype, names)
            yield from self._tensors(names, stream)
        others = [name for name in directory.shapes if name not in weights]
        for dtype in dict.fromkeys(directory.dtypes[name] for name in others):
            names = [name for name in others if directory.dtypes[name] == dtype]
            yield from self._tensors(names, self._plain("other", dtype))

    def _tensors(
        self, names: Sequence[str], stream: Iterator[np.ndarray]
    ) -> Iterator[tuple[str, Iterator[np.ndarray]]]:
        """Cut a stream of bytes into those of each tensor."""
        source = _Source(stream)
        for name in names:
            item = DTYPES[self.directory.dtypes[name]].itemsize
            parts = source.take(math.prod(self.directory.shapes[name]) * item)
            yield name, parts
            for _ in parts:
                pass
        source.end()

    def _mosaic_bytes(self, dtype: str, layout: Layout) -> Iterator[np.ndarray]:
        """The bytes of the weights of one dtype: each piece's whole blocks, then its tail."""
        motifs = self._motifs(dtype, layout)
        blocks = _Source(self._blocks(motifs, self.mosaic(dtype, layout)))
        tails = _Source(self._plain("tails", dtype))
        for whole, tail in layout.pieces:
            yield from blocks.take(whole)
            yield from tails.take(tail)
        blocks.end()
        tails.end()

    def _blocks(self, motifs: np.ndarray, mosaic: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
        """The bytes of whole blocks, looked up in the motifs."""
        size = motifs.shape[1]
        step = max(BUFFER // size, 1)
        # rows of one scalar are gathered several times faster than rows of bytes
        rows = motifs.view(f"<u{size}" if size in (1, 2, 4, 8) else f"V{size}")[:, 0]
        for indices in mosaic:
            for start in range(0, len(indices), step):
                yield rows[indices[start : start + step]].view(np.uint8)

    def _section(self, kind: str, dtype: str) -> tuple["_Cursor", Section]:
        for section, start in zip(self.directory.sections, self.starts, strict=True):
            if (section.kind, section.dtype) == (kind, dtype):
                return _Cursor(self.file, start, section), section
        raise AssertionError(f"no section {kind} of {dtype}")  # from_json checks the sections

    def _plain(self, kind: str, dtype: str) -> Iterator[np.ndarray]:
        """The bytes of a section that is raw or in planes."""
        cursor, section = self._section(kind, dtype)
        rest = fixed_bytes(self.directory, section)
        yield from _plain_parts(cursor, rest, word_of(dtype), section.coding)
        cursor.end()

    def _motifs(self, dtype: str, layout: Layout) -> np.ndarray:
        """The motifs (num_motifs, block_bytes) uint8."""
        cursor, section = self._section("motifs", dtype)
        num_motifs, word = self.directory.num_motifs[dtype], word_of(dtype)
        if section.coding == "raw":
            flat = np.frombuffer(cursor.read(section.num_bytes), dtype=np.uint8)
            motifs = flat.reshape(num_motifs, layout.block_bytes)
        elif section.coding == "motifs":
            motifs = _sums(cursor, num_motifs, layout.block_bytes, word)
        else:
            motifs = _grid_motifs(cursor, section.coding, num_motifs, layout.block_bytes // word)
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
        """The index of each block's motif, int64, in parts of CHUNK."""
        cursor, section = self._section("mosaic", dtype)
        num_motifs = self.directory.num_motifs[dtype]
        width = (num_motifs - 1).bit_length()
        for start in range(0, layout.num_blocks, CHUNK):
            count = min(CHUNK, layout.num_blocks - start)
            num_coded = cursor.read_size(count) if section.coding == "ranks" else 0
            if num_coded:
                indices = cursor.read_ranks(num_coded, count, width)
            else:
                indices = unpack_bits(cursor.read(-(-count * width // 8)), count, width)
            if indices.max() >= num_motifs:
                raise BadFile(f"names motif {indices.max()} of {num_motifs}")
            yield indices
        cursor.end()


def _entries(text: bytes) -> dict[str, Any]:
    """The header's entries by name. Raises BadFile."""
    try:
        entries = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BadFile("is damaged: its header is no JSON") from error
    if not isinstance(entries, dict):
        raise BadFile("is no .momos file")
    return entries


def _metadata(entries: Mapping[str, Any]) -> dict[str, str]:
    """The metadata: version, sha256 and directory, all of them text. Raises BadFile."""
    about = entries.get("__metadata__")
    if not isinstance(about, dict) or "momos" not in about:
        raise BadFile("is no .momos file: its header has no version of one")
    if about["momos"] != VERSION:
        raise BadFile(f"has version {str(about['momos'])[:20]!r}, expected {VERSION!r}")
    for name in ("sha256", "directory"):
        if not isinstance(about.get(name), str) or not about[name].isascii():
            raise BadFile(f"is damaged: its header has no {name}")
    return about


def _load_directory(text: str) -> Directory:
    try:
        coded = base64.b85decode(text)
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
        raise BadFile(f"its directory is inconsistent: {error}") from error


class _Cursor:
    """A reader of one section, in order and never beyond its end. Raises BadFile."""

    def __init__(self, file: BinaryIO, start: int, section: Section):
        self.file, self.position = file, start
        self.rest, self.kind = section.num_bytes, section.kind

    def read(self, num_bytes: int) -> bytes:
        """The next bytes."""
        if num_bytes > self.rest:
            raise BadFile(f"section {self.kind} ends early")
        self.file.seek(self.position)
        data = self.file.read(num_bytes)
        if len(data) != num_bytes:
            raise BadFile(f"section {self.kind} can't be read")
        self.position += num_bytes
        self.rest -= num_bytes
        return data

    def read_size(self, most: int) -> int:
        """A stored number of bytes, of at most `most`."""
        (size,) = struct.unpack("<I", self.read(4))
        if size > most:
            raise BadFile(f"section {self.kind} declares {size} bytes where {most} suffice")
        return size

    def read_grid(self) -> ValueGrid | None:
        """A stored grid, or None where there are plain values."""
        bits, step = GRID.unpack(self.read(GRID.size))
        if bits and not (2 <= bits <= 16 and 0 < step < math.inf):
            raise BadFile(f"section {self.kind} declares a grid of {bits} bits and step {step}")
        return ValueGrid(bits, np.float32(step)) if bits else None

    def read_plane(self, count: int) -> np.ndarray:
        """A plane (count,) uint8, which is compressed unless it has `count` bytes."""
        coded = self.read(self.read_size(count))
        if len(coded) == count:
            return np.frombuffer(coded, dtype=np.uint8)
        return self._decompress(coded, count)

    def read_ranks(self, num_coded: int, count: int, width: int) -> np.ndarray:
        """Indices (count,) int64: compressed byte codes, then the bits that follow."""
        codes = self._decompress(self.read(num_coded), count)
        follow, ranks = FOLLOWING[codes], SMALLEST[codes]
        for size in range(1, width - LEADING):
            places = np.flatnonzero(follow == size)
            ranks[places] |= unpack_bits(self.read(-(-len(places) * size // 8)), len(places), size)
        return ranks

    def _decompress(self, coded: bytes, count: int) -> np.ndarray:
        try:
            return np.frombuffer(decompress(coded, count), dtype=np.uint8)
        except (zstandard.ZstdError, ValueError) as error:
            raise BadFile(f"section {self.kind} can't be decompressed: {error}") from error

    def end(self) -> None:
        """Raise BadFile if something is left."""
        if self.rest:
            raise BadFile(f"section {self.kind} has {self.rest} bytes too many")


class _Source:
    """A stream of byte arrays that can be taken in other lengths. Raises BadFile."""

    def __init__(self, stream: Iterator[np.ndarray]):
        self.stream, self.held = stream, np.empty(0, dtype=np.uint8)

    def take(self, num_bytes: int) -> Iterator[np.ndarray]:
        """The next bytes, in parts."""
        while num_bytes:
            if not len(self.held):
                following = next(self.stream, None)
                if following is None:
                    raise BadFile("a section ends early")
                self.held = following
            part, self.held = self.held[:num_bytes], self.held[num_bytes:]
            num_bytes -= len(part)
            yield part

    def end(self) -> None:
        """Raise BadFile if something is left; the stream makes its own checks at its end."""
        if len(self.held) or next(self.stream, None) is not None:
            raise BadFile("a section is too long")


def _sums(cursor: _Cursor, num_rows: int, width: int, word: int) -> np.ndarray:
    """Rows (num_rows, width) uint8 whose first words are stored as differences."""
    parts = list(_plain_parts(cursor, num_rows * word, word, "planes"))
    steps = np.concatenate(parts).view(f"<u{word}")
    others = list(_plain_parts(cursor, num_rows * (width - word), word, "planes"))
    rows = np.empty((num_rows, width), dtype=np.uint8)
    rows[:, :word] = np.cumsum(steps, dtype=steps.dtype).view(np.uint8).reshape(num_rows, word)
    if others:
        rows[:, word:] = np.concatenate(others).reshape(num_rows, -1)
    return rows


def _grid_motifs(cursor: _Cursor, coding: str, num_motifs: int, size: int) -> np.ndarray:
    """Motifs of `size` float32 values on one grid, as bytes (num_motifs, 4 * size) uint8."""
    grid = cursor.read_grid()
    if grid is None:
        raise BadFile("section motifs declares no grid")
    count = num_motifs * size
    if coding == "grid":
        codes = unpack_bits(cursor.read(-(-count * grid.bits // 8)), count, grid.bits)
    else:
        rows = _sums(cursor, num_motifs, size * grid.word, grid.word)
        codes = rows.reshape(-1).view(f"<u{grid.word}")
    return _values(grid, codes, cursor.kind).reshape(num_motifs, -1)


def _grid_parts(
    cursor: _Cursor, count: int, grid: ValueGrid, *, packed: bool
) -> Iterator[np.ndarray]:
    """The bytes of `count` values on a grid, in parts. packed: codes take grid.bits bits each."""
    for start in range(0, count, CHUNK):
        size = min(CHUNK, count - start)
        if packed:
            codes = unpack_bits(cursor.read(-(-size * grid.bits // 8)), size, grid.bits)
        else:
            part = next(_plain_parts(cursor, size * grid.word, grid.word, "planes"))
            codes = part.view(f"<u{grid.word}")
        yield _values(grid, codes, cursor.kind)


def _values(grid: ValueGrid, codes: np.ndarray, kind: str) -> np.ndarray:
    """The bytes (num_bytes,) uint8 of the values with these codes."""
    try:
        with np.errstate(over="ignore"):
            return grid.values(codes).view(np.uint8)
    except IndexError as error:
        raise BadFile(f"section {kind} has a code that is none of its grid") from error


def _plain_parts(cursor: _Cursor, num_bytes: int, word: int, coding: str) -> Iterator[np.ndarray]:
    """The next num_bytes bytes, raw or in planes, in parts of at most CHUNK words."""
    while num_bytes:
        size = min(CHUNK * word, num_bytes)
        if coding == "raw":
            yield np.frombuffer(cursor.read(size), dtype=np.uint8)
        else:
            planes = np.stack([cursor.read_plane(size // word) for _ in range(word)])
            yield np.ascontiguousarray(planes.T).reshape(-1)
        num_bytes -= size
