"""Contents of a .momos file: tensors, the directory that describes them, and its sections."""

import json
import math
import struct
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from momos.weights.blocks import SLICINGS

LEVELS = ("fixed", "entropy")
CODINGS = {
    "motifs": ("raw", "motifs", "grid", "grid motifs"),
    "mosaic": ("bits", "ranks"),
    "tails": ("raw", "planes"),
    "weights": ("raw", "planes", "grids", "grid planes"),
    "other": ("raw", "planes"),
}
DTYPES: dict[str, torch.dtype] = {
    name: getattr(torch, name)
    for name in (
        "float64",
        "float32",
        "float16",
        "bfloat16",
        "float8_e4m3fn",
        "float8_e5m2",
        "float8_e4m3fnuz",
        "float8_e5m2fnuz",
        "int64",
        "int32",
        "int16",
        "int8",
        "uint64",
        "uint32",
        "uint16",
        "uint8",
        "bool",
        "complex128",
        "complex64",
    )
}
# Of those, the ones that every reader of safetensors knows, by its names.
PLAIN = {
    "float64": "F64",
    "float32": "F32",
    "float16": "F16",
    "bfloat16": "BF16",
    "int64": "I64",
    "int32": "I32",
    "int16": "I16",
    "int8": "I8",
    "uint64": "U64",
    "uint32": "U32",
    "uint16": "U16",
    "uint8": "U8",
    "bool": "BOOL",
}
VERSION = "3"
LENGTH = struct.Struct("<Q")  # before the header: its bytes
MAX_HEADER = 100_000_000  # bytes: what readers of safetensors take
MAX_DIRECTORY = 2**26  # bytes


class Section(NamedTuple):
    """A part of the file that holds one kind of content of one dtype."""

    kind: str  # of CODINGS
    dtype: str
    coding: str  # of CODINGS[kind]
    num_bytes: int


class Place(NamedTuple):
    """A section as a tensor of the safetensors file."""

    name: str
    dtype: str  # as safetensors calls it; U8 where the section is coded
    shape: list[int]
    start: int  # byte behind the header
    stop: int


class Directory(NamedTuple):
    """The description of a file's content."""

    level: str  # of LEVELS
    block_size: int
    slicing: str
    shapes: dict[str, tuple[int, ...]]  # name -> shape, of tied tensors the first name alone
    dtypes: dict[str, str]
    weights: list[str]  # names of the trainable weights
    aliases: dict[str, str]  # further names -> first name
    num_motifs: dict[str, int]  # dtype of weights -> k, 0 without a mosaic
    sections: list[Section]


class Layout(NamedTuple):
    """How the weights of one dtype are cut."""

    block_bytes: int
    pieces: list[tuple[int, int]]  # of what is cut together: bytes in whole blocks, bytes of tail

    @property
    def num_blocks(self) -> int:
        """Whole blocks of all pieces."""
        return sum(whole for whole, _ in self.pieces) // self.block_bytes

    @property
    def tail_bytes(self) -> int:
        return sum(tail for _, tail in self.pieces)


class BadFile(ValueError):
    """A file that is being read is damaged, or does not fit."""


def dtype_name(tensor: Tensor) -> str:
    """The dtype as in DTYPES."""
    return str(tensor.dtype).removeprefix("torch.")


def check_tensor(name: str, tensor: object) -> None:
    """Raise ValueError naming what is no dense tensor of a known dtype with data."""
    if not isinstance(tensor, Tensor):
        raise ValueError(
            f"{name} is no tensor but {type(tensor).__name__}: a .momos file holds tensors alone"
        )
    if (
        tensor.layout is not torch.strided
        or dtype_name(tensor) not in DTYPES
        or tensor.device.type == "meta"
    ):
        raise ValueError(
            f"{name} can't be packed: expected a dense tensor with data, "
            f"got {tensor.dtype}, {tensor.layout}, {tensor.device}"
        )


def check_settings(block_size: int, level: str, slicing: str) -> None:
    """Raise ValueError naming a setting that is out of range."""
    if isinstance(block_size, bool) or not isinstance(block_size, int) or block_size < 1:
        raise ValueError(f"block_size must be a whole number of at least 1, got {block_size!r}")
    if level not in LEVELS:
        raise ValueError(f"level must be one of {', '.join(LEVELS)}, got {level!r}")
    if slicing not in SLICINGS:
        raise ValueError(f"slicing must be one of {', '.join(SLICINGS)}, got {slicing!r}")


