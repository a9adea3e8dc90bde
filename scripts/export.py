"""`make export NAME=...`: what a finished report says of its runs, as a folder that other reports
can import.

usage: export.py NAME [--note TEXT] [--trained PROVENANCE.json]

Writes data/imported/NAME (`momos.report.shared.imported`): some kilobytes a run, no weights. Copy
it to another clone, or commit it, and put its name into `report.imported` of params.yaml: the
report there shows these runs beside its own. Runs that were imported themselves stay out.
--trained: what scripts/trainings.py wrote where the runs were trained, if that was another machine
than the report's.
"""

import argparse
import sys
from pathlib import Path

import pandas as pd
import repro

from momos import config
from momos.files import atomic, run_folder
from momos.report.shared import imported

FOLDER = Path("data/imported")
HARDWARE = (
    "device",
    "num_threads",
    "precision",
    "compile",
    "cuda_graphs",
)  # of `train`: a machine that only measures may need others


def tables(profile: str, runs: list[config.Run]) -> dict[str, pd.DataFrame]:
    """File name -> rows of these runs alone. Raises ValueError naming a file that is missing."""
    found = {
        imported.COST: _of(imported.read(Path("reports") / profile / "cost" / "cost.csv"), runs)
    }
    for model in dict.fromkeys(run.model for run in runs):
        mine = [run for run in runs if run.model == model]
        for name in imported.STAGES:
            found[f"{model}/{name}"] = _of(
                imported.read(Path("results") / profile / model / name), mine
            )
        found[f"{model}/{imported.HISTORY}"] = histories(
            Path("runs") / profile, [run for run in mine if run.grid == "main"]
        )
        measured = Path("slt") / profile / "images" / f"{model}.csv"
        if measured.is_file():
            found[f"{model}/{imported.COMPLEXITY}"] = imported.read(measured)
    return found


def histories(folder: Path, runs: list[config.Run]) -> pd.DataFrame:
    parts = [
        pd.DataFrame(run_folder.load_history(run.folder(folder))).assign(
            **dict(zip(imported.KEYS, run, strict=False))
        )
        for run in runs
    ]
    return pd.concat(parts, ignore_index=True).astype({"epoch": int})[imported.HISTORY_COLUMNS]


def trained_with(folder: Path, runs: list[config.Run]) -> dict:
    """Those of `train` that the runs themselves record. Raises ValueError naming a file that is
    missing, and runs that differ.
    """
    found = {}
    for run in runs:
        path = run.folder(folder) / run_folder.RUN
        about = atomic.read_json(path)
        for key in HARDWARE:
            value, where = found.setdefault(key, (about[key], path))
            if about[key] != value:
                raise ValueError(
                    f"{path} has {key} {about[key]!r}, expected {value!r} as in {where}: export them under two names"
                )
    return {key: value for key, (value, _) in found.items()}


def _of(frame: pd.DataFrame, runs: list[config.Run]) -> pd.DataFrame:
    keys = [key for key in imported.KEYS if key in frame]
    wanted = {run[: len(keys)] for run in runs}
    return frame[[key in wanted for key in frame[keys].itertuples(index=False, name=None)]]


def require_fresh(changed: set[str]) -> None:
    """Numbers, and the settings that they are exported with, come from different stages."""
    if changed:
        raise ValueError(
            f"the report is not up to date, `make repro` first: {', '.join(sorted(changed))}"
        )


def main(name: str, note: str, trained: Path | None = None) -> None:
    """trained: provenance.json of the machine that the runs were trained on; None: the report's."""
    profile, report = config.profile(), Path("reports") / config.profile()
    document, provenance = (
        atomic.read_json(report / "results.json"),
        atomic.read_json(trained or report / "provenance.json"),
    )
    runs = config.runs()
    document["settings"]["train"] |= trained_with(Path("runs") / profile, runs)
    imported.write(FOLDER / name, document, provenance, tables(profile, runs), note)
    again = imported.load(FOLDER, [name])[0]
    size = sum(path.stat().st_size for path in again.folder.rglob("*") if path.is_file())
    print(
        f"{again.folder}: {len(again.runs)} runs, {size / 1024:,.0f} KiB. To show them in a report: report.imported: [{name}]"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(usage=__doc__)
    parser.add_argument("name")
    parser.add_argument("--note", default="", help="what a reader of the numbers should know")
    parser.add_argument("--trained", type=Path, metavar="PROVENANCE.json")
    args = parser.parse_args()
    if Path(args.name).name != args.name or args.name in ("", ".."):
        sys.exit(f"NAME: expected a plain folder name, got {args.name!r}")
    try:
        require_fresh(repro.changed_stages())
        main(args.name, args.note, args.trained)
    except ValueError as error:
        sys.exit(str(error))
