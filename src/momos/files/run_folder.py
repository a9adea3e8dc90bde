"""The run folder of one training: every file name in it, and how to save and load each file.

history.csv               a row per epoch
initial.safetensors       weights before training
best.safetensors          weights after the epoch of the lowest validation loss
last.safetensors          weights after the last epoch
marked_best.safetensors,  these two after the epoch in which train.mark_patience would have ended
marked_last.safetensors   the training; missing where it would not
step<N>.safetensors       weights after the optimiser's step N, for the steps of train.keep
motif_usage.safetensors   MoMos: how often each motif is used in `best` and in `last`
run.json                  settings and results that later stages need to interpret the rest

All files are safetensors, CSV or JSON; no pickle.
"""

import csv
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from momos.files.atomic import load_tensors, read_checked, read_json, save_tensors, write_text

HISTORY, RUN, USAGE = "history.csv", "run.json", "motif_usage.safetensors"
WEIGHTS = ("initial", "best", "last")
MARKED = ("marked_best", "marked_last")  # where run.json has a marked_epoch
STEP = re.compile(r"step([0-9]+)")  # `step_name`
# Keys of run.json that later stages read
RUN_KEYS = (
    "model",
    "method",
    "seed",
    "grid",
    "arch",
    "arch_kwargs",
    "num_classes",
    "in_channels",
    "image_size",
    "num_weights",
    "mean",
    "std",
    "bits",
    "exclude",
    "block_size",
    "capacity",
    "num_motifs",
    "num_blocks",
    "slicing",
    "best_epoch",
    "mark_patience",
    "marked_epoch",
    "num_epochs",
)


def step_name(step: int) -> str:
    """The name of the weights that were kept after the optimiser's step `step`."""
    return f"step{step}"


def kept_steps(folder: Path) -> list[int]:
    """The optimiser steps whose weights a run has kept, rising."""
    names = (STEP.fullmatch(path.stem) for path in folder.glob("step*.safetensors"))
    return sorted(int(name[1]) for name in names if name)


def save_weights(folder: Path, which: str, state: Mapping[str, Tensor]) -> None:
    """Save a state dict as the weights `which` (of WEIGHTS and MARKED, or a step's) of a run."""
    save_tensors(folder / f"{which}.safetensors", state)


def load_weights(folder: Path, which: str) -> dict[str, Tensor]:
    """Load weights. Raises ValueError for another `which`, and a missing or damaged file."""
    known = (*WEIGHTS, *MARKED)
    if which not in known and not STEP.fullmatch(which):
        raise ValueError(f"weights must be one of {', '.join(known)}, got {which!r}")
    return load_tensors(folder / f"{which}.safetensors")


def save_history(folder: Path, columns: Iterable[str], rows: Iterable[Mapping[str, Any]]) -> None:
    """Save one row per epoch with every digit; None becomes an empty cell."""
    cells = [
        ["" if row[column] is None else repr(row[column]) for column in columns] for row in rows
    ]
    lines = [",".join(line) for line in [list(columns), *cells]]
    write_text(folder / HISTORY, "\n".join(lines) + "\n")


def load_history(folder: Path) -> list[dict[str, float | None]]:
    """Load one dict per epoch, an empty cell as None.

    Raises ValueError naming a missing or damaged file, and for a history without rows.
    """
    path = folder / HISTORY

    def parse() -> list[dict[str, float | None]]:
        with path.open(newline="") as file:
            rows = list(csv.DictReader(file, strict=True))
        return [
            {key: float(value) if value else None for key, value in row.items()} for row in rows
        ]

    rows = read_checked(path, parse)
    if not rows:
        raise ValueError(f"{path}: expected a row per epoch, found none")
    return rows


def load_run(folder: Path) -> dict[str, Any]:
    """Load run.json of a finished run.

    Raises ValueError naming a file that is missing, damaged, or of a run that did not finish.
    """
    about = read_json(folder / RUN)
    missing = [key for key in RUN_KEYS if key not in about]
    if missing:
        raise ValueError(
            f"{folder / RUN} lacks {', '.join(missing)}: "
            "expected what a finished training writes (run `dvc repro`)"
        )
    return about
