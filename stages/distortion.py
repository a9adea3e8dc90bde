"""Stage `distortion`: weight distortion along training of one model's runs (Figures 3 and B.1);
empty without MoMos.

usage: distortion.py MODEL RUNS_DIR OUT.csv
"""

import sys
from pathlib import Path

import pandas as pd

from momos import config
from momos.files import atomic, run_folder

ABOUT = ("model", "method", "seed", "grid", "bits", "block_size", "capacity")
FIGURES = (
    "distortion",
    "distortion_per_weight",
    "relative_distortion",
    "num_changed",
    "motifs_used",
    "val_loss",
    "val_accuracy",
)


def main(model: str, runs_dir: Path, out: Path) -> None:
    found = [rows(run.folder(runs_dir.parent)) for run in config.runs(model)]
    table = pd.DataFrame(
        [row for group in found for row in group], columns=[*ABOUT, "epoch", *FIGURES, "best"]
    )
    atomic.write_text(out, table.to_csv(index=False))


def rows(folder: Path) -> list[dict]:
    """A row per epoch."""
    about = run_folder.load_run(folder)
    common = {key: about[key] for key in ABOUT}
    return [
        common
        | {"epoch": int(row["epoch"]), "best": int(row["epoch"]) == about["best_epoch"]}
        | {key: row[key] for key in FIGURES}
        for row in run_folder.load_history(folder)
    ]


if __name__ == "__main__":
    main(sys.argv[1], *map(Path, sys.argv[2:4]))
