"""Stage `distortion`: weight distortion along training of one model's runs (Figures 3 and B.1).

The table is empty without MoMos. The rows are read, not measured: 95 runs take 0.06 s, less than
it takes to find out that none of them has changed.
usage: distortion.py MODEL RUNS_DIR OUT.csv
"""

import sys
from pathlib import Path
from typing import cast

import pandas as pd

from momos import config
from momos.files import atomic, run_folder

ABOUT = ("model", "method", "seed", "grid", "bits", "block_size", "capacity")
MEASURES = (
    "distortion",
    "distortion_per_weight",
    "relative_distortion",
    "num_changed",
    "motifs_used",
    "val_loss",
    "val_accuracy",
)


def main(model: str, runs_dir: Path, out: Path) -> None:
    rows = [row for run in config.runs(model) for row in epoch_rows(run.folder(runs_dir.parent))]
    table = pd.DataFrame(rows, columns=[*ABOUT, "epoch", *MEASURES, "best"])
    atomic.write_text(out, table.to_csv(index=False))


def epoch_rows(folder: Path) -> list[dict]:
    """A row per epoch of one run."""
    about = run_folder.load_run(folder)
    rows = []
    for row in run_folder.load_history(folder):
        epoch = int(cast(float, row["epoch"]))
        numbers = {"epoch": epoch, "best": epoch == about["best_epoch"]}
        rows.append(
            {key: about[key] for key in ABOUT} | numbers | {key: row[key] for key in MEASURES}
        )
    return rows


if __name__ == "__main__":
    main(sys.argv[1], *map(Path, sys.argv[2:4]))
