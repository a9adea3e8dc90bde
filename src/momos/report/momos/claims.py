"""The claims about MoMos: a function each, which measures the claim's statistic and has it judged.

What the grid has beyond the paper counts too. Where the paper's own configurations alone would
change a verdict, its note says so.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypedDict

import numpy as np
import pandas as pd

from momos import theory
from momos.files import atomic
from momos.report.momos.comparison import compare_accuracy
from momos.report.momos.evidence import (
    RUN,
    Evidence,
    accuracies,
    count_text,
    measured_values,
    points_text,
    with_capacity,
)
from momos.report.shared import results, verdicts
from momos.report.shared.claims import Claim
from momos.report.shared.statistics import spearman, wilson
from momos.report.shared.verdicts import (
    NOT_COMPARABLE,
    NOT_RUN,
    NOT_SUPPORTED,
    SUPPORTED,
    Judgement,
    Judges,
    Missing,
    judged,
)

PAPER = "momos"  # this paper's key in claims.yaml
COMPRESSORS = ("gzip", "lzma", "zstd")


class ComponentGrid(TypedDict):
    """Where `theory.check` looks for counterexamples."""

    max_blocks: int
    num_weights: tuple[int, ...]
    block_sizes: tuple[int, ...]
    capacities: tuple[float, ...]


COMPONENT_GRID: ComponentGrid = {
    "max_blocks": 64,
    "num_weights": (24, 60, 120),
    "block_sizes": tuple(range(1, 13)),
    "capacities": (0.005, 0.01, 0.05, 0.1, 0.5),
}
JUDGES: Judges[Evidence] = Judges()


def judge(claims: Sequence[Claim], evidence: Evidence) -> pd.DataFrame:
    """Judge the claims of both papers, a row each, in their order (`verdicts.table`).

    Raises ValueError unless this paper's claims and the functions here are the same.
    """
    JUDGES.require_same_claims(claim for claim in claims if claim.paper == PAPER)
    return verdicts.table(claims, [judge_claim(claim, evidence) for claim in claims])


def judge_claim(claim: Claim, evidence: Evidence) -> Judgement:
    """Judge one claim, with what a reader has to know beside the verdict."""
    if claim.paper != PAPER:
        not_run = Judgement(NOT_RUN, "", "The stage `slt_report` has not run.")
        return evidence.singular.get(claim.id, not_run)
    judgement = JUDGES.judge(claim, evidence)
    if claim.id not in JUDGES.about_runs or judgement.verdict not in (SUPPORTED, NOT_SUPPORTED):
        return judgement
    notes = [judgement.note]
    alone = JUDGES.judge(claim, evidence.paper_only)
    if alone.verdict != judgement.verdict:
        notes.append(
            f"On the paper's own configurations alone: {alone.verdict} ({alone.measured})."
        )
    if not evidence.comparable:
        notes.append(
            f"On {evidence.source}, at most {evidence.epochs} epochs:"
            " not the paper's data, recipe or budget."
        )
    return judgement._replace(note=" ".join(note for note in notes if note))


def read_singular(path: Path) -> dict[str, Judgement]:
    """Read what `slt_report` judged: id -> judgement; nothing where that stage has not run.

    Raises ValueError naming a damaged file.
    """
    if not path.is_file():
        return {}
    return {name: Judgement(**values) for name, values in atomic.read_json(path).items()}


@JUDGES.judges("M1", about_runs=False)
def zoo_models_become_simpler(claim: Claim, evidence: Evidence) -> Judgement:
    """Share of models from elsewhere whose BDM ratio lies below 1, with Wilson's interval.

    With fewer models than the claim needs there is no verdict, and the share is of all pairs.
    """
    source, num_models = claim.parameters["source"], claim.parameters["num_models"]
    zoo = evidence.survey[evidence.survey.source == source]
    is_judged = len(zoo) >= num_models
    trained = evidence.survey[evidence.survey.source != results.CONTROL]
    ratios = measured_values(zoo if is_judged else trained, "bdm_1d_ratio")
    below = int((ratios < 1).sum())
    low, high = wilson(below, len(ratios))
    share = below / len(ratios)
    measured = f"{below} of {len(ratios)} = {share:.3f}, 95 % interval {low:.3f} to {high:.3f}"
    if is_judged:
        return judged(claim, measured, share_below_1=share)
    note = f"Needs {num_models} {source} models; the share is of {len(ratios)} other pairs."
    return Judgement(NOT_RUN, measured, note)


@JUDGES.judges("M2")
def trained_configurations_are_simpler(claim: Claim, evidence: Evidence) -> Judgement:
    """Share of cells whose mean BDM ratio lies below 1; latent weights are counted apart."""
    for model in evidence.models:
        for family in ("baseline", "qat", "momos"):
            evidence.family_cells(model, family)
    ratios = measured_values(evidence.deployed, "bdm_1d_ratio")
    latent_cells = evidence.cells[evidence.cells.weights == "latent"]
    latent = measured_values(latent_cells, "bdm_1d_ratio")
    measured = (
        f"{count_text(ratios < 1)} deployed;"
        f" latent weights of quantised cells {count_text(latent < 1)}"
    )
    largest = evidence.deployed.loc[evidence.deployed.bdm_1d_ratio.idxmax()]
    note = f"The largest: {largest.bdm_1d_ratio:.3f} ({largest.title}, {largest.label})."
    return judged(claim, measured, note, share_below_1=_share(ratios < 1))


@JUDGES.judges("M3")
def distortion_falls_with_loss(claim: Claim, evidence: Evidence) -> Judgement:
    """Relative distortion of each MoMos run at its last epoch over that at its first.

    And the rank correlation of distortion and validation loss over epochs, the median of all runs.
    An imported run may have relative distortion alone: the correlation leaves it out.
    """
    ratios, correlations = [], []
    for _, rows in evidence.momos_epochs().groupby(RUN, sort=False):
        if len(rows) < 2:
            raise Missing("Needs two epochs or more.")
        distortion = measured_values(rows, "relative_distortion")
        ratios.append(distortion[-1] / distortion[0] if distortion[0] else math.nan)
        if rows.imported.iloc[0] and rows.distortion.isna().all():
            continue
        loss = measured_values(rows, "val_loss")
        correlations.append(spearman(measured_values(rows, "distortion"), loss))
    if not correlations:
        raise Missing("No run has its distortion, only a relative one.")
    median = float(np.median(correlations))
    measured = (
        f"fell in {count_text(np.array(ratios) < 1)} runs, largest ratio {np.max(ratios):.3f};"
        f" median correlation {median:.3f}"
    )
    note = _relative_only_note(len(correlations), len(ratios) - len(correlations))
    return judged(claim, measured, note, distortion_ratio=ratios, median_correlation=median)


def _relative_only_note(num_correlated: int, num_left_out: int) -> str:
    if not num_left_out:
        return ""
    return (
        f"The correlation is over {num_correlated} runs:"
        f" {num_left_out} imported ones have relative distortion alone."
    )


@JUDGES.judges("M4")
def momos_recovers_the_weights(claim: Claim, evidence: Evidence) -> Judgement:
    """Relative distortion at each run's best epoch, the median of every configuration."""
    rows = evidence.momos_epochs()
    best = rows[rows.best.astype(str) == "True"]
    if best.groupby(RUN).ngroups < rows.groupby(RUN).ngroups:
        raise Missing("Some run has no best epoch.")
    measured_values(best, "relative_distortion")
    medians = best.groupby(["title", "label"], sort=False).relative_distortion.median()
    (condition,) = claim.conditions
    close = condition.met({condition.name: medians.to_numpy()})
    measured = (
        f"below {condition.value} in {count_text(close)} configurations;"
        f" median of medians {medians.median():.3f}"
    )
    note = (
        f"Largest {medians.max():.3f} ({', '.join(medians.idxmax())}),"
        f" smallest {medians.min():.3f} ({', '.join(medians.idxmin())})."
    )
    return judged(claim, measured, note, median_relative_distortion=medians.to_numpy())


