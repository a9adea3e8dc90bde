"""The singular-MDL study's results, its fits, and a verdict on each of its claims, exactly by
statistic and threshold.

A run is one model and seed. All statistics are taken over the checkpoints from slt.fit_steps[0] to
slt.fit_steps[1], at slt.main_eps, for each run by itself; a verdict is on their mean over runs, and
the runs' own values stand beside it. A checkpoint without a critical point (nothing of the grid is
within eps, or all of it, which gives a bound and no value) takes no part and is counted in the
note.
"""

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

from momos import config
from momos.report.shared.claims import NOT_RUN, NOT_SUPPORTED, SUPPORTED, Judgement, spearman
from momos.slt.schemes import CRITICAL

MIN_POINTS = 4  # of a fit or a rank correlation
MIN_RUNS = 3  # on none of which a setting was chosen
CONFIDENCE = 0.95
RUN = ["model", "seed"]


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
        """The line, and half the width of its pointwise 95 % confidence band."""
        quantile = stats.t.ppf(0.5 + CONFIDENCE / 2, self.num_points - 2)
        half = (
            quantile
            * self.residual
            * np.sqrt(1 / self.num_points + (x - self.x_mean) ** 2 / self.x_square)
        )
        return self.intercept + self.slope * x, half


def fit(x: Sequence[float], y: Sequence[float]) -> Fit | None:
    """None for fewer than MIN_POINTS points, and where x or y does not vary."""
    x, y = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    if len(x) < MIN_POINTS or np.ptp(x) == 0 or np.ptp(y) == 0:
        return None
    dx, dy = x - x.mean(), y - y.mean()
    slope = float(dx @ dy / (dx @ dx))
    left = float(((dy - slope * dx) ** 2).sum())
    residual = math.sqrt(left / (len(x) - 2))
    return Fit(
        slope,
        float(y.mean() - slope * x.mean()),
        1 - left / float(dy @ dy),
        len(x),
        float(x.mean()),
        float(dx @ dx),
        residual,
    )


@dataclass(frozen=True)
class Results:
    """All that the stages wrote. critical: one row per run, step, scheme and eps; curve: one per
    strength; llc: one per run and step.
    """

    llc: pd.DataFrame
    critical: pd.DataFrame
    curve: pd.DataFrame
    history: pd.DataFrame
    settings: config.Slt

    @property
    def runs(self) -> list[tuple[str, int]]:
        return (
            list(self.llc[RUN].drop_duplicates().itertuples(index=False, name=None))
            if len(self.llc)
            else []
        )

    def in_range(self, frame: pd.DataFrame) -> pd.DataFrame:
        first, last = self.settings.fit_steps
        return frame[frame.step.between(first, last)]

    def points(self, scheme: str, eps: float | None = None) -> pd.DataFrame:
        """A row per run and step of the whole training: step, value (NaN where there is no critical
        point), status, and all of `llc`; of quantisation also log2, the value in bits.
        """
        chosen = self.critical[
            (self.critical.scheme == scheme)
            & (self.critical.eps == (eps or self.settings.main_eps))
        ]
        chosen = chosen.assign(value=chosen.value.astype(float).where(chosen.status == "found"))
        joined = chosen.merge(
            self.llc, on=[*RUN, "step"], suffixes=("", "_llc"), validate="one_to_one"
        )
        return (
            joined.assign(log2=np.log2(joined.value))
            if scheme.startswith("quantization")
            else joined
        )


def read(folder: Path, settings: config.Slt) -> Results:
    """Exactly the runs and schemes that params.yaml lists. Raises ValueError naming a missing file."""
    llc, critical, curve, history = [], [], [], []
    for model in settings.models:
        for seed in settings.seeds:
            key, run = {"model": model, "seed": seed}, f"{model}/{seed}"
            llc.append(_table(folder / "measures" / run / "llc" / "llc.csv", key))
            for scheme in settings.schemes:
                critical.append(
                    _table(
                        folder / "measures" / run / scheme / "critical.csv",
                        key | {"scheme": scheme},
                    )
                )
                curve.append(
                    _table(
                        folder / "measures" / run / scheme / "curve.csv", key | {"scheme": scheme}
                    )
                )
            if (
                path := folder / "checkpoints" / run / "history.csv"
            ).is_file():  # a Pythia has none
                history.append(_table(path, key))
    frames = [
        pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()
        for parts in (llc, critical, curve, history)
    ]
    return Results(*frames, settings)


