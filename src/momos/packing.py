"""The .momos file: a model as motifs and a mosaic on disk, bit for bit (MoMos, Eq. 8, made real).

    preamble    56 bytes: magic, version, bytes of the directory, bytes of the file, SHA-256 of everything else
    sections    in the order and with the sizes that the directory gives; integers are little-endian
    directory   JSON, compressed: what the tensors are called, their shapes and dtypes, which are tied, and the sections

The weights are cut as `momos.blocks` cuts them. Per dtype they are either a table of distinct blocks (`motifs`), an index per whole
block (`mosaic`) and what is left of each piece (`tails`), or, where that would not be smaller, the bytes as they are (`weights`).
Everything else in a state dict is `other`. Two blocks are the same motif if all their bits are: 0 and -0 differ. Codings of a section:

    raw      the bytes
    bits     ceil(log2 k) bits per index, from the lowest bit up                                      level "fixed": raw and bits
    planes   per 2^17 words: all first bytes, all second bytes, .., each compressed                   level "entropy": the other three
    motifs   in the order of use; per motif the difference of its first word to the previous one's: planes; then its other words: planes
    ranks    per 2^17 indices: a byte each for the index's three leading bits and length, compressed; then the bits that follow these

Where the mosaic is entropy-coded, a motif's index is its rank by use. Motifs that share a byte code are nearly equally frequent, so
that the code of the bytes alone comes within half a percent of the entropy of the counts, which need not be stored. Their order
among themselves is free: they are sorted by value, which makes their differences small.
"""

import contextlib
import hashlib
import json
import math
import os
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
import torch
import zstandard
from torch import Tensor, nn

from momos.blocks import SLICINGS, trainable
from momos.complexity import code_length

LEVELS = ("fixed", "entropy")
CODINGS = {"motifs": ("raw", "motifs"), "mosaic": ("bits", "ranks"), "tails": ("raw", "planes"), "weights": ("raw", "planes"),
           "other": ("raw", "planes")}  # fmt: skip
DTYPES = {
    name: getattr(torch, name)
    for name in (
        "float64", "float32", "float16", "bfloat16", "float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz",
        "int64", "int32", "int16", "int8", "uint64", "uint32", "uint16", "uint8", "bool", "complex128", "complex64",
    )
}  # fmt: skip
MAGIC, VERSION = b"\x89MOMOS\r\n", 1
PREAMBLE = struct.Struct("<8sIIQ")  # and 32 bytes of SHA-256
DIGEST = 32
CHUNK = 2**17  # words or indices that are coded together: one block of zstandard
BUFFER = 2**20  # bytes moved at a time
SMALL = 2**20  # bytes up to which the slow level of zstandard is worth its time
TINY = 256  # bytes that are not worth coding
MAX_DIRECTORY = 2**26  # bytes
LEADING = 3  # bits of an index, below its highest, that its byte code holds


class Group(NamedTuple):
    """The weights of one dtype in a file."""

    dtype: str
    num_weights: int
    num_bytes: int  # of the weights as they are
    num_blocks: int  # n of the bound: a ragged last block counts, although it is stored apart
    num_motifs: int  # k; 0: no mosaic, stored as they are
    usage: np.ndarray  # (num_motifs,) int64: how often each motif is used
    bound_bytes: int  # k*s*q + n*ceil(log2 k) bits (method A5); num_weights * q without a mosaic


class Contents(NamedTuple):
    """What is in a file."""

    level: str
    block_size: int
    slicing: str
    num_tensors: int  # names of the state dict
    file_bytes: int
    sections: dict[str, int]  # kind -> bytes: directory (with the preamble), motifs, mosaic, tails, weights, other
    groups: list[Group]


class _Section(NamedTuple):
    kind: str
    dtype: str
    coding: str
    num_bytes: int


class _Directory(NamedTuple):
    level: str
    block_size: int
    slicing: str
    shapes: dict[str, tuple[int, ...]]  # name -> shape, tied tensors under their first name alone
    dtypes: dict[str, str]
    weights: list[str]  # names of the trainable weights
    aliases: dict[str, str]  # further names -> first name
    num_motifs: dict[str, int]  # dtype of weights -> k, 0 without a mosaic
    sections: list[_Section]


class _Layout(NamedTuple):
    """How the weights of one dtype are cut."""

    block_bytes: int
    pieces: list[tuple[int, int]]  # (bytes in whole blocks, bytes of the tail) of what is cut together

    @property
    def num_blocks(self) -> int:
        return sum(whole for whole, _ in self.pieces) // self.block_bytes

    @property
    def tail_bytes(self) -> int:
        return sum(tail for _, tail in self.pieces)


def pack(model: nn.Module, path: Path | str, block_size: int, *, level: str = "fixed", slicing: str = "tensor") -> None:
    """Write the model's state dict to `path`, its trainable weights as a mosaic of blocks of `block_size` (s).

    level: "fixed" or "entropy", the smaller. The file appears whole or not at all. Raises ValueError for bad arguments and for state
    that is no dense tensor of a known dtype, OSError naming the file that can't be written.
    """
    state = _state(model)
    parameters = {id(parameter) for parameter in trainable(model).values()}
    weights = [name for name, tensor in state.items() if id(tensor) in parameters]
    pack_tensors(state, path, block_size, weights=weights, level=level, slicing=slicing)


