"""Ship a run's network: as a .momos file in reports/networks that anyone can decode and test.

usage: ship.py NAME RUN_FOLDER BASELINE_RUN_FOLDER DATA.safetensors [--which last|best]

Writes reports/networks/NAME/model.momos and run.json, and NAME's row of networks.csv there: bytes,
test accuracy after decoding and of the baseline, SHA-256 of the decoded tensors. Then
`scripts/readme.py` shows it. DATA: the prepared data set of both runs.
"""

import argparse
import hashlib
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from momos import models, packing
from momos.cli.accuracy import accuracy_of, accuracy_with
from momos.config.names import PROFILE, PROFILE_RULE
from momos.files import atomic, run_folder
from momos.images.dataset import load_dataset
from momos.settings import require

FOLDER = Path("reports/networks")
TABLE, MODEL = FOLDER / "networks.csv", "model.momos"


def digest(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 (hex) of all tensors' names, dtypes, shapes and bytes."""
    sha = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        sha.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        sha.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return sha.hexdigest()


def ship(name: str, run: Path, baseline: Path, images: Path, which: str) -> dict[str, Any]:
    """Write the network's folder; return its row of the table.

    Raises ValueError naming a file that is missing or damaged, or images of another training.
    """
    out, about = FOLDER / name, run_folder.load_run(run)
    out.mkdir(parents=True, exist_ok=True)
    model = models.restore(about, run_folder.load_weights(run, which))
    block_size, slicing = about["block_size"], about["slicing"]
    packing.pack(model, out / MODEL, block_size, level="entropy", slicing=slicing)
    shutil.copyfile(run / run_folder.RUN, out / run_folder.RUN)
    accuracy = accuracy_of(out / MODEL, out, images)
    if not accuracy.as_trained:
        raise ValueError(f"{images}: expected the data set that {run} was trained on")
    decoded = packing.read_tensors(out / MODEL)
    return {
        "name": name,
        **{key: about[key] for key in ("model", "profile", "method", "seed", "num_weights")},
        "weights": which,
        "plain_bytes": sum(tensor.nbytes for tensor in decoded.values()),
        "file_bytes": (out / MODEL).stat().st_size,
        "test_accuracy": accuracy.value,
        "baseline_test_accuracy": _plain_accuracy(baseline, images, which),
        "num_test_images": accuracy.num_images,
        "sha256": digest(decoded),
    }


def _plain_accuracy(run: Path, images: Path, which: str) -> float:
    about, weights = run_folder.load_run(run), run_folder.load_weights(run, which)
    return accuracy_with(weights, about, load_dataset(images))


def save(row: dict[str, Any]) -> None:
    """Put a row into the table, in place of the one of its name."""
    known = pd.read_csv(TABLE) if TABLE.is_file() else pd.DataFrame(columns=list(row))
    rows = pd.concat([known[known.name != row["name"]], pd.DataFrame([row])]).sort_values("name")
    atomic.write_text(TABLE, rows.to_csv(index=False))


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("name")
    parser.add_argument("run", type=Path)
    parser.add_argument("baseline", type=Path)
    parser.add_argument("images", type=Path)
    parser.add_argument("--which", default="last", choices=["last", "best"])
    return parser.parse_args()


if __name__ == "__main__":
    given = parse_args()
    require(PROFILE.fullmatch(given.name) is not None, "NAME", given.name, PROFILE_RULE)
    save(ship(given.name, given.run, given.baseline, given.images, given.which))
