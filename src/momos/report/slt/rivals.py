"""Does the LLC predict compressibility better than what is cheaper to have?

Each predictor is fitted by a line to each critical value, and judged by R^2 = 1 - sum of squared
errors / sum of squared deviations. The deviations are those from a run's own mean in all three:

    in_sample        one line for each run, fitted to all of its checkpoints
    checkpoint_out   the same, fitted without the checkpoint that it predicts
    seed_out         one line for all other runs of the model

Since everything rises along a training, the same is asked of the differences between a run's
consecutive checkpoints, and of what is left within groups (partial R^2 over all runs of a model):

    at_equal_step    value and predictor less their means over the runs at that step
    at_equal_loss    value and predictor less their regression on the loss and its square

Intervals are 95 % percentiles of a bootstrap over both factors: runs and steps are drawn with
replacement, each by itself, and a checkpoint counts as often as its run and its step were drawn
together. Fits are not repeated, and predictors are compared on the same draws. With three runs such
intervals are coarse. All is taken over slt.fit_steps, at slt.main_eps.
"""

import dataclasses
import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from momos.report.slt.results import RUN, SltResults

# Column beside the LLC -> name for readers; those that a study lacks are left out
PREDICTORS = {
    "llc_mean": "LLC",
    "llc_quadratic": "quadratic prediction of the LLC",
    "hessian_trace": "tr(H)",
    "hessian_max": "largest eigenvalue of H",
    "loss": "loss",
    "log_step": "log step",
    "l2_norm": "norm",
    "stable_rank": "stable rank",
    "bdm_1d_z": "BDM z (1-D)",
    "bdm_2d_z": "BDM z (2-D)",
    "planes_z": "bit planes z",
    "entropy_bytes": "entropy-coded bytes",
    "gzip_bytes": "gzip",
    "bz2_bytes": "bz2",
    "lzma_bytes": "LZMA",
    "zstd_bytes": "zstd",
}
# (scheme, column of its points) -> name for readers
TARGETS = {
    ("quantization", "value"): "critical n_q",
    ("quantization", "log2"): "log2 of critical n_q",
    ("factorization", "value"): "critical rank fraction",
    ("noise_absolute", "value"): "critical sigma",
    ("noise_relative", "value"): "critical relative sigma",
}
ASKED = ("hessian_trace", "log_step", "loss")  # the rivals of the title's question
MAIN = ("quantization", "value")  # the critical value of that question
STATISTICS = ("in_sample", "checkpoint_out", "seed_out", "at_equal_step", "at_equal_loss")
DRAWS, SEED, LEVEL = 2000, 0, 0.95
MIN_POINTS = 4  # of a run
BETTER, WORSE, OPEN = "better", "worse", "not told apart"


class Errors(NamedTuple):
    """Of each checkpoint, (n,) each; NaN where nothing could be predicted."""

    squared: np.ndarray  # error of the prediction
    total: np.ndarray  # deviation of the value that R^2 compares with

    def r2(self, weights: np.ndarray) -> np.ndarray:
        """R^2 where checkpoints count weights (.., n) times: (..,); NaN where nothing varies."""
        known = np.isfinite(self.squared) & np.isfinite(self.total)
        left = weights[..., known] @ self.squared[known]
        total = weights[..., known] @ self.total[known]
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.where(total > 0, 1 - left / total, np.nan)


class Estimate(NamedTuple):
    """A number and its interval; NaN where there is none."""

    value: float
    low: float = math.nan
    high: float = math.nan

    @property
    def text(self) -> str:
        """For readers."""
        if math.isnan(self.low):
            return f"{self.value:.2f}"
        return f"{self.value:.2f} ({self.low:.2f} to {self.high:.2f})"

    @property
    def verdict(self) -> str:
        """Which side of zero the whole interval lies on."""
        return BETTER if self.low > 0 else WORSE if self.high < 0 else OPEN