def read_complexity(folder: Path, models: Sequence[str]) -> pd.DataFrame:
    """A row per image classifier that was measured. Raises ValueError naming a missing file."""
    return pd.concat(
        [_table(folder / f"{model}.csv", {}) for model in models] or [pd.DataFrame()],
        ignore_index=True,
    )


def _table(path: Path, key: dict) -> pd.DataFrame:
    if not path.is_file():
        raise ValueError(
            f"{path} is missing: expected a table written by an earlier stage (run `dvc repro`)"
        )
    frame = pd.read_csv(path)
    for place, (name, value) in enumerate(key.items()):
        frame.insert(place, name, value)
    return frame


# --- statistics, one value for each run


class _Missing(Exception):
    """What a claim needs was not run; the message says what."""


class Values(NamedTuple):
    """A statistic by run, and how many checkpoints had no critical point."""

    by_run: dict[tuple[str, int], float]
    none: int = 0

    @property
    def mean(self) -> float:
        return float(np.mean(list(self.by_run.values())))

    def shown(self, digits: int = 3) -> str:
        each = ", ".join(
            f"{model} {seed}: {value:.{digits}f}" for (model, seed), value in self.by_run.items()
        )
        return f"{self.mean:.{digits}f} (mean of {each})"

    @property
    def note(self) -> str:
        return (
            f"{self.none} checkpoints without a critical point on the grid left out."
            if self.none
            else ""
        )


def by_run(
    results: Results,
    scheme: str,
    statistic: Callable[[pd.DataFrame], float],
    *,
    eps: float | None = None,
) -> Values:
    """statistic(points of one run, within the range). Raises _Missing without the scheme, or for a
    run without enough points.
    """
    if scheme not in results.settings.schemes:
        raise _Missing(f"Scheme {scheme} was not run.")
    points = results.in_range(results.points(scheme, eps))
    found = {}
    for run in results.runs:
        mine = points[(points.model == run[0]) & (points.seed == run[1]) & points.value.notna()]
        if len(mine) < MIN_POINTS:
            raise _Missing(
                f"{run[0]}, seed {run[1]}: {len(mine)} checkpoints have a critical point, {MIN_POINTS} are needed."
            )
        found[run] = statistic(mine.sort_values("step"))
    return Values(found, int(points.value.isna().sum()))


def r2(x: str, y: str = "value") -> Callable[[pd.DataFrame], float]:
    """Of the linear fit of y on x; 0 where one of them does not vary: nothing is explained."""

    def statistic(points: pd.DataFrame) -> float:
        found = fit(points[x], points[y])
        return found.r2 if found else 0.0

    return statistic


def rank(x: str, y: str = "value") -> Callable[[pd.DataFrame], float]:
    """Spearman's correlation; 0 where one of them does not vary."""

    def statistic(points: pd.DataFrame) -> float:
        value = spearman(points[x], points[y])
        return 0.0 if math.isnan(value) else value

    return statistic


def knee(curve: pd.DataFrame) -> float:
    """The loss rise where a curve rise(ln n_q) bends most: largest |y''| / (1 + y'^2)^1.5, by
    differences on its uneven grid. Nats.
    """
    rows = curve[np.isfinite(curve["rise"].astype(float))].sort_values("strength")
    x, y = np.log(rows.strength.to_numpy(float)), rows["rise"].to_numpy(float)
    if len(x) < 5:
        raise _Missing(f"A curve has {len(x)} finite points, 5 are needed for a curvature.")
    first = np.gradient(y, x)
    bend = np.abs(np.gradient(first, x)) / (1 + first**2) ** 1.5
    return float(y[1:-1][bend[1:-1].argmax()])


# --- claims


