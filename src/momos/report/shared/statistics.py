"""Statistics of the reports: intervals, rank correlation, and Pareto fronts.

An interval is two-sided. What it says of a claim is for `momos.report.shared.decisions`.
"""

import math
from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy import stats

REPETITIONS = 10_000  # of the bootstrap
RANKED = 2_000  # of that of rank correlations, each of which takes sorting
MIN_GROUPS = 8  # fewer have too few different draws
LEVEL = 0.95


def student(values: ArrayLike, level: float = LEVEL) -> tuple[float, float] | None:
    """Interval of the mean by Student's t with n - 1 degrees of freedom.

    level: its coverage, 0.95 where it is left out. Returns None for a single value. The interval
    is not cut at the ends of a scale: for accuracies near 100 % it may reach beyond. Raises
    ValueError for a value that is not finite.
    """
    array = _finite(values)
    if len(array) < 2:
        return None
    half = half_width(array.std(ddof=1), len(array), level)
    return float(array.mean() - half), float(array.mean() + half)


def half_width(std: float, num_values: int, level: float = LEVEL) -> float:
    """Half of `student`'s interval. std: the sample standard deviation of two values or more."""
    return float(stats.t.ppf((1 + level) / 2, num_values - 1) * std / math.sqrt(num_values))


def clopper_pearson(successes: int, total: int, level: float = LEVEL) -> tuple[float, float]:
    """Exact interval of a share (Clopper and Pearson 1934).

    The lower end is the share at which so many successes or more have the probability
    (1 - level) / 2, the upper end that at which so many or fewer have it. Without a success the
    lower end is 0, without a failure the upper end is 1. Raises ValueError for a total below 1 and
    for successes outside 0 to total.
    """
    if total < 1 or not 0 <= successes <= total:
        raise ValueError(
            f"clopper_pearson needs 0 to total successes of at least one trial,"
            f" got {successes} of {total}"
        )
    ends = stats.binomtest(successes, total).proportion_ci(level, method="exact")
    return float(ends.low), float(ends.high)


def prediction_bound(num_values: int, probability: float) -> float:
    """How many standard deviations below the mean of n values the next one rarely lies.

    It is t * sqrt(1 + 1 / n) with n - 1 degrees of freedom: the next value of the same normal
    distribution lies further below with this probability. Raises ValueError for fewer than two
    values, which have no standard deviation.
    """
    if num_values < 2:
        raise ValueError(f"a prediction bound needs two values or more, got {num_values}")
    return float(stats.t.isf(probability, num_values - 1) * math.sqrt(1 + 1 / num_values))


def spearman(x: ArrayLike, y: ArrayLike) -> float:
    """Rank correlation of two sequences of equal length; ties have their mean rank.

    Returns NaN where either is constant, so that it meets no threshold.
    """
    a, b = (pd.Series(np.asarray(values, dtype=float)).rank().to_numpy() for values in (x, y))
    a, b = a - a.mean(), b - b.mean()
    scale = math.sqrt((a @ a) * (b @ b))
    return float(a @ b) / scale if scale else math.nan


def rank_correlation_intervals(
    values: ArrayLike, groups: ArrayLike, *, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """95 % percentile intervals of every two columns' rank correlation, resampled by group.

    values: (rows, columns). groups: (rows,), equal for rows that are not independent: groups are
    drawn with replacement, each with all of its rows. Returns the lower and the upper ends,
    (columns, columns) each; NaN with fewer than MIN_GROUPS groups, for a column with a missing
    value, and where more than one draw in twenty has a constant column.
    """
    drawn = rank_correlation_draws(values, groups, seed=seed)
    known = np.isfinite(drawn).mean(axis=0) >= LEVEL
    tails = [(1 - LEVEL) / 2, (1 + LEVEL) / 2]
    ends = np.nanquantile(np.where(known, drawn, 0.0), tails, axis=0)
    low, high = np.where(known, ends, np.nan)
    return low, high


def rank_correlation_draws(values: ArrayLike, groups: ArrayLike, *, seed: int) -> np.ndarray:
    """Draw every two columns' rank correlation by the bootstrap.

    values, groups: as of `rank_correlation_intervals` -> (RANKED, columns, columns). NaN with fewer
    than MIN_GROUPS groups, and where a column is constant or has a missing value.
    """
    table = np.asarray(values, dtype=float)
    members = [np.flatnonzero(np.asarray(groups) == one) for one in pd.unique(np.asarray(groups))]
    drawn = np.full((RANKED, table.shape[1], table.shape[1]), np.nan)
    if len(members) < MIN_GROUPS:
        return drawn
    generator = np.random.default_rng(seed)
    for place in range(RANKED):
        chosen = generator.integers(len(members), size=len(members))
        drawn[place] = rank_correlations(table[np.concatenate([members[one] for one in chosen])])
    return drawn


def rank_correlations(rows: np.ndarray) -> np.ndarray:
    """Spearman's correlation of every two columns; NaN for constant ones and missing values."""
    ranks = stats.rankdata(rows, axis=0, nan_policy="propagate")
    centred = ranks - ranks.mean(axis=0)
    sizes = np.sqrt((centred**2).sum(axis=0))
    with np.errstate(invalid="ignore", divide="ignore"):
        return centred.T @ centred / np.outer(sizes, sizes)


def interquartile_mean(scores: np.ndarray) -> np.ndarray:
    """The mean without the lowest and the highest quarter of the last axis: (..., n) -> (...).

    Each quarter is rounded down to whole values.
    """
    cut = scores.shape[-1] // 4
    return np.sort(scores, axis=-1)[..., cut : scores.shape[-1] - cut].mean(axis=-1)


def stratified_bootstrap(
    scores: Sequence[np.ndarray] | np.ndarray,
    statistic: Callable[[np.ndarray], np.ndarray],
    *,
    seed: int,
) -> tuple[float, float] | None:
    """95 % percentile interval of a statistic of all scores, resampled within each stratum.

    This is rliable's convention (Agarwal et al. 2021). scores: the runs of each stratum, (strata,
    runs) or strata of unequal length; statistic: (..., n) -> (...). Returns None if a stratum has a
    single run, which can't be resampled. With n runs a stratum has only (2n - 1 choose n) different
    resamples, 10 for three seeds: the interval is a coarse one and tends to be too short. Raises
    ValueError for a score that is not finite.
    """
    strata = [_finite(runs) for runs in scores]
    if min(map(len, strata)) < 2:
        return None
    generator = np.random.default_rng(seed)
    drawn = [
        runs[generator.integers(len(runs), size=(REPETITIONS, len(runs)))] for runs in strata
    ]  # of each stratum (REPETITIONS, runs)
    low, high = np.quantile(
        statistic(np.concatenate(drawn, axis=-1)), [(1 - LEVEL) / 2, (1 + LEVEL) / 2]
    )
    return float(low), float(high)


def pareto_front(points: np.ndarray) -> np.ndarray:
    """Mark the points that no other one beats: (n, 2) -> bool (n,).

    A point beats another if it is as large in both coordinates and larger in one. Equal points do
    not beat each other.
    """
    points = np.asarray(points, dtype=float).reshape(-1, 2)
    at_least = np.all(points[None] >= points[:, None], axis=-1)  # [i, j]: j is nowhere below i
    larger = np.any(points[None] > points[:, None], axis=-1)
    return ~np.any(at_least & larger, axis=1)


def _finite(values: ArrayLike) -> np.ndarray:
    array = np.asarray(values, dtype=float)
    if not len(array) or not np.isfinite(array).all():
        raise ValueError(f"an interval needs finite values, got {array.tolist()}")
    return array