def with_rivals(results: SltResults) -> SltResults:
    """The results with the loss at the weights and the logarithm of the step beside the LLC."""
    llc = results.llc
    return dataclasses.replace(
        results, llc=llc.assign(log_step=np.log(llc.step), loss=llc.init_loss)
    )


def predictors(results: SltResults) -> dict[str, str]:
    """The predictors that the study has: column -> name. results: of `with_rivals`."""
    return {name: words for name, words in PREDICTORS.items() if name in results.llc}


def table(results: SltResults) -> pd.DataFrame:
    """Every predictor's R^2 for every critical value, a row each, of levels and of differences.

    The columns are STATISTICS, each with <name>_low and <name>_high.
    """
    rows = []
    for model, target, points in _targets(with_rivals(results)):
        for of, frame in (("levels", points), ("differences", differences(points))):
            draws = weights(frame)
            for column, words in predictors(with_rivals(results)).items():
                about = {"model": model, "critical": TARGETS[target], "of": of, "predictor": words}
                measured = _row(frame, column, draws, of)
                rows.append(about | {"num_checkpoints": len(frame)} | measured)
    return pd.DataFrame(rows)


def _row(points: pd.DataFrame, x: str, draws: np.ndarray, of: str) -> dict[str, float]:
    row: dict[str, float] = {}
    for name in STATISTICS:
        if of == "levels" or not name.startswith("at_"):
            value, low, high = estimate(errors(points, x, name), draws)
            row |= {name: value, f"{name}_low": low, f"{name}_high": high}
    return row


def answers(results: SltResults) -> pd.DataFrame:
    """How the LLC compares with the rivals of ASKED: a row per model, critical value and rival.

    r2, r2_rival: leave-one-seed-out. difference: LLC less rival, out of sample; at_equal_loss:
    the same of the partial R^2 at equal loss, where the loss itself explains nothing. Both have
    .._low, .._high and .._verdict (better, worse, not told apart).
    """
    rows = []
    for model, target, points in _targets(with_rivals(results)):
        if target[1] != "value" or points.seed.nunique() < 2:
            continue
        draws = weights(points)
        for rival in ASKED:
            row: dict[str, Any] = {"model": model, "critical": TARGETS[target]}
            row["rival"] = PREDICTORS[rival]
            for key, name in (("difference", "seed_out"), ("at_equal_loss", "at_equal_loss")):
                ours, theirs = errors(points, "llc_mean", name), errors(points, rival, name)
                found = compared(ours, theirs, draws)
                row |= {key: found.value, f"{key}_low": found.low, f"{key}_high": found.high}
                row[f"{key}_verdict"] = found.verdict
                if key == "difference":
                    once = np.ones(len(points))
                    row |= {"r2": float(ours.r2(once)), "r2_rival": float(theirs.r2(once))}
            rows.append(row)
    return pd.DataFrame(rows)


def sentences(results: SltResults) -> list[str]:
    """The answer to the title's question, one for each model studied, with its numbers."""
    found = answers(results) if results.runs else pd.DataFrame()
    if found.empty:
        return []
    return [_sentence(str(model), rows) for model, rows in found.groupby("model", sort=False)]


def _sentence(model: str, found: pd.DataFrame) -> str:
    is_main = found.critical == TARGETS[MAIN]
    rows, others = found[is_main], found[~is_main & (found.difference_verdict != OPEN)]
    if rows.empty:
        return f"{model}: no two seeds have critical n_q at {MIN_POINTS} checkpoints."
    verdicts = [*rows.difference_verdict, *rows.at_equal_loss_verdict]
    answer = "can't be told" if set(verdicts) == {OPEN} else "no"
    if BETTER in verdicts:
        answer = "yes" if set(verdicts) == {BETTER} else "in part"
    parts = [
        f"than {row['rival']} (R^2 {row['r2_rival']:.2f}): {_against(row, 'difference')};"
        f" at equal loss: {_against(row, 'at_equal_loss')}"
        for row in rows.to_dict("records")
    ]
    return (
        f"{model}: does the LLC (leave-one-seed-out R^2 {rows.r2.iloc[0]:.2f}) predict critical"
        f" n_q better? {_capital(answer)}. {'. '.join(map(_capital, parts))}.{_elsewhere(others)}"
    )


