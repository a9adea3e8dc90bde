"""Both papers' measures along image trainings: frames for a figure and for tables.

along: a row per model, method, seed and step, as stage `complexity` writes it.
"""

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

    strength, strength_rival: |Spearman's correlation| with critical n_q over all checkpoints that
    are minima, or its partial one at equal loss or step. difference: LLC less rival, with
    difference_low, difference_high and difference_verdict (better, worse, not told apart), by a
    bootstrap over runs, each with all of its checkpoints. Empty without two runs or two values.
    """
    flags = along.get("flags", pd.Series("", index=along.index)).fillna("")
    kept = along[~flags.str.contains(NO_MINIMUM)]
    columns = ["critical n_q", LLC, *RIVALS]
    points = measures(kept, n_q)
    if not set(columns) <= set(points):
        return pd.DataFrame()
    points = points.dropna(subset=columns)
    runs = points.groupby(RUN, sort=False).ngroup().to_numpy()
    values = points[columns].to_numpy(float)
    if len(np.unique(runs)) < 2 or points["critical n_q"].nunique() < 2:
        return pd.DataFrame()
    once = rank_correlations(values)[np.newaxis]
    drawn = rank_correlation_draws(values, runs, seed=0)
    rows = []
    for condition, fixed in {"": None, "at equal loss": LOSS, "at equal step": STEP}.items():
        place = None if fixed is None else columns.index(fixed)
        ours, our_draws = _strength(once, 1, place), _strength(drawn, 1, place)
        for rival in [name for name in RIVALS if name != fixed]:
            other = columns.index(rival)
            theirs = _strength(once, other, place)
            found = _estimate(ours - theirs, our_draws - _strength(drawn, other, place))
            rows.append(
                {
                    "condition": condition,
                    "rival": rival,
                    "num_checkpoints": len(points),
                    "num_runs": len(np.unique(runs)),
                    "strength": ours[0],
                    "strength_rival": theirs[0],
                    "difference": found.value,
                    "difference_low": found.low,
                    "difference_high": found.high,
                    "difference_verdict": found.verdict,
                }
            )
    return pd.DataFrame(rows)


def _strength(matrices: np.ndarray, place: int, fixed: int | None) -> np.ndarray:
    """|Correlation| of column `place` with column 0, partial where one is fixed: (n, c, c) -> (n,).

    With ranks as values the partial correlation is Kendall's (1942) formula for Spearman's.
    """
    plain = matrices[:, 0, place]
    if fixed is None:
        return np.abs(plain)
    a, b = matrices[:, 0, fixed], matrices[:, place, fixed]
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.abs((plain - a * b) / np.sqrt((1 - a**2) * (1 - b**2)))


def _estimate(value: np.ndarray, drawn: np.ndarray) -> Estimate:
    """The value (1,), with an interval where draws are known."""
    known = drawn[np.isfinite(drawn)]
    if len(known) < LEVEL * len(drawn):
        return Estimate(float(value[0]))
    low, high = np.quantile(known, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Estimate(float(value[0]), float(low), float(high))