@JUDGES.judges("M5")
def large_capacity_keeps_accuracy(claim: Claim, evidence: Evidence) -> Judgement:
    """Accuracy that MoMos loses with blocks of 2 and 10 % capacity, by model."""
    drops = {
        model: evidence.accuracy_drop(model, "momos", block_size=2, capacity=0.10)
        for model in evidence.every_model()
    }
    return judged(claim, points_text(drops), drop_in_points=list(drops.values()))


@JUDGES.judges("M6")
def momos_compresses_more_at_similar_accuracy(claim: Claim, evidence: Evidence) -> Judgement:
    """Largest RAC of MoMos and of QAT cells near the baseline's accuracy, by model.

    A family without such a cell has none, which is smaller than any RAC.
    """
    margin = claim.parameters["within_points"]
    racs: dict[str, list[float]] = {"momos": [], "qat": []}
    models = evidence.every_model()
    for model in models:
        for family, largest in racs.items():
            largest.append(_largest_rac(evidence, model, family, margin))
    measured = "; ".join(
        f"{model} {_rac_text(momos)} against {_rac_text(qat)}"
        for model, momos, qat in zip(models, racs["momos"], racs["qat"], strict=True)
    )
    note = (
        f"Within {margin} point: not more than {margin} point below the baseline;"
        " none counts as smaller than any."
    )
    return judged(claim, measured, note, momos_rac=racs["momos"], qat_rac=racs["qat"])


