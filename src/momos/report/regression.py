"""Did a change move a reported number? Compare a fresh results.json with the blessed one.

The same settings, seed and machine give the same bytes, so whatever moves has a cause. Another
processor rounds otherwise, and training amplifies that. So numbers that follow from trained weights
are allowed a band. Others (counts, RAC, initial weights, the data) are allowed none.

The expected numbers may come from a machine that rounds otherwise (`momos.provenance.rounding`).
Then even single runs go their own way: a ResNet20 with 4-bit motifs keeps 80 % accuracy on one
processor and 48 % on another, and one seed in three collapses here and not there. Bands are wider
then where a number has no spread to measure them by, and a few numbers of a kind may leave theirs.
They must be few: rounding moves each number its own way, a broken formula moves all of a kind the
same way.
"""

import math
import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import pandas as pd

SAME, MOVED, REGRESSION, MISSING, NEW = "same", "moved", "REGRESSION", "MISSING", "NEW"
NOT_RUN = "NOT RUN"  # its weights were not to be fetched from here, which is no failure
FAILURES = (REGRESSION, MISSING)
SPREADS = 4  # standard deviations over seeds that a mean may move
PRINTED = 1e-9  # relative: two writings of the same number
# The share of alike numbers that may leave their bands on the same side, on a machine that rounds
# otherwise.
FEW = 0.25
NORMAL_95 = 1.96  # half of a 95 % interval, in standard errors


