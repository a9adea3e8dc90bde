"""Derive results.json again from the CSV files beside it, and name every number that differs.

Nothing is trained or measured. The cells, the counts and the Pareto fronts are computed by the code
of the report from tables/*.csv and from the published tables. The cells of a table that a report
does not have, because an older version wrote it, can't be derived and are counted. So are those of
a measure that an older results.json has not at all.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from momos.config import Run
from momos.files import atomic
from momos.methods.method import parse
from momos.report.momos import document
from momos.report.momos.cell_list import CellList
from momos.report.momos.cells import Cell
from momos.report.momos.comparison import compare_accuracy, reproduction_claim
from momos.report.momos.evidence import Evidence
from momos.report.momos.pictures import Pictures
from momos.report.momos.study import Study, read_published
from momos.report.shared import imported, published, results
from momos.report.shared.claims import read_claims

# Table of cells -> the file that they follow from, and a column of it. Reports of older versions
# may lack one of them.
ROWS = {
    "packing": ("packing_runs", "coding"),
    "distortion": ("distortion_runs", "relative_distortion"),
    "slt": ("singular", "measure"),
    "zoo": ("survey", "seed"),
}
PLACES = ("source", "stage")  # of a cell: where the stages ran
NEEDED = ("profile", "cells", "counts", "pareto", "settings", "summary", "imported")  # keys
MAYBE = ("imported", "unit")  # columns of text that may be empty in every row
EXACT = 1e-9  # relative: numbers are written with 12 digits


class Verified(NamedTuple):
    """What was derived again, and how it went."""

    num_derived: int  # cells, counts and fronts
    differing: list[str]  # each in a line: id, key, what the file has, what follows
    not_derived: dict[str, int]  # table -> cells whose rows the report lacks
    newer: dict[str, int]  # measure -> cells of it, of which the report has none


def verify(folder: Path, paper_dir: Path, imported_dir: Path) -> Verified:
    """Compare results.json of a report with what its tables give.

    folder: reports/<profile>; paper_dir, imported_dir: data/paper, data/imported. Raises ValueError
    naming a file that is missing or damaged.
    """
    found = _read_json(folder / "results.json")
    if lacking := [key for key in NEEDED if key not in found]:
        raise ValueError(f"{folder / 'results.json'}: expected a report's, it lacks {lacking[0]}")
    study, absent = read_study(folder, found, paper_dir, imported_dir)
    known = {cell["id"]: cell for cell in found["cells"]}
    measures = {_measure(cell) for cell in found["cells"]}
    cells = list(_cells(study, absent))
    newer = Counter(cell["measure"] for cell in cells if _measure(cell) not in measures)
    derived: dict[str, Mapping[str, Any]] = {
        cell["id"]: cell for cell in cells if _measure(cell) in measures
    }
    shown = {name: cell for name, cell in known.items() if _table(cell) not in absent}
    lines = list(_differences(shown, derived))
    summaries = {"counts": document.counts(study, cells), "pareto": document.pareto(study)}
    num_summaries = 0
    for part, values in summaries.items():
        named = {f"{part}/{name}": found[part][name] for name in found[part]}
        ours = {f"{part}/{name}": values.get(name, {}) for name in found[part]}
        lines += _differences(named, ours)
        num_summaries += len(named)
    left = Counter(cell["table"] for name, cell in known.items() if name not in shown)
    return Verified(len(derived) + num_summaries, lines, dict(left), dict(newer))


def _measure(cell: Mapping[str, Any]) -> tuple[str, str]:
    """What a table has from one version of the report on."""
    return cell["table"], cell["measure"]


def _cells(study: Study, absent: set[str]) -> Iterator[Cell]:
    listed = CellList(study, "", "")
    parts = {
        "distortion": listed.distortion,
        "packing": listed.packing,
        "slt": listed.singular,
        "zoo": listed.zoo,
    }
    for part in (listed.main, listed.capacity, listed.rac_check, listed.aggregate):
        yield from part()
    for name, part in parts.items():
        if name not in absent:
            yield from part()


def read_study(
    folder: Path, found: Mapping[str, Any], paper_dir: Path, imported_dir: Path
) -> tuple[Study, set[str]]:
    """The study behind a report as its tables have it, and the names of ROWS that are not there.

    found: results.json. Verdicts are those of claims.csv. What no number needs is left empty.
    """
    rows = {name: _read_rows(folder, *where) for name, where in ROWS.items()}
    absent, none = {name for name, frame in rows.items() if frame is None}, pd.DataFrame()
    there = {name: none if frame is None else frame for name, frame in rows.items()}
    zoo = there["zoo"]
    measured = results.Results(
        evaluation=_read(folder, "runs"),
        distortion=there["distortion"],
        history=none,
        survey=zoo if "zoo" in absent else zoo[zoo.error.isna()],
        not_surveyed=none if "zoo" in absent else zoo[zoo.error.notna()],
        singular=there["slt"],
        packing=there["packing"],
        methods={},
    )
    settings = found["settings"]
    departures = published.departures(settings, settings["models"])
    departures += imported.departures(_imports(found, imported_dir))
    judged = _read(folder, "claims", keep_default_na=False)
    claims, check = read_claims(paper_dir), read_published(paper_dir, measured.evaluation)
    evidence = Evidence(
        evaluation=measured.evaluation,
        distortion=measured.distortion,
        survey=measured.survey,
        published=check,
        source=settings["data"]["source"],
        epochs=0,  # only claims ask for it
        departures=departures,
    )
    study = Study(
        name=found["profile"],
        results=measured,
        check=check,
        comparison=compare_accuracy(evidence, reproduction_claim(claims)),
        readings=none,
        claims=claims,
        verdicts=judged if "decided" in judged else judged.assign(decided=""),
        pictures=Pictures({}, None),
        data=found["summary"],
        settings=settings,
        imported=found["imported"],
        departures=departures,
    )
    return study, absent


def _imports(found: Mapping[str, Any], folder: Path) -> list[imported.Import]:
    """The imports of a report, as far as the precision of their models goes."""
    methods = found["settings"]["methods"]
    return [
        imported.Import(
            name=origin["name"],
            folder=folder / origin["name"],
            about=_read_json(folder / origin["name"] / imported.ABOUT),
            runs=[
                Run(model, name, seed, "main", parse(methods[name], name))
                for model, name, seed in origin["runs"]
                if name in methods
            ],
        )
        for origin in found["imported"]
    ]


def _table(cell: Mapping[str, Any]) -> str:
    """The name of ROWS that a cell follows from, or its table."""
    return "slt" if cell["table"].startswith("slt_") else cell["table"]


def _differences(
    found: Mapping[str, Mapping[str, Any]], derived: Mapping[str, Mapping[str, Any]]
) -> Iterator[str]:
    for name in dict.fromkeys([*found, *derived]):
        if name not in derived:
            yield f"{name}: results.json has it, the tables don't give it"
        elif name not in found:
            yield f"{name}: the tables give it, results.json lacks it"
        else:
            yield from _differing_keys(name, found[name], derived[name])


def _differing_keys(
    name: str, found: Mapping[str, Any], derived: Mapping[str, Any]
) -> Iterator[str]:
    for key in dict.fromkeys([*found, *derived]):
        ours, theirs = found.get(key), derived.get(key)
        if key not in PLACES and not _alike(ours, theirs):
            yield f"{name}: {key} is {ours!r}, the tables give {theirs!r}"


def _alike(one: Any, other: Any) -> bool:
    """Whether two values of JSON are the same, numbers to EXACT."""
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(_alike, one, other))
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(_alike(one[key], other[key]) for key in one)
    if isinstance(one, int | float) and isinstance(other, int | float):
        return math.isclose(one, other, rel_tol=EXACT, abs_tol=EXACT**2)
    return bool(one == other)


def _read_rows(folder: Path, name: str, column: str) -> pd.DataFrame | None:
    """The table, or None where it is missing or lacks the column."""
    frame = _read(folder, name) if _path(folder, name).is_file() else pd.DataFrame()
    return frame if column in frame else None


def _path(folder: Path, name: str) -> Path:
    return folder / "tables" / f"{name}.csv"


def _read(folder: Path, name: str, **options: Any) -> pd.DataFrame:
    path = _path(folder, name)
    frame = _read_file(path, lambda: pd.read_csv(path, dtype=dict.fromkeys(MAYBE, str), **options))
    return frame.fillna({column: "" for column in MAYBE if column in frame})


def _read_json(path: Path) -> Any:
    return _read_file(path, lambda: atomic.read_json(path))


def _read_file(path: Path, read: Callable[[], Any]) -> Any:
    """What `read` gives. Raises ValueError naming the file, and what it should be."""
    if not path.is_file():
        raise ValueError(f"{path} is missing: expected a report's folder, as reports/digits is")
    try:
        return read()
    except ValueError as error:
        expected = "expected a report's folder, as reports/digits is"
        raise ValueError(f"{path} is damaged ({error}): {expected}") from error