def _largest_rac(evidence: Evidence, model: str, family: str, margin: float) -> float:
    """The largest RAC of cells at most `margin` points below the baseline; -inf without any."""
    cells = evidence.family_cells(model, family)
    drops = np.round(evidence.baseline_accuracy(model) - accuracies(cells), 9)
    return float(max(measured_values(cells, "rac")[drops <= margin], default=-math.inf))


def _rac_text(rac: float) -> str:
    return "none" if math.isinf(rac) else f"{rac:.2f}"


@JUDGES.judges("M7")
def tiny_vit_keeps_accuracy(claim: Claim, evidence: Evidence) -> Judgement:
    """Accuracy that Tiny-ViT loses with blocks of 2 and 0.5 % capacity."""
    evidence.require_models(["tiny_vit"])
    drop = evidence.accuracy_drop("tiny_vit", "momos", block_size=2, capacity=0.005)
    return judged(claim, points_text({"tiny_vit": drop}), drop_in_points=drop)


@JUDGES.judges("M8")
def resnet20_momos_beats_qat(claim: Claim, evidence: Evidence) -> Judgement:
    """ResNet20's least accurate MoMos cell with blocks of 2, against its most accurate QAT cell."""
    evidence.require_models(["resnet20"])
    momos = evidence.family_cells("resnet20", "momos")
    qat = evidence.family_cells("resnet20", "qat")
    smallest = accuracies(momos[momos.block_size == 2]).min()
    largest = accuracies(qat).max()
    measured = f"{smallest:.2f} % against {largest:.2f} %"
    return judged(claim, measured, smallest_momos_accuracy=smallest, largest_qat_accuracy=largest)


