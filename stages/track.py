"""`make track`: show every run that params.yaml lists, and the report, in MLflow.

usage: track.py

This is no stage of the pipeline: no result depends on it.
"""

import itertools
import sys
from collections.abc import Iterator
from pathlib import Path

from momos import config, tracking
from momos.files import atomic, run_folder


def main() -> None:
    settings, profile = config.load(config.Tracking), config.profile()
    missing: list[str] = []
    records = list(trainings(Path("runs") / profile, missing))
    records += languages(Path("slt") / profile / "checkpoints", missing)
    records += report(Path("reports") / profile, profile)
    counts = tracking.rebuild(settings, records)
    print(
        f"{tracking.uri()}: {counts['created']} runs added ({counts['replaced']} had been cut off),"
        f" {counts['kept']} already there."
    )
    if missing:
        print(f"{len(missing)} runs have no results yet (`make repro`):", *missing, sep="\n  ")


def trainings(root: Path, missing: list[str]) -> Iterator[tracking.Record]:
    """A record of each finished training; missing and damaged ones are added to `missing`."""
    for run in config.runs():
        folder = run.folder(root)
        try:
            about, history = run_folder.load_run(folder), run_folder.load_history(folder)
        except ValueError as error:
            missing.append(f"{folder}: {error}")
            continue
        yield tracking.Record.of_training(
            about, history=history, output_hash=tracking.output_hash(folder)
        )


def languages(root: Path, missing: list[str]) -> Iterator[tracking.Record]:
    """A record of each language model trained here, with a row per checkpoint."""
    slt = config.load(config.Slt)
    for model, seed in itertools.product(slt.models, slt.seeds):
        folder = root / model / str(seed)
        if config.load(config.LanguageModel, model).source != "local":
            continue
        try:
            about = atomic.read_json(folder / run_folder.RUN)
            history = run_folder.load_history(folder)
        except ValueError as error:
            missing.append(f"{folder}: {error}")
            continue
        rows = [{"epoch": row["step"]} | row for row in history]
        yield tracking.Record.of_training(
            about, history=rows, output_hash=tracking.output_hash(folder)
        )


def report(folder: Path, profile: str) -> list[tracking.Record]:
    """The report's metrics.json as one run, with tables and figures; empty without a report."""
    path = folder / "metrics.json"
    if not path.is_file():
        return []
    kept = tuple(str(folder / name) for name in ("tables", "figures") if (folder / name).is_dir())
    return [
        tracking.Record(
            key=f"{profile}/report",
            name=f"{profile}/report",
            group=None,
            params={},
            tags={"profile": profile, "stage": "report"},
            history=[{"epoch": 0, **tracking.flat_numbers(atomic.read_json(path))}],
            output_hash=tracking.output_hash(folder),
            artifacts=kept,
        )
    ]


if __name__ == "__main__":
    try:
        main()
    except (ValueError, RuntimeError) as error:
        sys.exit(str(error))
