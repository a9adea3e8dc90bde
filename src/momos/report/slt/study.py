"""The singular-MDL study: everything that its report shows, and the list of its figures and tables.

A new figure is one function of `figures` and one entry of `drawings`.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from momos import config
from momos.config.images import compressor_names
from momos.report.shared.figures import Drawing
from momos.report.shared.statistics import rank_correlation_intervals, spearman
from momos.report.slt import along, figures, rivals
from momos.report.slt.fits import fits
from momos.report.slt.results import RUN, SltResults

BITS = " bits"  # ends the name of a scheme that is fitted once more, for log2 n_q
FITTED = (
    "quantization",
    "quantization" + BITS,
    "quantization_max",
    "factorization",
    "noise_absolute",
    "noise_relative",
)
LLC_COLUMNS = [
    *RUN, "step", "init_loss", "loss_se", "llc_mean", "llc_std", "llc_corrected", "llc_quadratic",
    "llc_gradient", "llc_variance", "rhat", "ess", "gradient_norm", "loss_rise", "hessian_trace",
    "hessian_max", "flags",
]  # fmt: skip
SWEEP_COLUMNS = [
    *RUN, "step", "nbeta", "localization", "llc_mean", "llc_std", "llc_corrected",
    "llc_quadratic", "llc_gradient", "llc_variance", "rhat", "ess", "loss_rise", "flags",
]  # fmt: skip


@dataclass(frozen=True)
class SltStudy:
    """Everything that the report shows."""

    name: str  # of the profile
    results: SltResults
    complexity: pd.DataFrame  # a row per image classifier
    quantised: pd.DataFrame  # a row per baseline: independent networks, without the LLC
    verdicts: pd.DataFrame  # `claims.judge`
    text: Mapping[str, Any]  # the summary that `text` wrote; empty without language models
    settings: tuple[config.Settings, ...]
    along: pd.DataFrame = field(default_factory=pd.DataFrame)  # a row per image run and kept step

    @property
    def slt(self) -> config.Slt:
        """The section `slt` of params.yaml."""
        return self.results.settings

    @property
    def n_q(self) -> str:
        """The column of `complexity` with critical n_q at slt.main_eps."""
        return f"critical_n_q_eps{self.slt.main_eps:g}"


def drawings(study: SltStudy) -> dict[str, Drawing]:
    """List the figures by file name, in reading order; without those of runs it lacks."""
    listed = _run_drawings(study) if study.results.runs else {}
    if len(study.complexity):
        caption = (
            "Image classifiers, last weights as deployed:"
            f" critical n_q at eps = {study.slt.main_eps:g}, RAC and BDM ratio against LLC."
        )
        listed["images"] = Drawing(caption, lambda: figures.images(study.complexity, study.n_q))
    if len(study.along):
        listed["along"] = Drawing(
            "Both papers' measures along the trainings of image classifiers, weights as deployed:"
            f" means over seeds, and bands over all of them. Critical n_q at {study.slt.main_eps:g}"
            " nats; LLC less the sampler's bias.",
            lambda: figures.along(along.measures(study.along, study.n_q)),
        )
    return listed


def _run_drawings(study: SltStudy) -> dict[str, Drawing]:
    results, slt = study.results, study.slt
    runs, points = results.runs, _fitted_points(study)
    first, last = slt.fit_steps
    curves = {f"curves_{scheme}": _curve_drawing(study, scheme) for scheme in slt.schemes}
    return {
        "llc": Drawing(
            "LLC along training (error bars: sample standard deviation over chains),"
            " the rise of the loss while sampling, held-out loss.",
            lambda: figures.llc_against_step(results.llc, results.history, runs),
        ),
        **curves,
        "critical_llc": Drawing(
            f"Critical values against LLC at eps = {slt.main_eps:g}, with linear fits over steps"
            f" {first} to {last} and their 95 % confidence bands; hollow: outside the fit.",
            lambda: figures.against(points, runs, "llc_mean", slt.fit_steps),
        ),
        "critical_step": Drawing(
            "The same against training step.",
            lambda: figures.against(points, runs, "step", slt.fit_steps),
        ),
        "eps": Drawing(
            "Critical values against LLC at three tolerances.",
            lambda: figures.three_eps(_points_by_eps(study), runs),
        ),
        "controls": Drawing(
            "Critical n_q against the controls: tr(H) by Hutchinson's estimator,"
            " and the critical sigma of plain noise.",
            lambda: figures.controls(_control_points(study), runs, slt.fit_steps),
        ),
        "measures": Drawing(
            "Both papers' measures on the same checkpoints, along training.",
            lambda: figures.measures(rivals.measures(rivals.with_rivals(results)), runs),
        ),
    }


def _curve_drawing(study: SltStudy, scheme: str) -> Drawing:
    caption = (
        f"Loss increase along training against: {figures.STRENGTHS[scheme]}."
        " Dotted: the tolerances."
    )
    curve = study.results.curve[study.results.curve.scheme == scheme]
    runs, eps = study.results.runs, study.slt.eps
    return Drawing(caption, lambda: figures.curves(curve, runs, scheme, eps))


def _fitted_points(study: SltStudy, eps: float | None = None) -> dict[str, pd.DataFrame]:
    """Scheme -> its points, for the schemes of FITTED that were run."""
    names = [name for name in FITTED if name.removesuffix(BITS) in study.slt.schemes]
    return {name: study.results.points(name.removesuffix(BITS), eps) for name in names}


def _points_by_eps(study: SltStudy) -> dict[float, dict[str, pd.DataFrame]]:
    """eps -> scheme -> points."""
    points = {eps: _fitted_points(study, eps) for eps in study.slt.eps}
    return {
        eps: {name: frame for name, frame in frames.items() if not name.endswith(BITS)}
        for eps, frames in points.items()
    }


def _control_points(study: SltStudy) -> dict[str, pd.DataFrame]:
    """Control -> points with a column of that name; of quantisation, or else the first scheme."""
    results, schemes = study.results, study.slt.schemes
    points = results.points("quantization" if "quantization" in schemes else schemes[0])
    controls = {"hessian_trace": points}
    if "noise_absolute" in schemes:
        sigma = results.values("noise_absolute", "sigma")
        controls["sigma"] = points.merge(sigma, on=[*RUN, "step"])
    return controls


def tables(study: SltStudy) -> dict[str, tuple[pd.DataFrame, str]]:
    """List the tables by file name: numbers and caption."""
    listed = {}
    if study.results.runs:
        listed["fits"] = (
            fits(study.results),
            "Linear fits of critical values (log2: of n_q, in bits) on LLC, step and tr(H),"
            " with Spearman's correlation.",
        )
        listed["checkpoints"] = (
            _step_table(study.results),
            f"Every checkpoint: LLC, controls, critical values at eps = {study.slt.main_eps:g}."
            " loss_se: standard error of the loss over batches; where eps is below it, the flag"
            " eps_below_noise is raised.",
        )
        listed |= {name: (frame, text) for name, frame, text in _rival_tables(study) if len(frame)}
    if len(study.complexity):
        listed["images"] = (
            study.complexity,
            "Image classifiers: measures of the last weights as deployed, side by side.",
        )
        listed["images_quantisability"] = (
            _quantisability_table(study.complexity, _image_measures(study.complexity, study.n_q)),
            "Which measure says how far a network can be quantised without loss: Spearman's"
            f" correlation with {study.n_q} over all image classifiers, with 95 % intervals of a"
            " bootstrap over runs; those of one model share their initialisation.",
        )
        listed["images_correlation"] = (
            _correlation_table(study),
            "Spearman's correlation of these measures over all image classifiers.",
        )
    if study.quantised.get(study.n_q, pd.Series()).nunique() > 1:
        listed["networks_quantisability"] = (
            _independent_quantisability(study.quantised, study.n_q),
            "The same over independent networks, the baseline of each model and seed, with 95 %"
            " intervals of a bootstrap over them (of eight or more); within: over their deviations"
            " from the mean of their model.",
        )
    if len(study.along):
        listed["along"] = (
            along.at_the_end(study.along, study.n_q),
            "Image classifiers at the last step that was kept, means over seeds; times_quadratic:"
            " the LLC over its quadratic prediction.",
        )
        listed["along_equal_step"] = (
            along.correlations(study.along, study.n_q),
            "Pearson's correlation of all measures along image trainings, each less its mean over"
            " all runs at that step.",
        )
        answers = along.answers(study.along, study.n_q)
        if len(answers):
            listed["along_answers"] = (
                answers,
                "Does the LLC say critical n_q better than its rivals? Strength of Spearman's"
                " correlation over all kept checkpoints that are minima, partial at equal loss and"
                " at equal step, and LLC less rival with the 95 % interval of a bootstrap over"
                " runs; runs of one seed share their initialisation.",
            )
    return listed


def _rival_tables(study: SltStudy) -> Iterator[tuple[str, pd.DataFrame, str]]:
    """What the LLC is compared with: name, numbers, caption."""
    results = study.results
    first, last = study.slt.fit_steps
    yield (
        "answers",
        rivals.answers(results),
        "R^2 of the LLC less that of each rival: leave-one-seed-out (difference), and partial at"
        " equal loss; with 95 % intervals of a bootstrap over runs and steps.",
    )
    yield (
        "rivals",
        rivals.table(results),
        "R^2 of every predictor for every critical value, and for differences between consecutive"
        " checkpoints: in sample, leave-one-checkpoint-out, leave-one-seed-out; partial at equal"
        f" step and at equal loss. Steps {first} to {last}; 95 % intervals of a bootstrap over runs"
        " and steps, each drawn with replacement, without fitting again.",
    )
    yield (
        "correlation_equal_step",
        rivals.correlations(results),
        "Pearson's correlation of all measures, each less its mean over the runs at that step.",
    )
    yield (
        "sweep",
        _known(results.sweep, SWEEP_COLUMNS),
        "The LLC at other settings of the sampler, beside its quadratic prediction.",
    )
    yield (
        "plateau",
        results.plateau,
        "Slope of log LLC against log localization: 0 on a plateau, -1 where the estimate is the"
        " trace of the Hessian.",
    )


def _step_table(results: SltResults) -> pd.DataFrame:
    """A row per run and step: the LLC, and a column of critical values for each scheme."""
    frame = _known(results.llc, LLC_COLUMNS)
    if {"loss_se", "flags"} <= set(frame):
        noisy = frame.loss_se > results.settings.main_eps
        raised = frame["flags"].fillna("") + np.where(noisy, " eps_below_noise", "")
        frame = frame.assign(flags=raised.str.strip().replace("", np.nan))
    for scheme in results.settings.schemes:
        values = results.values(scheme, config.CRITICAL[scheme])
        frame = frame.merge(values, on=[*RUN, "step"], how="left")
    return frame


def _known(frame: pd.DataFrame, columns: Sequence[str]) -> pd.DataFrame:
    """The columns that the frame has."""
    return frame[[name for name in columns if name in frame]]


def _image_measures(frame: pd.DataFrame, n_q: str) -> list[str]:
    """Columns of image classifiers' measures, critical n_q first."""
    named = (
        n_q, "llc_mean", "hessian_trace", "bdm_1d_ratio", "bdm_2d_ratio", "planes_ratio", "rac",
        "bdm_1d_z", "bdm_2d_z", "planes_z",
    )  # fmt: skip
    measures = [name for name in named if name in frame]
    return measures + [name for name in frame if name in compressor_names()]


