"""Stage `cost`: seconds and peak memory of every training, their sums by model, and of the survey.

usage: cost.py COSTS_DIR IMPORTED_DIR OUT_DIR
"""

import sys
from pathlib import Path

import pandas as pd

from momos import config
from momos.files import atomic
from momos.report.shared import imported


def main(costs_dir: Path, imported_dir: Path, out_dir: Path) -> None:
    runs = config.runs()
    rows = [
        dict(zip(imported.KEYS, run, strict=False))
        | atomic.read_json(run.folder(costs_dir) / "cost.json")
        for run in runs
    ]
    imports = imported.load(imported_dir, config.load(config.Report).imported or (), runs)
    costs = pd.concat([pd.DataFrame(rows), imported.costs(imports)], ignore_index=True)
    surveyed = pd.DataFrame(atomic.read_json(costs_dir / "survey" / "cost.json")["models"])
    atomic.write_text(out_dir / "cost.csv", costs.to_csv(index=False))
    atomic.write_text(out_dir / "cost.md", training_text(costs) + survey_text(surveyed))
    atomic.write_text(out_dir / "survey.csv", surveyed.to_csv(index=False))


def training_text(costs: pd.DataFrame) -> str:
    """A table by model, and on which devices it ran. costs: a row per training."""
    totals = costs.groupby("model", sort=False).agg(
        runs=("seconds", "size"),
        hours=("seconds", "sum"),
        median_seconds=("seconds", "median"),
        peak_GiB=("peak_memory_bytes", "max"),
    )
    totals.loc["all"] = [
        totals.runs.sum(),
        totals.hours.sum(),
        costs.seconds.median(),
        totals.peak_GiB.max(),
    ]
    totals = totals.assign(hours=totals.hours / 3600, peak_GiB=totals.peak_GiB / 2**30)
    totals = totals.astype({"runs": int}).round(3)
    devices = ", ".join(sorted(costs.device.unique()))
    note = (
        f"Training alone, on: {devices}. Hours are summed over runs, however many ran side by side."
    )
    return f"# What it cost\n\n{totals.to_markdown()}\n\n{note}\n"


def survey_text(surveyed: pd.DataFrame) -> str:
    """A line about the survey; empty if nothing was measured.

    surveyed: a row per model with num_weights (missing where it could not be measured) and seconds.
    """
    measured = surveyed[surveyed.num_weights.notna()] if len(surveyed) else surveyed
    if measured.empty:
        return ""
    weights, seconds = measured.num_weights.sum() / 1e6, measured.seconds.sum()
    return (
        f"\nSurvey: {len(measured)} models, {weights:,.1f} M weights, {seconds:,.0f} s,"
        f" {seconds / weights:.2f} s a million weights.\n"
    )


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:4]))
