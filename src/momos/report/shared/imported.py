"""Runs that were trained and measured elsewhere (a GPU without DVC, another sitting), as a report
takes them in: numbers, no weights.

    data/imported/NAME/about.json               the data, settings and machine of the report that they come from, and a note
                       cost.csv                 seconds and memory of every training
                       MODEL/evaluation.csv     rows as the stage of that name wrote them; likewise distortion.csv and packing.csv
                       MODEL/history.csv        a row per epoch of each run of the main grid
                       MODEL/complexity.csv     the second paper's measures; need not be there

`report.imported` in params.yaml lists the names; `scripts/export.py` writes such a folder from a
finished report.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from momos import config
from momos.config import Run
from momos.files import atomic

ABOUT, COST, HISTORY, COMPLEXITY = "about.json", "cost.csv", "history.csv", "complexity.csv"
STAGES = (
    "evaluation.csv",
    "distortion.csv",
    "packing.csv",
)  # of a model, as results/<profile>/<model>/ has them
KEYS = ["model", "method", "seed", "grid"]
HISTORY_COLUMNS = [*KEYS, "epoch", "val_loss", "val_accuracy"]
FULL = "float32"
MACHINE = ("cpu", "cores", "gpus", "python", "date", "git")
# What measured numbers follow from, apart from the images, which have their SHA-256, and from each
# run's own model and method.
SAME = {
    "data": ("mean", "std"),
    "augment": ("flip", "crop_padding", "rand_augment_ops", "rand_augment_magnitude"),
    "train": ("epochs", "batch_size", "patience"),
    "mosaic": ("projection_every", "force_zero", "slicing"),
    "quantize": ("exclude",),
    "evaluate": ("checkpoint", "shuffle_seed"),
}


class Import(NamedTuple):
    name: str
    folder: Path
    about: dict[str, Any]  # about.json
    runs: list[Run]

    @property
    def models(self) -> list[str]:
        return list(dict.fromkeys(run.model for run in self.runs))


def load(folder: Path, names: Iterable[str], own: Sequence[Run] = ()) -> list[Import]:
    """folder: data/imported. own: the runs that params.yaml asks for.

    Raises ValueError naming the import for one that is not there, is damaged, or has a run that is
    there twice or whose method params.yaml lacks.
    """
    found = [_load(folder, name) for name in names]
    seen = {run[:4]: "the grids of params.yaml" for run in own}
    for each in found:
        for run in each.runs:
            if run[:4] in seen:
                text = f"model {run.model}, method {run.method}, seed {run.seed}"
                raise ValueError(
                    f"report.imported: {text} is in {each.name} and in {seen[run[:4]]}; expected each run once"
                )
            seen[run[:4]] = each.name
    return found


def check(
    imports: Iterable[Import],
    data_sha256: str,
    settings: Mapping[str, Mapping],
    models: Mapping,
    methods: Mapping,
) -> None:
    """Numbers of other images or settings than this report's must not stand in one mean with its
    own, nor two precisions in a model's.

    settings: section -> key -> value; models, methods: name -> settings. Raises ValueError naming
    the import, the key and both values.
    """
    precisions = dict.fromkeys(
        settings["grid"]["models"], (settings["train"]["precision"], "this profile")
    )
    here = _plain({"settings": settings, "models": models, "methods": methods})
    for each in imports:
        there = each.about["settings"]
        pairs = [("data.sha256", each.about["data"].get("sha256"), data_sha256)]
        for section, keys in SAME.items():
            pairs += [
                (f"{section}.{key}", there[section].get(key), here["settings"][section][key])
                for key in keys
            ]
        pairs += [
            (f"models.{name}", there["models"].get(name), here["models"][name])
            for name in each.models
        ]
        names = dict.fromkeys(run.method for run in each.runs if run.grid == "main")
        pairs += [
            (f"methods.{name}", there["methods"].get(name), here["methods"][name]) for name in names
        ]
        for key, theirs, ours in pairs:
            if theirs != ours:
                raise ValueError(
                    f"report.imported: {each.name} was made with {key} {theirs!r}, expected {ours!r} as in this profile"
                )
        for model in each.models:
            ours, where = precisions.setdefault(model, (_precision(each), each.name))
            if _precision(each) != ours:
                text = f"{each.name} has {model} with train.precision {_precision(each)!r}, expected {ours!r} as in {where}"
                raise ValueError(f"report.imported: {text}")


def departures(imports: Iterable[Import]) -> tuple[str, ...]:
    """As `published.departures`: models whose runs were not trained in full float32."""
    found = [(each, model) for each in imports if _precision(each) != FULL for model in each.models]
    return tuple(
        f"models.{model}.precision in {each.name} is {_precision(each)!r}, not {FULL!r}"
        for each, model in found
    )


def costs(imports: Iterable[Import]) -> pd.DataFrame:
    """A row per imported training. Raises ValueError naming a file that is missing or lacks a run."""
    parts = [_rows(each, each.folder / COST, each.runs) for each in imports]
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()


def complexity(imports: Iterable[Import]) -> pd.DataFrame:
    """The second paper's measures of imported runs, where they have them."""
    paths = [each.folder / model / COMPLEXITY for each in imports for model in each.models]
    parts = [read(path) for path in paths if path.is_file()]
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()


