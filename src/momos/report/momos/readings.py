"""Which reading of the paper gives which published cell (method A12, A13).

A reading is a choice for each thing that the paper leaves open: how QAT rounds and how MoMos
projects (a method's `remark`, empty for the authors' present code), which weights are judged, and
with which BatchNorm statistics. Every published number is held against each of them that was run.

When is a number explained? Accuracy: within claim M16's tolerance; of one seed alone, the standard
error is the published deviation times sqrt(1 + 1/3). BDM ratio: within 0.01, or two of our standard
errors. RAC: to the printed digit. A published accuracy whose own standard error exceeds 3 points
tells no readings apart: NOT DISCRIMINATING.
"""

import itertools
import math
from collections.abc import Iterator, Mapping
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from momos.report.momos.cells import FAIL, PASS
from momos.report.momos.comparison import PUBLISHED_SEEDS
from momos.report.momos.evidence import cell_key
from momos.report.shared import tables as rendering
from momos.report.shared.claims import Claim

NOT_DISCRIMINATING = "NOT DISCRIMINATING"
LARGEST_ERROR = 3.0  # points: published accuracies with a larger standard error
BDM_TOLERANCE, NUM_ERRORS = 0.01, 2
EDGE = 1e-9  # a difference of exactly the tolerance is within it
WEIGHTS = {
    "last": "last",
    "best": "best",
    "marked_last": "last with patience",
    "marked_best": "best with patience",
}
STATISTICS = {"": "as trained", "_remeasured": "re-measured"}
TODAY = "as now"  # for readers, instead of an empty remark
CELL = ["model", "method", "bits", "block_size", "capacity"]
MEASURES = ("accuracy", "bdm", "rac")
FEW = 12  # readings that the table shows
ROWS = [
    "table", *CELL, "measure", "variant", "weights", "statistics", "published", "published_std",
    "value", "std", "num_seeds", "difference", "in_errors", "verdict",
]  # fmt: skip


class Reading(NamedTuple):
    """One choice for everything that is open."""

    qat: str  # a remark
    momos: str
    weights: str  # of WEIGHTS
    statistics: str  # of STATISTICS

    def fits(self, rows: pd.DataFrame) -> pd.Series:
        """Which rows of `compare` are this reading's.

        Accuracies alone depend on BatchNorm's statistics, and only of models that have some.
        """
        variants = rows.method.map({"qat": self.qat, "momos": self.momos}).fillna("")
        statistics = np.where(rows.has_statistics, self.statistics, "")
        return (
            (rows.variant == variants)
            & ((rows.weights == self.weights) | (rows.measure == "rac"))
            & (rows.statistics == statistics)
        )


def compare(
    evaluation: pd.DataFrame, methods: Any, published: pd.DataFrame, claim: Claim
) -> pd.DataFrame:
    """Hold every published number against each reading of it that was run.

    evaluation: `results.Results.evaluation`; methods: name -> Method; published: as of
    `published.read_tables`; claim: M16. Returns a row per published cell, measure, variant of the
    method, weights and BatchNorm statistics: ROWS and `has_statistics`. Accuracies are in percent;
    in_errors is the difference in combined standard errors. Empty without such runs.
    """
    runs = evaluation[evaluation.grid == "main"]
    found = []
    for (model, name), rows in runs.groupby(["model", "method"], sort=False):
        method = methods[name]
        if not method.is_reading:
            continue
        key = cell_key(model, method.kind, rows.iloc[0])
        printed = [
            row for row in published.itertuples() if cell_key(row.model, row.method, row) == key
        ]
        for row in printed:
            views = dict(tuple(rows.groupby("weights", sort=False)))
            about = {column: getattr(row, column) for column in ("table", *CELL)}
            about["variant"] = method.remark
            found += [about | number for number in _numbers(row, method, views, claim)]
    frame = pd.DataFrame(found, columns=[*ROWS, "has_statistics"])
    order = {name: place for place, name in enumerate(published.model.drop_duplicates())}
    return frame.sort_values("model", key=lambda names: names.map(order), kind="stable")


def _numbers(
    printed: Any, method: Any, views: dict[str, pd.DataFrame], claim: Claim
) -> Iterator[dict[str, Any]]:
    """Each number of one method's runs that stands beside the published cell `printed`."""
    deployed = views["deployed"]
    # the authors' present code measures the latent weights, and their older code has none
    measured = views.get("latent", deployed) if not method.remark else deployed
    for which in WEIGHTS:
        remeasured = f"test_accuracy_{which}_remeasured"
        has = remeasured in deployed and bool(deployed[remeasured].notna().all())
        for statistics in STATISTICS if has else [""]:
            values = _values(deployed, f"test_accuracy_{which}{statistics}")
            if values is not None:
                about = {"weights": which, "statistics": statistics, "has_statistics": has}
                yield about | _accuracy(printed, 100 * values, claim)
        values = _values(measured, f"bdm_1d_ratio_{which}")
        if values is not None:
            about = {"weights": which, "statistics": "", "has_statistics": False}
            yield about | _bdm(printed, values)
    rac = _values(deployed, "rac")
    if rac is not None:
        about = {"weights": "", "statistics": "", "has_statistics": False}
        yield about | _rac(printed, rac)


