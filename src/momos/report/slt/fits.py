"""How critical values follow the LLC: linear fits, rank correlations and the knee of a loss curve.

All statistics are taken over the steps from slt.fit_steps[0] to slt.fit_steps[1], at slt.main_eps,
for each run by itself. A step without a critical point takes no part: nothing of the grid lies
within eps there, or all of it does, which gives a bound and no value.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy import stats

from momos import config
from momos.report.shared.statistics import spearman
from momos.report.shared.verdicts import Missing
from momos.report.slt.results import RunKey, SltResults

MIN_POINTS = 4  # of a fit or a rank correlation
MIN_CURVE_POINTS = 5  # of a curvature
CONFIDENCE = 0.95
PointStatistic: TypeAlias = Callable[[pd.DataFrame], float]


class Fit(NamedTuple):
    """y = intercept + slope * x by least squares."""

    slope: float
    intercept: float
    r2: float
    num_points: int
    x_mean: float
    x_square: float  # sum of squared deviations
    residual: float  # standard error of the regression

    def band(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The line at x, and half the width of its pointwise 95 % confidence band there."""
        quantile = stats.t.ppf(0.5 + CONFIDENCE / 2, self.num_points - 2)
        spread = np.sqrt(1 / self.num_points + (x - self.x_mean) ** 2 / self.x_square)
        return self.intercept + self.slope * x, quantile * self.residual * spread


def fit(x: ArrayLike, y: ArrayLike) -> Fit | None:
    """Fit a line through (n,) points.

    Returns None for fewer than MIN_POINTS points, and where x or y does not vary.
    """
    x, y = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    if len(x) < MIN_POINTS or np.ptp(x) == 0 or np.ptp(y) == 0:
        return None
    dx, dy = x - x.mean(), y - y.mean()
    slope = float(dx @ dy / (dx @ dx))
    left = float(((dy - slope * dx) ** 2).sum())
    return Fit(
        slope=slope,
        intercept=float(y.mean() - slope * x.mean()),
        r2=1 - left / float(dy @ dy),
        num_points=len(x),
        x_mean=float(x.mean()),
        x_square=float(dx @ dx),
        residual=math.sqrt(left / (len(x) - 2)),
    )


def fits(results: SltResults) -> pd.DataFrame:
    """Every linear fit, a row per run, scheme, fitted value (value, log2) and predictor.

    Predictors (`on`) are the LLC, the step and tr(H). The columns are slope, intercept, r2,
    spearman and num_points.
    """
    rows = []
    for scheme in results.settings.schemes:
        points = results.in_range(results.points(scheme))
        fitted = ("value", "log2") if scheme.startswith("quantization") else ("value",)
        for run in results.runs:
            mine = _with_critical_point(points, run)
            for y in fitted:
                for x in ("llc_mean", "step", "hessian_trace"):
                    rows.append(_fit_row(run, scheme, y, x, mine))
    return pd.DataFrame(rows)


def _fit_row(run: RunKey, scheme: str, y: str, x: str, points: pd.DataFrame) -> dict[str, Any]:
    row = {
        "model": run[0],
        "seed": run[1],
        "scheme": scheme,
        "critical": config.CRITICAL[scheme],
        "fitted": y,
        "on": x,
        "num_points": len(points),
        "spearman": spearman(points[x], points[y]) if len(points) > 1 else math.nan,
    }
    line = fit(points[x], points[y])
    if line is None:
        return row
    return row | {"slope": line.slope, "intercept": line.intercept, "r2": line.r2}


class RunValues(NamedTuple):
    """A statistic of each run, and how many steps had no critical point."""

    of_run: dict[RunKey, float]
    num_without: int = 0

    @property
    def mean(self) -> float:
        """The mean over runs, which a verdict is about."""
        return float(np.mean(list(self.of_run.values())))

    @property
    def text(self) -> str:
        """The mean and each run's own value, for readers."""
        parts = ", ".join(
            f"{model} {seed}: {value:.3f}" for (model, seed), value in self.of_run.items()
        )
        return f"{self.mean:.3f} (mean of {parts})"

    @property
    def note(self) -> str:
        """For readers; empty where every step has a critical point."""
        if not self.num_without:
            return ""
        return f"{self.num_without} checkpoints without a critical point on the grid left out."


