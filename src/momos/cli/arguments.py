"""What subcommands share: arguments, and output for readers."""

import argparse
import contextlib
import json
import math
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypedDict

TOO_LARGE = 2**63  # for a size of torch's
# initialisations that weights are compared with; against 20, |z| > 3 in 1 % by chance alone
NUM_FRESH = 30


class Shape(TypedDict):
    """What an architecture is built for, beside its number of classes."""

    in_channels: int
    image_size: int
    kwargs: Mapping[str, Any]


def add_shape(parser: argparse.ArgumentParser) -> None:
    """The arguments of an architecture. `shape_of` reads them."""
    parser.add_argument(
        "--num-classes", type=positive, metavar="N", help="classes (default: as the weights have)"
    )
    parser.add_argument(
        "--in-channels", type=positive, default=3, metavar="C", help="image channels (default 3)"
    )
    parser.add_argument(
        "--image-size", type=positive, default=32, metavar="P", help="pixels a side (default 32)"
    )
    parser.add_argument(
        "--arch-kwargs",
        type=json_object,
        default={},
        metavar="JSON",
        help="settings of the architecture",
    )


def shape_of(arguments: argparse.Namespace) -> Shape:
    """The shape that the arguments give."""
    return {
        "in_channels": arguments.in_channels,
        "image_size": arguments.image_size,
        "kwargs": arguments.arch_kwargs,
    }


@contextlib.contextmanager
def naming(subject: object) -> Iterator[None]:
    """Let a ValueError inside begin with the file or the model that it is about."""
    try:
        yield
    except ValueError as error:
        if str(subject) in str(error):
            raise
        raise ValueError(f"{subject}: {error}") from error


def require_output(out: Path, suffix: str, source: Path | None = None) -> None:
    """Raises ValueError unless `out` may be written.

    It must have the ending of its kind, lie in a folder that is there and takes files, and not be
    the input.
    """
    if out.suffix != suffix:
        raise ValueError(f"{out}: expected a name ending in {suffix}")
    if out.is_dir():
        raise ValueError(f"{out} is a folder: expected a file")
    if not out.parent.is_dir():
        raise ValueError(f"{out}: there is no folder {out.parent}, expected one that is there")
    if source is not None and out.exists() and out.samefile(source):
        raise ValueError(f"{out} is the input, which is not replaced: expected another name")
    _require_writable(out.parent, out)


def require_block_size(block_size: int, num_weights: int, source: Path) -> None:
    """Raises ValueError, naming the file, for blocks of more weights than there are in it."""
    if block_size > num_weights:
        expected = f"must be in 1..{num_weights} (the number of weights)"
        raise ValueError(f"{source}: block_size {expected}, got {block_size}")


def require_folder(out: Path) -> None:
    """Raises ValueError unless `out` is a folder that takes files, or can become one."""
    there = next(one for one in (out, *out.parents) if one.exists())
    if not there.is_dir():
        raise ValueError(f"--out {out}: {there} is a file, expected a folder")
    _require_writable(there, out)


def _require_writable(folder: Path, out: Path) -> None:
    """Raises ValueError naming `out` unless a file can be made in the folder. None is left."""
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        message = f"{out} can't be written ({error.strerror}): expected a folder that takes files"
        raise ValueError(message) from error


def positive(text: str) -> int:
    """A positive whole number. Raises argparse's error for other text."""
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) < TOO_LARGE:
        raise argparse.ArgumentTypeError(f"expected a positive whole number, got {text!r}")
    return int(text)


def non_negative(text: str) -> int:
    """A whole number of 0 or more. Raises argparse's error for other text."""
    if not text.isascii() or not text.isdigit() or int(text) >= TOO_LARGE:
        raise argparse.ArgumentTypeError(f"expected a whole number of 0 or more, got {text!r}")
    return int(text)


def positive_number(text: str) -> float:
    """A finite number above 0. Raises argparse's error for other text."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value > 0):
        raise argparse.ArgumentTypeError(f"expected a number above 0, got {text!r}")
    return value


def json_object(text: str) -> dict[str, Any]:
    """A JSON object. Raises argparse's error for other text."""
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        message = f"expected a JSON object, got {text!r} ({error})"
        raise argparse.ArgumentTypeError(message) from error
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError(f"expected a JSON object, got {text!r}")
    return value


def as_text(values: Mapping[str, Any]) -> str:
    """A line a value, in two columns: floats with six digits, nested names joined by dots."""
    flat = _flat(values)
    width = max(len(name) for name in flat)
    shown = {
        name: f"{value:.6g}" if isinstance(value, float) else value for name, value in flat.items()
    }
    return "\n".join(
        f"{name:<{width}}  {value}" for name, value in shown.items() if value is not None
    )


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"a": {"b": 1}} -> {"a.b": 1}"""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        key = f"{prefix}{name}"
        flat |= _flat(value, f"{key}.") if isinstance(value, Mapping) else {key: value}
    return flat