def judge(claims: Sequence[dict], results: Results) -> pd.DataFrame:
    """A row per claim in the file's order: id, where, claim, statistic, threshold, measured,
    verdict, note.

    Raises ValueError unless the claims and the functions here are the same ids.
    """
    if (ids := [claim["id"] for claim in claims]) != list(CLAIMS):
        raise ValueError(
            f"claims.yaml's singular_mdl must be {', '.join(CLAIMS)}, got {', '.join(ids)}"
        )
    rows = []
    for claim in claims:
        shown = {key: str(claim[key]) for key in ("id", "where", "claim", "statistic", "threshold")}
        rows.append(shown | _judge(claim["id"], results)._asdict())
    return pd.DataFrame(rows)


def _judge(name: str, results: Results) -> Judgement:
    if not results.runs:
        return Judgement(NOT_RUN, "", "This profile has no language models (slt.models).")
    try:
        found = CLAIMS[name](results)
    except _Missing as absent:
        return Judgement(NOT_RUN, "", str(absent))
    if len(results.runs) < MIN_RUNS:
        return found._replace(
            verdict=NOT_RUN,
            note=f"Needs {MIN_RUNS} runs on which no setting was chosen, has {len(results.runs)}.",
        )
    return found


def _verdict(met: bool) -> str:
    return SUPPORTED if met else NOT_SUPPORTED


def _s1(results: Results) -> Judgement:
    plain, bits = (by_run(results, "quantization", r2("llc_mean", y)) for y in ("value", "log2"))
    slopes = by_run(
        results,
        "quantization",
        lambda points: found.slope if (found := fit(points.llc_mean, points.value)) else 0.0,
    )
    first, last = results.settings.fit_steps
    note = f"Steps {first} to {last}, eps {results.settings.main_eps:g}. The verdict is on n_q. Slopes {slopes.shown()}. {plain.note}"
    return Judgement(
        _verdict(plain.mean >= 0.9 and slopes.mean > 0),
        f"R^2 of n_q {plain.shown()}; of log2 n_q {bits.shown()}",
        note.strip(),
    )


def _s2(results: Results) -> Judgement:
    if "quantization" not in results.settings.schemes:
        raise _Missing("Scheme quantization was not run.")
    curves, found = results.in_range(results.curve[results.curve.scheme == "quantization"]), {}
    for (model, seed), mine in curves.groupby(RUN, sort=False):
        found[model, seed] = float(np.median([knee(one) for _, one in mine.groupby("step")]))
    values, eps = Values(found), results.settings.main_eps
    note = f"Median over checkpoints for each run; curvature of the rise in nats over ln n_q. eps {eps:g}."
    return Judgement(
        _verdict(eps / 3 <= values.mean <= 3 * eps), f"rise at the knee {values.shown()} nats", note
    )


def _s3(results: Results) -> Judgement:
    eps = results.settings.eps
    if len(eps) < 3:
        raise _Missing("Needs three eps.")
    pairs = [(a, b) for place, a in enumerate(eps) for b in eps[place + 1 :]]
    values = {pair: _between_eps(results, *pair) for pair in pairs}
    parts = [f"eps {a:g} and {b:g}: {value.shown()}" for (a, b), value in values.items()]
    return Judgement(_verdict(min(value.mean for value in values.values()) > 0.9), "; ".join(parts))


def _between_eps(results: Results, a: float, b: float) -> Values:
    other = (
        results.points("quantization", b)[[*RUN, "step", "value"]]
        if "quantization" in results.settings.schemes
        else None
    )

    def statistic(points: pd.DataFrame) -> float:
        both = points.merge(other, on=[*RUN, "step"], suffixes=("", "_other")).dropna(
            subset="value_other"
        )
        return rank("value", "value_other")(both)

    return by_run(results, "quantization", statistic, eps=a)


def _s4(results: Results) -> Judgement:
    points = results.in_range(results.llc)
    found = {run: rank("step", "llc_mean")(mine) for run, mine in points.groupby(RUN, sort=False)}
    whole = {
        run: rank("step", "llc_mean")(mine) for run, mine in results.llc.groupby(RUN, sort=False)
    }
    flagged = int(results.llc["flags"].notna().sum())
    note = f"Over all checkpoints: {Values(whole).shown()}. {flagged} of {len(results.llc)} estimates carry a flag."
    return Judgement(_verdict(Values(found).mean > 0.9), f"Spearman {Values(found).shown()}", note)


