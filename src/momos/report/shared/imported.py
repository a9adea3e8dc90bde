"""Runs that were trained and measured elsewhere (a GPU without DVC, another sitting).

A report takes them in as numbers, without weights:

    data/imported/NAME/about.json            the data, settings and machine of the report that they
                                             come from, and a note
                       cost.csv              seconds and memory of every training
                       MODEL/evaluation.csv  rows as the stage of that name wrote them; likewise
                                             distortion.csv and packing.csv
                       MODEL/history.csv     a row per epoch of each run of the main grid
                       MODEL/complexity.csv  the second paper's measures; need not be there

`report.imported` in params.yaml lists the names. `scripts/export.py` writes such a folder from a
finished report.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from momos import config
from momos.config import Run
from momos.files import atomic

ABOUT, COST, HISTORY, COMPLEXITY = "about.json", "cost.csv", "history.csv", "complexity.csv"
# Tables of a model, as results/<profile>/<model>/ has them.
STAGES = ("evaluation.csv", "distortion.csv", "packing.csv")
KEYS = ["model", "method", "seed", "grid"]
# The survey's words for the pipeline's own runs, and for models that nobody trained.
OWN_SOURCE, CONTROL = "this pipeline", "untrained"
HISTORY_COLUMNS = [*KEYS, "epoch", "val_loss", "val_accuracy"]
FULL = "float32"
MACHINE = ("cpu", "cores", "gpus", "python", "date", "git")
# The settings that measured numbers follow from, beside each run's own model and method. The images
# have their SHA-256.
SAME = {
    "data": ("mean", "std"),
    "augment": ("flip", "crop_padding", "rand_augment_ops", "rand_augment_magnitude"),
    "train": ("epochs", "batch_size", "patience"),
    "mosaic": ("projection_every", "force_zero", "slicing", "codebook"),
    "quantize": ("exclude", "rounding", "tensors"),
    "evaluate": ("checkpoint", "shuffle_seed"),
}
# What was so before there were these settings.
BEFORE = {"codebook": "model", "rounding": "straight_through", "tensors": "weights"}


class Import(NamedTuple):
    """One folder of data/imported, its runs listed."""

    name: str
    folder: Path
    about: dict[str, Any]  # about.json
    runs: list[Run]

    @property
    def models(self) -> list[str]:
        """The models of the runs, each once."""
        return list(dict.fromkeys(run.model for run in self.runs))


def load(folder: Path, names: Iterable[str], own: Sequence[Run] = ()) -> list[Import]:
    """Read the imports of these names. folder: data/imported; own: the runs of params.yaml.

    Raises ValueError naming the import for one that is not there, is damaged, or has a run that is
    there twice or whose method params.yaml lacks.
    """
    imports = [_load(folder, name) for name in names]
    seen = {run[:4]: "the grids of params.yaml" for run in own}
    for source in imports:
        for run in source.runs:
            if run[:4] in seen:
                text = f"model {run.model}, method {run.method}, seed {run.seed}"
                places = f"is in {source.name} and in {seen[run[:4]]}"
                raise ValueError(f"report.imported: {text} {places}; expected each run once")
            seen[run[:4]] = source.name
    return imports


def check(
    imports: Sequence[Import],
    data_sha256: str,
    settings: Mapping[str, Mapping],
    models: Mapping,
    methods: Mapping,
) -> None:
    """Refuse imports whose numbers must not stand in one mean with this report's own.

    They are of other images or settings, or give a model a second precision. settings: section ->
    key -> value; models, methods: name -> settings. Raises ValueError naming the import, the key
    and both values.
    """
    here = _as_json({"settings": settings, "models": models, "methods": methods})
    for source in imports:
        images = ("data.sha256", source.about["data"].get("sha256"), data_sha256)
        for key, theirs, ours in [images, *_setting_pairs(source, here)]:
            if theirs != ours:
                raise ValueError(
                    f"report.imported: {source.name} was made with {key} {theirs!r},"
                    f" expected {ours!r} as in this profile"
                )
    _check_precisions(imports, settings)


def _setting_pairs(source: Import, here: Mapping[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    """(key, the import's value, this report's) of all settings that numbers follow from."""
    there = source.about["settings"]
    for section, keys in SAME.items():
        for key in keys:
            theirs = there[section].get(key, BEFORE.get(key))
            yield f"{section}.{key}", theirs, here["settings"][section][key]
    for name in source.models:
        yield f"models.{name}", _given(there["models"].get(name)), _given(here["models"][name])
    for name in dict.fromkeys(run.method for run in source.runs if run.grid == "main"):
        yield f"methods.{name}", _given(there["methods"].get(name)), _given(here["methods"][name])


def _given(settings: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Those that are not left out; a setting that is newer than the import is left out of it."""
    if settings is None:
        return None
    return {name: value for name, value in settings.items() if value is not None}


def _check_precisions(imports: Iterable[Import], settings: Mapping[str, Mapping]) -> None:
    """Raises ValueError for a model whose runs were trained in two precisions."""
    own = (settings["train"]["precision"], "this profile")
    precisions = dict.fromkeys(settings["grid"]["models"], own)
    for source in imports:
        for model in source.models:
            theirs = _precision(source)
            ours, where = precisions.setdefault(model, (theirs, source.name))
            if theirs != ours:
                raise ValueError(
                    f"report.imported: {source.name} has {model} with train.precision {theirs!r},"
                    f" expected {ours!r} as in {where}"
                )


