"""dvc.lock as text: a block of lines for each stage, which can be taken out, put in and replaced without reading the others' YAML."""

import os
import socket
from collections.abc import Iterable
from pathlib import Path

import yaml

LOCK_HEAD = "schema: '2.0'\nstages:\n"


def split_lock(text: str) -> dict[str, str]:
    """A dvc.lock -> the lines of each stage, as DVC wrote them. Raises ValueError if it did not."""
    found, name = {}, None
    for line in text.removeprefix(LOCK_HEAD).splitlines(keepends=True) if text.startswith(LOCK_HEAD) else ():
        if line.startswith("  ") and not line[2].isspace():
            (name,) = yaml.safe_load(line)
            found[name] = ""
        if name is None or not line.startswith("  "):
            raise ValueError(f"dvc.lock: expected a stage two spaces in, as DVC writes it, got {line!r}")
        found[name] += line
    if text and not found and "stages: {}" not in text:
        raise ValueError(f"dvc.lock: expected it to begin with {LOCK_HEAD!r}, as DVC writes it, got {text[: len(LOCK_HEAD)]!r}")
    return found


def join_lock(entries: Iterable[str]) -> str:
    return LOCK_HEAD + "".join(entries)


def write_at_once(path: Path, text: str) -> None:
    """Who reads meanwhile sees the old text or the new one."""
    new = path.with_name(f"{path.name}.{socket.gethostname()}-{os.getpid()}.new")
    new.write_text(text)
    new.replace(path)
