"""The claims about compressibility and the LLC: a function each, which has its statistic judged.

A statistic is taken of each run by itself (`fits`). The verdict is on the mean over runs, the runs'
own values stand beside it, and they say whether it is decided. A run is one training seed. What the
LLC can't be told apart from stands in `also` (`beside`).
"""

import dataclasses
import itertools
import json
from collections.abc import Sequence

import numpy as np
import pandas as pd

from momos.report.shared import verdicts
from momos.report.shared.claims import Claim
from momos.report.shared.verdicts import NOT_RUN, Judgement, Judges, Missing, judged
from momos.report.slt.beside import bits_text, knee_text, llc_text, refined_text, rivals_text
from momos.report.slt.fits import (
    RunValues,
    r2,
    rank_correlation,
    require_scheme,
    rise_at_knee,
    slope,
    statistic_by_run,
)
from momos.report.slt.results import RUN, SltResults
from momos.report.slt.rivals import sentences

PAPER = "singular_mdl"  # this paper's key in claims.yaml
MIN_RUNS = 3  # on none of which a setting was chosen
MIN_EPS = 3
JUDGES: Judges[SltResults] = Judges()


def judge(claims: Sequence[Claim], results: SltResults) -> pd.DataFrame:
    """Judge this paper's claims, a row each, in their order (`verdicts.table`).

    claims: those of both papers. Raises ValueError unless this paper's claims and the functions
    here are the same.
    """
    own = [claim for claim in claims if claim.paper == PAPER]
    JUDGES.require_same_claims(own)
    return verdicts.table(own, [judge_claim(claim, results) for claim in own])


def judge_claim(claim: Claim, results: SltResults) -> Judgement:
    """Judge one claim; fewer than MIN_RUNS runs give no verdict."""
    if not results.runs:
        return Judgement(NOT_RUN, "", "This profile has no language models (slt.models).")
    judgement = JUDGES.judge(claim, results)
    if judgement.measured and len(results.runs) < MIN_RUNS:
        wanted = f"Needs {MIN_RUNS} runs on which no setting was chosen"
        note = f"{wanted}, has {len(results.runs)}."
        return judgement._replace(verdict=NOT_RUN, note=note, decided="", interval="")
    return judgement


@JUDGES.judges("S1")
def critical_n_q_is_linear_in_llc(claim: Claim, results: SltResults) -> Judgement:
    """R^2 and slope of the linear fit of critical n_q on the LLC; beside them, R^2 for log2 n_q."""
    linear, in_bits, slopes = (
        statistic_by_run(results, "quantization", statistic)
        for statistic in (r2("llc_mean"), r2("llc_mean", "log2"), slope("llc_mean"))
    )
    first, last = results.settings.fit_steps
    note = (
        f"Steps {first} to {last}, eps {results.settings.main_eps:g}. The verdict is on n_q."
        f" Slopes {slopes.text}. {linear.note}"
    )
    measured = f"R^2 of n_q {linear.text}; of log2 n_q {in_bits.text}"
    return judged(
        claim,
        measured,
        note.strip(),
        also=" ".join(
            (
                rivals_text(results, "quantization", linear),
                llc_text(results),
                bits_text(in_bits, linear),
                refined_text(results),
            )
        ),
        samples={"r2": {"": linear.of_run}, "slope": {"": slopes.of_run}},
        r2=linear.mean,
        slope=slopes.mean,
    )


@JUDGES.judges("S2")
def knee_lies_near_the_tolerance(claim: Claim, results: SltResults) -> Judgement:
    """Loss rise at the knee of each step's curve against n_q, the median over steps."""
    require_scheme(results, "quantization")
    curves = results.in_range(results.curve[results.curve.scheme == "quantization"])
    values = {}
    for (model, seed), mine in curves.groupby(RUN, sort=False):
        rises = [rise_at_knee(curve) for _, curve in mine.groupby("step")]
        values[model, seed] = float(np.median(rises))
    rise, eps = RunValues(values), results.settings.main_eps
    note = (
        "Median over checkpoints for each run; curvature of the rise in nats over ln n_q."
        f" eps {eps:g}."
    )
    return judged(
        claim,
        f"rise at the knee {rise.text} nats",
        note,
        also=knee_text(results),
        samples={"rise_at_knee": {"": rise.of_run}, "eps": eps},
        rise_at_knee=rise.mean,
        eps=eps,
    )


@JUDGES.judges("S3")
def tolerance_does_not_matter(claim: Claim, results: SltResults) -> Judgement:
    """Rank correlation over steps of critical n_q at two tolerances, for every pair of them."""
    if len(results.settings.eps) < MIN_EPS:
        raise Missing("Needs three eps.")
    pairs = itertools.combinations(results.settings.eps, 2)
    correlations = {pair: _correlation_between_eps(results, *pair) for pair in pairs}
    parts = {f"eps {a:g} and {b:g}": values for (a, b), values in correlations.items()}
    return judged(
        claim,
        "; ".join(f"{name}: {values.text}" for name, values in parts.items()),
        samples={"spearman": {name: values.of_run for name, values in parts.items()}},
        spearman=[values.mean for values in parts.values()],
    )


