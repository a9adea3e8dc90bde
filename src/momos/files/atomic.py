"""Write text, JSON and tensors so that a file appears whole or not at all, and read them with
errors that name the file.
"""

import contextlib
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor


def write_text(path: Path, text: str) -> None:
    """Atomically: the whole file or none. Raises OSError naming the file that can't be written."""
    _atomically(path, lambda temporary: temporary.write_text(text))


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    write_text(path, json.dumps(values, indent=1, allow_nan=False) + "\n")


def read_json(path: Path) -> dict:
    """Raises ValueError naming a file that is missing or no JSON object."""
    values = read_checked(path, lambda: json.loads(path.read_text()))
    if not isinstance(values, dict):
        raise ValueError(f"{path}: expected a JSON object, got {type(values).__name__}")
    return values


def save_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """A tensor that is there under two names, or a view of another, is stored under each."""
    from safetensors.torch import save

    content = save(
        {
            name: tensor.detach().to("cpu", copy=True).contiguous()
            for name, tensor in tensors.items()
        }
    )
    _atomically(path, lambda temporary: temporary.write_bytes(content))


def load_tensors(path: Path) -> dict[str, Tensor]:
    """Raises ValueError naming a file that is missing or damaged."""
    from safetensors.torch import load_file

    return read_checked(path, lambda: load_file(path))


def read_checked(path: Path, parse: Callable[[], Any]) -> Any:
    if not path.is_file():
        raise ValueError(
            f"{path} is missing: expected a file written by an earlier stage (run `dvc repro`)"
        )
    try:
        return parse()
    # safetensors raises its own type, csv and json theirs: all mean the same to the reader
    except Exception as error:
        raise ValueError(f"{path} is damaged or of another kind: {error}") from error


def _atomically(path: Path, write) -> None:
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
