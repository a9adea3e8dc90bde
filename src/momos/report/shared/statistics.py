"""How sure a number is: intervals over few seeds, a bootstrap over models, and the front of what
nothing beats.

No test of significance anywhere: with three seeds none is worth printing.
"""

import math
from collections.abc import Sequence

import numpy as np
from scipy import stats

REPETITIONS = 10_000  # of the bootstrap
LEVEL = 0.95


def student(values: Sequence[float]) -> tuple[float, float] | None:
    """95 % interval of the mean by Student's t with n - 1 degrees of freedom; None for a single
    value.

    Not cut at the ends of a scale: for accuracies near 100 % it may reach beyond. Raises ValueError
    for a value that is not finite.
    """
    array = _finite(values)
    if len(array) < 2:
        return None
    half = stats.t.ppf((1 + LEVEL) / 2, len(array) - 1) * array.std(ddof=1) / math.sqrt(len(array))
    return float(array.mean() - half), float(array.mean() + half)


def interquartile_mean(scores: np.ndarray) -> np.ndarray:
    """The mean without the lowest and the highest quarter (each rounded down) along the last axis:
    (..., n) -> (...).
    """
    cut = scores.shape[-1] // 4
    return np.sort(scores, axis=-1)[..., cut : scores.shape[-1] - cut].mean(axis=-1)


def stratified_bootstrap(scores: np.ndarray, statistic, *, seed: int) -> tuple[float, float] | None:
    """95 % percentile interval of statistic(all scores), runs drawn anew within each stratum
    (rliable's convention: Agarwal et al. 2021).

    scores (strata, runs); statistic: (..., n) -> (...). None for a single run, which can't be
    resampled. With n runs a stratum has only (2n - 1 choose n) different resamples, 10 for three
    seeds: the interval is a coarse one and tends to be too short.
    """
    scores = np.asarray(scores, dtype=float)
    num_strata, num_runs = scores.shape
    _finite(scores.ravel())
    if num_runs < 2:
        return None
    chosen = np.random.default_rng(seed).integers(
        num_runs, size=(REPETITIONS, num_strata, num_runs)
    )
    drawn = scores[np.arange(num_strata)[:, None], chosen]  # (REPETITIONS, strata, runs)
    low, high = np.quantile(
        statistic(drawn.reshape(REPETITIONS, -1)), [(1 - LEVEL) / 2, (1 + LEVEL) / 2]
    )
    return float(low), float(high)


def pareto_front(points: np.ndarray) -> np.ndarray:
    """Which points no other one beats: as large in both coordinates and larger in one. points (n,
    2) -> bool (n,); equal points share.
    """
    points = np.asarray(points, dtype=float).reshape(-1, 2)
    at_least = (points[None] >= points[:, None]).all(axis=-1)  # [i, j]: j is nowhere below i
    larger = (points[None] > points[:, None]).any(axis=-1)
    return ~(at_least & larger).any(axis=1)


def _finite(values: Sequence[float]) -> np.ndarray:
    array = np.asarray(values, dtype=float)
    if not len(array) or not np.isfinite(array).all():
        raise ValueError(f"an interval needs finite values, got {array.tolist()}")
    return array