def pack_tensors(
    tensors: Mapping[str, Tensor],
    path: Path | str,
    block_size: int,
    *,
    weights: Sequence[str],
    level: str = "fixed",
    slicing: str = "tensor",
) -> None:
    """`pack` for a state dict without its module. weights: the names that become the mosaic. Raises as `pack` does."""
    _check_settings(block_size, level, slicing)
    for name, tensor in tensors.items():
        _check_tensor(name, tensor)
    aliases = _aliases(tensors)
    first = {name: tensor for name, tensor in tensors.items() if name not in aliases}
    dtypes = {name: _dtype_name(tensor) for name, tensor in first.items()}
    directory = _Directory(
        level=level,
        block_size=block_size,
        slicing=slicing,
        shapes={name: tuple(tensor.shape) for name, tensor in first.items()},
        dtypes=dtypes,
        weights=[name for name in first if name in set(weights)],
        aliases=aliases,
        num_motifs={},
        sections=[],
    )
    with _atomically(Path(path)) as file:
        _write(_Writer(file), first, directory)


def unpack(path: Path | str, model: nn.Module) -> None:
    """Load the file into the model, in place and on its devices, bit for bit.

    Holds the table of motifs and a buffer beside the model; a tensor that is not contiguous or not on the CPU passes through a copy of
    itself. The whole file is checked and decoded once before the model is touched. Raises ValueError naming the file and what is wrong
    if it is missing, damaged, of another version, or does not fit the model.
    """
    unpack_tensors(path, _state(model))


@torch.no_grad()
def unpack_tensors(path: Path | str, tensors: Mapping[str, Tensor]) -> None:
    """`unpack` into the tensors of a state dict. Raises as `unpack` does."""
    with _open(path) as opened:
        opened.check_fit(tensors)
        opened.check()
        for name, parts in opened.walk():
            _store(parts, tensors[name])
        for name, origin in opened.directory.aliases.items():
            if _memory(tensors[name]) != _memory(tensors[origin]):
                tensors[name].copy_(tensors[origin])


@torch.no_grad()
def read(path: Path | str, *, max_bytes: int | None = None) -> dict[str, Tensor]:
    """The state dict in the file, on the CPU; tied names share one tensor.

    max_bytes: refuse more than these (default: 1 GiB and a thousand times the file). Raises ValueError as `unpack` does.
    """
    with _open(path) as opened:
        opened.check_total(max_bytes)
        opened.check()
        directory = opened.directory
        tensors = {name: torch.empty(shape, dtype=DTYPES[directory.dtypes[name]]) for name, shape in directory.shapes.items()}
        for name, parts in opened.walk():
            _store(parts, tensors[name])
        return tensors | {name: tensors[origin] for name, origin in directory.aliases.items()}


def differences(path: Path | str, tensors: Mapping[str, Tensor]) -> list[str]:
    """Names of the tensors that differ from the file's in any bit. Raises ValueError as `unpack` does, also for other names or shapes."""
    different = set()
    with _open(path) as opened:
        opened.check_fit(tensors, tied=False)
        opened.check()
        names = {origin: [origin] for origin in opened.directory.shapes}
        for name, origin in opened.directory.aliases.items():
            names[origin].append(name)
        for origin, parts in opened.walk():
            views = {name: _as_bytes(tensors[name]) for name in names[origin]}
            start = 0
            for part in parts:
                different |= {name for name, view in views.items() if not np.array_equal(view[start : start + len(part)], part)}
                start += len(part)
    return [name for name in tensors if name in different]


def inspect(path: Path | str) -> Contents:
    """What is in the file, checked whole. Raises ValueError as `unpack` does."""
    with _open(path) as opened:
        opened.check_total(None)
        opened.check()
        directory = opened.directory
        sizes = dict.fromkeys(("directory", *CODINGS), 0)
        for section in directory.sections:
            sizes[section.kind] += section.num_bytes
        sizes["directory"] = opened.file_bytes - sum(sizes.values())
        return Contents(
            level=directory.level,
            block_size=directory.block_size,
            slicing=directory.slicing,
            num_tensors=len(directory.shapes) + len(directory.aliases),
            file_bytes=opened.file_bytes,
            sections=sizes,
            groups=[_group(opened, dtype) for dtype in directory.num_motifs],
        )