def _correlation_between_eps(results: SltResults, eps: float, other_eps: float) -> RunValues:
    require_scheme(results, "quantization")
    others = results.points("quantization", other_eps)[[*RUN, "step", "value"]]

    def statistic(points: pd.DataFrame) -> float:
        both = points.merge(others, on=[*RUN, "step"], suffixes=("", "_other"))
        both = both.dropna(subset="value_other")
        return rank_correlation("value", "value_other")(both)

    return statistic_by_run(results, "quantization", statistic, eps=eps)


@JUDGES.judges("S4")
def llc_rises_along_training(claim: Claim, results: SltResults) -> Judgement:
    """Rank correlation of step and LLC; the note has it over the whole training."""
    in_range, whole = (
        RunValues({
            run: rank_correlation("step", "llc_mean")(mine)
            for run, mine in points.groupby(RUN, sort=False)
        })
        for points in (results.in_range(results.llc), results.llc)
    )  # fmt: skip
    flagged = int(results.llc["flags"].notna().sum())
    note = (
        f"Over all checkpoints: {whole.text}."
        f" {flagged} of {len(results.llc)} estimates carry a flag."
    )
    return judged(
        claim,
        f"Spearman {in_range.text}",
        note,
        also=llc_text(results),
        samples={"spearman": {"": in_range.of_run}},
        spearman=in_range.mean,
    )


@JUDGES.judges("S5")
def critical_fraction_rises_with_llc(claim: Claim, results: SltResults) -> Judgement:
    """Rank correlation of the LLC and the critical fraction of parameters (SVD)."""
    return _correlated_with_llc(claim, results, "factorization")


@JUDGES.judges("S6")
def max_quantisation_fits_worse(claim: Claim, results: SltResults) -> Judgement:
    """R^2 on the LLC of loss-minimising quantisation, minus that of max-|w| quantisation."""
    by_loss, by_max = (
        statistic_by_run(results, scheme, r2("llc_mean"))
        for scheme in ("quantization", "quantization_max")
    )
    difference = RunValues(
        {run: by_loss.of_run[run] - by_max.of_run[run] for run in by_loss.of_run}
    )
    measured = (
        f"difference {difference.text}; by loss {by_loss.mean:.3f}, by max|w| {by_max.mean:.3f}"
    )
    return judged(
        claim,
        measured,
        by_max.note,
        samples={"r2_difference": {"": difference.of_run}},
        r2_difference=difference.mean,
    )


@JUDGES.judges("S7")
def critical_relative_noise_falls_with_llc(claim: Claim, results: SltResults) -> Judgement:
    """Rank correlation of the LLC and the critical relative noise."""
    return _correlated_with_llc(claim, results, "noise_relative")


def _correlated_with_llc(claim: Claim, results: SltResults, scheme: str) -> Judgement:
    values = statistic_by_run(results, scheme, rank_correlation("llc_mean"))
    linear = statistic_by_run(results, scheme, r2("llc_mean"))
    return judged(
        claim,
        f"Spearman {values.text}",
        values.note,
        also=f"{rivals_text(results, scheme, linear)} {llc_text(results)}",
        samples={"spearman": {"": values.of_run}},
        spearman=values.mean,
    )


@JUDGES.judges("S8")
def llc_predicts_better_than_controls(claim: Claim, results: SltResults) -> Judgement:
    """R^2 of critical n_q on the LLC, against those on tr(H) and on the critical sigma of noise."""
    llc, trace = (
        statistic_by_run(results, "quantization", r2(x)) for x in ("llc_mean", "hessian_trace")
    )
    sigma = statistic_by_run(_with_sigma(results), "quantization", r2("sigma"))
    measured = f"R^2 on LLC {llc.text}; on tr(H) {trace.text}; on critical sigma {sigma.text}"
    note = "Controls; not in the paper."
    return judged(
        claim,
        measured,
        note,
        also=" ".join(
            (*sentences(results), rivals_text(results, "quantization", llc), llc_text(results))
        ),
        samples={
            "r2_on_llc": {"": llc.of_run},
            "r2_on_trace": {"": trace.of_run},
            "r2_on_sigma": {"": sigma.of_run},
        },
        r2_on_llc=llc.mean,
        r2_on_trace=trace.mean,
        r2_on_sigma=sigma.mean,
    )


def _with_sigma(results: SltResults) -> SltResults:
    """The critical sigma of plain noise as one more column beside the LLC."""
    require_scheme(results, "noise_absolute")
    sigma = results.values("noise_absolute", "sigma").dropna()
    return dataclasses.replace(results, llc=results.llc.merge(sigma, on=[*RUN, "step"]))


def verdicts_json(table: pd.DataFrame) -> str:
    """The judgements for the report of both papers: id -> the fields of a `Judgement`."""
    kept = table.set_index("id")[list(Judgement._fields)].to_dict("index")
    return json.dumps(kept, indent=1) + "\n"