@JUDGES.judges("M9")
def large_blocks_need_capacity(claim: Claim, evidence: Evidence) -> Judgement:
    """Rank correlation of block size and accuracy lost, for each model of the ablation.

    Accuracy is lost from the largest capacity to the smallest.
    """
    ablation = evidence.evaluation[evidence.evaluation.grid == "ablation"]
    cells = results.cells(evidence.evaluation, grid="ablation") if len(ablation) else None
    if cells is None or cells.block_size.nunique() < 3 or cells.capacity.nunique() < 2:
        raise Missing("Needs an ablation of three block sizes or more and two capacities or more.")
    correlations, parts = [], []
    for model, rows in cells.groupby("model", sort=False):
        drops = _drops_by_block_size(model, rows)
        correlations.append(spearman(drops.index, drops.round(9)))
        shown = ", ".join(f"s={int(size)}: {value:.2f}" for size, value in drops.items())
        parts.append(f"{model} Spearman {correlations[-1]:.3f} (drop in points {shown})")
    note = (
        f"Ablation of {', '.join(cells.model.unique())},"
        f" seed {', '.join(map(str, sorted(ablation.seed.unique())))} (the paper: three models)."
        " Validation accuracy of the last weights;"
        " non-decreasing is judged by the rank correlation, as the threshold says."
    )
    return judged(claim, "; ".join(parts), note, spearman=correlations)


def _drops_by_block_size(model: str, rows: pd.DataFrame) -> pd.Series:
    """Points of validation accuracy lost from the largest to the smallest capacity."""
    accuracy = rows.pivot(index="block_size", columns="capacity", values="val_accuracy_last")
    accuracy = accuracy.sort_index(axis=1)
    if accuracy.isna().any(axis=None):
        raise Missing(f"Some cell of {model}'s ablation holds no validation accuracy.")
    return 100 * (accuracy.iloc[:, -1] - accuracy.iloc[:, 0])


@JUDGES.judges("M10")
def bdm_ratio_falls_with_capacity(claim: Claim, evidence: Evidence) -> Judgement:
    """Rank correlation of capacity and BDM ratio, for MLP and ResNet20 at block sizes 2 and 4."""
    evidence.require_models(["mlp", "resnet20"])
    correlations = {}
    for model in ("mlp", "resnet20"):
        momos = evidence.family_cells(model, "momos")
        for size in (2, 4):
            rows = with_capacity(momos[momos.block_size == size])
            correlations[f"{model} s={size}"] = spearman(
                measured_values(rows, "capacity"), measured_values(rows, "bdm_1d_ratio")
            )
    measured = "; ".join(f"{name} {value:.3f}" for name, value in correlations.items())
    return judged(claim, measured, spearman=list(correlations.values()))


@JUDGES.judges("M11")
def larger_blocks_are_simpler(claim: Claim, evidence: Evidence) -> Judgement:
    """Share of capacities at which blocks of 4 have a lower BDM ratio than blocks of 2."""
    evidence.require_models(["mlp", "resnet20"])
    lower: list[bool] = []
    parts = []
    for model in ("mlp", "resnet20"):
        momos = with_capacity(evidence.family_cells(model, "momos"))
        measured_values(momos, "bdm_1d_ratio")
        small, large = (
            momos[momos.block_size == size].set_index("capacity").bdm_1d_ratio for size in (2, 4)
        )
        shared = [capacity for capacity in small.index if capacity in large.index]
        here = [bool(large[capacity] < small[capacity]) for capacity in shared]
        lower += here
        parts.append(f"{model} {count_text(here)}")
    measured = "; ".join([count_text(lower), *parts])
    return judged(claim, measured, share_lower=_share(lower))


@JUDGES.judges("M12", about_runs=False)
def published_rac_follows(claim: Claim, evidence: Evidence) -> Judgement:
    """Published RAC values that Eq. 21 gives to the printed digit."""
    agrees = evidence.published.agrees.to_numpy(bool)
    momos = evidence.published[evidence.published.method == "momos"]
    parts = [
        f"{model} {count_text(rows.agrees)}" for model, rows in momos.groupby("model", sort=False)
    ]
    note = (
        "From the published models' own numbers of weights (MobileViT's assumed);"
        " see the RAC table for both numbers of each cell."
    )
    measured = f"{count_text(agrees)}; MoMos cells: {'; '.join(parts)}"
    return judged(claim, measured, note, num_agreeing=int(agrees.sum()))