def memory_of(tensor: Tensor) -> tuple:
    """A key that is equal for two tensors with the same values in the same memory."""
    if tensor.numel() == 0:
        return (id(tensor),)
    return (
        tensor.device,
        tensor.data_ptr(),
        tensor.dtype,
        tuple(tensor.shape),
        tensor.stride(),
        tensor.is_conj(),
        tensor.is_neg(),
    )


def aliases_of(tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """The first name of a tensor, by each of its further names."""
    first: dict[tuple, str] = {}
    origins = {name: first.setdefault(memory_of(tensor), name) for name, tensor in tensors.items()}
    return {name: origin for name, origin in origins.items() if origin != name}


def as_bytes(tensor: Tensor) -> np.ndarray:
    """The bytes (num_bytes,) uint8 in order: own memory if contiguous on the CPU, else a copy."""
    if tensor.numel() == 0:  # an empty tensor may have any strides
        return np.empty(0, dtype=np.uint8)
    resolved = tensor.detach().resolve_conj().resolve_neg()
    return resolved.cpu().contiguous().reshape(-1).view(torch.uint8).numpy()


def layout_of(directory: Directory, dtype: str) -> Layout:
    """The layout of the trainable weights of one dtype."""
    sizes = [
        math.prod(directory.shapes[name])
        for name in directory.weights
        if directory.dtypes[name] == dtype
    ]
    block, item = directory.block_size, DTYPES[dtype].itemsize
    cut = sizes if directory.slicing == "tensor" else [sum(sizes)]
    return Layout(
        block * item, [(size // block * block * item, size % block * item) for size in cut]
    )


def word_of(dtype: str) -> int:
    """Bytes of a word of this dtype: an element, or a half of complex128."""
    return min(DTYPES[dtype].itemsize, 8)


def to_json(directory: Directory) -> dict[str, Any]:
    """The directory as JSON values."""
    weights = set(directory.weights)
    tensors = [
        [name, directory.dtypes[name], list(shape), name in weights]
        for name, shape in directory.shapes.items()
    ]
    kept = {
        key: getattr(directory, key)
        for key in ("level", "block_size", "slicing", "aliases", "num_motifs", "sections")
    }
    return kept | {"tensors": tensors}


def from_json(values: dict[str, Any]) -> Directory:
    """The inverse of `to_json`.

    Raises ValueError, KeyError or TypeError for anything that `to_json` does not write.
    """
    check_settings(values["block_size"], values["level"], values["slicing"])
    shapes: dict[str, tuple[int, ...]] = {}
    dtypes: dict[str, str] = {}
    weights: list[str] = []
    for name, dtype, shape, weight in values["tensors"]:
        if (
            not isinstance(name, str)
            or name in shapes
            or dtype not in DTYPES
            or not isinstance(weight, bool)
        ):
            raise ValueError(f"tensor {name!r} of {dtype!r}")
        shapes[name], dtypes[name] = tuple(_count(size) for size in shape), dtype
        weights += [name] * weight
    aliases = dict(values["aliases"])
    if any(origin not in shapes or name in shapes for name, origin in aliases.items()):
        raise ValueError("tied names")
    sections = [
        Section(kind, dtype, coding, _count(size))
        for kind, dtype, coding, size in values["sections"]
    ]
    num_motifs = {dtype: _count(k) for dtype, k in values["num_motifs"].items()}
    settings = (values["level"], values["block_size"], values["slicing"])
    directory = Directory(*settings, shapes, dtypes, weights, aliases, num_motifs, sections)
    _check_sections(directory)
    return directory


def _count(value: object) -> int:
    """The value. Raises ValueError unless it is an integer of at least 0."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValueError(f"a size of {value!r}")
    return value


def _check_sections(directory: Directory) -> None:
    """Raise ValueError unless the sections are those that the tensors need.

    A section whose coding fixes its size must have that size.
    """
    weights = set(directory.weights)
    groups = list(dict.fromkeys(directory.dtypes[name] for name in directory.weights))
    others = dict.fromkeys(dtype for name, dtype in directory.dtypes.items() if name not in weights)
    expected = [
        (kind, dtype)
        for dtype in groups
        for kind in (("motifs", "mosaic", "tails") if directory.num_motifs[dtype] else ("weights",))
    ]
    expected += [("other", dtype) for dtype in others]
    if [(section.kind, section.dtype) for section in directory.sections] != expected:
        raise ValueError("its sections")
    if list(directory.num_motifs) != groups:
        raise ValueError("its groups of weights")
    for section in directory.sections:
        _check_section(directory, section)


def _check_section(directory: Directory, section: Section) -> None:
    num_motifs = directory.num_motifs.get(section.dtype, 0)
    if section.coding not in CODINGS[section.kind]:
        raise ValueError(f"{section.kind} coded as {section.coding!r}")
    if section.coding.startswith("grid") and section.dtype != "float32":
        raise ValueError(f"a grid of {section.dtype}")
    if section.kind == "motifs" and num_motifs > layout_of(directory, section.dtype).num_blocks:
        raise ValueError(f"{num_motifs} motifs")
    has_fixed_size = section.coding in ("raw", "bits")
    if has_fixed_size and section.num_bytes != fixed_bytes(directory, section):
        raise ValueError(f"{section.num_bytes} bytes of {section.kind}")


def fixed_bytes(directory: Directory, section: Section) -> int:
    """Bytes of a section's content before it is coded; of the mosaic, at fixed width."""
    dtype = section.dtype
    if section.kind == "other":
        names = set(directory.weights)
        sizes = [
            math.prod(shape)
            for name, shape in directory.shapes.items()
            if name not in names and directory.dtypes[name] == dtype
        ]
        return sum(sizes) * DTYPES[dtype].itemsize
    layout, num_motifs = layout_of(directory, dtype), directory.num_motifs[dtype]
    return {
        "motifs": num_motifs * layout.block_bytes,
        "mosaic": -(-layout.num_blocks * max(num_motifs - 1, 0).bit_length() // 8),
        "tails": layout.tail_bytes,
        "weights": sum(map(sum, layout.pieces)),
    }[section.kind]


def places(directory: Directory) -> list[Place]:
    """The sections' places, in their order in the directory.

    In the file sections of larger elements come first, so that each begins at a multiple of its
    element's size.
    """
    kinds = [_tensor_of(directory, section) for section in directory.sections]
    items = [DTYPES[section.dtype].itemsize for section in directory.sections]
    sizes = [1 if dtype == "U8" else item for (dtype, _), item in zip(kinds, items, strict=True)]
    starts, position = [0] * len(kinds), 0
    for index in sorted(range(len(kinds)), key=lambda index: -sizes[index]):
        starts[index] = position
        position += directory.sections[index].num_bytes
    return [
        Place(f"{section.kind}.{section.dtype}", *kind, start, start + section.num_bytes)
        for section, kind, start in zip(directory.sections, kinds, starts, strict=True)
    ]


def _tensor_of(directory: Directory, section: Section) -> tuple[str, list[int]]:
    """dtype, as safetensors calls it, and shape of a section."""
    if section.coding != "raw" or section.dtype not in PLAIN:
        return "U8", [section.num_bytes]
    shape = [section.num_bytes // DTYPES[section.dtype].itemsize]
    if section.kind == "motifs":
        shape = [directory.num_motifs[section.dtype], directory.block_size]
    return PLAIN[section.dtype], shape


def header(directory: Directory, coded: str, digest: str) -> bytes:
    """The file's header with its length before it. coded: the directory as text."""
    entries: dict[str, Any] = {
        "__metadata__": {"momos": VERSION, "sha256": digest, "directory": coded}
    }
    for place in places(directory):
        offsets = [place.start, place.stop]
        entries[place.name] = {"dtype": place.dtype, "shape": place.shape, "data_offsets": offsets}
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return LENGTH.pack(len(text)) + text


def some(names: Sequence[str]) -> str:
    """The first five names, and how many more there are."""
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return (", ".join(names[:5]) or "nothing") + more
