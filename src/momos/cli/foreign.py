"""`momos measure` without an architecture: fresh weights follow from names and shapes."""

import argparse
import ctypes
import json
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from momos.cli.arguments import naming, require_block_size, require_output
from momos.cli.stored import Columns, StoredForm, compressed_ratio, mosaic_description, stored_form
from momos.methods.method import FULL_PRECISION
from momos.weights.files import one_line, open_weights

if TYPE_CHECKING:
    from torch import Tensor

    from momos.survey.network import Network

PLANES = tuple(range(7, -1, -1))
KEPT = 2**24  # weights that are read once; larger files are read again by each measure
LARGE = 2**20  # bytes of a buffer
PIECE = 2**22  # weights that are compressed at a time: a chunk of `survey.streaming`
# arguments that need an architecture, and what they are where they are not given
NEEDS_ARCH: dict[str, Any] = {
    "num_classes": None,
    "arch_kwargs": {},
    "initial": None,
    "bits": FULL_PRECISION,
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What fresh weights can't be told without."""
    parser.add_argument(
        "--init",
        metavar="NAME",
        help="what the authors initialised with, without --arch (default: as PyTorch does)",
    )
    parser.add_argument(
        "--kinds",
        metavar="JSON",
        help='what names can\'t tell, without --arch: [["name", "parameter"], ..], '
        "regular expressions and kinds",
    )
    parser.add_argument(
        "--compressors", metavar="A,B", help="without --arch (default: all there are)"
    )
    parser.add_argument(
        "--layers",
        type=Path,
        metavar="PICTURE",
        help="draw bit planes tensor by tensor, without --arch: .png, .svg or .pdf",
    )


def require_unused(arguments: argparse.Namespace) -> None:
    """Raises ValueError for arguments that an architecture makes meaningless."""
    for name in ("init", "kinds", "compressors", "layers"):
        if getattr(arguments, name) is not None:
            raise ValueError(f"--{name} goes without --arch, which has its own initialisation")


def run(arguments: argparse.Namespace, num_init_seeds: int) -> int:
    """Measure a weight file, and print each part as soon as it is known (or JSON at the end)."""
    for name, unused in NEEDS_ARCH.items():
        if getattr(arguments, name) != unused:
            raise ValueError(f"--{name.replace('_', '-')} needs --arch")
    if arguments.layers is not None:
        from momos.cli import layers

        layers.require_picture(arguments.layers)
        require_output(arguments.layers, arguments.layers.suffix, arguments.weights)
    network = _network(arguments)
    if arguments.block_size is not None:
        num_weights = sum(math.prod(network.stored.layout[name]) for name in network.names)
        require_block_size(arguments.block_size, num_weights, arguments.weights)
    columns: Columns = {}
    parts = _parts(network, num_init_seeds, arguments.block_size, _compressors(arguments))
    with naming(arguments.weights):
        for part, lines in parts:
            columns |= part
            if not arguments.json:
                print("\n".join(lines), flush=True)
    if arguments.json:
        print(json.dumps(columns, indent=1))
    if arguments.layers is not None:
        from momos.cli import layers

        layers.draw(layers.layer_ratios(network, num_init_seeds), arguments.layers)
    return 0


def _network(arguments: argparse.Namespace) -> "Network":
    from momos.survey.network import find_network

    kinds = kinds_of(arguments.kinds)
    stored = open_weights(arguments.weights)
    stored.keep_tensors(KEPT)  # every measure goes through all of them
    if sum(map(math.prod, stored.layout.values())) > KEPT:
        return_freed_memory()
    return find_network(
        stored, init="default" if arguments.init is None else arguments.init, kinds=kinds
    )


def return_freed_memory() -> None:
    """Tell glibc to return large buffers when they are freed, not to keep them for later."""
    from momos.compute.device import M_MMAP_THRESHOLD

    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if os.name == "posix" else None
    if mallopt is not None:
        mallopt(ctypes.c_int(M_MMAP_THRESHOLD), ctypes.c_int(LARGE))


def kinds_of(text: str | None) -> list:
    """The pairs that --kinds gives. Raises ValueError for text that is no list of pairs."""
    from momos.weights.initial import require_kinds

    if text is None:
        return []
    try:
        if not isinstance(kinds := json.loads(text), list):
            raise TypeError(f"it is of the type {type(kinds).__name__}")
        require_kinds(kinds)
    except (TypeError, ValueError) as error:
        raise ValueError(f"--kinds must be a JSON list of pairs, got {text!r} ({error})") from error
    return kinds


def _compressors(arguments: argparse.Namespace) -> list[str]:
    """Raises ValueError for a name that is no compressor."""
    from momos.complexity import compressors

    given = arguments.compressors
    names = compressors.names() if given is None else given.split(",")
    for name in names:
        compressors.load(name)
    return names


Part = tuple[Columns, list[str]]  # columns of the row, and lines for readers


def _parts(
    network: "Network", num_init_seeds: int, block_size: int | None, compressors: list[str]
) -> Iterator[Part]:
    """What is measured, in the order of what it costs."""
    form = stored_form(tensor for _, tensor in network.weights())
    yield _about(network, form)
    yield _against_fresh(network, num_init_seeds)
    if block_size is not None:
        yield _as_mosaic(network, block_size, form)
    for name in compressors:
        yield _compressed(network, name, form)


def _about(network: "Network", form: StoredForm) -> Part:
    """The weights themselves, their BDM, and what of the file is none."""
    from momos.complexity import bdm
    from momos.survey.streaming import SignCounts

    counts = SignCounts(network.weights(), "trained").counts
    num_weights = sum(tensor.numel() for _, tensor in network.weights())
    columns: Columns = {
        "num_weights": num_weights,
        "num_tensors": len(network.names),
        "stored_dtype": form.dtype,
        "bits": form.bits,
        "init": network.init,
        **network.left_out(),
        "bdm_1d": bdm.complexity(counts.words),
        "bdm_2d": bdm.complexity(counts.squares),
    }
    left_out = ", ".join(
        f"{count} {what}"
        for count, what in zip(
            network.left_out().values(), ("buffers", "copies", "beside the weights"), strict=True
        )
        if count
    )
    lines = [
        f"{num_weights:,} weights in {len(network.names)} tensors, {form.dtype}"
        + (f"; left out: {left_out}" if left_out else ""),
        _line("BDM 1-D", f"{columns['bdm_1d']:.0f} bits"),
        _line("BDM 2-D", f"{columns['bdm_2d']:.0f} bits"),
    ]
    return columns, lines


def _against_fresh(network: "Network", num_init_seeds: int) -> Part:
    """The measures against fresh weights, with the controls."""
    from momos.survey.streaming import measure_against

    initial = network.initialisations(range(num_init_seeds))
    columns = measure_against(network.weights, initial, compressors=(), seed=0)
    lines = [f"against {num_init_seeds} initialisations ({network.init})"]
    for title, prefix in (("BDM 1-D", "bdm_1d"), ("BDM 2-D", "bdm_2d"), ("planes", "planes")):
        lines.append(_line(title, _compared(columns, prefix)))
    ratios = ", ".join(f"{columns[f'plane_{plane}_ratio']:.3f}" for plane in PLANES)
    lines.append(_line("plane 7 .. 0", f"ratios {ratios}"))
    return dict(columns), lines


def _compared(columns: Mapping[str, Any], prefix: str) -> str:
    """ratio 0.9723, z -12.3, p 2e-9"""
    parts = [f"ratio {columns[f'{prefix}_ratio']:.4f}"]
    parts += [
        f"{name} {value:{digits}}"
        for name, digits in (("z", ".1f"), ("p", ".1e"))
        if (value := columns.get(f"{prefix}_{name}")) is not None
    ]
    return ", ".join(parts)


def _as_mosaic(network: "Network", block_size: int, form: StoredForm) -> Part:
    """RAC with as many motifs as there are distinct blocks."""
    from momos.complexity.measure import distinct_blocks

    tensors = dict(network.weights())
    count = distinct_blocks(tensors, block_size)
    sizes = [tensor.numel() for tensor in tensors.values()]
    columns = mosaic_description(sizes, block_size, count, form.bits) | {"distinct_blocks": count}
    text = f"{columns['rac']:.4f} with {count:,} distinct of {columns['num_blocks']:,} blocks"
    return columns, [_line("RAC", f"{text} of {block_size}")]


def _compressed(network: "Network", compressor: str, form: StoredForm) -> Part:
    """Ratios of a compressor: the bytes as stored, as float32, and the signs."""
    from momos.survey.streaming import TrainedCounts

    counted = TrainedCounts(_pieces(network), [compressor])
    plain, signs = counted.raw[compressor].ratio(), counted.binary[compressor].ratio()
    columns: Columns = {compressor: plain, f"{compressor}_binary": signs}
    text = f"weights {plain:.4f}"
    if form.dtype != "float32":
        stored = compressed_ratio((tensor for _, tensor in network.weights()), compressor)
        columns |= {compressor: stored, f"{compressor}_float32": plain}
        text = f"weights as stored {stored:.4f}, as float32 {plain:.4f}"
    return columns, [_line(compressor, f"{text}, signs {signs:.4f}")]


def _pieces(network: "Network") -> "Iterator[tuple[str, Tensor]]":
    """The weights in order, few at a time: as float32 a tensor may need twice its own memory."""
    for name, tensor in network.weights():
        for piece in tensor.reshape(-1).split(PIECE):
            yield name, piece


def _line(title: str, text: str) -> str:
    return f"{title:<14}{one_line(text)}"
