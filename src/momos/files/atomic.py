"""Write text, JSON and tensors atomically, and read them with errors that name the file."""

import contextlib
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from torch import Tensor

Parsed = TypeVar("Parsed")


def write_text(path: Path, text: str) -> None:
    """Write the whole file or nothing. Raises OSError naming the file that can't be written."""
    _write_atomically(path, lambda temporary: temporary.write_text(text))


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Write a JSON object. Raises OSError as `write_text`, ValueError for NaN and infinity."""
    write_text(path, json.dumps(values, indent=1, allow_nan=False) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object. Raises ValueError naming a file that is missing or holds none."""
    values = read_checked(path, lambda: json.loads(path.read_text()))
    if not isinstance(values, dict):
        raise ValueError(f"{path}: expected a JSON object, got {type(values).__name__}")
    return values


def save_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Save tensors by name as a safetensors file. Raises OSError as `write_text`.

    Tied tensors and views of another tensor are stored in full under each name.
    """
    from safetensors.torch import save

    content = save(
        {
            name: tensor.detach().to("cpu", copy=True).contiguous()
            for name, tensor in tensors.items()
        }
    )
    _write_atomically(path, lambda temporary: temporary.write_bytes(content))


def load_tensors(path: Path) -> dict[str, Tensor]:
    """Load tensors by name, on the CPU. Raises ValueError naming a missing or damaged file."""
    from safetensors.torch import load_file

    return read_checked(path, lambda: load_file(path))


def read_checked(path: Path, parse: Callable[[], Parsed]) -> Parsed:
    """The result of `parse`. Raises ValueError naming the file if it is missing or parse fails."""
    if not path.is_file():
        raise ValueError(
            f"{path} is missing: expected a file written by an earlier stage (run `dvc repro`)"
        )
    try:
        return parse()
    # safetensors, csv and json each raise types of their own: all mean a damaged file
    except Exception as error:
        raise ValueError(f"{path} is damaged or of another kind: {error}") from error


def _write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Write beside the target, sync, then rename over it."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(temporary)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise OSError(error.errno, f"{path} can't be written: {error.strerror or error}") from error
