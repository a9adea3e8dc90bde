"""The LLC over localisations and nbeta: a plateau, or another measure of curvature (method B2)."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from momos import config
from momos.slt.llc.rows import Keep, Target, llc_rows
from momos.slt.llc.spectrum import Spectrum

Rows = list[dict[str, Any]]
NORMAL_95 = 1.96


def sweep_rows(target: Target, settings: config.Llc, spectrum: Spectrum, keep: Keep) -> Rows:
    """A row of `llc_rows` for each setting of llc.sweep. Raises LlcDiverged."""
    rows: Rows = []
    for number, setting in enumerate(settings.swept):

        def keep_setting(part: str, compute: Callable[[], dict], number: int = number) -> dict:
            return keep(f"sweep{number}-{part}", compute)

        changed = dataclasses.replace(
            settings,
            nbeta=setting.nbeta,
            localization=setting.localization,
            num_burnin_steps=setting.num_burnin_steps,
            num_chains=settings.sweep_chains,
        )
        rows.append(
            llc_rows(
                target,
                changed,
                lr=setting.lr,
                num_draws=setting.num_draws,
                spectrum=spectrum,
                keep=keep_setting,
            )["row"]
        )
    return rows


def plateau(rows: Rows, nbeta: float) -> dict[str, float | None]:
    """The slope of log LLC against log localisation at this nbeta: 0 on a plateau, -1 for tr(H).

    rows: of `llc_rows`. Returns slope, slope_low and slope_high (its 95 % interval, from the
    spread over chains), and slope_quadratic, that of the quadratic prediction. None where an
    estimate is not positive, has no spread, or where there are fewer than two localisations.
    """
    chosen = [row for row in rows if row["nbeta"] == nbeta]
    places = np.log([row["localization"] for row in chosen])
    empty = dict.fromkeys(("slope", "slope_low", "slope_high", "slope_quadratic"))
    if len(set(places)) < 2:
        return empty
    means = [row["llc_mean"] for row in chosen]
    errors = [(row["llc_std"] or 0) / row["num_chains"] ** 0.5 for row in chosen]
    quadratic = [row["llc_quadratic"] for row in chosen]
    found = dict(empty)
    if min(means) > 0 and min(errors) > 0:
        weights = np.array(means) / np.array(errors)  # of log means
        (slope, _), covariance = np.polyfit(places, np.log(means), 1, w=weights, cov="unscaled")
        margin = NORMAL_95 * covariance[0, 0] ** 0.5
        found |= {"slope": slope, "slope_low": slope - margin, "slope_high": slope + margin}
    if all(value is not None and value > 0 for value in quadratic):
        found["slope_quadratic"] = np.polyfit(places, np.log(quadratic), 1)[0]
    return {name: None if value is None else float(value) for name, value in found.items()}