def _values(rows: pd.DataFrame, column: str) -> np.ndarray | None:
    """A value per seed; None where one is missing."""
    if column not in rows or rows[column].isna().any():
        return None
    return rows[column].to_numpy(dtype=float)


def _summary(measure: str, printed: float, values: np.ndarray) -> dict[str, Any]:
    std = float(values.std(ddof=1)) if len(values) > 1 else math.nan
    mean = float(values.mean())
    about = {"measure": measure, "published": printed, "published_std": math.nan}
    return about | {
        "value": mean, "std": std, "num_seeds": len(values), "difference": mean - printed,
        "in_errors": math.nan,
    }  # fmt: skip


def _accuracy(printed: Any, values: np.ndarray, claim: Claim) -> dict[str, Any]:
    row = _summary("accuracy", printed.accuracy_mean, values)
    spread = float(printed.accuracy_std)
    theirs = spread / math.sqrt(PUBLISHED_SEEDS)
    own = spread if len(values) == 1 else row["std"] / math.sqrt(len(values))
    error = math.hypot(own, theirs)
    explained = claim.met(difference=abs(row["difference"]) - EDGE, standard_error=error)
    verdict = PASS if explained else FAIL
    row |= {"published_std": spread, "in_errors": row["difference"] / error if error else math.nan}
    return row | {"verdict": NOT_DISCRIMINATING if theirs > LARGEST_ERROR else verdict}


def _bdm(printed: Any, values: np.ndarray) -> dict[str, Any]:
    row = _summary("bdm", printed.bdm_ratio, values)
    error = row["std"] / math.sqrt(len(values)) if len(values) > 1 else 0.0
    allowed = max(BDM_TOLERANCE, NUM_ERRORS * error) + EDGE
    row["in_errors"] = row["difference"] / error if error else math.nan
    return row | {"verdict": PASS if abs(row["difference"]) <= allowed else FAIL}


def _rac(printed: Any, values: np.ndarray) -> dict[str, Any]:
    row = _summary("rac", printed.rac, values)
    same = f"{row['value']:.1f}" == f"{printed.rac:.1f}"
    return row | {"verdict": PASS if same else FAIL}


def readings(rows: pd.DataFrame) -> list[Reading]:
    """List every reading that can be put together from what was run; today's first."""
    variants = {kind: sorted({"", *rows.variant[rows.method == kind]}) for kind in ("qat", "momos")}
    weights = [which for which in WEIGHTS if which in set(rows.weights)]
    statistics = [one for one in STATISTICS if one in {"", *rows.statistics}]
    parts = variants["qat"], variants["momos"], weights, statistics
    return [Reading(*choice) for choice in itertools.product(*parts)]


def explained(rows: pd.DataFrame) -> pd.DataFrame:
    """Count for each reading the published numbers that it explains, those that explain most first.

    rows: as of `compare`. A row per reading: its parts, explained and run of accuracies, of BDM
    ratios, and of `differing`: the accuracies and BDM ratios of which some readings explain the
    published one and others do not.
    """
    judged = rows[rows.verdict.isin([PASS, FAIL]) & (rows.measure != "rac")]
    cell = [*CELL, "measure"]
    both = judged.groupby(cell, dropna=False).verdict.transform("nunique") > 1
    counted = []
    for reading in readings(rows):
        mine = reading.fits(judged)
        row: dict[str, Any] = reading._asdict()
        for name, where in (
            ("accuracy", judged.measure == "accuracy"),
            ("bdm", judged.measure == "bdm"),
            ("differing", both),
        ):
            part = judged[mine & where].verdict
            row |= {f"{name}_explained": int((part == PASS).sum()), f"{name}_run": len(part)}
        counted.append(row)
    frame = pd.DataFrame(counted)
    if not len(frame):
        return frame
    return frame.sort_values(
        ["differing_explained", "accuracy_explained", "bdm_explained", "differing_run"],
        ascending=[False, False, False, True],
        kind="stable",
        ignore_index=True,
    )


def unexplained(rows: pd.DataFrame) -> pd.DataFrame:
    """The published accuracies and BDM ratios that no reading which was run explains."""
    judged = rows[rows.verdict.isin([PASS, FAIL]) & (rows.measure != "rac")]
    best = judged.groupby([*CELL, "measure"], dropna=False, sort=False).verdict.agg(set)
    return best[best.map(lambda verdicts: PASS not in verdicts)].reset_index()


