"""dvc.lock as text: one block of lines per stage.

A block can be taken out, put in and replaced without reading the YAML of the others.
"""

import os
import re
import socket
import textwrap
from collections.abc import Iterable
from pathlib import Path

import yaml

LOCK_HEAD = "schema: '2.0'\nstages:\n"
MATRIX_CELL = re.compile(r"  ([A-Za-z_][\w./-]*@[\w./-]+):\n")  # a name that YAML has as it is
ANCHOR = re.compile(r"[:-] [&*]id\d")


def split_lock(text: str) -> dict[str, str]:
    """A dvc.lock -> the lines of each stage as DVC wrote them, each of them readable alone.

    Raises ValueError if DVC did not write it.
    """
    entries: dict[str, str] = {}
    name = None
    body = text.removeprefix(LOCK_HEAD) if text.startswith(LOCK_HEAD) else ""
    for line in body.splitlines(keepends=True):
        if line.startswith("  ") and not line[2].isspace():
            name = _name(line)
            entries[name] = ""
        if name is None or not line.startswith("  "):
            raise ValueError(
                f"dvc.lock: expected a stage two spaces in, as DVC writes it, got {line!r}"
            )
        entries[name] += line
    if text and not entries and "stages: {}" not in text:
        raise ValueError(
            f"dvc.lock: expected it to begin with {LOCK_HEAD!r}, as DVC writes it,"
            f" got {text[: len(LOCK_HEAD)]!r}"
        )
    return {
        name: _without_anchors(entry) if ANCHOR.search(entry) else entry
        for name, entry in entries.items()
    }


def _name(line: str) -> str:
    """The stage of an entry's first line."""
    if plain := MATRIX_CELL.fullmatch(line):
        return plain[1]
    try:
        (name,) = yaml.safe_load(line)
    except (TypeError, ValueError, yaml.YAMLError) as error:
        expected = "expected a stage's name, as DVC writes it"
        raise ValueError(f"dvc.lock: {expected}, got {line!r}") from error
    return name


class _WrittenOut(yaml.SafeDumper):
    """Writes each value out, without anchors."""

    def ignore_aliases(self, data: object) -> bool:
        return True


def _without_anchors(entry: str) -> str:
    """An entry with its anchors written out.

    DVC shares settings that are one object in params.yaml (`&` and `*`), under names that hold for
    one file and no other.
    """
    try:
        data = yaml.safe_load(entry)
    except yaml.YAMLError as error:  # a name of another stage's
        raise ValueError(
            f"dvc.lock: expected each stage to stand alone, got {entry.splitlines()[0]!r}: {error}"
        ) from error
    return textwrap.indent(
        yaml.dump(data, Dumper=_WrittenOut, sort_keys=False, allow_unicode=True), "  "
    )


def join_lock(entries: Iterable[str]) -> str:
    """The text of a dvc.lock with these entries."""
    return LOCK_HEAD + "".join(entries)


def write_at_once(path: Path, text: str) -> None:
    """Replace a file: a reader sees the old text or the new one."""
    new = path.with_name(f"{path.name}.{socket.gethostname()}-{os.getpid()}.new")
    new.write_text(text, encoding="utf-8")
    new.replace(path)