@JUDGES.judges("M13")
def momos_lies_in_the_lower_regime(claim: Claim, evidence: Evidence) -> Judgement:
    """Share of MoMos cells whose description is shorter than that of free weights (L < L_0)."""
    cells = pd.concat([evidence.family_cells(model, "momos") for model in evidence.models])
    lower = measured_values(cells, "lower_complexity") == 1
    return judged(claim, count_text(lower), share_in_lower_regime=_share(lower))


@JUDGES.judges("M14", about_runs=False)
def number_of_components_behaves(claim: Claim, evidence: Evidence) -> Judgement:
    """Counterexamples to Cor. 3.9 and Prop. 3.10 on a grid, in exact integers."""
    counterexamples = theory.check(**COMPONENT_GRID)
    grid = ", ".join(f"{key} {value}" for key, value in COMPONENT_GRID.items())
    measured = f"{len(counterexamples)} counterexamples"
    note = f"Exact integers over {grid}."
    return judged(claim, measured, note, num_counterexamples=len(counterexamples))


@JUDGES.judges("M15")
def ordinary_compressors_like_momos(claim: Claim, evidence: Evidence) -> Judgement:
    """Compression ratio of each MoMos cell against its model's baseline, by compressor."""
    momos, baseline, parts = [], [], []
    for name in COMPRESSORS:
        for model in evidence.models:
            before = measured_values(evidence.family_cells(model, "baseline"), name)[0]
            here = measured_values(evidence.family_cells(model, "momos"), name)
            momos.append(here)
            baseline.append(np.full_like(here, before))
            parts.append(f"{name} {model} {count_text(here > before)}")
    ratios, baselines = np.concatenate(momos), np.concatenate(baseline)
    measured = "; ".join([count_text(ratios > baselines), *parts])
    return judged(claim, measured, momos_ratio=ratios, baseline_ratio=baselines)


@JUDGES.judges("M16", about_runs=False)
def accuracies_are_reproduced(claim: Claim, evidence: Evidence) -> Judgement:
    """Published accuracies beside those measured here, cell by cell (`compare_accuracy`).

    One cell outside refutes the claim; all must have been run for it to be supported.
    """
    cells = compare_accuracy(evidence, claim)
    run = cells[cells.verdict != NOT_RUN]
    not_run = len(cells) - len(run)
    if not evidence.comparable:
        measured = f"{len(run)} of {len(cells)} published cells have a counterpart"
        reason = f"Not the paper's setting: {'; '.join(evidence.departures)}."
        return Judgement(NOT_COMPARABLE, measured, reason)
    inside = run.verdict == SUPPORTED
    measured = f"{count_text(inside)} cells within" if len(run) else ""
    if inside.all() and not_run:
        note = f"{not_run} of {len(cells)} published cells were not run."
        return Judgement(NOT_RUN, measured, note)
    note = f"One cell outside refutes it; {not_run} of {len(cells)} cells were not run."
    return Judgement(verdicts.verdict(inside.all()), measured, note if not_run else "")


@JUDGES.judges("M17")
def four_bits_collapse(claim: Claim, evidence: Evidence) -> Judgement:
    """Accuracy that QAT at 4 bits loses against the baseline, by model; the note has 2 bits."""
    models = evidence.every_model()
    drops = {model: evidence.accuracy_drop(model, "qat", bits=4) for model in models}
    note = f"At 2 bits: {points_text(lower)}." if (lower := _drops_at_2_bits(evidence)) else ""
    return judged(claim, points_text(drops), note, drop_in_points=list(drops.values()))


def _drops_at_2_bits(evidence: Evidence) -> Mapping[str, float]:
    cells = evidence.deployed
    run = set(cells.model[(cells.family == "qat") & (cells.bits == 2)])
    return {
        model: evidence.accuracy_drop(model, "qat", bits=2)
        for model in evidence.models
        if model in run
    }


def _share(met: Sequence[bool] | np.ndarray) -> float:
    """The share that is true; exactly 1 where all are."""
    return float(np.mean(met))