def origin(each: Import) -> dict[str, Any]:
    """For results.json: which runs, from where, and `text`, the same for readers."""
    provenance = each.about["provenance"]
    seeds = {
        model: sorted({run.seed for run in each.runs if run.model == model})
        for model in each.models
    }
    runs = "; ".join(
        f"{model}, seed{'s' * (len(mine) > 1)} {', '.join(map(str, mine))}"
        for model, mine in seeds.items()
    )
    where = [
        str(provenance.get("cpu")),
        f"{provenance.get('cores')} cores",
        *(provenance.get("gpus") or ()),
    ]
    commit = f", commit {provenance['git']['commit'][:7]}" if provenance.get("git") else ""
    made = f"{', '.join(where)}, {str(provenance.get('date'))[:10]}{commit}"
    how = "" if _precision(each) == FULL else f", in {_precision(each)}"
    text = f"{each.name}: {len(each.runs)} runs ({runs}){how}, {made}. {each.about['note']}".strip()
    machine = {key: provenance.get(key) for key in MACHINE}
    return {
        "name": each.name,
        "text": text,
        "runs": [list(run[:3]) for run in each.runs],
        "machine": machine,
    }


def write(
    folder: Path,
    document: Mapping[str, Any],
    provenance: Mapping[str, Any],
    tables: Mapping[str, pd.DataFrame],
    note: str,
) -> None:
    """Write an import. document: results.json. tables: file name below the folder -> its rows.

    Raises ValueError for a folder that is there: what others have imported does not change under
    them.
    """
    if folder.exists():
        raise ValueError(f"{folder} is there already: expected a new name")
    for name, frame in tables.items():
        atomic.write_text(folder / name, frame.to_csv(index=False))
    about = {
        "schema": 1,
        "note": note,
        "profile": document["profile"],
        "data": document["data"],
        "settings": document["settings"],
    }
    atomic.write_json(
        folder / ABOUT, about | {"provenance": dict(provenance)}
    )  # last: with it the import is whole


def read(path: Path) -> pd.DataFrame:
    """Raises ValueError naming a file that is missing or no table."""
    if not path.is_file():
        raise ValueError(
            f"{path} is missing: expected a table of an import (written by `make export`)"
        )
    try:
        return pd.read_csv(path)
    except ValueError as error:  # pandas' parser errors are ValueErrors that do not name the file
        raise ValueError(f"{path} is damaged or of another kind: {error}") from error


def _load(parent: Path, name: str) -> Import:
    folder = parent / name
    if not (folder / ABOUT).is_file():
        there = ", ".join(sorted(path.parent.name for path in parent.glob(f"*/{ABOUT}"))) or "none"
        raise ValueError(
            f"report.imported: expected a folder of {parent} with {ABOUT} in it ({there}), got {name!r}"
        )
    about = atomic.read_json(folder / ABOUT)
    missing = [key for key in ("note", "data", "settings", "provenance") if key not in about]
    missing += [
        f"settings.{section}"
        for section in (*SAME, "models", "methods")
        if section not in about.get("settings", {})
    ]
    if missing:
        raise ValueError(
            f"{folder / ABOUT}: expected what `make export` writes, {', '.join(missing)} is missing"
        )
    runs = []
    for path in sorted(folder.glob(f"*/{STAGES[0]}")):
        frame = read(path)
        absent = [column for column in (*KEYS, "block_size", "capacity") if column not in frame]
        if absent:
            raise ValueError(f"{path}: column {', '.join(absent)} is missing")
        runs += [_run(path, row) for row in frame.drop_duplicates(KEYS).itertuples()]
    if not runs:
        raise ValueError(f"{folder}: expected MODEL/{STAGES[0]}, found none")
    return Import(name, folder, about, runs)


def _run(path: Path, row) -> Run:
    try:
        main = row.grid == "main"
        settings = (
            config.load(config.Method, row.method)
            if main
            else config.cell(int(row.block_size), float(row.capacity))
        )
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return Run(row.model, row.method, int(row.seed), row.grid, settings)


def _precision(each: Import) -> str | None:
    return each.about["settings"]["train"].get("precision")


def _rows(each: Import, path: Path, runs: Sequence[Run]) -> pd.DataFrame:
    frame = read(path)
    there = (
        set(frame[KEYS].itertuples(index=False, name=None)) if set(KEYS) <= set(frame) else set()
    )
    for run in runs:
        if run[:4] not in there:
            raise ValueError(
                f"{path}: expected a row for model {run.model}, method {run.method}, seed {run.seed}, found none"
            )
    return frame


def _plain(values: Any) -> Any:
    """As it comes back from JSON."""
    return json.loads(json.dumps(values, default=asdict))