def _ranked(scheme: str, threshold: Callable[[float], bool]) -> Callable[[Results], Judgement]:
    def judged(results: Results) -> Judgement:
        values = by_run(results, scheme, rank("llc_mean"))
        return Judgement(
            _verdict(threshold(values.mean)), f"Spearman {values.shown()}", values.note
        )

    return judged


def _s6(results: Results) -> Judgement:
    best, crude = (
        by_run(results, scheme, r2("llc_mean")) for scheme in ("quantization", "quantization_max")
    )
    difference = Values({run: best.by_run[run] - crude.by_run[run] for run in best.by_run})
    measured = (
        f"difference {difference.shown()}; by loss {best.mean:.3f}, by max|w| {crude.mean:.3f}"
    )
    return Judgement(_verdict(difference.mean > 0), measured, crude.note)


def _s8(results: Results) -> Judgement:
    ours, trace = (by_run(results, "quantization", r2(x)) for x in ("llc_mean", "hessian_trace"))
    noise = by_run(_with_sigma(results), "quantization", r2("sigma"))
    measured = (
        f"R^2 on LLC {ours.shown()}; on tr(H) {trace.shown()}; on critical sigma {noise.shown()}"
    )
    return Judgement(
        _verdict(ours.mean > max(trace.mean, noise.mean)), measured, "Controls; not in the paper."
    )


def _with_sigma(results: Results) -> Results:
    """The critical sigma of plain noise as one more column beside the LLC."""
    if "noise_absolute" not in results.settings.schemes:
        raise _Missing("Scheme noise_absolute was not run.")
    sigma = (
        results.points("noise_absolute")[[*RUN, "step", "value"]]
        .rename(columns={"value": "sigma"})
        .dropna()
    )
    return Results(
        results.llc.merge(sigma, on=[*RUN, "step"]),
        results.critical,
        results.curve,
        results.history,
        results.settings,
    )


CLAIMS: dict[str, Callable[[Results], Judgement]] = {
    "S1": _s1,
    "S2": _s2,
    "S3": _s3,
    "S4": _s4,
    "S5": _ranked("factorization", lambda value: value > 0.8),
    "S6": _s6,
    "S7": _ranked("noise_relative", lambda value: value < -0.8),
    "S8": _s8,
}


def fits(results: Results) -> pd.DataFrame:
    """A row per run, scheme, what is fitted (value, log2) and on what (LLC, step, controls): slope,
    intercept, R^2, Spearman, points.
    """
    rows = []
    for scheme in results.settings.schemes:
        points = results.in_range(results.points(scheme))
        for run in results.runs:
            mine = points[(points.model == run[0]) & (points.seed == run[1]) & points.value.notna()]
            for y in ("value", "log2") if scheme.startswith("quantization") else ("value",):
                rows += [
                    _fit_row(run, scheme, y, x, mine) for x in ("llc_mean", "step", "hessian_trace")
                ]
    return pd.DataFrame(rows)


def _fit_row(run: tuple[str, int], scheme: str, y: str, x: str, points: pd.DataFrame) -> dict:
    about = {
        "model": run[0],
        "seed": run[1],
        "scheme": scheme,
        "critical": CRITICAL[scheme],
        "fitted": y,
        "on": x,
    }
    numbers = {
        "num_points": len(points),
        "spearman": spearman(points[x], points[y]) if len(points) > 1 else math.nan,
    }
    found = fit(points[x], points[y])
    return (
        about
        | numbers
        | ({"slope": found.slope, "intercept": found.intercept, "r2": found.r2} if found else {})
    )


def verdicts_json(verdicts: pd.DataFrame) -> str:
    """For the report of both papers: id -> verdict, measured, note."""
    kept = {
        row.id: {"verdict": row.verdict, "measured": row.measured, "note": row.note}
        for row in verdicts.itertuples()
    }
    return json.dumps(kept, indent=1) + "\n"
