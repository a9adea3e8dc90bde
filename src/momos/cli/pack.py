"""`momos pack`, `unpack`, `inspect` and `verify`: models as .momos files."""

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from momos.cli.architecture import build_for, require_fit
from momos.cli.arguments import (
    Shape,
    add_shape,
    as_text,
    positive,
    require_block_size,
    require_output,
    shape_of,
)
from momos.weights.files import holds_weights, open_weights, some_of

if TYPE_CHECKING:
    from torch import Tensor

    from momos.packing import Group

DIFFERENT = 1  # exit code of `verify`
SOURCE_HELP = (
    "run folder, .safetensors, .pt, .pth, .bin, .npz or .onnx file, or Hugging Face folder"
)
WEIGHT_SECTIONS = ("motifs", "mosaic", "tails", "weights")  # sections that hold the weights
PACK = (
    "Write a model as motifs and mosaic, without loss. Names of tensors are kept without the "
    "prefixes that all of them have in the file."
)
UNPACK = "Restore a model, bit for bit."
INSPECT = "Motifs, blocks, usage, and bytes against the bound k*s*q + n*ceil(log2 k)."
VERIFY = (
    "Re-read a file whole, compare it with what it was packed from, and test its network. Exit "
    "status 1: they differ."
)


def add_commands(commands: "argparse._SubParsersAction") -> None:
    """Add `pack`, `unpack`, `inspect` and `verify` to the parser of the command."""
    add = commands.add_parser
    _add_pack(add("pack", help="weights or run folder to .momos", description=PACK))
    _add_unpack(add("unpack", help=".momos to .safetensors", description=UNPACK))
    _add_inspect(add("inspect", help="what is in a .momos file", description=INSPECT))
    _add_verify(add("verify", help="check a .momos file", description=VERIFY))


