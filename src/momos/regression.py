"""Did a change move a reported number? Fresh results.json against the blessed one, cell by cell.

Same settings, seed and machine give the same bytes, so whatever moves has a cause. Another
processor rounds otherwise and training amplifies that: what follows from trained weights is allowed
a band, what does not (counts, RAC, initial weights, the data) none.

Where the expected numbers come from a machine that rounds otherwise (`momos.provenance.rounding`),
even single runs go their own way: of a ResNet20 with 4-bit motifs 80 % are left on one processor
and 48 % on another, and one seed in three collapses here and not there. So there bands are wider
where a number has no spread to measure them by, and a few numbers of a kind may leave theirs. Not
many: rounding moves each its own way, a broken formula all of a kind the same way.
"""

import math
import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import pandas as pd

SAME, MOVED, REGRESSION, MISSING, NEW = "same", "moved", "REGRESSION", "MISSING", "NEW"
FAILURES = (REGRESSION, MISSING)
SPREADS = 4  # standard deviations over seeds that a mean may move
PRINTED = 1e-9  # relative: two writings of the same number
# of numbers that are alike: as many may leave their bands on the same side, on a machine that
# rounds otherwise
FEW = 0.25
NORMAL_95 = 1.96  # half of a 95 % interval, in standard errors


class Tolerance(NamedTuple):
    """The largest of what applies: `absolute`, `relative` to the expected value, and, if `spread`,
    SPREADS standard deviations over seeds: the cell's own or, as three seeds may agree by chance,
    the usual one of its measure on its model.
    """

    absolute: float = 0.0
    relative: float = PRINTED
    spread: bool = False
    one_run: float = 1.0  # factor for a number of one run, which shows no spread
    elsewhere: float = 1.0  # factor beyond that, for the same on a machine that rounds otherwise


UNTRAINED = {
    "exact": Tolerance(),
    "count": Tolerance(),
    "rac": Tolerance(),
}  # follow from settings and seeds alone
# Wide enough for other draws of everything: two codes that drew differently gave 918 cells of the
# digits profile, one outside. And elsewhere: the same code gave 2,158 cells on two processors and
# on two told to compute as older ones do, 12 ordered pairs: none outside but for what may be, and
# of that in no pair more than one number of a kind on a side.
TOLERANCES = UNTRAINED | {
    "bdm": Tolerance(relative=0.01),  # moved by at most 0.8 % there; elsewhere has spread, too
    "norm": Tolerance(relative=0.02),  # 1.7 %; the same
    "accuracy": Tolerance(absolute=1.0, spread=True, one_run=5.0, elsewhere=8.0),  # points
    "ratio": Tolerance(relative=0.01, spread=True, one_run=2.0, elsewhere=5.0),
    "estimate": Tolerance(
        relative=0.25, spread=True, one_run=2.0, elsewhere=8.0
    ),  # sampled by few chains, or a point of a coarse grid
    "other": Tolerance(relative=0.05, spread=True, one_run=4.0),
}


def bless(results: Mapping[str, Any], rounding: str | None = None) -> dict[str, Any]:
    """What is expected from now on: of results.json (see `momos.report.momos.cells`) what `compare`
    looks at, and how its machine rounds.
    """
    return {
        "profile": results["profile"],
        "rounding": rounding,
        "data": results["data"],
        "cells": {cell["id"]: _bless_cell(cell) for cell in results["cells"]},
        "claims": {claim["id"]: claim["verdict"] for claim in results["claims"]},
    }


def _bless_cell(cell: Mapping[str, Any]) -> dict[str, Any]:
    kept = {
        name: cell[name] for name in ("kind", "value", "std", "num_seeds", "status") if name in cell
    }
    if (
        cell.get("interval_method") == "bootstrap" and cell["interval"]
    ):  # over models and seeds: the interval alone shows their spread
        low, high = cell["interval"]
        kept["std"] = (high - low) / 2 / NORMAL_95 * math.sqrt(cell["num_seeds"])
    return kept


def rounds_alike(expected: Mapping[str, Any], fresh: Mapping[str, Any]) -> bool:
    return expected.get("rounding") is not None and expected.get("rounding") == fresh.get(
        "rounding"
    )


