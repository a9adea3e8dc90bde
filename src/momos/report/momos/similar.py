"""How much the methods compress that are as accurate as the baseline (claim M6).

RAC follows from a cell's settings; whether the cell is near the baseline is measured. So chance
moves the largest RAC between that of the cells that surely are near, and that of those that may be.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from momos.report.momos.evidence import Evidence, measured_values
from momos.report.shared.claims import Condition
from momos.report.shared.decisions import ERROR, FAILED, MET, NO, OPEN, YES, Decision, Part


class Range(NamedTuple):
    """The largest RAC of a family near the baseline; -inf where no cell is."""

    smallest: float  # of cells whose whole interval is near
    largest: float  # of cells whose interval is not entirely away

    @property
    def text(self) -> str:
        ends = dict.fromkeys(map(rac_text, self))
        return " to ".join(ends)


def largest_rac(evidence: Evidence, model: str, family: str, margin: float) -> float:
    """The largest RAC of cells at most `margin` points below the baseline; -inf without any."""
    cells = evidence.family_cells(model, family)
    drops = np.round(evidence.baseline_accuracy(model) - evidence.accuracies(cells), 9)
    return float(max(measured_values(cells, "rac")[drops <= margin], default=-math.inf))


def rac_range(evidence: Evidence, model: str, family: str, margin: float, level: float) -> Range:
    """What the largest RAC may be: each cell's loss of accuracy has a t interval of this level."""
    cells = evidence.family_cells(model, family)
    near = Condition(name="drop", operator="<=", value=margin)
    states = [
        Part("", near, evidence.drops_of(model, method), margin).state(level)
        for method in cells.method
    ]
    racs = measured_values(cells, "rac")
    return Range(
        *(
            max(
                (rac for rac, state in zip(racs, states, strict=True) if state in kept),
                default=-math.inf,
            )
            for kept in ((MET,), (MET, OPEN))
        )
    )


def compare_racs(
    evidence: Evidence, models: Sequence[str], margin: float, *, met: bool
) -> Decision:
    """Say whether the verdict `met` is decided: MoMos larger for every model, or not for one.

    For a model each of its cells may be the one that chance moves, and against the claim those of
    all models: the level is 1 - 0.05 / their number (Bonferroni).
    """
    num_cells = [
        sum(len(evidence.family_cells(model, family)) for family in ("momos", "qat"))
        for model in models
    ]
    level = 1 - ERROR / (max(num_cells) if met else sum(num_cells))
    states, parts = [], []
    for model in models:
        momos, qat = (rac_range(evidence, model, name, margin, level) for name in ("momos", "qat"))
        larger, smaller = momos.smallest > qat.largest, momos.largest <= qat.smallest
        states.append(MET if larger else FAILED if smaller else OPEN)
        parts.append(f"{model} MoMos {momos.text}, QAT {qat.text}")
    decided = all(state == MET for state in states) if met else FAILED in states
    text = f"{100 * level:.4g} % t of each cell's loss: {'; '.join(parts)}"
    return Decision(YES if decided else NO, text)


def rac_text(rac: float) -> str:
    """A RAC for readers; none where no cell has one."""
    return "none" if math.isinf(rac) else f"{rac:.2f}"
