"""What stands beside a verdict on the LLC: curvature, loss and step, which may say the same.

With a strong localisation the sampler sees only the quadratic part of the loss. The estimate is
then nbeta / (2 localization) tr(H) (method B2), and no verdict tells the two apart.
"""

import dataclasses
import math

import numpy as np
import pandas as pd

from momos.report.slt.fits import PointStatistic, RunValues, fit, r2, statistic_by_run
from momos.report.slt.results import RUN, SltResults

# Column -> name for readers: what may predict a critical value as well as the LLC does
RIVALS = {"hessian_trace": "tr(H)", "log_step": "log step", "loss": "loss"}


def llc_text(results: SltResults) -> str:
    """How the LLC goes with curvature, step and loss, and its ratio to the quadratic prediction.

    All over slt.fit_steps, for each run by itself. results: `llc` has nbeta and localization.
    """
    points = results.in_range(with_rivals(results).llc)
    predicted = points.nbeta / (2 * points.localization) * points.hessian_trace
    ratio = float((points.llc_mean / predicted).median())
    used = ", ".join(
        f"{name} {'/'.join(f'{value:g}' for value in points[name].unique())}"
        for name in ("nbeta", "localization")
    )
    related = "; ".join(
        f"{name} {_of_runs(points, correlation('llc_mean', column)).text}"
        for column, name in RIVALS.items()
    )
    return (
        f"At {used} the LLC is {ratio:.2f} times nbeta / (2 localization) tr(H) (median of"
        f" {len(points)} estimates). Its correlation (r) with {related}."
    )


def rivals_text(results: SltResults, scheme: str, llc: RunValues) -> str:
    """R^2 of a scheme's critical values on what may predict them as well as the LLC does.

    llc: R^2 on the LLC. Raises Missing as `statistic_by_run` does.
    """
    rivals = with_rivals(results)
    values = {
        name: statistic_by_run(rivals, scheme, r2(column)).mean for column, name in RIVALS.items()
    }
    listed = ", ".join(f"on {name} {value:.3f}" for name, value in values.items())
    best = [name for name, value in values.items() if value >= llc.mean]
    as_good = f"no worse than the LLC: {', '.join(best)}" if best else "all worse than the LLC"
    return f"R^2 of the critical value on the LLC {llc.mean:.3f}, {listed} ({as_good})."


def with_rivals(results: SltResults) -> SltResults:
    """The results with the columns of RIVALS beside the LLC; the loss is that at the weights."""
    llc = results.llc
    return dataclasses.replace(
        results, llc=llc.assign(log_step=np.log(llc.step), loss=llc.init_loss)
    )


def correlation(x: str, y: str) -> PointStatistic:
    """Pearson's correlation of x and y; NaN where one of them does not vary."""

    def statistic(points: pd.DataFrame) -> float:
        line = fit(points[x], points[y])
        return math.copysign(math.sqrt(max(line.r2, 0.0)), line.slope) if line else math.nan

    return statistic


def _of_runs(points: pd.DataFrame, statistic: PointStatistic) -> RunValues:
    return RunValues({run: statistic(mine) for run, mine in points.groupby(RUN, sort=False)})
