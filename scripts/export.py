"""`make export NAME=...`: write a finished report's runs as a folder that other reports import.

usage: export.py NAME [--note TEXT] [--trained PROVENANCE.json]

Writes data/imported/NAME (`momos.report.shared.imported`): some kilobytes per run, no weights. Copy
it to another clone, or commit it, and add its name to `report.imported` in params.yaml: the report
there shows these runs beside its own. Runs that were imported themselves stay out.
--trained: the provenance.json that scripts/trainings.py wrote, if the runs were trained on another
machine than the report's.
"""

import argparse
import sys
from pathlib import Path

import pandas as pd
import repro

from momos import config
from momos.config.names import PROFILE, PROFILE_RULE
from momos.files import atomic, run_folder
from momos.report.shared import imported
from momos.settings import require

FOLDER = Path("data/imported")
# Keys of `train` that the runs record: a machine that only measures may need other values.
HARDWARE = ("device", "num_threads", "precision", "compile", "cuda_graphs")


def tables(profile: str, runs: list[config.Run]) -> dict[str, pd.DataFrame]:
    """File name -> rows of these runs alone. Raises ValueError naming a file that is missing."""
    costs = imported.read_table(Path("reports") / profile / "cost" / "cost.csv")
    exported = {imported.COST: _rows_of(costs, runs)}
    for model in dict.fromkeys(run.model for run in runs):
        exported |= model_tables(profile, model, [run for run in runs if run.model == model])
    return exported


def model_tables(profile: str, model: str, runs: list[config.Run]) -> dict[str, pd.DataFrame]:
    """The tables of one model: each stage's, training histories, and measures of complexity."""
    results, measured = Path("results") / profile / model, Path("slt") / profile / "images"
    exported = {
        f"{model}/{name}": _rows_of(imported.read_table(results / name), runs)
        for name in imported.STAGES
    }
    main_runs = [run for run in runs if run.grid == "main"]
    exported[f"{model}/{imported.HISTORY}"] = histories(Path("runs") / profile, main_runs)
    if (measured / f"{model}.csv").is_file():
        exported[f"{model}/{imported.COMPLEXITY}"] = imported.read_table(measured / f"{model}.csv")
    return exported


def histories(folder: Path, runs: list[config.Run]) -> pd.DataFrame:
    """A row per epoch of each run. folder: of all runs."""
    parts = []
    for run in runs:
        frame = pd.DataFrame(run_folder.load_history(run.folder(folder)))
        parts.append(frame.assign(**dict(zip(imported.KEYS, run, strict=False))))
    return pd.concat(parts, ignore_index=True).astype({"epoch": int})[imported.HISTORY_COLUMNS]


def trained_with(folder: Path, runs: list[config.Run]) -> dict:
    """The HARDWARE settings that the runs themselves record.

    Raises ValueError naming a file that is missing, or runs that differ.
    """
    recorded: dict[str, tuple[object, Path]] = {}
    for run in runs:
        path = run.folder(folder) / run_folder.RUN
        about = atomic.read_json(path)
        for key in HARDWARE:
            value, where = recorded.setdefault(key, (about[key], path))
            if about[key] != value:
                raise ValueError(
                    f"{path} has {key} {about[key]!r}, expected {value!r} as in {where}:"
                    " export them under two names"
                )
    return {key: value for key, (value, _) in recorded.items()}


def _rows_of(frame: pd.DataFrame, runs: list[config.Run]) -> pd.DataFrame:
    keys = [key for key in imported.KEYS if key in frame]
    wanted = {run[: len(keys)] for run in runs}
    return frame[[key in wanted for key in frame[keys].itertuples(index=False, name=None)]]


def require_fresh(changed: set[str]) -> None:
    """Raises ValueError for stages that have changed: numbers must belong to the settings."""
    if changed:
        raise ValueError(
            f"the report is not up to date, `make repro` first: {', '.join(sorted(changed))}"
        )


def main(name: str, note: str, trained: Path | None = None) -> None:
    """Write data/imported/NAME.

    trained: provenance.json of the machine that the runs were trained on; None: the report's.
    """
    profile, runs = config.profile(), config.runs()
    report = Path("reports") / profile
    document = atomic.read_json(report / "results.json")
    provenance = atomic.read_json(trained or report / "provenance.json")
    document["settings"]["train"] |= trained_with(Path("runs") / profile, runs)
    imported.write(FOLDER / name, document, provenance, tables(profile, runs), note)
    again = imported.load(FOLDER, [name])[0]
    size = sum(path.stat().st_size for path in again.folder.rglob("*") if path.is_file())
    print(
        f"{again.folder}: {len(again.runs)} runs, {size / 1024:,.0f} KiB."
        f" To show them in a report: report.imported: [{name}]"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(usage=__doc__)
    parser.add_argument("name")
    parser.add_argument("--note", default="", help="what a reader of the numbers should know")
    parser.add_argument("--trained", type=Path, metavar="PROVENANCE.json")
    args = parser.parse_args()
    try:
        require(PROFILE.fullmatch(args.name), "NAME", PROFILE_RULE, args.name)
        with repro.Dvc() as asked:
            require_fresh(repro.changed_stages(asked))
        main(args.name, args.note, args.trained)
    except ValueError as error:
        sys.exit(str(error))