def _elsewhere(others: pd.DataFrame) -> str:
    """What is decided out of sample of the other critical values; empty without any."""
    parts = [
        f"{row['critical']}, than {row['rival']}: {_against(row, 'difference')}"
        for row in others.to_dict("records")
    ]
    return f" Decided out of sample elsewhere: {'; '.join(parts)}." if parts else ""


def _against(row: dict[str, Any], key: str) -> str:
    value = Estimate(row[key], row[f"{key}_low"], row[f"{key}_high"])
    return f"{row[f'{key}_verdict']}, {value.text}"


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def correlations(results: SltResults) -> pd.DataFrame:
    """Pearson's correlations of all measures at equal step, a row per model and measure.

    Each value is taken less the mean over the model's runs at its step. Empty for a single run.
    """
    full = with_rivals(results)
    rows = []
    for model, frame in measures(full).groupby("model", sort=False):
        if frame.seed.nunique() < 2:
            continue
        matrix = equal_step(frame.drop(columns=["model", "seed"]))
        rows += [
            {"model": model, "measure": name} | row for name, row in matrix.to_dict("index").items()
        ]
    return pd.DataFrame(rows)


def equal_step(frame: pd.DataFrame) -> pd.DataFrame:
    """Pearson's correlations of all columns but step, each less its mean at that step.

    Columns that do not vary within steps are left out.
    """
    values = frame.drop(columns="step")
    within = values - frame.groupby("step").transform("mean")
    return within.loc[:, within.std() > 1e-12 * values.abs().max()].corr()


def measures(results: SltResults) -> pd.DataFrame:
    """All measures along training: a row per run and step, predictors and critical values.

    The columns have the names for readers. results: of `with_rivals`.
    """
    known = predictors(results)
    frame = results.in_range(results.llc)[[*RUN, "step", *known]].rename(columns=known)
    for (scheme, column), name in TARGETS.items():
        if scheme in results.settings.schemes and column == "value":
            frame = frame.merge(results.values(scheme, name), on=[*RUN, "step"], how="left")
    return frame.drop(columns="log step")


def _targets(results: SltResults) -> Iterator[tuple[str, tuple[str, str], pd.DataFrame]]:
    """Model, target, and the points with the critical value as `y`, ordered by run and step."""
    for scheme, column in TARGETS:
        if scheme not in results.settings.schemes:
            continue
        points = results.in_range(results.points(scheme))
        points = points.assign(y=points[column]).dropna(subset="y").sort_values([*RUN, "step"])
        sizes = points.groupby(RUN).step.transform("size")
        for model, mine in points[sizes >= MIN_POINTS].groupby("model", sort=False):
            yield str(model), (scheme, column), mine.reset_index(drop=True)


def differences(points: pd.DataFrame) -> pd.DataFrame:
    """What changed since the run's checkpoint before: y and predictors; step is the later one."""
    columns = [name for name in ("y", *PREDICTORS) if name in points]
    changed = points.groupby("seed")[columns].diff()
    return points[["seed", "step"]].join(changed).dropna(subset="y").reset_index(drop=True)


def weights(points: pd.DataFrame) -> np.ndarray:
    """How often each of n checkpoints counts in each draw of the bootstrap, (DRAWS, n)."""
    generator = np.random.default_rng(SEED)
    factors = []
    for name in ("seed", "step"):
        codes, values = pd.factorize(points[name])
        share = np.full(len(values), 1 / len(values))
        factors.append(generator.multinomial(len(values), share, size=DRAWS)[:, codes])
    return (factors[0] * factors[1]).astype(float)


def estimate(found: Errors, draws: np.ndarray) -> Estimate:
    """R^2 with its interval. draws: of `weights`."""
    return _with_interval(found.r2, draws)