def statistic_by_run(
    results: SltResults, scheme: str, statistic: PointStatistic, *, eps: float | None = None
) -> RunValues:
    """Apply a statistic to each run's points within slt.fit_steps.

    Raises Missing without the scheme, or for a run without enough points.
    """
    require_scheme(results, scheme)
    points = results.in_range(results.points(scheme, eps))
    values = {}
    for run in results.runs:
        mine = _with_critical_point(points, run)
        if len(mine) < MIN_POINTS:
            raise Missing(
                f"{run[0]}, seed {run[1]}: {len(mine)} checkpoints have a critical point,"
                f" {MIN_POINTS} are needed."
            )
        values[run] = statistic(mine.sort_values("step"))
    return RunValues(values, int(points.value.isna().sum()))


def require_scheme(results: SltResults, scheme: str) -> None:
    """Raises Missing for a scheme that was not run."""
    if scheme not in results.settings.schemes:
        raise Missing(f"Scheme {scheme} was not run.")


def _with_critical_point(points: pd.DataFrame, run: RunKey) -> pd.DataFrame:
    of_run = (points.model == run[0]) & (points.seed == run[1])
    return points[of_run & points.value.notna()]


def r2(x: str, y: str = "value") -> PointStatistic:
    """R^2 of the linear fit of y on x; 0 where one of them does not vary: nothing is explained."""

    def statistic(points: pd.DataFrame) -> float:
        line = fit(points[x], points[y])
        return line.r2 if line else 0.0

    return statistic


def slope(x: str, y: str = "value") -> PointStatistic:
    """Slope of the linear fit of y on x; 0 where one of them does not vary."""

    def statistic(points: pd.DataFrame) -> float:
        line = fit(points[x], points[y])
        return line.slope if line else 0.0

    return statistic


def rank_correlation(x: str, y: str = "value") -> PointStatistic:
    """Spearman's correlation of x and y; 0 where one of them does not vary."""

    def statistic(points: pd.DataFrame) -> float:
        value = spearman(points[x], points[y])
        return 0.0 if math.isnan(value) else value

    return statistic


def rise_at_knee(curve: pd.DataFrame) -> float:
    """The loss rise in nats at the knee of a curve: where rise(ln n_q) bends most.

    The bend is |y''| / (1 + y'^2)^1.5, by differences on the curve's uneven grid. curve: strength,
    rise. Raises Missing for a curve with too few finite points.
    """
    rows = curve[np.isfinite(curve["rise"].astype(float))].sort_values("strength")
    x, y = np.log(rows.strength.to_numpy(float)), rows["rise"].to_numpy(float)
    if len(x) < MIN_CURVE_POINTS:
        raise Missing(
            f"A curve has {len(x)} finite points, {MIN_CURVE_POINTS} are needed for a curvature."
        )
    first = np.gradient(y, x)
    bend = np.abs(np.gradient(first, x)) / (1 + first**2) ** 1.5
    return float(y[1:-1][bend[1:-1].argmax()])


def power_law(curve: pd.DataFrame, *, least: float) -> tuple[float, pd.DataFrame]:
    """The p of rise = c n_q^-p, fitted to the logarithms, and the curve with such rises.

    Only rises of `least` or more are fitted: smaller ones are noise, or below zero. Raises Missing
    for fewer than two of them.
    """
    rows = curve[curve["rise"].astype(float) >= least]
    if rows.strength.nunique() < 2:
        raise Missing(f"A curve has fewer than two rises of {least:g} or more: no power law.")
    n_q = np.log(rows.strength.to_numpy(float))
    falling, constant = np.polyfit(n_q, np.log(rows["rise"].to_numpy(float)), 1)
    law = np.exp(constant + falling * np.log(curve.strength.to_numpy(float)))
    return -float(falling), curve.assign(rise=law)
