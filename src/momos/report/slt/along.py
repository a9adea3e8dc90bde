"""Both papers' measures along image trainings: frames for a figure and for tables.

along: a row per model, method, seed and step, as stage `complexity` writes it.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd

from momos.report.shared.statistics import LEVEL, rank_correlation_draws, rank_correlations
from momos.report.slt.rivals import PREDICTORS, Estimate, equal_step

RUN = ["model", "method", "seed"]
# Column -> name for readers, in the figure's order; critical n_q and PREDICTORS follow
MEASURES = {
    "val_accuracy": "validation accuracy",
    "init_loss": "training loss",
    "rac": "RAC",
}
NO_MINIMUM = "no_minimum"  # flag of a checkpoint at which an estimate of the LLC means little
LLC, LOSS, STEP = "LLC", "training loss", "step"
RIVALS = ("quadratic prediction of the LLC", "tr(H)", LOSS, STEP)
MEASURED = ("critical n_q", LLC, *RIVALS)
CONDITIONS = {"": None, "at equal loss": LOSS, "at equal step": STEP}


def measures(along: pd.DataFrame, n_q: str) -> pd.DataFrame:
    """RUN, step, and a column per measure under its name for readers. n_q: of critical n_q.

    LLC is the one without the sampler's bias, the quadratic prediction with the gradient's part.
    """
    frame = along.assign(
        llc_mean=along.llc_corrected.fillna(along.llc_mean),
        llc_quadratic=along.llc_quadratic + along.llc_gradient,
    )
    names = MEASURES | {n_q: "critical n_q"} | PREDICTORS
    known = {column: name for column, name in names.items() if column in frame}
    return frame[[*RUN, "step", *known]].rename(columns=known)


def correlations(along: pd.DataFrame, n_q: str) -> pd.DataFrame:
    """Pearson's correlations of all measures at equal step, a row per measure.

    Each value is taken less the mean over all runs, of every model and method, at its step.
    """
    return equal_step(measures(along, n_q).drop(columns=RUN)).reset_index(names="measure")


def at_the_end(along: pd.DataFrame, n_q: str) -> pd.DataFrame:
    """What a run came to at its last kept step, a row per model and method: means over seeds.

    times_quadratic is the LLC over its quadratic prediction: 1 where the loss is quadratic around
    the weights, more where directions that look flat or steep from there are not.
    """
    last = along[along.step == along.groupby("model").step.transform("max")]
    frame = measures(last, n_q).drop(columns="seed")
    means = frame.groupby(["model", "method"], sort=False).mean().reset_index()
    seeds = last.groupby(["model", "method"], sort=False).seed.nunique().to_numpy()
    ratio = means["LLC"] / means["quadratic prediction of the LLC"]
    columns = ["model", "method", "step"]
    means.insert(len(columns), "num_seeds", seeds)
    means.insert(len(columns) + 1, "times_quadratic", ratio)
    return means


def answers(along: pd.DataFrame, n_q: str) -> pd.DataFrame:
    """Whether the LLC says critical n_q better than its rivals: a row per rival and condition.

    runs: all, or those that nothing compresses (RAC of 1). strength, strength_rival: |Spearman's
    correlation| with critical n_q over all checkpoints that are minima, or its partial one at equal
    loss or step. difference: LLC less rival, with difference_low, difference_high and
    difference_verdict (better, worse, not told apart), by a bootstrap over runs, each with all of
    its checkpoints. Empty without two runs or two values.
    """
    which = {"all": along, "not compressed": along[along.rac == 1]}
    rows = [
        {"runs": name} | row
        for name, some in which.items()
        for row in _comparisons(_minima(some, n_q))
    ]
    return pd.DataFrame(rows)


def _minima(along: pd.DataFrame, n_q: str) -> pd.DataFrame:
    """`measures` of the checkpoints that are minima and have all of MEASURED."""
    flags = along.get("flags", pd.Series("", index=along.index)).fillna("")
    return measures(along[~flags.str.contains(NO_MINIMUM)], n_q).dropna(subset=list(MEASURED))


def _comparisons(points: pd.DataFrame) -> Iterator[dict[str, Any]]:
    """The rows of `answers` for some checkpoints."""
    runs = points.groupby(RUN, sort=False).ngroup().to_numpy()
    values, num_runs = points[list(MEASURED)].to_numpy(float), len(np.unique(runs))
    if num_runs < 2 or points[MEASURED[0]].nunique() < 2:
        return
    # the checkpoints as they are, then each draw
    matrices = np.stack([rank_correlations(values), *rank_correlation_draws(values, runs, seed=0)])
    for condition, fixed in CONDITIONS.items():
        ours = _strengths(matrices, LLC, fixed)
        for rival in [name for name in RIVALS if name != fixed]:
            theirs = _strengths(matrices, rival, fixed)
            yield {
                "condition": condition,
                "rival": rival,
                "num_checkpoints": len(points),
                "num_runs": num_runs,
                "strength": ours[0],
                "strength_rival": theirs[0],
                **_difference(ours - theirs),
            }


def _strengths(matrices: np.ndarray, name: str, fixed: str | None) -> np.ndarray:
    """|Correlation|, partial if one is fixed, of a measure with critical n_q: (n, c, c) -> (n,)."""
    place = MEASURED.index(name)
    plain = matrices[:, 0, place]
    if fixed is None:
        return np.abs(plain)
    other = MEASURED.index(fixed)
    return np.abs(_partial(plain, matrices[:, 0, other], matrices[:, place, other]))


def _partial(plain: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The correlation where a third column is fixed; of ranks it is Kendall's (1942)."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return (plain - a * b) / np.sqrt((1 - a**2) * (1 - b**2))


def _difference(values: np.ndarray) -> dict[str, Any]:
    """A number and its draws, (1 + draws,), as columns; no interval where draws are not known."""
    known = values[1:][np.isfinite(values[1:])]
    found = Estimate(float(values[0]))
    if len(known) >= LEVEL * (len(values) - 1):
        low, high = np.quantile(known, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
        found = Estimate(found.value, float(low), float(high))
    return {
        "difference": found.value,
        "difference_low": found.low,
        "difference_high": found.high,
        "difference_verdict": found.verdict,
    }