class Tolerance(NamedTuple):
    """How far a number of a kind may move: the largest of the bands that apply.

    They are `absolute`, `relative` to the expected value, and with `spread` SPREADS standard
    deviations over seeds. That is the cell's own or, because three seeds may agree by chance, the
    usual one of its measure on its model.
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
# The bands are wide enough for other draws of everything: two codes that drew differently gave 918
# cells of the digits profile, and one lay outside. They are wide enough for other machines: the
# same code gave 2,158 cells on two processors, and on two that were told to compute as older ones
# do. In these 12 ordered pairs no number lay outside beyond those few that may, and in no pair
# more than one of a kind on a side.
TOLERANCES = UNTRAINED | {
    "bdm": Tolerance(relative=0.01),  # moved by at most 0.8 %; on other machines has spread, too
    "norm": Tolerance(relative=0.02),  # moved by at most 1.7 %; the same
    "accuracy": Tolerance(absolute=1.0, spread=True, one_run=5.0, elsewhere=8.0),  # points
    "ratio": Tolerance(relative=0.01, spread=True, one_run=2.0, elsewhere=5.0),
    # Standard deviations from a mean: 1 % of a BDM ratio is several.
    "score": Tolerance(absolute=2.0, relative=0.25, spread=True, one_run=2.0, elsewhere=5.0),
    # Sampled by few chains, or a point of a coarse grid.
    "estimate": Tolerance(relative=0.25, spread=True, one_run=2.0, elsewhere=8.0),
    "other": Tolerance(relative=0.05, spread=True, one_run=4.0),
}


def bless(results: Mapping[str, Any], rounding: str | None = None) -> dict[str, Any]:
    """Keep what is expected from now on: the part of results.json that `compare` looks at.

    results: see `momos.report.momos.document`; rounding: how its machine rounds.
    """
    return {
        "profile": results["profile"],
        "rounding": rounding,
        "data": results["data"],
        "cells": {cell["id"]: _bless_cell(cell) for cell in results["cells"]},
        "claims": {claim["id"]: claim["verdict"] for claim in results["claims"]},
        "decided": {
            claim["id"]: claim["decided"] for claim in results["claims"] if "decided" in claim
        },
    }


def _bless_cell(cell: Mapping[str, Any]) -> dict[str, Any]:
    kept = {
        name: cell[name]
        for name in ("kind", "value", "std", "num_seeds", "status", "not_fetched")
        if name in cell
    }
    # A bootstrap is over models and seeds: its interval alone shows their spread.
    if cell.get("interval_method") == "bootstrap" and cell["interval"]:
        low, high = cell["interval"]
        kept["std"] = (high - low) / 2 / NORMAL_95 * math.sqrt(cell["num_seeds"])
    return kept


def rounds_alike(expected: Mapping[str, Any], fresh: Mapping[str, Any]) -> bool:
    """Whether both come from machines that are known to round the same way."""
    known = expected.get("rounding")
    return known is not None and known == fresh.get("rounding")


def compare(expected: Mapping[str, Any], fresh: Mapping[str, Any]) -> pd.DataFrame:
    """Compare two documents of `bless`: a row per cell, claim and fact about the data.

    The columns are id, kind, expected, now, difference, allowed, verdict. A cell without a value
    (not run) counts as same while it stays so, MISSING when it loses its value, NEW when it gains
    one. It is NOT RUN, and no failure, if its weights were not to be fetched. A claim whose verdict
    changes has `moved`: the numbers behind it decide whether that is a regression. Raises
    ValueError for a kind without a tolerance and for results of another profile.
    """
    if expected["profile"] != fresh["profile"]:
        profiles = f"{expected['profile']!r}, got those of {fresh['profile']!r}"
        raise ValueError(f"expected results of profile {profiles}")
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
        _compare_text(f"claims/{name}/decided", "claim", old, new, MOVED)
        for name, old, new in _pairs(expected.get("decided", {}), fresh.get("decided", {}))
    ]
    rows += [
        _compare_text(f"data/{name}", "data", old, new, REGRESSION)
        for name, old, new in _pairs(expected["data"], fresh["data"])
    ]
    return pd.DataFrame(
        rows, columns=["id", "kind", "expected", "now", "difference", "allowed", "verdict"]
    )


def failed(comparison: pd.DataFrame) -> bool:
    """Whether any number regressed or is missing. comparison: as `compare` returns it."""
    return bool(comparison.verdict.isin(FAILURES).any())


def allowed(
    kind: str, value: float, std: float | None, num_seeds: int, *, elsewhere: bool = False
) -> float:
    """How far a cell may move, in its own unit.

    std: the larger of its own and the usual one; elsewhere: on a machine that rounds otherwise.
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
    """Let few of the numbers that are alike leave their bands on the same side; changes the rows.

    Their verdict becomes `moved`. All of them follow from training.
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
                for row in broken:  # an exact zero is no work of rounding
                    row["verdict"] = MOVED if row["now"] else REGRESSION


def usual_spreads(cells: Mapping[str, Mapping]) -> dict[tuple[str, ...], float]:
    """The median standard deviation of the cells that are alike."""
    spreads = defaultdict(list)
    for name, cell in cells.items():
        if cell["std"] is not None:
            spreads[alike(name)].append(cell["std"])
    return {key: statistics.median(values) for key, values in spreads.items()}


def alike(name: str) -> tuple[str, ...]:
    """What cells have in common that are alike: table1/mlp/qat8/rac -> (table1, mlp, rac)."""
    parts = name.split("/")
    return (*parts[:2], parts[-1])


def _pairs(expected: Mapping[str, Any], fresh: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """(name, expected or None, fresh or None), in the order of what is expected, new ones last."""
    return [
        (name, expected.get(name), fresh.get(name)) for name in dict.fromkeys([*expected, *fresh])
    ]


def _compare_cell(
    name: str, old: Mapping | None, new: Mapping | None, usual: float | None, elsewhere: bool
) -> dict[str, Any]:
    """usual: the usual standard deviation of cells that are alike."""
    before, now = (None if cell is None else cell["value"] for cell in (old, new))
    row = {
        "id": name,
        "kind": (old or new or {})["kind"],
        "expected": before,
        "now": now,
        "difference": math.nan,
        "allowed": math.nan,
    }
    if old is None or new is None or before is None or now is None:
        return row | {"verdict": _unvalued_verdict(old, new)}
    spread = max((std for std in (old["std"], usual) if std is not None), default=None)
    limit = allowed(old["kind"], before, spread, old["num_seeds"], elsewhere=elsewhere)
    difference = now - before
    verdict = SAME if difference == 0 else MOVED if abs(difference) <= limit else REGRESSION
    return row | {"difference": difference, "allowed": limit, "verdict": verdict}


def _unvalued_verdict(old: Mapping | None, new: Mapping | None) -> str:
    """The verdict where a cell is missing or has no value on one side at least."""
    before, now = (None if cell is None else cell["value"] for cell in (old, new))
    if old is not None and new is not None and before is None and now is None:
        return SAME
    if new is not None and "not_fetched" in new:
        return NOT_RUN
    return NEW if before is None and new is not None else MISSING


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