def departures(imports: Iterable[Import]) -> tuple[str, ...]:
    """List models whose runs were not trained in full float32, as `published.departures` does."""
    return tuple(
        f"models.{model}.precision in {source.name} is {_precision(source)!r}, not {FULL!r}"
        for source in imports
        if _precision(source) != FULL
        for model in source.models
    )


def costs(imports: Iterable[Import]) -> pd.DataFrame:
    """Read what the trainings cost, a row each.

    Raises ValueError naming a file that is missing or lacks a run.
    """
    parts = [_cost_rows(source) for source in imports]
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()


def complexity(imports: Iterable[Import]) -> pd.DataFrame:
    """Read the second paper's measures of imported runs, where they have them."""
    paths = [source.folder / model / COMPLEXITY for source in imports for model in source.models]
    parts = [read_table(path) for path in paths if path.is_file()]
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()


def origin(source: Import) -> dict[str, Any]:
    """Describe an import for results.json: its runs and machine, and `text`, both for readers."""
    provenance = source.about["provenance"]
    return {
        "name": source.name,
        "text": _origin_text(source, provenance),
        "runs": [list(run[:3]) for run in source.runs],
        "machine": {key: provenance.get(key) for key in MACHINE},
    }


def _origin_text(source: Import, provenance: Mapping[str, Any]) -> str:
    parts = []
    for model in source.models:
        seeds = sorted({run.seed for run in source.runs if run.model == model})
        parts.append(f"{model}, seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}")
    machine = [str(provenance.get("cpu")), f"{provenance.get('cores')} cores"]
    machine += provenance.get("gpus") or ()
    commit = f", commit {provenance['git']['commit'][:7]}" if provenance.get("git") else ""
    made = f"{', '.join(machine)}, {str(provenance.get('date'))[:10]}{commit}"
    precision = "" if _precision(source) == FULL else f", in {_precision(source)}"
    runs = f"{len(source.runs)} runs ({'; '.join(parts)})"
    return f"{source.name}: {runs}{precision}, {made}. {source.about['note']}".strip()


def write(
    folder: Path,
    document: Mapping[str, Any],
    provenance: Mapping[str, Any],
    tables: Mapping[str, pd.DataFrame],
    note: str,
) -> None:
    """Write an import. document: results.json; tables: file name below the folder -> its rows.

    about.json is written last: with it the import is whole. Raises ValueError for a folder that is
    there already, because others may have imported it.
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
    atomic.write_json(folder / ABOUT, about | {"provenance": dict(provenance)})


def read_table(path: Path) -> pd.DataFrame:
    """Read a table of an import. Raises ValueError naming a file that is missing or no table."""
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
        expected = f"expected a folder of {parent} with {ABOUT} in it ({there})"
        raise ValueError(f"report.imported: {expected}, got {name!r}")
    about = _read_about(folder / ABOUT)
    runs = [run for path in sorted(folder.glob(f"*/{STAGES[0]}")) for run in _listed_runs(path)]
    if not runs:
        raise ValueError(f"{folder}: expected MODEL/{STAGES[0]}, found none")
    return Import(name, folder, about, runs)


def _read_about(path: Path) -> dict[str, Any]:
    about = atomic.read_json(path)
    missing = [key for key in ("note", "data", "settings", "provenance") if key not in about]
    sections, there = (*SAME, "models", "methods"), about.get("settings", {})
    missing += [f"settings.{section}" for section in sections if section not in there]
    if missing:
        expected = "expected what `make export` writes"
        raise ValueError(f"{path}: {expected}, {', '.join(missing)} is missing")
    return about


def _listed_runs(path: Path) -> list[Run]:
    """The runs of an import's evaluation.csv."""
    frame = read_table(path)
    absent = [column for column in (*KEYS, "block_size", "capacity") if column not in frame]
    if absent:
        raise ValueError(f"{path}: column {', '.join(absent)} is missing")
    return [_run(path, row) for row in frame.drop_duplicates(KEYS).itertuples()]


def _run(path: Path, row: Any) -> Run:
    try:
        if row.grid == "main":
            method = config.load_method(row.method)
        else:
            method = config.cell(int(row.block_size), float(row.capacity))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return Run(row.model, row.method, int(row.seed), row.grid, method)


def _precision(source: Import) -> str | None:
    return source.about["settings"]["train"].get("precision")


def _cost_rows(source: Import) -> pd.DataFrame:
    path = source.folder / COST
    frame = read_table(path)
    has_keys = set(KEYS) <= set(frame)
    there = set(frame[KEYS].itertuples(index=False, name=None)) if has_keys else set()
    for run in source.runs:
        if run[:4] not in there:
            name = f"model {run.model}, method {run.method}, seed {run.seed}"
            raise ValueError(f"{path}: expected a row for {name}, found none")
    return frame


def _as_json(values: Any) -> Any:
    """The values as they come back from JSON."""
    return json.loads(json.dumps(values, default=asdict))