def compared(ours: Errors, theirs: Errors, draws: np.ndarray) -> Estimate:
    """Our R^2 less theirs, with its interval; a rival that explains nothing counts 0."""

    def difference(weights: np.ndarray) -> np.ndarray:
        return np.nan_to_num(ours.r2(weights)) - np.nan_to_num(theirs.r2(weights))

    return _with_interval(difference, draws)


def _with_interval(statistic: Callable[[np.ndarray], np.ndarray], draws: np.ndarray) -> Estimate:
    value = float(statistic(np.ones(draws.shape[1])))
    drawn = statistic(draws)
    drawn = drawn[np.isfinite(drawn)]
    if math.isnan(value) or not len(drawn):
        return Estimate(value)
    low, high = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Estimate(value, float(low), float(high))


def errors(points: pd.DataFrame, x: str, statistic: str) -> Errors:
    """Errors of the line on a predictor. points: seed, step, y, x, loss; statistic: of STATISTICS.

    All errors are NaN where the predictor does not vary or the statistic needs more runs.
    """
    nothing = np.full(len(points), np.nan)
    values, y = points[x].to_numpy(float), points.y.to_numpy(float)
    if not np.isfinite(values).all():
        return Errors(nothing, nothing)
    if statistic in ("at_equal_step", "at_equal_loss"):
        return _partial_errors(points, values, y, statistic)
    total = (y - points.groupby("seed").y.transform("mean").to_numpy()) ** 2
    if np.ptp(values) <= 1e-9 * np.abs(values).max():
        return Errors(nothing, total)
    return Errors((y - _PREDICTED[statistic](points, values, y)) ** 2, total)


def _in_sample(points: pd.DataFrame, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    predicted = np.empty(len(y))
    for rows in points.groupby("seed").indices.values():
        predicted[rows] = _line(x[rows], y[rows])(x[rows])
    return predicted


def _checkpoint_out(points: pd.DataFrame, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    predicted = np.empty(len(y))
    for rows in points.groupby("seed").indices.values():
        predicted[rows] = _held_out(x[rows], y[rows], np.arange(len(rows)))
    return predicted


def _seed_out(points: pd.DataFrame, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    if points.seed.nunique() < 2:
        return np.full(len(y), np.nan)
    return _held_out(x, y, points.seed.to_numpy())


def _held_out(x: np.ndarray, y: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Each group's predictions by the line through all others."""
    predicted = np.empty(len(y))
    for group in np.unique(groups):
        out = groups == group
        predicted[out] = _line(x[~out], y[~out])(x[out])
    return predicted


def _line(x: np.ndarray, y: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """The least-squares line; where x does not vary, the mean of y."""
    deviations = x - x.mean()
    square = deviations @ deviations
    slope = deviations @ y / square if square else 0.0
    return lambda places: y.mean() + slope * (places - x.mean())


_PREDICTED = {
    "in_sample": _in_sample,
    "checkpoint_out": _checkpoint_out,
    "seed_out": _seed_out,
}


def _partial_errors(points: pd.DataFrame, x: np.ndarray, y: np.ndarray, statistic: str) -> Errors:
    """Errors of the line through what is left of x and y when step or loss is taken out."""
    if statistic == "at_equal_step":
        known = pd.get_dummies(points.step).to_numpy(float)
    else:
        loss = points.loss.to_numpy(float)
        known = np.column_stack([np.ones(len(loss)), loss - loss.mean(), (loss - loss.mean()) ** 2])
    left_x, left_y = (_less_known(known, values) for values in (x, y))
    total = left_y**2
    if np.abs(left_x).max() <= 1e-9 * np.abs(x).max() or len(y) <= known.shape[1] + 1:
        return Errors(np.full(len(y), np.nan), total)
    slope = left_x @ left_y / (left_x @ left_x)
    return Errors((left_y - slope * left_x) ** 2, total)


def _less_known(known: np.ndarray, values: np.ndarray) -> np.ndarray:
    return values - known @ np.linalg.lstsq(known, values, rcond=None)[0]