def counts_table(counted: pd.DataFrame) -> pd.DataFrame:
    """The readings that explain most, and today's, for readers of the report."""
    today = (counted.qat == "") & (counted.momos == "") & (counted.weights == "last")
    today &= counted.statistics == ""
    shown = counted[(counted.index < FEW) | today]
    return pd.DataFrame(
        {
            "QAT": shown.qat.map(_said),
            "MoMos": shown.momos.map(_said),
            "Weights": shown.weights.map(WEIGHTS),
            "BatchNorm": shown.statistics.map(STATISTICS),
            **{
                title: [
                    f"{mine} of {run}"
                    for mine, run in zip(
                        shown[f"{name}_explained"], shown[f"{name}_run"], strict=True
                    )
                ]
                for title, name in (
                    ("Where readings differ", "differing"),
                    ("Accuracies", "accuracy"),
                    ("BDM ratios", "bdm"),
                )
            },
        }
    )


def cells_table(
    rows: pd.DataFrame, titles: dict[str, str], labels: dict[tuple, str]
) -> pd.DataFrame:
    """Every published accuracy and BDM ratio, and what each reading gives; * where it explains it.

    titles: model -> title; labels: cell -> the method's label.
    """
    shown = rows[rows.measure != "rac"]
    table = []
    keys = [*CELL, "measure", "variant", "statistics"]
    for key, part in shown.groupby(keys, dropna=False, sort=False):
        about = dict(zip(keys, key, strict=True))
        first = part.iloc[0]
        places = 1 if about["measure"] == "accuracy" else 2
        values = {
            title: next(
                (
                    rendering.number(row.value, places) + ("*" if row.verdict == PASS else "")
                    for row in part.itertuples()
                    if row.weights == which
                ),
                rendering.EMPTY,
            )
            for which, title in WEIGHTS.items()
        }
        label = labels[_cell(about)]
        spread = f" ± {first.published_std:.2f}" if about["measure"] == "accuracy" else ""
        table.append(
            {
                "Model": titles[about["model"]],
                "Method": label,
                "Measure": {"accuracy": "accuracy", "bdm": "BDM ratio"}[about["measure"]],
                "Published": f"{first.published:.2f}{spread}",
                "Reading": _said(about["variant"]),
                "BatchNorm": STATISTICS[about["statistics"]],
                "Seeds": first.num_seeds,
                **values,
            }
        )
    return pd.DataFrame(table)


def labels(published: pd.DataFrame) -> dict[tuple, str]:
    """Cell -> its method's label. published: with a column `label`."""
    return {_cell(row): row["label"] for row in published.to_dict("records")}


def _cell(row: Mapping[str, Any]) -> tuple:
    """A published cell as a key; NaN equals no NaN."""
    return cell_key(row["model"], row["method"], SimpleNamespace(**{str(k): row[k] for k in CELL}))


def sentences(rows: pd.DataFrame) -> list[str]:
    """Say which reading explains most, what today's does, and what none explains."""
    counted = explained(rows)
    first = Reading(*counted.iloc[0][list(Reading._fields)])
    today = Reading("", "", "last", "")
    same = counted[list(Reading._fields)].apply(tuple, axis=1) == tuple(today)
    counts = [name for name in counted if name not in Reading._fields]
    others = int((counted[counts] == counted[counts].iloc[0]).all(axis=1).sum()) - 1
    equal = f" As many: {others} other readings." if others else ""
    lines = [
        f"Explains most: {_reading_text(first)}. {_count_text(counted.iloc[0])}{equal}",
        f"As now, last weights: {_count_text(counted[same].iloc[0])}",
    ]
    lost = unexplained(rows)
    cells = ", ".join(f"{row.model} {row.measure} ({_short(row)})" for row in lost.itertuples())
    lines.append(f"No reading that was run explains {len(lost)}: {cells or 'none'}.")
    return lines


def _said(remark: str) -> str:
    return remark.removeprefix(", ") or TODAY


def _reading_text(reading: Reading) -> str:
    return (
        f"QAT {_said(reading.qat)}, MoMos {_said(reading.momos)}, {WEIGHTS[reading.weights]}"
        f" weights, BatchNorm {STATISTICS[reading.statistics]}"
    )


def _count_text(row: Any) -> str:
    parts = (
        f"{row[f'{name}_explained']} of {row[f'{name}_run']} {what}"
        for name, what in (
            ("accuracy", "accuracies"),
            ("bdm", "BDM ratios"),
            ("differing", "numbers on which readings differ"),
        )
    )
    return ", ".join(parts) + "."


def _short(row: Any) -> str:
    if pd.isna(row.block_size):
        return row.method if row.method == "baseline" else f"{row.method} {int(row.bits)} bit"
    return f"s={int(row.block_size)}, C={100 * row.capacity:g} %"