def compare(expected: Mapping[str, Any], fresh: Mapping[str, Any]) -> pd.DataFrame:
    """Both as `bless` gives them -> a row per cell, claim and fact about the data: id, kind,
    expected, now, difference, allowed, verdict.

    A cell without a value (not run) counts as same while it stays so, MISSING when it loses its
    value, NEW when it gains one. A claim whose verdict changes has `moved`: the numbers behind it
    decide whether that is a regression. Raises ValueError for a kind without a tolerance and for
    results of another profile.
    """
    if expected["profile"] != fresh["profile"]:
        raise ValueError(
            f"expected results of profile {expected['profile']!r}, got those of {fresh['profile']!r}"
        )
    usual, elsewhere = usual_spreads(expected["cells"]), not rounds_alike(expected, fresh)
    pairs = _pairs(expected["cells"], fresh["cells"])
    rows = [
        _compare_cell(name, old, new, usual.get(alike(name)), elsewhere) for name, old, new in pairs
    ]
    if elsewhere:
        _excuse_few(rows, expected["cells"])
    rows += [
        _compare_text(f"claims/{name}", "claim", old, new, MOVED)
        for name, old, new in _pairs(expected["claims"], fresh["claims"])
    ]
    rows += [
        _compare_text(f"data/{name}", "data", old, new, REGRESSION)
        for name, old, new in _pairs(expected["data"], fresh["data"])
    ]
    return pd.DataFrame(
        rows, columns=["id", "kind", "expected", "now", "difference", "allowed", "verdict"]
    )


def failed(comparison: pd.DataFrame) -> bool:
    return bool(comparison.verdict.isin(FAILURES).any())


def allowed(
    kind: str, value: float, std: float | None, num_seeds: int, *, elsewhere: bool = False
) -> float:
    """How far a cell may move, in its own unit; std: the larger of its own and the usual one.
    Raises ValueError for an unknown kind.
    """
    if kind not in TOLERANCES:
        raise ValueError(f"kind must be one of {', '.join(TOLERANCES)}, got {kind!r}")
    tolerance = TOLERANCES[kind]
    band = max(tolerance.absolute, tolerance.relative * abs(value))
    if num_seeds < 2:
        return band * tolerance.one_run * (tolerance.elsewhere if elsewhere else 1.0)
    has_spread = tolerance.spread or (elsewhere and kind not in UNTRAINED)
    return max(band, SPREADS * std) if has_spread and std is not None else band


def _excuse_few(rows: Sequence[dict], expected: Mapping[str, Mapping]) -> None:
    """In place: numbers that follow from training and left their bands have `moved`, if few of
    those alike did so on the same side.
    """
    families = defaultdict(list)
    for row in rows:
        if row["kind"] not in UNTRAINED and row["id"] in expected:
            families[row["kind"], *alike(row["id"]), expected[row["id"]]["num_seeds"]].append(row)
    for family in families.values():
        for sign in (1, -1):
            broken = [
                row
                for row in family
                if row["verdict"] == REGRESSION and sign * row["difference"] > 0
            ]
            if len(broken) <= FEW * len(family):
                for row in broken:
                    row["verdict"] = (
                        MOVED if row["now"] else REGRESSION
                    )  # rounding leaves no exact zeros


def usual_spreads(cells: Mapping[str, Mapping]) -> dict[tuple[str, ...], float]:
    """The median standard deviation of the cells that are alike."""
    found = defaultdict(list)
    for name, cell in cells.items():
        if cell["std"] is not None:
            found[alike(name)].append(cell["std"])
    return {key: statistics.median(values) for key, values in found.items()}


def alike(name: str) -> tuple[str, ...]:
    """An id without its method: table1/mlp/qat8/rac -> (table1, mlp, rac)."""
    parts = name.split("/")
    return (*parts[:2], parts[-1])


def _pairs(expected: Mapping[str, Any], fresh: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """(name, expected or None, fresh or None), in the order of what is expected, new ones last."""
    return [
        (name, expected.get(name), fresh.get(name)) for name in dict.fromkeys([*expected, *fresh])
    ]


def _compare_cell(
    name: str, old: Mapping | None, new: Mapping | None, usual: float | None, elsewhere: bool
) -> dict:
    before, now = (None if cell is None else cell["value"] for cell in (old, new))
    kind = (old or new)["kind"]
    row = {
        "id": name,
        "kind": kind,
        "expected": before,
        "now": now,
        "difference": math.nan,
        "allowed": math.nan,
    }
    if before is None or now is None:
        return row | {
            "verdict": SAME
            if before == now and old and new
            else NEW
            if before is None and new
            else MISSING
        }
    spread = max((std for std in (old["std"], usual) if std is not None), default=None)
    limit = allowed(kind, before, spread, old["num_seeds"], elsewhere=elsewhere)
    difference = now - before
    verdict = SAME if difference == 0 else MOVED if abs(difference) <= limit else REGRESSION
    return row | {"difference": difference, "allowed": limit, "verdict": verdict}


def _compare_text(name: str, kind: str, old: Any, new: Any, changed: str) -> dict:
    verdict = SAME if old == new else NEW if old is None else MISSING if new is None else changed
    return {
        "id": name,
        "kind": kind,
        "expected": old,
        "now": new,
        "difference": math.nan,
        "allowed": math.nan,
        "verdict": verdict,
    }
