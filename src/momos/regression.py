"""Did a change move a reported number? Fresh results.json against the blessed one, cell by cell.

Same settings, seed and machine give the same bytes, so whatever moves has a cause. Another processor rounds otherwise and training
amplifies that: what follows from trained weights is allowed a band, what does not (counts, RAC, initial weights, the data) none.
"""

import math
import statistics
from collections import defaultdict
from collections.abc import Mapping
from typing import Any, NamedTuple

import pandas as pd

SAME, MOVED, REGRESSION, MISSING, NEW = "same", "moved", "REGRESSION", "MISSING", "NEW"
FAILURES = (REGRESSION, MISSING)
SPREADS = 4  # standard deviations over seeds that a mean may move
PRINTED = 1e-9  # relative: two writings of the same number


class Tolerance(NamedTuple):
    """The largest of what applies: `absolute`, `relative` to the expected value, and, if `spread`, SPREADS standard deviations over seeds:
    the cell's own or, as three seeds may agree by chance, the usual one of its measure on its model."""

    absolute: float = 0.0
    relative: float = PRINTED
    spread: bool = False
    one_seed: float = 1.0  # factor for a cell of one seed, which shows no spread


# Wide enough for other draws of everything: two codes that drew differently gave 918 cells of the digits profile, one outside.
TOLERANCES = {
    "exact": Tolerance(),  # follows from settings and seeds alone
    "count": Tolerance(),
    "rac": Tolerance(),
    "bdm": Tolerance(relative=0.01),  # moved by at most 0.8 % there
    "norm": Tolerance(relative=0.02),  # 1.7 %
    "accuracy": Tolerance(absolute=1.0, spread=True, one_seed=5.0),  # points
    "ratio": Tolerance(relative=0.01, spread=True, one_seed=2.0),
    "estimate": Tolerance(relative=0.25, spread=True, one_seed=2.0),  # sampled by few chains, or a point of a coarse grid
    "other": Tolerance(relative=0.05, spread=True, one_seed=4.0),
}


def bless(results: Mapping[str, Any]) -> dict[str, Any]:
    """What is expected from now on: of results.json (see `momos.numbers`) what `compare` looks at."""
    kept = ("kind", "value", "std", "num_seeds", "status")
    return {
        "profile": results["profile"],
        "data": results["data"],
        "cells": {cell["id"]: {name: cell[name] for name in kept if name in cell} for cell in results["cells"]},
        "claims": {claim["id"]: claim["verdict"] for claim in results["claims"]},
    }


def compare(expected: Mapping[str, Any], fresh: Mapping[str, Any]) -> pd.DataFrame:
    """Both as `bless` gives them -> a row per cell, claim and fact about the data: id, kind, expected, now, difference, allowed, verdict.

    A cell without a value (not run) counts as same while it stays so, MISSING when it loses its value, NEW when it gains one. A claim
    whose verdict changes has `moved`: the numbers behind it decide whether that is a regression. Raises ValueError for a kind without
    a tolerance and for results of another profile.
    """
    if expected["profile"] != fresh["profile"]:
        raise ValueError(f"expected results of profile {expected['profile']!r}, got those of {fresh['profile']!r}")
    usual = usual_spreads(expected["cells"])
    rows = [_compare_cell(name, old, new, usual.get(alike(name))) for name, old, new in _pairs(expected["cells"], fresh["cells"])]
    rows += [_compare_text(f"claims/{name}", "claim", old, new, MOVED) for name, old, new in _pairs(expected["claims"], fresh["claims"])]
    rows += [_compare_text(f"data/{name}", "data", old, new, REGRESSION) for name, old, new in _pairs(expected["data"], fresh["data"])]
    return pd.DataFrame(rows, columns=["id", "kind", "expected", "now", "difference", "allowed", "verdict"])


def failed(comparison: pd.DataFrame) -> bool:
    return bool(comparison.verdict.isin(FAILURES).any())


def allowed(kind: str, value: float, std: float | None, num_seeds: int) -> float:
    """How far a cell may move, in its own unit; std: the larger of its own and the usual one. Raises ValueError for an unknown kind."""
    if kind not in TOLERANCES:
        raise ValueError(f"kind must be one of {', '.join(TOLERANCES)}, got {kind!r}")
    tolerance = TOLERANCES[kind]
    band = max(tolerance.absolute, tolerance.relative * abs(value))
    if num_seeds < 2:
        return band * tolerance.one_seed
    return max(band, SPREADS * std) if tolerance.spread and std is not None else band


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
    return [(name, expected.get(name), fresh.get(name)) for name in dict.fromkeys([*expected, *fresh])]


def _compare_cell(name: str, old: Mapping | None, new: Mapping | None, usual: float | None) -> dict:
    before, now = (None if cell is None else cell["value"] for cell in (old, new))
    kind = (old or new)["kind"]
    row = {"id": name, "kind": kind, "expected": before, "now": now, "difference": math.nan, "allowed": math.nan}
    if before is None or now is None:
        return row | {"verdict": SAME if before == now and old and new else NEW if before is None and new else MISSING}
    spread = max((std for std in (old["std"], usual) if std is not None), default=None)
    limit = allowed(kind, before, spread, old["num_seeds"])
    difference = now - before
    verdict = SAME if difference == 0 else MOVED if abs(difference) <= limit else REGRESSION
    return row | {"difference": difference, "allowed": limit, "verdict": verdict}


def _compare_text(name: str, kind: str, old: Any, new: Any, changed: str) -> dict:
    verdict = SAME if old == new else NEW if old is None else MISSING if new is None else changed
    return {"id": name, "kind": kind, "expected": old, "now": new, "difference": math.nan, "allowed": math.nan, "verdict": verdict}