def _quantisability_table(frame: pd.DataFrame, measures: Sequence[str]) -> pd.DataFrame:
    """Spearman's correlation of each measure with the first, critical n_q; the strongest first.

    Runs whose critical n_q lies beyond the grid take no part.
    """
    n_q, *others = measures
    values = frame.loc[frame[n_q].notna(), measures]
    low, high = rank_correlation_intervals(values, range(len(values)), seed=0)
    rows = [
        {
            "measure": name,
            "spearman": spearman(values[name], values[n_q]),
            "low": low[0, place],
            "high": high[0, place],
            "num_runs": len(values),
        }
        for place, name in enumerate(others, start=1)
    ]
    table = pd.DataFrame(rows)
    return table.sort_values("spearman", key=lambda column: -column.abs(), kind="stable")


def _independent_quantisability(frame: pd.DataFrame, n_q: str) -> pd.DataFrame:
    """`_quantisability_table` of networks, and of what is left of them within their models."""
    measures = [name for name in _image_measures(frame, n_q) if frame[name].nunique() > 1]
    known = frame[frame[n_q].notna()]
    within = known[measures] - known.groupby("model")[measures].transform("mean")
    ends = ["spearman", "low", "high"]
    inside = _quantisability_table(within, measures)[["measure", *ends]]
    names = {name: f"{name}_within" for name in ends}
    return _quantisability_table(known, measures).merge(inside.rename(columns=names), on="measure")


def _correlation_table(study: SltStudy) -> pd.DataFrame:
    measures = _image_measures(study.complexity, study.n_q)
    rows = []
    for a in measures:
        values = {b: spearman(study.complexity[a], study.complexity[b]) for b in measures}
        rows.append({"measure": a} | values)
    return pd.DataFrame(rows)
