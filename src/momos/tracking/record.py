"""What MLflow is to show of a run, read from its folder."""

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from momos.files.droppings import files_below

STAGES = {"main": "train", "ablation": "ablation", "language": "language"}  # by grid


@dataclass(frozen=True, kw_only=True)
class Record:
    """One run as MLflow is to show it."""

    key: str  # what it is a run of: the same for each repetition
    name: str
    group: str | None  # the configuration whose child it is
    params: Mapping[str, Any]
    tags: Mapping[str, str]
    history: Sequence[Mapping[str, float | None]] = ()  # a row per epoch, with a column `epoch`
    output_hash: str | None = None  # None while it runs
    artifacts: tuple[str, ...] = ()  # folders to be copied into the store

    @classmethod
    def of_training(cls, about: Mapping[str, Any], **finished: Any) -> Self:
        """A training's record.

        about: the contents of run.json, or its first half while the training goes on. finished:
        fields that only a finished training has.
        """
        names = [str(about[name]) for name in ("profile", "model", "method", "seed")]
        tags = {name: str(about[name]) for name in ("profile", "model", "method", "seed", "grid")}
        tags["stage"] = STAGES[about["grid"]]
        return cls(
            key="/".join(names),
            name="/".join(names),
            group="/".join(names[:3]),
            params=dict(about),
            tags=tags,
            **finished,
        )


def output_hash(folder: Path) -> str:
    """The sha256 over names and bytes of all files in a folder, but what systems leave there.

    Raises ValueError for a folder that is missing or empty.
    """
    files = files_below(folder)
    if not files:
        raise ValueError(f"{folder}: expected a folder with files, found none")
    total = hashlib.sha256()
    for path in files:
        content = hashlib.sha256(path.read_bytes()).hexdigest()
        total.update(f"{path.relative_to(folder).as_posix()}\0{content}\n".encode())
    return total.hexdigest()


def flat_numbers(values: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    """The numbers in nested mappings, by names that MLflow takes.

    {"a": {"b 1%": 2}} -> {"a.b 1_": 2.0}
    """
    numbers: dict[str, float] = {}
    for key, value in values.items():
        name = prefix + re.sub(r"[^\w\-. :/]", "_", str(key))
        if isinstance(value, Mapping):
            numbers |= flat_numbers(value, f"{name}.")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            numbers[name] = float(value)
    return numbers
