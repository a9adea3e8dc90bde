"""What stands beside a verdict on the LLC: curvature, loss and step, which may say the same.

With a strong localisation the sampler sees only the quadratic part of the loss. The estimate is
then nbeta / (2 localization) tr(H) (method B2), and no verdict tells the two apart.
"""

import math
from statistics import median

import pandas as pd

from momos.report.shared.verdicts import Missing
from momos.report.slt.fits import (
    PointStatistic,
    RunValues,
    fit,
    power_law,
    r2,
    rise_at_knee,
    statistic_by_run,
)
from momos.report.slt.results import RUN, SltResults
from momos.report.slt.rivals import ASKED, PREDICTORS, with_rivals

# Column -> name for readers: what may predict a critical value as well as the LLC does
RIVALS = {name: PREDICTORS[name] for name in ASKED}


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
        f" {len(points)} estimates).{_quadratic_text(points)} Its correlation (r) with {related}."
    )


def _quadratic_text(points: pd.DataFrame) -> str:
    """How far the estimates are from what the spectrum alone predicts; empty without it."""
    if "llc_quadratic" not in points or points.llc_quadratic.isna().all():
        return ""
    ratios = points.llc_corrected / (points.llc_quadratic + points.llc_gradient)
    return (
        f" Less the step's bias it is {ratios.median():.2f} times the quadratic prediction over the"
        f" spectrum ({ratios.min():.2f} to {ratios.max():.2f})."
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


def bits_text(in_bits: RunValues, linear: RunValues) -> str:
    """What Eq. 9 says of the fit's shape: it predicts linearity in bits, not in values."""
    better = "n_q itself" if linear.mean > in_bits.mean else "log2 n_q"
    return (
        f"The paper's Eq. 9 predicts linearity in bits: R^2 of log2 n_q {in_bits.mean:.3f}, of n_q"
        f" {linear.mean:.3f}; {better} is the more linear one."
    )


def refined_text(results: SltResults) -> str:
    """What a finer search for theta changes: critical n_q, and R^2 of its fit on the LLC."""
    points = results.in_range(results.points("quantization")).dropna(subset="value")
    lower = points.value - points.refined
    linear = statistic_by_run(results, "quantization", r2("llc_mean", "refined"))
    return (
        f"With theta sought twice as finely critical n_q is lower at {int((lower > 0).sum())} of"
        f" {len(points)} checkpoints, by at most {lower.max():g}; R^2 on the LLC {linear.mean:.3f}."
    )


def knee_text(results: SltResults) -> str:
    """S2's knee on the coarse grid alone, and what a power law gives, which has no knee.

    Where a curve has too few points for that, the text says so: the verdict stands without it.
    """
    try:
        return _knee_on_coarse_grid(results)
    except Missing as missing:
        return f"On the coarse grid alone: {missing}"


def _knee_on_coarse_grid(results: SltResults) -> str:
    curves = results.in_range(results.curve[results.curve.scheme == "quantization"])
    coarse, exponents, laws = {}, {}, {}
    for run, mine in curves[curves.coarse].groupby(RUN, sort=False):
        by_step = [curve for _, curve in mine.groupby("step")]
        fitted = [power_law(curve, least=results.settings.main_eps / 10) for curve in by_step]
        coarse[run] = median(map(rise_at_knee, by_step))
        exponents[run] = median(exponent for exponent, _ in fitted)
        laws[run] = median(rise_at_knee(law) for _, law in fitted)
    return (
        f"On the coarse grid alone: {RunValues(coarse).text} nats. A power law through its rises"
        f" of eps / 10 or more has the exponent {RunValues(exponents).text}. A power law has no"
        f" knee, yet this statistic gives {RunValues(laws).text} nats for it: 1 / (exponent sqrt 2)"
        " on an endless fine grid, whatever its scale."
    )


def correlation(x: str, y: str) -> PointStatistic:
    """Pearson's correlation of x and y; NaN where one of them does not vary."""

    def statistic(points: pd.DataFrame) -> float:
        line = fit(points[x], points[y])
        return math.copysign(math.sqrt(max(line.r2, 0.0)), line.slope) if line else math.nan

    return statistic


def _of_runs(points: pd.DataFrame, statistic: PointStatistic) -> RunValues:
    return RunValues({run: statistic(mine) for run, mine in points.groupby(RUN, sort=False)})