def _group(opened: "_Opened", dtype: str) -> Group:
    directory, item = opened.directory, DTYPES[dtype].itemsize
    layout, k = _layout(directory, dtype), opened.directory.num_motifs[dtype]
    num_bytes = sum(map(sum, layout.pieces))
    num_blocks = layout.num_blocks + sum(tail > 0 for _, tail in layout.pieces)
    usage = np.zeros(k, dtype=np.int64)
    if k:
        for indices in opened.mosaic(dtype, layout):
            usage += np.bincount(indices, minlength=k)
    bits = code_length.momos_bits(num_blocks, directory.block_size, k, 8 * item) if k else 8 * num_bytes
    return Group(dtype, num_bytes // item, num_bytes, num_blocks, k, usage, -(-bits // 8))


# tensors


def _state(model: nn.Module) -> dict[str, Tensor]:
    """The state dict with the parameters themselves in it."""
    return model.state_dict(keep_vars=True)


def _dtype_name(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _check_tensor(name: str, tensor: object) -> None:
    if not isinstance(tensor, Tensor):
        raise ValueError(f"{name} is no tensor but {type(tensor).__name__}: a .momos file holds tensors alone")
    if tensor.layout is not torch.strided or _dtype_name(tensor) not in DTYPES or tensor.device.type == "meta":
        raise ValueError(f"{name} can't be packed: expected a dense tensor with data, got {tensor.dtype}, {tensor.layout}, {tensor.device}")


def _check_settings(block_size: int, level: str, slicing: str) -> None:
    if isinstance(block_size, bool) or not isinstance(block_size, int) or block_size < 1:
        raise ValueError(f"block_size must be a whole number of at least 1, got {block_size!r}")
    if level not in LEVELS:
        raise ValueError(f"level must be one of {', '.join(LEVELS)}, got {level!r}")
    if slicing not in SLICINGS:
        raise ValueError(f"slicing must be one of {', '.join(SLICINGS)}, got {slicing!r}")


def _memory(tensor: Tensor) -> tuple:
    """Equal for two tensors that are the same values in the same memory."""
    if tensor.numel() == 0:
        return (id(tensor),)
    return (tensor.device, tensor.data_ptr(), tensor.dtype, tuple(tensor.shape), tensor.stride(), tensor.is_conj(), tensor.is_neg())


def _aliases(tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """Every further name of a tensor -> its first name."""
    first: dict[tuple, str] = {}
    return {name: origin for name, tensor in tensors.items() if (origin := first.setdefault(_memory(tensor), name)) != name}


def _as_bytes(tensor: Tensor) -> np.ndarray:
    """(num_bytes,) uint8 in logical order: the tensor's own memory if it is contiguous and on the CPU, else a copy."""
    if tensor.numel() == 0:  # whose strides may be any
        return np.empty(0, dtype=np.uint8)
    return tensor.detach().resolve_conj().resolve_neg().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()


def _store(parts: Iterator[np.ndarray], tensor: Tensor) -> None:
    own = tensor.device.type == "cpu" and tensor.is_contiguous() and not (tensor.is_conj() or tensor.is_neg())
    target = tensor if own else torch.empty(tensor.shape, dtype=tensor.dtype)
    view, start = _as_bytes(target), 0
    for part in parts:
        view[start : start + len(part)] = part
        start += len(part)
    if not own:
        tensor.detach().copy_(target)


def _layout(directory: _Directory, dtype: str) -> _Layout:
    sizes = [math.prod(directory.shapes[name]) for name in directory.weights if directory.dtypes[name] == dtype]
    block, item = directory.block_size, DTYPES[dtype].itemsize
    cut = sizes if directory.slicing == "tensor" else [sum(sizes)]
    return _Layout(block * item, [(size // block * block * item, size % block * item) for size in cut])


def _word(dtype: str) -> int:
    """Bytes of the words that are coded together: an element, or a half of complex128."""
    return min(DTYPES[dtype].itemsize, 8)


# writing


class _Writer:
    """Counts and digests what passes."""

    def __init__(self, file: BinaryIO):
        self.file, self.digest, self.num_bytes = file, hashlib.sha256(), PREAMBLE.size + DIGEST
        file.write(bytes(self.num_bytes))

    def write(self, data) -> None:
        self.file.write(data)
        self.digest.update(data)
        self.num_bytes += memoryview(data).nbytes

    def finish(self, directory: bytes) -> None:
        self.write(directory)
        preamble = PREAMBLE.pack(MAGIC, VERSION, len(directory), self.num_bytes)
        self.digest.update(preamble)
        self.file.seek(0)
        self.file.write(preamble + self.digest.digest())


@contextlib.contextmanager
def _atomically(path: Path) -> Iterator[BinaryIO]:
    """A file beside the target, synced and renamed over it if all went well. Raises OSError naming the target."""
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
            raise OSError(error.errno, f"{path} can't be written: {error.strerror or error}") from error
        raise


def _write(writer: _Writer, tensors: Mapping[str, Tensor], directory: _Directory) -> None:
    """Fills in the directory's num_motifs and sections on the way."""
    weights = set(directory.weights)
    for dtype in dict.fromkeys(directory.dtypes[name] for name in directory.weights):
        members = [tensors[name] for name in directory.weights if directory.dtypes[name] == dtype]
        _write_weights(writer, directory, dtype, members)
    rest = [name for name in tensors if name not in weights]
    for dtype in dict.fromkeys(directory.dtypes[name] for name in rest):
        members = [tensors[name] for name in rest if directory.dtypes[name] == dtype]
        _write_section(writer, directory, "other", dtype, map(_as_bytes, members), sum(tensor.nbytes for tensor in members))
    content = json.dumps(_to_json(directory), separators=(",", ":")).encode()
    writer.finish(_compress(content, len(content)))


def _write_weights(writer: _Writer, directory: _Directory, dtype: str, tensors: Sequence[Tensor]) -> None:
    layout = _layout(directory, dtype)
    motifs, mosaic, tails = _mosaic(tensors, layout)
    directory.num_motifs[dtype] = len(motifs)
    if not len(motifs):
        _write_section(writer, directory, "weights", dtype, map(_as_bytes, tensors), sum(map(sum, layout.pieces)))
        return
    if directory.level == "entropy":
        motifs, mosaic = _ranked(motifs, mosaic, _word(dtype))
    _write_motifs(writer, directory, dtype, motifs)
    _write_mosaic(writer, directory, dtype, mosaic, len(motifs))
    _write_section(writer, directory, "tails", dtype, tails, layout.tail_bytes)


@contextlib.contextmanager
def _section(writer: _Writer, directory: _Directory, kind: str, dtype: str, coding: str) -> Iterator[None]:
    """What is written meanwhile."""
    start = writer.num_bytes
    yield
    directory.sections.append(_Section(kind, dtype, coding, writer.num_bytes - start))


def _mosaic(tensors: Sequence[Tensor], layout: _Layout) -> tuple[np.ndarray, np.ndarray, list[np.ndarray]]:
    """Motifs (num_motifs, block_bytes) uint8, mosaic (num_blocks,) int64, and the tail of each piece.

    No motifs where they would not pay, which a lower bound on their number often tells far sooner than the number itself.
    """
    blocks, tails = _cut(tensors, layout)
    if _pays(_fewest(blocks), layout):
        mosaic, first = _distinct(blocks)
        if _pays(len(first), layout):
            return blocks[first], mosaic, tails
    return blocks[:0], np.empty(0, dtype=np.int64), tails


def _cut(tensors: Sequence[Tensor], layout: _Layout) -> tuple[np.ndarray, list[np.ndarray]]:
    """(num_blocks, block_bytes) uint8 and the tail of each piece."""
    flat = [_as_bytes(tensor) for tensor in tensors]
    if len(layout.pieces) != len(flat) or len(flat) == 1:
        flat = [np.concatenate(flat)] if len(flat) > 1 else flat
    whole = [piece[:size] for piece, (size, _) in zip(flat, layout.pieces, strict=True)]
    tails = [piece[size:] for piece, (size, _) in zip(flat, layout.pieces, strict=True)]
    return np.concatenate(whole).reshape(-1, layout.block_bytes), tails


def _distinct(blocks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(n, block_bytes) uint8 -> (n,) int64 number of each block in the order of first appearance, (k,) int64 where each appears first.

    Exact: blocks are told apart 64 bits at a time, by hash tables of integers.
    """
    from pandas import factorize

    numbers = np.zeros(len(blocks), dtype=np.int64)
    found = min(len(blocks), 1)
    for column in _columns(blocks):
        other, values = factorize(np.ascontiguousarray(column))
        if found > 1:  # below 2^31 distinct values each, so that the product can't overflow
            other, values = factorize(numbers * len(values) + other)
        numbers, found = other, len(values)
        if found == len(blocks):
            break
    highest = np.maximum.accumulate(numbers)
    return numbers, np.flatnonzero(np.diff(highest, prepend=-1))


def _fewest(blocks: np.ndarray) -> int:
    """A number of distinct blocks that there are at least: of the cells that their hashes fall into. Far faster than the exact one."""
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
    """(n, block_bytes) uint8 -> (columns, n) unsigned integers of at most 64 bits, padded with zeros."""
    width = blocks.shape[1]
    if width in (1, 2, 4):
        return blocks.view(f"<u{width}").T
    if width % 8:
        blocks = np.pad(blocks, ((0, 0), (0, -width % 8)))
    return blocks.view("<u8").T


def _pays(k: int, layout: _Layout) -> bool:
    """Whether k motifs and a mosaic at fixed width are smaller than the blocks."""
    return k > 0 and 8 * k * layout.block_bytes + layout.num_blocks * (k - 1).bit_length() < 8 * layout.num_blocks * layout.block_bytes


def _write_section(writer: _Writer, directory: _Directory, kind: str, dtype: str, arrays: Iterable[np.ndarray], num_bytes: int) -> None:
    coding = "planes" if directory.level == "entropy" and num_bytes >= TINY else "raw"
    with _section(writer, directory, kind, dtype, coding):
        for part in _regrouped(arrays, CHUNK * _word(dtype)):
            writer.write(part) if coding == "raw" else _write_planes(writer, part, _word(dtype), num_bytes)


def _write_motifs(writer: _Writer, directory: _Directory, dtype: str, motifs: np.ndarray) -> None:
    word = _word(dtype)
    if directory.level == "fixed" or motifs.nbytes < TINY:
        with _section(writer, directory, "motifs", dtype, "raw"):
            writer.write(motifs)
        return
    value = _first_word(motifs, word)
    steps, others = np.diff(value, prepend=value.dtype.type(0)), np.ascontiguousarray(motifs[:, word:])
    with _section(writer, directory, "motifs", dtype, "motifs"):
        for column in (steps.view(np.uint8), others.reshape(-1)):
            for part in _regrouped([column], CHUNK * word):
                _write_planes(writer, part, word, motifs.nbytes)


def _write_mosaic(writer: _Writer, directory: _Directory, dtype: str, mosaic: np.ndarray, k: int) -> None:
    width = (k - 1).bit_length()
    coding = "ranks" if directory.level == "entropy" and len(mosaic) * width >= 8 * TINY else "bits"
    codes = _rank_codes(k)
    with _section(writer, directory, "mosaic", dtype, coding):
        for start in range(0, len(mosaic), CHUNK):
            part = mosaic[start : start + CHUNK]
            writer.write(pack_bits(part, width) if coding == "bits" else _coded_ranks(part, codes, width, len(mosaic)))


def _coded_ranks(indices: np.ndarray, codes: np.ndarray, width: int, num_bytes: int) -> bytes:
    """The length of the compressed byte codes, these, and the bits that follow; or length 0 and fixed width where that is smaller.

    codes: of each rank. num_bytes: byte codes in the section.
    """
    chosen = codes[indices]
    coded, follow = _compress(chosen, num_bytes), FOLLOWING[chosen]
    bits = [pack_bits(indices[follow == size] & ((1 << size) - 1), size) for size in range(1, width - LEADING)]
    fixed = pack_bits(indices, width)
    if len(coded) + sum(map(len, bits)) < len(fixed):
        return b"".join([struct.pack("<I", len(coded)), coded, *bits])
    return struct.pack("<I", 0) + fixed


def _regrouped(arrays: Iterable[np.ndarray], size: int) -> Iterator[np.ndarray]:
    """The same bytes in parts of `size`, the last one shorter."""
    held, num_held = [], 0
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


def _compress(data, num_bytes: int) -> bytes:
    """The smaller of the fastest and the slowest usual level, which either may be, as part of a section of num_bytes; else the fastest."""
    levels = (1, 19) if num_bytes <= SMALL else (1,)
    return min((zstandard.ZstdCompressor(level=level).compress(data) for level in levels), key=len)


def _write_planes(writer: _Writer, data: np.ndarray, word: int, num_bytes: int) -> None:
    """data: (bytes,) of at most CHUNK words. num_bytes: of the section."""
    for plane in np.ascontiguousarray(data.reshape(-1, word).T):
        coded = _compress(plane, num_bytes)
        coded = coded if len(coded) < len(plane) else plane.tobytes()
        writer.write(struct.pack("<I", len(coded)) + coded)


def _ranked(motifs: np.ndarray, mosaic: np.ndarray, word: int) -> tuple[np.ndarray, np.ndarray]:
    """Motifs by use, those of one byte code by value; the mosaic with their new numbers."""
    value = _first_word(motifs, word)
    by_use = np.lexsort((value, -np.bincount(mosaic, minlength=len(motifs))))
    order = by_use[np.lexsort((value[by_use], _rank_codes(len(motifs))))]
    rank = np.empty(len(motifs), dtype=np.int64)
    rank[order] = np.arange(len(motifs))
    return motifs[order], rank[mosaic]


def _first_word(motifs: np.ndarray, word: int) -> np.ndarray:
    return np.ascontiguousarray(motifs[:, :word]).view(f"<u{word}")[:, 0]


def _rank_codes(k: int) -> np.ndarray:
    """(k,) uint8: the byte code of each rank. Ranks with the same code differ in the bits that follow."""
    ranks = np.arange(k)
    follow = np.maximum(np.frexp(ranks.astype(np.float64))[1] - 1 - LEADING, 0)
    return ((follow << LEADING) + (ranks >> follow)).astype(np.uint8)


_CODES = np.arange(256)
FOLLOWING = np.maximum((_CODES >> LEADING) - 1, 0)  # (256,): bits that follow a byte code
SMALLEST = (_CODES - (FOLLOWING << LEADING)) << FOLLOWING  # (256,): its first rank


def pack_bits(values: np.ndarray, width: int) -> bytes:
    """(count,) integers below 2^width -> ceil(count * width / 8) bytes: value i at bits i*width .. (i+1)*width - 1, lowest first."""
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
    words = np.frombuffer(data.ljust(groups * width * 8, b"\0"), dtype="<u8").reshape(groups, width).T.astype(np.uint64, order="C")
    lanes, mask = np.zeros((64, groups), dtype=np.uint64), np.uint64((1 << width) - 1)
    for lane in range(64 if width else 0):
        word, shift = divmod(lane * width, 64)
        lanes[lane] = words[word] >> np.uint64(shift)
        if shift + width > 64:
            lanes[lane] |= words[word + 1] << np.uint64(64 - shift)
        lanes[lane] &= mask
    return lanes.T.reshape(-1)[:count].astype(np.int64)


# the directory


def _to_json(directory: _Directory) -> dict:
    weights = set(directory.weights)
    tensors = [[name, directory.dtypes[name], list(shape), name in weights] for name, shape in directory.shapes.items()]
    kept = {key: getattr(directory, key) for key in ("level", "block_size", "slicing", "aliases", "num_motifs", "sections")}
    return kept | {"tensors": tensors}


def _from_json(values: dict) -> _Directory:
    """Raises ValueError, KeyError or TypeError for anything that `_to_json` does not write."""
    _check_settings(values["block_size"], values["level"], values["slicing"])
    shapes, dtypes, weights = {}, {}, []
    for name, dtype, shape, weight in values["tensors"]:
        if not isinstance(name, str) or name in shapes or dtype not in DTYPES or not isinstance(weight, bool):
            raise ValueError(f"tensor {name!r} of {dtype!r}")
        shapes[name], dtypes[name] = tuple(_count(size) for size in shape), dtype
        weights += [name] * weight
    aliases = dict(values["aliases"])
    if any(origin not in shapes or name in shapes for name, origin in aliases.items()):
        raise ValueError("tied names")
    sections = [_Section(kind, dtype, coding, _count(size)) for kind, dtype, coding, size in values["sections"]]
    num_motifs = {dtype: _count(k) for dtype, k in values["num_motifs"].items()}
    directory = _Directory(values["level"], values["block_size"], values["slicing"], shapes, dtypes, weights, aliases, num_motifs, sections)
    _check_sections(directory)
    return directory


def _count(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValueError(f"a size of {value!r}")
    return value


def _check_sections(directory: _Directory) -> None:
    """Raises ValueError unless the sections are those that the tensors need, of the sizes that their codings fix."""
    expected = [
        (kind, dtype)
        for dtype in dict.fromkeys(directory.dtypes[name] for name in directory.weights)
        for kind in (("motifs", "mosaic", "tails") if directory.num_motifs[dtype] else ("weights",))
    ]
    weights = set(directory.weights)
    expected += [("other", dtype) for dtype in dict.fromkeys(dtype for name, dtype in directory.dtypes.items() if name not in weights)]
    if [(section.kind, section.dtype) for section in directory.sections] != expected:
        raise ValueError("its sections")
    if list(directory.num_motifs) != list(dict.fromkeys(directory.dtypes[name] for name in directory.weights)):
        raise ValueError("its groups of weights")
    for section in directory.sections:
        k = directory.num_motifs.get(section.dtype, 0)
        if section.coding not in CODINGS[section.kind]:
            raise ValueError(f"{section.kind} coded as {section.coding!r}")
        if section.kind == "motifs" and k > _layout(directory, section.dtype).num_blocks:
            raise ValueError(f"{k} motifs")
        if section.coding in ("raw", "bits") and section.num_bytes != _fixed_bytes(directory, section):
            raise ValueError(f"{section.num_bytes} bytes of {section.kind}")


def _fixed_bytes(directory: _Directory, section: _Section) -> int:
    """Bytes of a section's content, of the mosaic's at fixed width."""
    dtype = section.dtype
    if section.kind == "other":
        names = set(directory.weights)
        sizes = [math.prod(shape) for name, shape in directory.shapes.items() if name not in names and directory.dtypes[name] == dtype]
        return sum(sizes) * DTYPES[dtype].itemsize
    layout, k = _layout(directory, dtype), directory.num_motifs[dtype]
    return {
        "motifs": k * layout.block_bytes,
        "mosaic": -(-layout.num_blocks * max(k - 1, 0).bit_length() // 8),
        "tails": layout.tail_bytes,
        "weights": sum(map(sum, layout.pieces)),
    }[section.kind]


# reading


@contextlib.contextmanager
def _open(path: Path | str) -> Iterator["_Opened"]:
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{path} is missing: expected a .momos file")
    with path.open("rb") as file:
        try:
            yield _Opened(file)
        except _Bad as error:
            raise ValueError(f"{path}: {error}") from error


class _Bad(ValueError):
    """What is wrong with a file that is being read."""


class _Opened:
    """A file whose digest is right and whose directory is consistent with its size. Raises _Bad."""

    def __init__(self, file: BinaryIO):
        self.file, self.file_bytes = file, os.fstat(file.fileno()).st_size
        directory_bytes = self._check_preamble()
        self.directory = self._load_directory(directory_bytes)
        self.starts, position = [], PREAMBLE.size + DIGEST
        for section in self.directory.sections:
            self.starts.append(position)
            position += section.num_bytes
        if position != self.file_bytes - directory_bytes:
            raise _Bad("its directory is inconsistent: the sizes of its sections do not add up to the file's")

    def _check_preamble(self) -> int:
        start = self.file.read(PREAMBLE.size)
        if not start.startswith(MAGIC):
            raise _Bad("is no .momos file" if not MAGIC.startswith(start[: len(MAGIC)]) else "is cut short")
        digest = self.file.read(DIGEST)
        if len(digest) < DIGEST:
            raise _Bad("is cut short")
        _, version, directory_bytes, file_bytes = PREAMBLE.unpack(start)
        if version != VERSION:
            raise _Bad(f"has version {version}, expected {VERSION}")
        if file_bytes != self.file_bytes:
            raise _Bad(f"has {self.file_bytes} bytes and should have {file_bytes}: it is cut short or damaged")
        if directory_bytes > file_bytes - PREAMBLE.size - DIGEST:
            raise _Bad(f"declares a directory of {directory_bytes} bytes in a file of {file_bytes}")
        self._check_digest(start, digest)
        return directory_bytes

    def _check_digest(self, preamble: bytes, expected: bytes) -> None:
        found = hashlib.sha256()
        while part := self.file.read(BUFFER):
            found.update(part)
        found.update(preamble)
        if found.digest() != expected:
            raise _Bad("is damaged: its checksum does not match its content")

    def _load_directory(self, num_bytes: int) -> _Directory:
        self.file.seek(self.file_bytes - num_bytes)
        coded = self.file.read(num_bytes)
        try:
            size = zstandard.frame_content_size(coded)
            if not 0 < size <= MAX_DIRECTORY:
                raise ValueError(f"{size} bytes long")
            return _from_json(json.loads(_decompress(coded, size)))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError, zstandard.ZstdError) as error:
            raise _Bad(f"its directory is inconsistent: {error}") from error

    def check_fit(self, tensors: Mapping[str, Tensor], *, tied: bool = True) -> None:
        """tied: whether tensors that share memory must do so in the file, as they must where it is loaded into them."""
        directory = self.directory
        origins = {name: name for name in directory.shapes} | directory.aliases
        missing, unexpected = [name for name in tensors if name not in origins], [name for name in origins if name not in tensors]
        if missing or unexpected:
            raise _Bad(f"holds another model: it lacks {_some(missing)}; the model lacks {_some(unexpected)}")
        wrong = []
        for name, origin in origins.items():
            _check_tensor(name, tensors[name])
            held = f"{directory.dtypes[origin]} {directory.shapes[origin]}"
            wanted = f"{_dtype_name(tensors[name])} {tuple(tensors[name].shape)}"
            wrong += [f"{name} is {held} instead of {wanted}"] if held != wanted else []
        if wrong:
            raise _Bad(f"holds another model: {_some(wrong)}")
        if tied:
            self._check_writable(tensors, origins)

    def _check_writable(self, tensors: Mapping[str, Tensor], origins: Mapping[str, str]) -> None:
        folded = [name for name, tensor in tensors.items() if 0 in tensor.stride() and tensor.numel() > 1 and not tensor.is_contiguous()]
        if folded:
            raise _Bad(f"can't be loaded into tensors whose elements share memory: {_some(folded)}")
        apart = [f"{name} and {other}" for name, other in _aliases(tensors).items() if origins[name] != origins[other]]
        if apart:
            raise _Bad(f"holds another model: it keeps apart what the model ties, {_some(apart)}")

    def check_total(self, max_bytes: int | None) -> None:
        limit = 2**30 + 1000 * self.file_bytes if max_bytes is None else max_bytes
        directory = self.directory
        total = sum(math.prod(shape) * DTYPES[directory.dtypes[name]].itemsize for name, shape in directory.shapes.items())
        if total > limit:
            raise _Bad(f"declares {total} bytes of tensors in a file of {self.file_bytes}; up to {limit} are read without a model")

    def check(self) -> None:
        """Decode everything once and keep nothing."""
        for _ in self.walk():
            pass

    def walk(self) -> Iterator[tuple[str, Iterator[np.ndarray]]]:
        """Name and bytes, in parts of uint8, of each tensor; parts that the caller leaves are passed over."""
        directory, weights = self.directory, set(self.directory.weights)
        for dtype, k in directory.num_motifs.items():
            names = [name for name in directory.weights if directory.dtypes[name] == dtype]
            layout = _layout(directory, dtype)
            yield from self._tensors(names, self._mosaic_bytes(dtype, layout) if k else self._plain("weights", dtype))
        for dtype in dict.fromkeys(dtype for name, dtype in directory.dtypes.items() if name not in weights):
            names = [name for name in directory.shapes if directory.dtypes[name] == dtype and name not in weights]
            yield from self._tensors(names, self._plain("other", dtype))

    def _tensors(self, names: Sequence[str], stream: Iterator[np.ndarray]) -> Iterator[tuple[str, Iterator[np.ndarray]]]:
        source = _Source(stream)
        for name in names:
            parts = source.take(math.prod(self.directory.shapes[name]) * DTYPES[self.directory.dtypes[name]].itemsize)
            yield name, parts
            for _ in parts:
                pass
        source.end()

    def _mosaic_bytes(self, dtype: str, layout: _Layout) -> Iterator[np.ndarray]:
        """The bytes of the weights of one dtype: each piece's whole blocks, then its tail."""
        motifs = self._motifs(dtype, layout)
        blocks, tails = _Source(self._blocks(motifs, self.mosaic(dtype, layout))), _Source(self._plain("tails", dtype))
        for whole, tail in layout.pieces:
            yield from blocks.take(whole)
            yield from tails.take(tail)
        blocks.end()
        tails.end()

    def _blocks(self, motifs: np.ndarray, mosaic: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
        step = max(BUFFER // motifs.shape[1], 1)
        # rows of one scalar are gathered several times faster than rows of bytes
        rows = motifs.view(f"V{motifs.shape[1]}" if motifs.shape[1] not in (1, 2, 4, 8) else f"<u{motifs.shape[1]}")[:, 0]
        for indices in mosaic:
            for start in range(0, len(indices), step):
                yield rows[indices[start : start + step]].view(np.uint8)

    def _section(self, kind: str, dtype: str) -> tuple["_Cursor", _Section]:
        for section, start in zip(self.directory.sections, self.starts, strict=True):
            if (section.kind, section.dtype) == (kind, dtype):
                return _Cursor(self.file, start, section), section
        raise AssertionError(f"no section {kind} of {dtype}")  # _check_sections has seen to it

    def _plain(self, kind: str, dtype: str) -> Iterator[np.ndarray]:
        cursor, section = self._section(kind, dtype)
        rest = _fixed_bytes(self.directory, section)
        yield from _plain_parts(cursor, rest, _word(dtype), section.coding)
        cursor.end()

    def _motifs(self, dtype: str, layout: _Layout) -> np.ndarray:
        """(num_motifs, block_bytes) uint8"""
        cursor, section = self._section("motifs", dtype)
        k, word = self.directory.num_motifs[dtype], _word(dtype)
        if section.coding == "raw":
            return np.frombuffer(cursor.read(section.num_bytes), dtype=np.uint8).reshape(k, layout.block_bytes)
        steps = np.concatenate(list(_plain_parts(cursor, k * word, word, "planes"))).view(f"<u{word}")
        others = list(_plain_parts(cursor, k * (layout.block_bytes - word), word, "planes"))
        cursor.end()
        motifs = np.empty((k, layout.block_bytes), dtype=np.uint8)
        motifs[:, :word] = np.cumsum(steps, dtype=steps.dtype).view(np.uint8).reshape(k, word)
        if others:
            motifs[:, word:] = np.concatenate(others).reshape(k, -1)
        return motifs

    def mosaic(self, dtype: str, layout: _Layout) -> Iterator[np.ndarray]:
        """Indices of motifs, int64, in parts of CHUNK."""
        cursor, section = self._section("mosaic", dtype)
        k = self.directory.num_motifs[dtype]
        width = (k - 1).bit_length()
        for start in range(0, layout.num_blocks, CHUNK):
            count = min(CHUNK, layout.num_blocks - start)
            coded = cursor.read_size(count) if section.coding == "ranks" else 0
            read = cursor.read_ranks(coded, count, width) if coded else unpack_bits(cursor.read(-(-count * width // 8)), count, width)
            if read.max() >= k:
                raise _Bad(f"names motif {read.max()} of {k}")
            yield read
        cursor.end()


class _Cursor:
    """Reads a section in order and never beyond its end. Raises _Bad."""

    def __init__(self, file: BinaryIO, start: int, section: _Section):
        self.file, self.position, self.rest, self.kind = file, start, section.num_bytes, section.kind

    def read(self, num_bytes: int) -> bytes:
        if num_bytes > self.rest:
            raise _Bad(f"section {self.kind} ends early")
        self.file.seek(self.position)
        data = self.file.read(num_bytes)
        if len(data) != num_bytes:
            raise _Bad(f"section {self.kind} can't be read")
        self.position += num_bytes
        self.rest -= num_bytes
        return data

    def read_size(self, most: int) -> int:
        (size,) = struct.unpack("<I", self.read(4))
        if size > most:
            raise _Bad(f"section {self.kind} declares {size} bytes where {most} suffice")
        return size

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
            return np.frombuffer(_decompress(coded, count) if plain is None else plain, dtype=np.uint8)
        except (zstandard.ZstdError, ValueError) as error:
            raise _Bad(f"section {self.kind} can't be decompressed: {error}") from error

    def end(self) -> None:
        if self.rest:
            raise _Bad(f"section {self.kind} has {self.rest} bytes too many")


class _Source:
    """A stream of byte arrays, to be taken in other lengths. Raises _Bad."""

    def __init__(self, stream: Iterator[np.ndarray]):
        self.stream, self.held = stream, np.empty(0, dtype=np.uint8)

    def take(self, num_bytes: int) -> Iterator[np.ndarray]:
        while num_bytes:
            if not len(self.held):
                self.held = next(self.stream, None)
                if self.held is None:
                    raise _Bad("a section ends early")
            part, self.held = self.held[:num_bytes], self.held[num_bytes:]
            num_bytes -= len(part)
            yield part

    def end(self) -> None:
        """Lets the stream make its own checks at its end."""
        if len(self.held) or next(self.stream, None) is not None:
            raise _Bad("a section is too long")


def _plain_parts(cursor: _Cursor, num_bytes: int, word: int, coding: str) -> Iterator[np.ndarray]:
    while num_bytes:
        size = min(CHUNK * word, num_bytes)
        if coding == "raw":
            yield np.frombuffer(cursor.read(size), dtype=np.uint8)
        else:
            planes = np.stack([cursor.read_plane(size // word) for _ in range(word)])
            yield np.ascontiguousarray(planes.T).reshape(-1)
        num_bytes -= size


def _decompress(coded: bytes, num_bytes: int) -> bytes:
    """Raises ValueError or ZstdError unless it is one frame of num_bytes; checked before anything of that size is allocated."""
    if zstandard.frame_content_size(coded) != num_bytes:
        raise ValueError(f"expected {num_bytes} bytes")
    return zstandard.ZstdDecompressor().decompress(coded)


def _some(names: Sequence[str]) -> str:
    return (", ".join(names[:5]) or "nothing") + (f" and {len(names) - 5} more" if len(names) > 5 else "")
