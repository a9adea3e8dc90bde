"""A cell of results.json: one number, how sure it is, where it is from, and what the paper has.

    id            table/model/method/measure; a measure of the weights behind quantised ones ends in
                  _latent
    kind          decides how far the number may move unnoticed (`momos.report.regression`):
                  accuracy, rac, bdm, count, exact (no training touches it), norm, ratio, score
                  (standard deviations from a mean), estimate (sampled, or a point of a coarse
                  grid), other
    unit          percent, points (of accuracy), bits, bytes, or ""
    value, std    mean and sample standard deviation over seeds (null for one); without seeds the
                  value is no mean but one number
    num_seeds, seeds, values    the seeds, and each seed's own value
    interval      95 %, or null; interval_method: t (Student over seeds), clopper-pearson (a share)
                  or bootstrap (over models and seeds)
    source, stage the file that the number was computed from, and the stage that wrote it; for what
                  was not run, the file of the published value

not_fetched   why there is no value, where weights from elsewhere are out of reach

and where the paper has the same cell

    published, published_std, difference, tolerance, reason
    status        PASS, FAIL, NOT RUN, NOT COMPARABLE

Numbers have 12 significant digits. There is no NaN: it is null.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple, NotRequired, TypedDict

import numpy as np
import pandas as pd

from momos.report.shared import statistics, verdicts

PASS, FAIL = "PASS", "FAIL"
STATUS = {verdicts.SUPPORTED: PASS, verdicts.NOT_SUPPORTED: FAIL}
STATUSES = (PASS, FAIL, verdicts.NOT_RUN, verdicts.NOT_COMPARABLE)


class Summary(TypedDict):
    """A number with its spread."""

    value: float | None
    std: float | None
    num_seeds: int
    seeds: list[int]
    values: list[float | None]
    interval: list[float | None] | None
    interval_method: str | None
    models: NotRequired[list[str]]  # of a bootstrap


class Origin(TypedDict):
    """Where a number comes from."""

    source: str
    stage: str


class Comparison(TypedDict):
    """The published number, and how the one measured here compares with it."""

    published: float
    published_std: float | None
    difference: float | None
    tolerance: float | None
    status: str
    reason: str


class Cell(TypedDict):
    """A number of results.json; the module's docstring explains the keys."""

    id: str
    table: str
    model: str
    method: str
    measure: str
    kind: str
    unit: str
    value: float | None
    std: float | None
    num_seeds: int
    seeds: list[int]
    values: list[float | None]
    interval: list[float | None] | None
    interval_method: str | None
    models: NotRequired[list[str]]
    source: str
    stage: str
    not_fetched: NotRequired[str]
    published: NotRequired[float]
    published_std: NotRequired[float | None]
    difference: NotRequired[float | None]
    tolerance: NotRequired[float | None]
    status: NotRequired[str]
    reason: NotRequired[str]


class Name(NamedTuple):
    """What a cell is about."""

    table: str
    model: str
    method: str
    measure: str
    kind: str
    unit: str = ""


def make_cell(
    name: Name, summary: Summary, origin: Origin, comparison: Comparison | None = None
) -> Cell:
    """Put a cell together; its keys stand in the order of results.json."""
    cell: Cell = {
        "id": "/".join(name[:4]),
        "table": name.table,
        "model": name.model,
        "method": name.method,
        "measure": name.measure,
        "kind": name.kind,
        "unit": name.unit,
        **summary,
        **origin,
    }
    return cell if comparison is None else {**cell, **comparison}


def over_seeds(values: Iterable[float], seeds: Iterable[int]) -> Summary:
    """Summarise one value a seed; a mean over a missing value is missing."""
    rounded = [number(value) for value in values]
    known = [value for value in rounded if value is not None]
    is_whole = bool(rounded) and len(known) == len(rounded)
    interval = statistics.student(known) if is_whole else None
    own_seeds = [int(seed) for seed in seeds]
    return {
        "value": number(np.mean(known)) if is_whole else None,
        "std": number(np.std(known, ddof=1)) if is_whole and len(known) > 1 else None,
        "num_seeds": len(own_seeds),
        "seeds": own_seeds,
        "values": rounded,
        "interval": [number(end) for end in interval] if interval else None,
        "interval_method": "t" if interval else None,
    }


def one_number(value: float | None, interval: tuple[float, float] | None = None) -> Summary:
    """A number that is no mean over seeds. interval: Clopper-Pearson's, if it is a share."""
    rounded = number(value)
    return {
        "value": rounded,
        "std": None,
        "num_seeds": 0,
        "seeds": [],
        "values": [] if rounded is None else [rounded],
        "interval": [number(end) for end in interval] if interval else None,
        "interval_method": "clopper-pearson" if interval else None,
    }


def bootstrapped(
    differences: pd.DataFrame, statistic: Callable[[np.ndarray], np.ndarray]
) -> Summary:
    """A statistic of all runs with its bootstrap interval.

    differences: (models, seeds), NaN where a model has no run of a seed, and infinite where a run
    has no value. With such a run, and with a model without runs, the statistic is missing.
    """
    scores = [row[~np.isnan(row)] for row in differences.to_numpy(float)]
    joined = np.concatenate(scores) if scores else np.zeros(0)
    is_whole = bool(scores and all(map(len, scores)) and np.isfinite(joined).all())
    interval = statistics.stratified_bootstrap(scores, statistic, seed=0) if is_whole else None
    return {
        "value": number(float(statistic(joined))) if is_whole else None,
        "std": None,
        "num_seeds": max(map(len, scores), default=0),
        "seeds": [int(seed) for seed in differences.columns],
        "values": [number(value) if np.isfinite(value) else None for value in joined],
        "interval": [number(end) for end in interval] if interval else None,
        "interval_method": "bootstrap" if interval else None,
        "models": list(differences.index),
    }


def not_run(published: float, published_std: float | None, reason: str) -> Comparison:
    """The comparison of a published number that has no counterpart here."""
    return {
        "published": published,
        "published_std": published_std,
        "difference": None,
        "tolerance": None,
        "status": verdicts.NOT_RUN,
        "reason": reason,
    }


def number(value: float | np.floating | None) -> float | None:
    """Twelve significant digits; None for NaN."""
    return None if value is None or math.isnan(value) else float(f"{value:.12g}")


def count_statuses(cells: Sequence[Cell], tables: Sequence[str]) -> dict[str, dict[str, int]]:
    """How many published cells of these tables have each status: kind -> status -> number."""
    counts: dict[str, dict[str, int]] = {}
    for cell in cells:
        if cell["table"] in tables and "published" in cell:
            counts.setdefault(cell["kind"], dict.fromkeys(STATUSES, 0))[cell["status"]] += 1
    return counts
