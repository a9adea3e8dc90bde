"""The `momos` command: the pipeline's measures and its file format for anyone's own weights.

momos measure model.safetensors --arch resnet20
momos pack runs/digits/resnet20/momos_s2_c1/0 model.momos --level entropy
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, NoReturn

from torch import Tensor

WRAPPERS = (
    "state_dict",
    "model",
    "model_state_dict",
)  # keys under which training scripts keep the weights
PREFIXES = ("module.", "_orig_mod.")  # put before every name by DataParallel and by torch.compile
DIFFERENT, BAD_INPUT = 1, 2


def main(argv: Sequence[str] | None = None) -> int:
    """Run one subcommand; 0 if it worked. What `verify` finds different: 1. Bad input: 2. Both with
    one line on stderr.
    """
    try:
        arguments = _parser().parse_args(argv)
        return arguments.run(arguments) or 0
    except (ValueError, OSError, ModuleNotFoundError) as error:
        print(f"momos: {' '.join(str(error).split())}", file=sys.stderr)
        return BAD_INPUT


def load_weights(path: Path) -> dict[str, Tensor]:
    """Name -> tensor from a .safetensors, .pt or .pth file; nothing in it is executed
    (`weights_only`).

    Weights kept under "state_dict", "model" or "model_state_dict" are unwrapped, the prefixes of
    DataParallel and torch.compile removed. Raises ValueError naming a file that is missing,
    damaged, of another kind or without tensors.
    """
    if not path.is_file():
        raise ValueError(f"{path} is missing: expected a .safetensors, .pt or .pth file")
    readers = {".safetensors": _read_safetensors, ".pt": _read_torch, ".pth": _read_torch}
    if path.suffix not in readers:
        raise ValueError(
            f"{path}: expected a file ending in {', '.join(readers)}, got {path.suffix or 'no ending'!r}"
        )
    return _without_prefixes(_unwrap(readers[path.suffix](path), path))


def check_fit(
    weights: Mapping[str, Tensor], expected: Mapping[str, Tensor], trainable: Sequence[str]
) -> None:
    """Raises ValueError, with up to five names, unless the weights belong to the architecture.

    expected: its state dict. trainable: the names that are measured, all of which must be there;
    other state may be absent.
    """
    missing = [name for name in trainable if name not in weights]
    unexpected = [name for name in weights if name not in expected]
    if missing or unexpected:
        found = f"missing {_some(missing)}; unexpected {_some(unexpected)}"
        raise ValueError(f"the weights do not belong to this architecture: {found}")
    wrong = [
        f"{name} {tuple(weights[name].shape)} instead of {tuple(expected[name].shape)}"
        for name in trainable
        if weights[name].shape != expected[name].shape
    ]
    if wrong:
        raise ValueError(
            f"the weights do not fit this architecture, check --num-classes and its other settings: {_some(wrong)}"
        )


def measure(
    weights: Mapping[str, Tensor],
    arch: str,
    num_classes: int | None = None,
    *,
    in_channels: int,
    image_size: int,
    arch_kwargs: Mapping,
    num_init_seeds: int,
    block_size: int | None,
    initial: Mapping[str, Tensor] | None = None,
    bits: int = 32,
    exclude: str = "type",
) -> dict[str, str | int | float | None]:
    """What stage `evaluate` measures but accuracy, for weights that belong to `arch`.

    num_classes: None takes the length of the architecture's last tensor, the classifier's bias.
    initial: the weights before training; None takes fresh models of seeds 0 .. num_init_seeds - 1
    and the mean of their BDM. bits below 32: the weights as deployed, quantised. With a block size,
    the description length of a mosaic of as many motifs as there are distinct blocks (Eq. 8 and
    21). Raises ValueError where names or shapes of the weights do not fit the architecture.
    """
    from momos import models
    from momos.complexity import compressors
    from momos.complexity import measure as complexity
    from momos.methods import quantize
    from momos.weights import blocks

    def build(seed: int, classes: int | None = None):
        shape = {"in_channels": in_channels, "image_size": image_size}
        return models.build(arch, classes or num_classes, seed=seed, kwargs=arch_kwargs, **shape)

    num_classes = num_classes or _classes(weights, build(0, classes=2))
    model = build(0)
    fresh = {name: weight.detach().clone() for name, weight in blocks.trainable(model).items()}
    for given in (weights, initial or weights):
        check_fit(given, model.state_dict(), list(fresh))
    start = {name: (initial or fresh)[name] for name in fresh}
    model.load_state_dict(
        dict(weights), strict=False
    )  # buffers may be absent, and are not measured
    trained = blocks.trainable(quantize.deployed(model, bits, exclude, arch))
    columns = complexity.measure_weights(
        trained, start, block_size=block_size, compressors=compressors.names(), seed=0
    )
    if initial is None:
        others = [
            complexity.model_bdm(blocks.trainable(build(seed))) for seed in range(1, num_init_seeds)
        ]
        columns = _mean_initial(columns, others)
    about = {
        "arch": arch,
        "num_classes": num_classes,
        "bits": bits,
        "num_init_seeds": None if initial else num_init_seeds,
    }
    return about | _description(trained, bits, block_size, columns["distinct_blocks"]) | columns


def _classes(weights: Mapping[str, Tensor], model) -> int:
    """As many as the architecture's last tensor, the classifier's bias, is long."""
    from momos.weights import blocks

    last = list(blocks.trainable(model))[-1]
    return len(weights[last]) if last in weights and weights[last].ndim else 2


def _description(
    trained: Mapping[str, Tensor], bits: int, block_size: int | None, num_motifs: int | None
) -> dict:
    """Number of weights and description length; with a block size, of a mosaic of the distinct
    blocks.
    """
    from momos.complexity import code_length
    from momos.weights import blocks

    sizes = [tensor.numel() for tensor in trained.values()]
    num_blocks = None if block_size is None else blocks.num_blocks(sizes, block_size)
    length = code_length.describe(
        sum(sizes), bits=bits, block_size=block_size, num_blocks=num_blocks, num_motifs=num_motifs
    )
    return {"num_weights": sum(sizes), "block_size": block_size, "num_blocks": num_blocks, **length}


def _mean_initial(columns: dict, others: Sequence[tuple[float, float]]) -> dict:
    """columns with the initial BDM averaged over its own seed and the others' (1-D, 2-D) values,
    and the ratios to that mean.
    """
    columns = dict(columns)
    for axis, name in enumerate(("bdm_1d", "bdm_2d")):
        starts = [columns[f"{name}_initial"], *(values[axis] for values in others)]
        columns[f"{name}_initial"] = sum(starts) / len(starts)
        columns[f"{name}_ratio"] = columns[name] / columns[f"{name}_initial"]
    return columns


def _run_measure(arguments: argparse.Namespace) -> None:
    weights = load_weights(arguments.checkpoint)
    columns = measure(
        weights,
        arguments.arch,
        arguments.num_classes,
        in_channels=arguments.in_channels,
        image_size=arguments.image_size,
        arch_kwargs=arguments.arch_kwargs,
        num_init_seeds=arguments.init_seeds,
        block_size=arguments.block_size,
        initial=None if arguments.initial is None else load_weights(arguments.initial),
        bits=arguments.bits,
        exclude=arguments.exclude,
    )
    print(json.dumps(columns, indent=1) if arguments.json else _as_text(columns))


class Source(NamedTuple):
    """What is to be packed, or compared with what was."""

    tensors: dict[str, Tensor]
    weights: list[str]  # names of the trainable ones
    block_size: int | None  # of a run of the pipeline that has one
    slicing: str | None


def load_source(
    path: Path, *, which: str, arch: str | None, num_classes: int | None, **shape
) -> Source:
    """A run folder's weights `which`, or a checkpoint as `load_weights` reads it.

    arch: which tensors of a checkpoint are trainable; None takes all floating-point ones. shape:
    in_channels, image_size and kwargs of it. Raises ValueError naming what is missing or damaged,
    and where the weights do not belong to the architecture.
    """
    from momos import models
    from momos.files import run_folder
    from momos.weights import blocks

    about = run_folder.load_run(path) if path.is_dir() else {}
    tensors = run_folder.load_weights(path, which) if about else load_weights(path)
    if about:
        arch, num_classes = about["arch"], about["num_classes"]
        shape = {
            "in_channels": about["in_channels"],
            "image_size": about["image_size"],
            "kwargs": about["arch_kwargs"],
        }
    if arch is None:
        return Source(
            tensors,
            [name for name, tensor in tensors.items() if tensor.is_floating_point()],
            None,
            None,
        )
    model = models.build(
        arch, num_classes or _classes(tensors, models.build(arch, 2, **shape)), **shape
    )
    weights = list(blocks.trainable(model))
    check_fit(tensors, model.state_dict(), weights)
    return Source(tensors, weights, about.get("block_size"), about.get("slicing"))


def inspect(path: Path) -> dict:
    """What `momos inspect` prints: settings, bytes by section, and per dtype of the weights k, n,
    usage, bound and ratios.

    usage: how many motifs are used 1, 2-3, 4-7, .. times. rac: bytes of the weights over the bound
    (Eq. 21); rac_measured: over their sections in the file. Raises ValueError naming a file that is
    missing or damaged.
    """
    from momos import packing

    contents = packing.inspect(path)
    stored = sum(contents.sections[kind] for kind in ("motifs", "mosaic", "tails", "weights"))
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
        "groups": {group.dtype: _group(group) for group in contents.groups},
    }


def _group(group) -> dict:
    import numpy as np

    used = np.bincount(np.frexp(group.usage.astype(float))[1]) if group.num_motifs else []
    usage = {
        f"{2 ** (e - 1)}-{2**e - 1}" if e > 1 else "1": int(count)
        for e, count in enumerate(used)
        if e and count
    }
    columns = {
        name: getattr(group, name)
        for name in ("num_weights", "num_blocks", "num_motifs", "bound_bytes")
    }
    return columns | {"index_bits": max(group.num_motifs - 1, 0).bit_length(), "usage": usage}


def _flat(columns: Mapping, prefix: str = "") -> dict:
    """{"a": {"b": 1}} -> {"a.b": 1}"""
    flat = {}
    for name, value in columns.items():
        flat |= (
            _flat(value, f"{prefix}{name}.")
            if isinstance(value, Mapping)
            else {f"{prefix}{name}": value}
        )
    return flat


def _source(arguments: argparse.Namespace, path: Path) -> Source:
    shape = {
        "in_channels": arguments.in_channels,
        "image_size": arguments.image_size,
        "kwargs": arguments.arch_kwargs,
    }
    return load_source(
        path, which=arguments.which, arch=arguments.arch, num_classes=arguments.num_classes, **shape
    )


def _run_pack(arguments: argparse.Namespace) -> None:
    from momos import packing

    source = _source(arguments, arguments.source)
    block_size = arguments.block_size or source.block_size
    if block_size is None:
        raise ValueError(f"{arguments.source} says no block size: give --block-size")
    slicing = arguments.slicing or source.slicing or "tensor"
    packing.pack_tensors(
        source.tensors,
        arguments.out,
        block_size,
        weights=source.weights,
        level=arguments.level,
        slicing=slicing,
    )
    raw = sum(tensor.nbytes for tensor in source.tensors.values())
    print(f"{arguments.out}: {arguments.out.stat().st_size} bytes, from {raw} bytes of tensors")


def _run_unpack(arguments: argparse.Namespace) -> None:
    from momos import packing
    from momos.files import atomic

    if arguments.out.suffix != ".safetensors":
        raise ValueError(f"{arguments.out}: expected a name ending in .safetensors")
    tensors = packing.read(arguments.file)
    atomic.save_tensors(arguments.out, tensors)
    print(f"{arguments.out}: {len(tensors)} tensors")


def _run_inspect(arguments: argparse.Namespace) -> None:
    columns = inspect(arguments.file)
    print(json.dumps(columns, indent=1) if arguments.json else _as_text(_flat(columns)))


def _run_verify(arguments: argparse.Namespace) -> int | None:
    from momos import packing
    from momos.files import run_folder

    if arguments.source is None:
        print(f"{arguments.file} is whole: {packing.inspect(arguments.file).num_tensors} tensors")
        return None
    path = arguments.source
    tensors = (
        run_folder.load_weights(path, arguments.which) if path.is_dir() else load_weights(path)
    )
    different = packing.differences(arguments.file, tensors)
    if different:
        print(f"momos: {arguments.file} differs from {path} in {_some(different)}", file=sys.stderr)
        return DIFFERENT
    print(f"{arguments.file} equals {path}: {len(tensors)} tensors, bit for bit")
    return None


def _as_text(columns: Mapping) -> str:
    width = max(len(name) for name in columns)
    shown = {
        name: f"{value:.6g}" if isinstance(value, float) else value
        for name, value in columns.items()
    }
    return "\n".join(
        f"{name:<{width}}  {value}" for name, value in shown.items() if value is not None
    )


class _Parser(argparse.ArgumentParser):
    """Reports bad usage as the ValueError that `main` prints in one line."""

    def error(self, message: str) -> NoReturn:
        raise ValueError(f"{message} (see {self.prog} --help)")


def _parser() -> _Parser:
    parser = _Parser(prog="momos", description="How simple are the weights of a neural network?")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    about = "Complexity of a checkpoint's trainable weights, against the same architecture at its random initialisation."
    _add_measure(
        commands.add_parser("measure", help="complexity of a checkpoint", description=about)
    )
    about = "Write a model as motifs and mosaic, without loss."
    _add_pack(
        commands.add_parser("pack", help="checkpoint or run folder to .momos", description=about)
    )
    _add_unpack(
        commands.add_parser(
            "unpack", help=".momos to .safetensors", description="Restore a model, bit for bit."
        )
    )
    about = "Motifs, blocks, usage, and bytes against the bound k*s*q + n*ceil(log2 k)."
    _add_inspect(commands.add_parser("inspect", help="what is in a .momos file", description=about))
    about = "Re-read a file whole, and compare it with what it was packed from. Exit status 1: they differ."
    _add_verify(commands.add_parser("verify", help="check a .momos file", description=about))
    return parser


def _add_measure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "checkpoint", type=Path, metavar="CHECKPOINT", help=".safetensors, .pt or .pth file"
    )
    parser.add_argument(
        "--arch", required=True, help="mlp, resnet20, tiny_vit, mobilevit or a timm name"
    )
    _add_shape(parser)
    parser.add_argument(
        "--init-seeds",
        type=_positive,
        default=1,
        metavar="N",
        help="initialisations to average (default 1)",
    )
    parser.add_argument(
        "--block-size",
        type=_positive,
        metavar="S",
        help="count the distinct blocks of S weights, RAC as a mosaic of them",
    )
    parser.add_argument(
        "--initial",
        type=Path,
        metavar="CHECKPOINT",
        help="the weights before training (default: fresh ones)",
    )
    parser.add_argument(
        "--bits",
        type=int,
        default=32,
        metavar="Q",
        choices=[*range(2, 17), 32],
        help="quantise first (default 32: no)",
    )
    parser.add_argument(
        "--exclude",
        default="type",
        choices=["type", "names", "none"],
        help="what quantisation leaves out beside biases",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=_run_measure)


def _add_shape(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--num-classes", type=_positive, metavar="N", help="classes (default: as the weights have)"
    )
    parser.add_argument(
        "--in-channels", type=_positive, default=3, metavar="C", help="image channels (default 3)"
    )
    parser.add_argument(
        "--image-size", type=_positive, default=32, metavar="P", help="pixels a side (default 32)"
    )
    parser.add_argument(
        "--arch-kwargs",
        type=_json_object,
        default={},
        metavar="JSON",
        help="settings of the architecture",
    )


def _add_which(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--which",
        default="best",
        choices=["best", "last", "initial"],
        help="weights of a run folder (default best)",
    )


def _add_pack(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "source",
        type=Path,
        metavar="RUN_OR_CHECKPOINT",
        help="run folder, .safetensors, .pt or .pth file",
    )
    parser.add_argument("out", type=Path, metavar="OUT.momos")
    parser.add_argument(
        "--block-size", type=_positive, metavar="S", help="weights per block (default: as the run)"
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
        help="of a checkpoint: its trainable weights become the mosaic (default: all floating-point tensors)",
    )
    _add_shape(parser)
    parser.set_defaults(run=_run_pack)


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
        "source", type=Path, nargs="?", metavar="RUN_OR_CHECKPOINT", help="what it was packed from"
    )
    _add_which(parser)
    parser.set_defaults(run=_run_verify)


def _positive(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a positive whole number, got {text!r}")
    return int(text)


def _json_object(text: str) -> dict:
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise argparse.ArgumentTypeError(
            f"expected a JSON object, got {text!r} ({error})"
        ) from error
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError(f"expected a JSON object, got {text!r}")
    return value


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    from momos.files.atomic import load_tensors

    return load_tensors(path)


def _read_torch(path: Path) -> object:
    import torch

    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (
        Exception
    ) as error:  # a damaged pickle can raise nearly any type; all mean the same to the reader
        reason = str(error).strip().split("\n")[0]
        raise ValueError(
            f"{path} can't be read as weights alone: {reason or type(error).__name__}"
        ) from error


def _unwrap(content: object, path: Path) -> dict[str, Tensor]:
    """The dict of tensors in what a file held. Raises ValueError if there is none."""
    for key in WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping) or not content:
        raise ValueError(f"{path}: expected a dict of tensors, got {type(content).__name__}")
    strange = [
        str(name)
        for name, value in content.items()
        if not (isinstance(name, str) and isinstance(value, Tensor))
    ]
    if strange:
        raise ValueError(
            f"{path}: expected a dict of tensors, bare or under {', '.join(WRAPPERS)}; no tensor: {_some(strange)}"
        )
    return dict(content)


def _without_prefixes(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    for prefix in PREFIXES:
        if all(name.startswith(prefix) for name in weights):
            weights = {name.removeprefix(prefix): tensor for name, tensor in weights.items()}
    return weights


def _some(names: Sequence[str]) -> str:
    """At most five of the names, and how many more there are."""
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return (", ".join(names[:5]) or "none") + more


if __name__ == "__main__":
    sys.exit(main())
