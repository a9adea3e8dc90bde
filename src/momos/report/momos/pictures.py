"""Figure 1's tensor: its initial and trained weights, and how often each block of it occurs."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from momos.config import Run
from momos.files import run_folder


class Pictures(NamedTuple):
    """What Figure 1 shows, a matrix by title; nothing where the runs are imported."""

    weights: dict[str, pd.DataFrame]
    # How often each weight's block occurs; None where blocks do not begin with the tensor.
    repeats: dict[str, pd.DataFrame] | None


def read_pictures(
    runs_dir: Path, runs: Sequence[Run], settings: Mapping[str, Mapping[str, Any]]
) -> Pictures:
    """Read the tensor of params.yaml's `report` section, and crop it for the figure.

    settings: section -> key -> value. Raises ValueError naming report.picture_tensor if there is
    no such tensor.
    """
    report = settings["report"]
    mine = [run for run in runs if run.model == report["picture_model"] and run.grid == "main"]
    if not mine:
        return Pictures({}, None)
    chosen = next(run for run in mine if run.method == report["picture_method"])
    which = settings["evaluate"]["checkpoint"]
    matrices = {
        title: _matrix(run.folder(runs_dir), name, report["picture_tensor"])
        for title, (run, name) in _pictured(mine, chosen, which).items()
    }
    size, block_size = report["picture_size"], chosen.settings.block_size
    weights = {title: crop(matrix, size) for title, matrix in matrices.items()}
    if not block_size or settings["mosaic"]["slicing"] != "tensor":
        return Pictures(weights, None)
    counts = {
        title: crop(count_repeats(matrix, block_size), size) for title, matrix in matrices.items()
    }
    return Pictures(weights, counts)


def _pictured(runs: Sequence[Run], chosen: Run, which: str) -> dict[str, tuple[Run, str]]:
    """Title -> run and which of its weights: initial, the baseline's, and the chosen method's.

    which: the trained weights that are shown, last or best.
    """
    pictured = {"Initial": (chosen, "initial")}
    for run in runs:
        if run.seed == chosen.seed and run.settings.family == "baseline":
            pictured["Trained"] = (run, which)
    pictured[chosen.settings.label] = (chosen, which)
    return pictured


def _matrix(folder: Path, which: str, name: str) -> np.ndarray:
    """A tensor of a run as a matrix (shape[0], rest)."""
    weights = run_folder.load_weights(folder, which)
    if name not in weights:
        known = ", ".join(weights)
        raise ValueError(
            f"report.picture_tensor must be a tensor of {folder}, one of {known}; got {name!r}"
        )
    tensor = weights[name].float().numpy()
    return tensor.reshape(len(tensor), -1) if tensor.ndim else tensor.reshape(1, 1)


def count_repeats(matrix: np.ndarray, block_size: int) -> np.ndarray:
    """How often the block of each weight occurs in the whole matrix; same shape.

    The matrix is cut row after row into blocks, as training does. A ragged last block is padded
    with zeros.
    """
    flat = matrix.ravel()
    blocks = np.pad(flat, (0, -len(flat) % block_size)).reshape(-1, block_size)
    _, places, count = np.unique(blocks, axis=0, return_inverse=True, return_counts=True)
    return np.repeat(count[places.ravel()], block_size)[: len(flat)].reshape(matrix.shape)


def crop(matrix: np.ndarray, size: int) -> pd.DataFrame:
    """The top left corner, at most size x size."""
    return pd.DataFrame(matrix[:size, :size])