def _add_pack(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", type=Path, metavar="RUN_OR_WEIGHTS", help=SOURCE_HELP)
    parser.add_argument("out", type=Path, metavar="OUT.momos")
    parser.add_argument(
        "--block-size", type=positive, metavar="S", help="weights per block (default: as the run)"
    )
    parser.add_argument(
        "--level",
        default="fixed",
        choices=["fixed", "entropy"],
        help="fixed-width or entropy-coded (default fixed)",
    )
    parser.add_argument(
        "--slicing",
        choices=["tensor", "model"],
        help="what is cut together (default: as the run, else tensor)",
    )
    _add_which(parser)
    parser.add_argument(
        "--arch",
        help="of a weight file: its trainable weights become the mosaic "
        "(default: all floating-point tensors)",
    )
    add_shape(parser)
    parser.set_defaults(run=_run_pack)


def _add_which(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--which",
        default="best",
        choices=["best", "last", "initial"],
        help="weights of a run folder (default best)",
    )


def _add_unpack(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", type=Path, metavar="FILE.momos")
    parser.add_argument("out", type=Path, metavar="OUT.safetensors")
    parser.set_defaults(run=_run_unpack)


def _add_inspect(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", type=Path, metavar="FILE.momos")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=_run_inspect)


def _add_verify(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", type=Path, metavar="FILE.momos")
    parser.add_argument(
        "source", type=Path, nargs="?", metavar="RUN_OR_WEIGHTS", help="what it was packed from"
    )
    _add_which(parser)
    parser.add_argument(
        "--images",
        type=Path,
        metavar="DATA.safetensors",
        help="print the accuracy on the test images of this prepared data set, too",
    )
    parser.add_argument(
        "--about",
        type=Path,
        metavar="FOLDER",
        help="whose run.json describes the network (default: the folder of FILE.momos)",
    )
    parser.set_defaults(run=_run_verify)


class PackSource(NamedTuple):
    """Tensors that are to be packed, and which of them become the mosaic."""

    tensors: dict[str, "Tensor"]
    weights: list[str]  # names of the trainable ones
    block_size: int | None  # of a run of the pipeline that has one
    slicing: str | None


def load_pack_source(
    path: Path, *, which: str, arch: str | None, num_classes: int | None, shape: Shape
) -> PackSource:
    """The weights `which` of a run folder, or a weight file as `momos.weights.files` reads it.

    arch: which tensors of a file are trainable; None takes all floating-point ones. A run folder
    knows its architecture itself.
    Raises ValueError naming what is missing or damaged, and where the weights do not belong to the
    architecture.
    """
    from momos.files import run_folder
    from momos.weights import blocks

    if not _is_run_folder(path):
        tensors = _floating_point_weights(path)
        block_size = slicing = None
    else:
        about = run_folder.load_run(path)
        tensors = run_folder.load_weights(path, which)
        arch, num_classes = about["arch"], about["num_classes"]
        shape = {
            "in_channels": about["in_channels"],
            "image_size": about["image_size"],
            "kwargs": about["arch_kwargs"],
        }
        block_size, slicing = about["block_size"], about["slicing"]
    if arch is None:
        floats = [name for name, tensor in tensors.items() if tensor.is_floating_point()]
        return PackSource(tensors, floats, block_size, slicing)
    model, _ = build_for(tensors, arch, num_classes, shape)
    require_fit(tensors, model)
    return PackSource(tensors, list(blocks.trainable(model)), block_size, slicing)


def _is_run_folder(path: Path) -> bool:
    """Whether a folder is a run's, or should be: no folder from which `measure` takes weights."""
    from momos.files import run_folder

    if not path.is_dir():
        return False
    return (path / run_folder.RUN).is_file() or not holds_weights(path)


def _floating_point_weights(path: Path) -> dict[str, "Tensor"]:
    """All tensors of a weight file. Raises ValueError for weights that are integers, or for none.

    Counters and places, which are integers too, are kept as they are.
    """
    stored = open_weights(path)
    stored.require_float_weights()
    return dict(stored)


def _run_pack(arguments: argparse.Namespace) -> int:
    from momos import packing

    require_output(arguments.out, ".momos", arguments.source)
    source = load_pack_source(
        arguments.source,
        which=arguments.which,
        arch=arguments.arch,
        num_classes=arguments.num_classes,
        shape=shape_of(arguments),
    )
    block_size = arguments.block_size or source.block_size
    if block_size is None:
        raise ValueError(f"{arguments.source} says no block size: give --block-size")
    num_weights = sum(source.tensors[name].numel() for name in source.weights)
    require_block_size(block_size, num_weights, arguments.source)
    packing.pack_tensors(
        source.tensors,
        arguments.out,
        block_size,
        weights=source.weights,
        level=arguments.level,
        slicing=arguments.slicing or source.slicing or "tensor",
    )
    raw = sum(tensor.nbytes for tensor in source.tensors.values())
    print(f"{arguments.out}: {arguments.out.stat().st_size} bytes, from {raw} bytes of tensors")
    return 0


def _run_unpack(arguments: argparse.Namespace) -> int:
    from momos import packing
    from momos.files import atomic

    require_output(arguments.out, ".safetensors", arguments.file)
    tensors = packing.read_tensors(arguments.file)
    atomic.save_tensors(arguments.out, tensors)
    print(f"{arguments.out}: {len(tensors)} tensors")
    return 0


def _run_inspect(arguments: argparse.Namespace) -> int:
    values = describe_file(arguments.file)
    print(json.dumps(values, indent=1) if arguments.json else as_text(values))
    return 0


def describe_file(path: Path) -> dict[str, Any]:
    """What `momos inspect` prints of a .momos file: settings, bytes by section, the weights.

    Weights are described by dtype: k, n, usage, the bound. usage: how many motifs are used 1, 2-3,
    4-7, .. times. rac: bytes of the weights over the bound (MoMos, Eq. 21); rac_measured: over
    their sections in the file.
    Raises ValueError naming a file that is missing or damaged.
    """
    from momos import packing

    contents = packing.inspect(path)
    stored = sum(contents.sections[kind] for kind in WEIGHT_SECTIONS)
    raw = sum(group.num_bytes for group in contents.groups)
    bound = sum(group.bound_bytes for group in contents.groups)
    return {
        "level": contents.level,
        "block_size": contents.block_size,
        "slicing": contents.slicing,
        "num_tensors": contents.num_tensors,
        "file_bytes": contents.file_bytes,
        **{f"{kind}_bytes": size for kind, size in contents.sections.items()},
        "bound_bytes": bound,
        "rac": raw / bound if bound else None,
        "rac_measured": raw / stored if stored else None,
        "groups": {group.dtype: _describe_group(group) for group in contents.groups},
    }


def _describe_group(group: "Group") -> dict[str, Any]:
    """The weights of one dtype: their numbers, and how often motifs are used."""
    import numpy as np

    exponents = np.frexp(group.usage.astype(float))[1]  # e stands for 2^(e-1) .. 2^e - 1 uses
    counts = np.bincount(exponents) if group.num_motifs else np.zeros(0, dtype=int)
    usage = {
        f"{2 ** (e - 1)}-{2**e - 1}" if e > 1 else "1": int(count)
        for e, count in enumerate(counts)
        if e and count
    }
    return {
        "num_weights": group.num_weights,
        "num_blocks": group.num_blocks,
        "num_motifs": group.num_motifs,
        "bound_bytes": group.bound_bytes,
        "index_bits": max(group.num_motifs - 1, 0).bit_length(),
        "usage": usage,
    }


def _run_verify(arguments: argparse.Namespace) -> int:
    from momos import packing

    file, images, about = arguments.file, arguments.images, arguments.about
    if images is None and about is not None:
        raise ValueError(f"--about {about}: expected --images beside it")
    tested = None if images is None else _tested(file, about or file.parent, images)
    if arguments.source is None:
        print(f"{file} is whole: {packing.inspect(file).num_tensors} tensors")
    elif _differs(file, arguments.source, arguments.which):
        return DIFFERENT
    if tested:
        print(tested)
    return 0


def _differs(file: Path, source: Path, which: str) -> bool:
    """Whether a file holds other tensors than its source. Prints what was found."""
    from momos import packing
    from momos.files import run_folder

    if _is_run_folder(source):
        tensors = run_folder.load_weights(source, which)
    else:
        tensors = dict(open_weights(source))
    different = packing.differences(file, tensors)
    if different:
        print(f"momos: {file} differs from {source} in {some_of(different)}", file=sys.stderr)
    else:
        print(f"{file} equals {source}: {len(tensors)} tensors, bit for bit")
    return bool(different)


def _tested(file: Path, about: Path, images: Path) -> str:
    """The accuracy of a file's network, as a line."""
    from momos.cli.accuracy import accuracy_of

    accuracy = accuracy_of(file, about, images)
    line = f"accuracy {100 * accuracy.value:.2f} % on {accuracy.num_images} test images of {images}"
    return line if accuracy.as_trained else f"{line}, which is other data than in its training"
