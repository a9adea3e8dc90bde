"""Stage `cost`: seconds and peak memory of every training, and their sums by model.   usage: cost.py COSTS_DIR OUT_DIR"""

import sys
from pathlib import Path

import pandas as pd

from momos import checkpoint, config


def main(costs_dir: Path, out_dir: Path) -> None:
    keys = ("model", "method", "seed", "grid")
    rows = [dict(zip(keys, run, strict=False)) | checkpoint.read_json(run.folder(costs_dir) / "cost.json") for run in config.runs()]
    costs = pd.DataFrame(rows)
    checkpoint.write_text(out_dir / "cost.csv", costs.to_csv(index=False))
    checkpoint.write_text(out_dir / "cost.md", page(costs))


def page(costs: pd.DataFrame) -> str:
    totals = costs.groupby("model", sort=False).agg(
        runs=("seconds", "size"), hours=("seconds", "sum"), median_seconds=("seconds", "median"), peak_GiB=("peak_memory_bytes", "max")
    )
    totals.loc["all"] = [totals.runs.sum(), totals.hours.sum(), costs.seconds.median(), totals.peak_GiB.max()]
    totals = totals.assign(hours=totals.hours / 3600, peak_GiB=totals.peak_GiB / 2**30).astype({"runs": int}).round(3)
    devices = ", ".join(sorted(costs.device.unique()))
    note = f"Training alone, on: {devices}. Hours are summed over runs, however many ran side by side."
    return f"# What it cost\n\n{totals.to_markdown()}\n\n{note}\n"


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:3]))
