"""The .momos file: a model as motifs and a mosaic on disk, bit for bit (MoMos, Eq. 8, made real).

It is a safetensors file, so that any tool for those lists it. Its tensors are sections, called
kind.dtype: motifs.float32, mosaic.float32 .. Its metadata hold

    momos       the version
    sha256      of the directory as it stands there, and of all bytes behind the header
    directory   base 85 of compressed JSON: names, shapes and dtypes of the state dict's tensors,
                which of them are tied, and the sections

A section that is coded `raw` has the dtype of what it holds, where safetensors in all its versions
has that: motifs.float32 is (k, block_size). Every other section is bytes; integers are
little-endian. Sections of larger elements come first, else they are in the directory's order.

The weights are cut as `momos.weights.blocks` cuts them. The weights of one dtype are a table of
distinct blocks (`motifs`), an index per whole block (`mosaic`), and the rest of each piece
(`tails`). Where that would not be smaller, they are one tensor after the other (`weights`).
Everything else in a state dict is `other`. Two blocks are the same motif if all their bits are the
same: 0 and -0 differ.

Codings of a section at level "fixed":

    raw          the bytes
    bits         ceil(log2 k) bits per index, from the lowest bit up
    grid         motifs: a grid, then codes of its number of bits
    grids        weights: per tensor a grid and codes of its number of bits, or no grid (0 bits) and
                 the bytes

Codings at level "entropy":

    planes       per 2^17 words: all first bytes, all second bytes, .., each compressed
    motifs       in the order of use: planes of the differences between the first words of motifs
                 and of those before them; then planes of the other words
    ranks        per 2^17 indices: a byte for the three leading bits and the length of each index,
                 compressed; then the bits that follow these
    grid motifs  as grid, with codes of one or two bytes that are coded as words are in `motifs`
    grid planes  as grids, with codes of one or two bytes that are coded as words are in `planes`

A grid is a byte (its bits, 2 to 16) and a float32 (its step). Code c stands for (c - Q) * step with
Q = 2^(bits - 1) - 1, and the last code for -0. Quantised weights lie on a grid, each tensor on its
own, which costs them fewer bits than motifs of the whole model would.

Where the mosaic is entropy-coded, a motif's index is its rank by use. Motifs with the same byte
code are nearly equally frequent. The code of the bytes alone therefore comes within half a percent
of the entropy of the counts, which need not be stored. The order of such motifs is free: they are
sorted by value, which makes their differences small.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from momos.complexity import code_length
from momos.packing.coding import pack_bits, unpack_bits
from momos.packing.layout import (
    CODINGS,
    DTYPES,
    LEVELS,
    Directory,
    aliases_of,
    as_bytes,
    check_settings,
    check_tensor,
    dtype_name,
    layout_of,
    memory_of,
)
from momos.packing.reading import Opened, opened_file, store
from momos.packing.writing import Writer, atomically, write
from momos.weights.blocks import trainable

__all__ = [
    "DTYPES",
    "LEVELS",
    "Contents",
    "Group",
    "differences",
    "inspect",
    "pack",
    "pack_bits",
    "pack_tensors",
    "read_tensors",
    "unpack",
    "unpack_bits",
    "unpack_tensors",
]


class Group(NamedTuple):
    """The weights of one dtype in a file."""

    dtype: str
    num_weights: int
    num_bytes: int  # of the weights in memory
    num_blocks: int  # n of the bound: a ragged last block counts, although it is stored apart
    num_motifs: int  # k; 0: the weights are stored without a mosaic
    usage: np.ndarray  # (num_motifs,) int64: how often each motif is used
    bound_bytes: int  # k*s*q + n*ceil(log2 k) bits (method A5); num_weights * q without a mosaic


class Contents(NamedTuple):
    """The contents of a file."""

    level: str
    block_size: int
    slicing: str
    num_tensors: int  # names of the state dict
    file_bytes: int
    # bytes of directory (with the preamble), motifs, mosaic, tails, weights and other
    sections: dict[str, int]
    groups: list[Group]


def pack(
    model: nn.Module,
    path: Path | str,
    block_size: int,
    *,
    level: str = "fixed",
    slicing: str = "tensor",
) -> None:
    """Write the model's state dict to `path`, its trainable weights as a mosaic of blocks.

    block_size: weights per block (s). level: "fixed", or "entropy" for a smaller file. slicing: see
    `momos.weights.blocks`. The file appears whole or not at all. Raises ValueError for bad
    arguments and for state that is no dense tensor of a known dtype, OSError naming the file that
    can't be written.
    """
    state = model.state_dict(keep_vars=True)
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
    """`pack` for a state dict without its module.

    weights: the names that become the mosaic. Raises what `pack` raises.
    """
    check_settings(block_size, level, slicing)
    for name, tensor in tensors.items():
        check_tensor(name, tensor)
    aliases = aliases_of(tensors)
    first = {name: tensor for name, tensor in tensors.items() if name not in aliases}
    dtypes = {name: dtype_name(tensor) for name, tensor in first.items()}
    directory = Directory(
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
    with atomically(Path(path)) as file, Writer(file) as writer:
        write(writer, first, directory)


def unpack(path: Path | str, model: nn.Module) -> None:
    """Load the file into the model, in place and on its devices, bit for bit.

    The whole file is checked and decoded once before the model is touched. Memory holds the table
    of motifs and a buffer beside the model; a tensor that is not contiguous or not on the CPU
    passes through a copy of itself. Raises ValueError naming the file and what is wrong if it is
    missing, damaged, of another version, or does not fit the model.
    """
    unpack_tensors(path, model.state_dict(keep_vars=True))


@torch.no_grad()
def unpack_tensors(path: Path | str, tensors: Mapping[str, Tensor]) -> None:
    """`unpack` into the tensors of a state dict. Raises what `unpack` raises."""
    with opened_file(path) as opened:
        opened.check_fit(tensors)
        opened.check()
        for name, parts in opened.walk():
            store(parts, tensors[name])
        for name, origin in opened.directory.aliases.items():
            if memory_of(tensors[name]) != memory_of(tensors[origin]):
                tensors[name].copy_(tensors[origin])


@torch.no_grad()
def read_tensors(path: Path | str, *, max_bytes: int | None = None) -> dict[str, Tensor]:
    """The state dict in the file, on the CPU; tied names share one tensor.

    max_bytes: refuse more than these (default: 1 GiB and a thousand times the file). Raises
    ValueError as `unpack` does, and for more bytes.
    """
    with opened_file(path) as opened:
        opened.check_total(max_bytes)
        opened.check()
        directory = opened.directory
        tensors = {
            name: torch.empty(shape, dtype=DTYPES[directory.dtypes[name]])
            for name, shape in directory.shapes.items()
        }
        for name, parts in opened.walk():
            store(parts, tensors[name])
        return tensors | {name: tensors[origin] for name, origin in directory.aliases.items()}


def differences(path: Path | str, tensors: Mapping[str, Tensor]) -> list[str]:
    """Names of the tensors that differ from those in the file in any bit.

    Raises ValueError as `unpack` does, also for other names or shapes.
    """
    different: set[str] = set()
    with opened_file(path) as opened:
        opened.check_fit(tensors, tied=False)
        opened.check()
        names = {origin: [origin] for origin in opened.directory.shapes}
        for name, origin in opened.directory.aliases.items():
            names[origin].append(name)
        for origin, parts in opened.walk():
            views = {name: as_bytes(tensors[name]) for name in names[origin]}
            start = 0
            for part in parts:
                place = slice(start, start + len(part))
                start += len(part)
                for name, view in views.items():
                    if not np.array_equal(view[place], part):
                        different.add(name)
    return [name for name in tensors if name in different]


def inspect(path: Path | str) -> Contents:
    """The contents of a file, after the whole of it is checked.

    Raises ValueError as `unpack` does.
    """
    with opened_file(path) as opened:
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


def _group(opened: Opened, dtype: str) -> Group:
    directory, item = opened.directory, DTYPES[dtype].itemsize
    layout, num_motifs = layout_of(directory, dtype), directory.num_motifs[dtype]
    num_bytes = sum(map(sum, layout.pieces))
    num_blocks = layout.num_blocks + sum(tail > 0 for _, tail in layout.pieces)
    usage = np.zeros(num_motifs, dtype=np.int64)
    bits = 8 * num_bytes
    if num_motifs:
        for indices in opened.mosaic(dtype, layout):
            usage += np.bincount(indices, minlength=num_motifs)
        bits = code_length.momos_bits(num_blocks, directory.block_size, num_motifs, 8 * item)
    num_weights, bound_bytes = num_bytes // item, -(-bits // 8)
    return Group(dtype, num_weights, num_bytes, num_blocks, num_motifs, usage, bound_bytes)
