"""Published accuracies beside those measured here, cell by cell (claim M16)."""

import math
from collections.abc import Sequence
from typing import Any

import pandas as pd

from momos.report.momos.evidence import Evidence, cell_key, rounded
from momos.report.shared import statistics, verdicts
from momos.report.shared.claims import Claim
from momos.report.shared.decisions import ERROR, FAILED, MET, NO, OPEN, YES, Decision

CLAIM = "M16"
PUBLISHED_SEEDS = 3  # behind every published mean (Sec. 4)


def reproduction_claim(claims: Sequence[Claim]) -> Claim:
    """The claim whose threshold says how far an accuracy may lie from the published one."""
    return next(claim for claim in claims if claim.id == CLAIM)


def compare_accuracy(evidence: Evidence, claim: Claim) -> pd.DataFrame:
    """Every published cell with what was measured here, accuracies in percent.

    claim: M16, judged here for single cells. The columns beside those of `published.rac_check` are
    here, here_std, num_seeds, difference, allowed, bdm_here (of latent weights, as the authors
    measure QAT) and verdict.
    """
    cells = {
        (*cell_key(row.model, row.family, row), row.weights): row
        for row in evidence.cells.itertuples()
    }
    rows = []
    for row in evidence.published.itertuples():
        key = cell_key(row.model, row.method, row)
        deployed, latent = (cells.get((*key, view)) for view in ("deployed", "latent"))
        rows.append(_compare_cell(claim, row, deployed, latent, evidence.comparable))
    return evidence.published.reset_index(drop=True).join(pd.DataFrame(rows))


def reproduction_decision(cells: pd.DataFrame, *, met: bool) -> Decision:
    """Say whether the verdict `met` of the claim is decided. cells: those that were run.

    Each cell's t interval over seeds must lie within its tolerance, or one entirely outside.
    """
    level = statistics.LEVEL if met else 1 - ERROR / len(cells)
    states = [_reproduction_state(cell, level) for cell in cells.itertuples()]
    decided = all(state == MET for state in states) if met else FAILED in states
    sides = ", ".join(f"{states.count(state)} {state}" for state in (MET, FAILED, OPEN))
    return Decision(YES if decided else NO, f"{100 * level:.4g} % t of each cell: {sides}")


def _reproduction_state(cell: Any, level: float) -> str:
    if cell.num_seeds < 2 or not cell.here_std > 0:
        return OPEN
    half = statistics.half_width(cell.here_std, int(cell.num_seeds), level)
    low, high = cell.difference - half, cell.difference + half
    inside, outside = (
        -cell.allowed <= low and high <= cell.allowed,
        low > cell.allowed or high < -cell.allowed,
    )
    return MET if inside else FAILED if outside else OPEN


def _compare_cell(
    claim: Claim, published: Any, deployed: Any, latent: Any, comparable: bool
) -> dict[str, Any]:
    """deployed, latent: the same cell of the grid, None where there is none."""
    if deployed is None or math.isnan(deployed.test_accuracy_last):
        numbers = ("here", "here_std", "num_seeds", "difference", "allowed", "bdm_here")
        return dict.fromkeys(numbers, math.nan) | {"verdict": verdicts.NOT_RUN}
    here, std = 100 * deployed.test_accuracy_last, 100 * deployed.test_accuracy_last_std
    difference = rounded(here - published.accuracy_mean)
    measured = {
        "difference": abs(difference),
        "standard_error": _combined_error(std, deployed.num_seeds, published.accuracy_std),
    }
    inside = verdicts.verdict(claim.met(**measured))
    return {
        "here": here,
        "here_std": std,
        "num_seeds": deployed.num_seeds,
        "difference": difference,
        "allowed": max(float(condition.bound(measured)) for condition in claim.conditions),
        "bdm_here": (latent or deployed).bdm_1d_ratio,
        "verdict": inside if comparable else verdicts.NOT_COMPARABLE,
    }


def _combined_error(std: float, num_seeds: int, published_std: float) -> float:
    """Standard error of the difference of two means; a single seed has no spread of its own."""
    own_error = 0.0 if math.isnan(std) else std / math.sqrt(num_seeds)
    return math.hypot(own_error, published_std / math.sqrt(PUBLISHED_SEEDS))
