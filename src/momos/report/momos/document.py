"""results.json: every number of the report in one document.

schema, profile, data   1, the profile's name, and the images' source and SHA-256
summary                 what `prepare` says of the data
imported                which runs come from elsewhere, and from where (`imported.origin`)
cells                   every number (`momos.report.momos.cells`)
findings                what was found, in five sentences
claims, counts          the verdicts; how many there are of each kind, how many of them are decided,
                        and those that are counted apart
pareto                  per model, the methods that no other one beats in accuracy and RAC
names                   the models' and the methods' names for readers
settings                what params.yaml held
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

import pandas as pd

from momos.methods.method import Method
from momos.report.momos.cell_list import CellList, canonical_name
from momos.report.momos.cells import Cell, count_statuses
from momos.report.momos.study import Study
from momos.report.shared import findings, published, statistics, verdicts

SCHEMA = 1
PAPER_TABLES = ("table1", "table2")


class Document(TypedDict):
    """results.json; the module's docstring explains the keys."""

    schema: int
    profile: str
    data: dict[str, str]
    summary: dict[str, Any]
    imported: list[Mapping[str, Any]]
    cells: list[Cell]
    findings: list[str]
    claims: list[dict[str, str]]
    counts: dict[str, dict]
    pareto: dict[str, dict[str, list[str]]]
    names: dict[str, dict]
    settings: dict[str, Any]


def document(study: Study, *, paper_dir: str, results_dir: str) -> Document:
    """Collect every number of the study. The folders only name the sources.

    Raises ValueError if two cells share an id.
    """
    cells = list(CellList(study, paper_dir, results_dir))
    repeated = [name for name, count in Counter(cell["id"] for cell in cells).items() if count > 1]
    if repeated:
        twice = ", ".join(repeated[:5])
        raise ValueError(f"results.json: every cell needs its own id, got twice: {twice}")
    return {
        "schema": SCHEMA,
        "profile": study.name,
        "data": {key: study.data[key] for key in ("source", "sha256")},
        "summary": dict(study.data),
        "imported": list(study.imported),
        "cells": cells,
        "findings": findings.sentences(study.verdicts),
        "claims": study.verdicts[verdicts.SHOWN + verdicts.IN_PART].to_dict("records"),
        "counts": counts(study, cells),
        "pareto": pareto(study),
        "names": names(study),
        "settings": dict(study.settings),
    }


def text(values: Document) -> str:
    """The document as JSON, a line per cell and per claim, so that a difference is a line."""
    parts = [f"{json.dumps(key)}: {_value_text(value)}" for key, value in values.items()]
    return "{\n" + ",\n".join(parts) + "\n}\n"


def _value_text(value: Any) -> str:
    if isinstance(value, list) and value:
        lines = [json.dumps(row, ensure_ascii=False, allow_nan=False) for row in value]
        return "[\n" + ",\n".join(lines) + "\n]"
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def by_id(values: Document) -> dict[str, Cell]:
    """The cells of a document by their id."""
    return {cell["id"]: cell for cell in values["cells"]}


def counts(study: Study, cells: Sequence[Cell]) -> dict[str, dict]:
    """How many verdicts there are of each kind, and how many published numbers are met."""
    return {
        "claims": verdicts.counts(study.verdicts),
        "decided": verdicts.counts_decided(study.verdicts),
        "apart": verdicts.counts_apart(study.verdicts),
        "rac_check": count_agreeing(study.check),
        "published": count_statuses(cells, PAPER_TABLES),
    }


def count_agreeing(check: pd.DataFrame) -> dict[str, int]:
    """How many published RAC values follow from Eq. 21, and how many there are."""
    return {"agree": int(check.agrees.sum()), "cells": len(check)}


def family_means(study: Study) -> dict[str, Any]:
    """metrics.json: what `dvc metrics` and `dvc exp show` give a column each.

    It has per model and family of methods the mean test accuracy of the last weights (percent) and
    the mean BDM ratio, and the counts of verdicts and of RAC cells.
    """
    deployed = study.cells[study.cells.weights == "deployed"]
    models: dict[str, dict] = {}
    for (model, family), rows in deployed.groupby(["model", "family"], sort=False):
        means = {
            "accuracy": 100 * rows.test_accuracy_last.mean(),
            "bdm_ratio": rows.bdm_1d_ratio.mean(),
        }
        models.setdefault(model, {})[family] = {
            name: round(float(value), 4) for name, value in means.items() if pd.notna(value)
        }
    counted = {
        "claims": verdicts.counts(study.verdicts),
        "claims_decided": verdicts.counts_decided(study.verdicts),
        "claims_apart": verdicts.counts_apart(study.verdicts),
    }
    return {
        **{
            kind: {name.lower().replace(" ", "_"): count for name, count in numbers.items()}
            for kind, numbers in counted.items()
        },
        "rac_check": count_agreeing(study.check),
        "models": models,
    }


def pareto(study: Study) -> dict[str, dict[str, list[str]]]:
    """Per model, the methods that no other one beats in accuracy and RAC, here and as published."""
    rows = study.cells[study.cells.weights == "deployed"]
    rows = rows.rename(columns={"test_accuracy_last": "accuracy"})
    printed = _with_method_names(study.check).rename(columns={"accuracy_mean": "accuracy"})
    models = dict.fromkeys([*rows.model, *printed.model])
    return {
        model: {"measured": _front(rows, model), "published": _front(printed, model)}
        for model in models
    }


def _front(rows: pd.DataFrame, model: str) -> list[str]:
    mine = rows[(rows.model == model) & rows.accuracy.notna() & rows.rac.notna()]
    points = mine[["rac", "accuracy"]].round(9).to_numpy()
    return list(mine.method[statistics.pareto_front(points)])


def names(study: Study) -> dict[str, dict]:
    """Names for readers: model -> title; method -> label, and the group that shares a line."""
    printed, rows = _with_method_names(study.check), study.results.evaluation
    theirs = {
        row.method: _method_names(published.method_of(row))
        for row in printed.drop_duplicates("method").itertuples()
    }
    methods = study.results.methods
    ours = {name: _method_names(methods[name]) for name in dict.fromkeys(rows.method)}
    apart = {
        f"{name}_published": theirs[name]
        for name in theirs
        if ours.get(name, theirs[name]) != theirs[name]
    }
    titles = {row.model: row.title for frame in (printed, rows) for row in frame.itertuples()}
    return {"models": titles, "methods": theirs | ours | apart}


def _method_names(method: Method) -> dict[str, str]:
    return {"label": method.label, "group": method.group}


def _with_method_names(check: pd.DataFrame) -> pd.DataFrame:
    """Published cells with the profiles' names of their methods."""
    return check.assign(method=[canonical_name(row) for row in check.itertuples()])
