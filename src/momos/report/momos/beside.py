"""What stands beside a verdict and does not change it: chance, other weights, what is measured."""

from collections.abc import Hashable

import numpy as np
import pandas as pd

from momos.report.momos.evidence import RUN, Evidence, by_initialization, count_text
from momos.report.shared.decisions import ERROR
from momos.report.shared.statistics import prediction_bound, spearman
from momos.report.shared.verdicts import JUDGED, Judgement

COLLAPSE = 2.0  # points of accuracy, a mean over seeds, that last weights lie below the best ones
RARE = 0.001  # probability that an initialisation lies beyond the bound (method A11)


def chance_text(runs: pd.DataFrame) -> str:
    """How many initialisations have runs whose BDM lies beyond what chance gives.

    runs: of the main grid, deployed. A run lies below if its z is smaller than minus the bound in
    which a further initialisation lies with probability 1 - RARE.
    """
    known = runs[runs.bdm_1d_z.notna()]
    if known.empty:
        return "No z: these runs have one initialisation each to compare with."
    number = int(known.num_initializations.min())
    bound = prediction_bound(number, RARE)
    below, above = known.bdm_1d_z < -bound, known.bdm_1d_z > bound
    known = known.assign(below=below, above=above)
    baseline = known[known.family == "baseline"]
    some_above = by_initialization(known, lambda own: bool(own.above.any()))
    cases = {
        "every configuration lies below in": by_initialization(known, _all_below),
        "the baseline lies below in": by_initialization(baseline, _all_below),
        "some configuration lies above in": some_above,
    }
    texts = [f"{name} {count_text([*held.values()])}" for name, held in cases.items() if held]
    lowest = known.loc[known.bdm_1d_z.idxmin()]
    return (
        f"Against {number} initialisations, beyond chance where |z| > {bound:.2f} (t prediction"
        f" bound, p < {RARE}): of the initialisations trained, {', '.join(texts)}. z from"
        f" {known.bdm_1d_z.min():.1f} ({lowest.title}, {lowest.label}) to"
        f" {known.bdm_1d_z.max():.1f}."
    )


def _all_below(runs: pd.DataFrame) -> bool:
    return bool(runs.below.all())


def not_above_chance(runs: pd.DataFrame) -> tuple[str, dict[Hashable, bool]]:
    """Tell the initialisations without a run above chance from those with one.

    runs: as for `chance_text`. A run lies above chance if its z is larger than the bound in which a
    further initialisation lies with probability 1 - p; p is RARE, or less where so many runs would
    exceed it in more than 5 % of studies. An initialisation is left out where none of its runs
    does and some have no z. Returns what is counted, in words, and (model, seed) -> bool.
    """
    known = runs[runs.bdm_1d_z.notna()]
    what = "initialisations without a configuration above chance"
    if known.empty:
        return f"{what} (no z)", {}
    probability = min(RARE, ERROR / len(known))
    bound = prediction_bound(int(known.num_initializations.min()), probability)
    states = by_initialization(runs, lambda own: _is_not_above(own.bdm_1d_z, bound))
    told = {key: state for key, state in states.items() if state is not None}
    return f"{what} (z <= {bound:.2f}, p < {probability:.2g})", told


def _is_not_above(z: pd.Series, bound: float) -> bool | None:
    """Whether all z are known and at most the bound; None where that can't be told."""
    if (z > bound).any():
        return False
    return True if z.notna().all() else None


def redraw_text(epochs: pd.DataFrame) -> str:
    """What distortion may stand for beside recovery. epochs: of MoMos runs in order.

    The learning rate falls in every epoch (cosine), so its ranks are those of the epochs reversed.
    """
    correlations = [
        -spearman(rows.epoch, rows.relative_distortion) for _, rows in epochs.groupby(RUN)
    ]
    return (
        "Distortion is measured right after the motifs are drawn again, and the learning rate falls"
        " in every epoch (Spearman of relative distortion and learning rate over epochs, median of"
        f" runs {np.median(correlations):.3f}): weights that come closer to their motifs, and a"
        " redraw that disturbs less at a lower rate, can't be told apart by it."
    )


def best_weights_text(judgement: Judgement, best: Judgement, evidence: Evidence, cells: str) -> str:
    """The verdict with the best weights, and whether the last ones' collapse makes the difference.

    best: the same claim judged with the weights of the lowest validation loss; cells: a query of
    the claim's cells with motifs, empty if it has none.
    """
    decided = f", decided: {best.decided}" if best.decided else ""
    text = f"With the best weights: {best.verdict}{decided} ({best.measured or best.note})."
    if best.verdict == judgement.verdict or best.verdict not in JUDGED:
        return text
    return f"{text} {collapse_text(evidence, cells)}"


def remeasured_text(again: Judgement) -> str:
    """The verdict with BatchNorm's statistics of the weights that are judged (method A13)."""
    decided = f", decided: {again.decided}" if again.decided else ""
    return (
        "With the last weights, and BatchNorm's statistics measured again with them:"
        f" {again.verdict}{decided} ({again.measured or again.note})."
    )


def collapse_text(evidence: Evidence, cells: str) -> str:
    """How far the last weights of MoMos lie below the best ones, where that is furthest."""
    rows = evidence.evaluation
    rows = rows[(rows.family == "momos") & (rows.weights == "deployed")]
    rows = rows.query(cells) if cells else rows[:0]
    lost = 100 * (rows.test_accuracy_best - rows.test_accuracy_last)
    means = lost.groupby([rows.title, rows.label], sort=False).mean()
    if means.empty or not means.max() >= COLLAPSE:
        return "The choice of weights decides this verdict."
    return (
        "The collapse of the last weights after a late redraw of the motifs decides this verdict:"
        f" they lie up to {means.max():.1f} points below the best ones"
        f" ({', '.join(means.idxmax())})."
    )
