"""The claims about MoMos: a function each, which measures the claim's statistic and has it judged.

What the grid has beyond the paper counts too. Where the paper's own configurations alone would
change a verdict, its note says so. Accuracies are those of the last weights; `also` has the verdict
with the best ones.
"""

import math
from collections.abc import Hashable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypedDict

import numpy as np
import pandas as pd

from momos import theory
from momos.files import atomic
from momos.methods.method import percent
from momos.report.momos import beside, survey
from momos.report.momos.comparison import compare_accuracy, reproduction_decision
from momos.report.momos.evidence import (
    RUN,
    Evidence,
    by_initialization,
    count_text,
    measured_values,
    points_text,
    with_capacity,
)
from momos.report.momos.similar import compare_racs, largest_rac, rac_text
from momos.report.shared import results, verdicts
from momos.report.shared.claims import Claim
from momos.report.shared.decisions import NO, Decision, decide, share_text
from momos.report.shared.statistics import clopper_pearson, spearman
from momos.report.shared.verdicts import (
    NOT_COMPARABLE,
    NOT_RUN,
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
# Claims about accuracy, which the best weights may answer otherwise, and their cells with motifs.
OF_ACCURACY = {
    "M5": "grid == 'main' and block_size == 2 and capacity == 0.1",
    "M6": "grid == 'main'",
    "M7": "grid == 'main' and block_size == 2 and capacity == 0.005 and model == 'tiny_vit'",
    "M8": "grid == 'main' and block_size == 2 and model == 'resnet20'",
    "M9": "grid == 'ablation'",
    "M17": "",  # has none
}
# Second statistics in claims.yaml, of M9 and of M11.
ACCURACY_BY_BLOCK_SIZE = "accuracy_by_block_size"
RATIO_AT_LARGER_BLOCKS = "ratio_at_larger_blocks"
# M3's second condition
MEDIAN = (
    "The correlation is judged by the median of all runs; the interval is that of the mean over"
    " initialisations, each with the median of its runs."
)
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
    if claim.id not in JUDGES.about_runs:
        return judgement
    if judgement.verdict not in verdicts.JUDGED:
        return _with_part(judgement, JUDGES.judge(claim, evidence.of_models_run))
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
    also = [judgement.also]
    if claim.id in OF_ACCURACY:
        best = JUDGES.judge(claim, evidence.best_weights)
        also.append(beside.best_weights_text(judgement, best, evidence, OF_ACCURACY[claim.id]))
        if evidence.remeasured is not None:
            also.append(beside.remeasured_text(JUDGES.judge(claim, evidence.remeasured)))
    return judgement._replace(note=_joined(notes), also=_joined(also))


def _with_part(judgement: Judgement, part: Judgement) -> Judgement:
    """Set beside a claim that lacks models what the others say. part: judged on those alone."""
    if part.verdict not in verdicts.JUDGED:
        return judgement
    numbers = "; ".join(filter(None, (part.measured, part.interval)))
    also = f"On what was run alone: {part.verdict}, decided: {part.decided} ({numbers})."
    return judgement._replace(also=also, part=part.verdict, part_decided=part.decided)


def _joined(texts: Sequence[str]) -> str:
    return " ".join(text for text in texts if text)


def read_singular(path: Path) -> dict[str, Judgement]:
    """Read what `slt_report` judged: id -> judgement; nothing where that stage has not run.

    Raises ValueError naming a damaged file.
    """
    judgements = atomic.read_json(path) if path.is_file() else {}
    return {name: Judgement(**values) for name, values in judgements.items()}


@JUDGES.judges("M1", about_runs=False)
def zoo_models_become_simpler(claim: Claim, evidence: Evidence) -> Judgement:
    """Share of models from elsewhere whose BDM ratio lies below 1, with Clopper-Pearson's interval.

    With fewer models than the claim needs there is no verdict, and the share is of all pairs: one
    an initialisation.
    """
    source, num_models = claim.parameters["source"], claim.parameters["num_models"]
    zoo = survey.pairs(evidence.survey[evidence.survey.source == source])
    is_judged = len(zoo) >= num_models
    trained = evidence.survey[evidence.survey.source != results.CONTROL]
    pairs = zoo if is_judged else survey.pairs(trained)
    is_below = measured_values(pairs, "bdm_1d_ratio") < 1
    below, share = int(is_below.sum()), _share(is_below)
    low, high = clopper_pearson(below, len(pairs))
    measured = f"{below} of {len(pairs)} = {share:.3f}, 95 % interval {low:.3f} to {high:.3f}"
    if is_judged:
        samples = {"share_below_1": {"": dict(enumerate(is_below))}}
        return judged(claim, measured, samples=samples, share_below_1=share)
    note = (
        f"Needs {num_models} {source} models; the share is of {len(pairs)} other pairs,"
        " one an initialisation (of own runs the baseline's)."
    )
    return Judgement(NOT_RUN, measured, note, also=survey.elsewhere_text(trained))


@JUDGES.judges("M2")
def trained_configurations_are_simpler(claim: Claim, evidence: Evidence) -> Judgement:
    """Share of cells whose mean BDM ratio lies below 1; latent weights are counted apart.

    An initialisation is a case against it if some run lies above 1 by more than chance gives.
    """
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
    counted, cases = beside.not_above_chance(evidence.main_rows)
    return judged(
        claim,
        measured,
        note,
        also=beside.chance_text(evidence.main_rows),
        samples={"share_below_1": {counted: cases}},
        share_below_1=_share(ratios < 1),
    )


@JUDGES.judges("M3")
def distortion_falls_with_loss(claim: Claim, evidence: Evidence) -> Judgement:
    """Relative distortion of each MoMos run at its last epoch over that at its first.

    And the rank correlation of distortion and validation loss over epochs, the median of all runs.
    An imported run may have relative distortion alone: the correlation leaves it out.
    """
    ratios: dict[tuple, float] = {}
    correlations: dict[tuple, float] = {}
    for key, rows in evidence.momos_epochs().groupby(RUN, sort=False):
        if len(rows) < 2:
            raise Missing("Needs two epochs or more.")
        distortion = measured_values(rows, "relative_distortion")
        ratios[key] = distortion[-1] / distortion[0] if distortion[0] else math.nan
        if rows.imported.iloc[0] and rows.distortion.isna().all():
            continue
        loss = measured_values(rows, "val_loss")
        correlations[key] = spearman(measured_values(rows, "distortion"), loss)
    if not correlations:
        raise Missing("No run has its distortion, only a relative one.")
    values, median = np.array([*ratios.values()]), float(np.median([*correlations.values()]))
    measured = (
        f"fell in {count_text(values < 1)} runs, largest ratio {np.max(values):.3f};"
        f" median correlation {median:.3f}"
    )
    return judged(
        claim,
        measured,
        _joined([MEDIAN, _relative_only_note(len(correlations), len(ratios) - len(correlations))]),
        also=beside.redraw_text(evidence.momos_epochs()),
        samples={
            "distortion_ratio": _by_configuration(ratios),
            "median_correlation": {"": _medians(correlations)},
        },
        distortion_ratio=values,
        median_correlation=median,
    )


def _by_configuration(values: Mapping[tuple, float]) -> dict[str, dict[Hashable, float]]:
    """Values of runs (model, method, seed) as samples of each model's methods."""
    samples: dict[str, dict[Hashable, float]] = {}
    for (model, method, seed), value in values.items():
        samples.setdefault(f"{model} {method}", {})[seed] = value
    return samples


def _medians(values: Mapping[tuple, float]) -> dict[Hashable, float]:
    """Values of runs (model, method, seed) as the median of each initialisation."""
    groups = pd.Series(values).groupby(level=[0, 2], sort=False)
    return groups.agg(lambda part: float(np.median(part))).to_dict()


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
        f" smallest {medians.min():.3f} ({', '.join(medians.idxmin())}); the verdict is on medians"
        " over seeds, the interval is that of their mean."
    )
    return judged(
        claim,
        measured,
        note,
        also=beside.redraw_text(rows),
        samples={
            "median_relative_distortion": {
                " ".join(name): dict(zip(part.seed, part.relative_distortion, strict=True))
                for name, part in best.groupby(["title", "label"], sort=False)
            }
        },
        median_relative_distortion=medians.to_numpy(),
    )


@JUDGES.judges("M5")
def large_capacity_keeps_accuracy(claim: Claim, evidence: Evidence) -> Judgement:
    """Accuracy that MoMos loses with blocks of 2 and 10 % capacity, by model."""
    cell = {"block_size": 2, "capacity": 0.10}
    return _judge_drops(claim, evidence, evidence.every_model(), "momos", cell)


def _judge_drops(
    claim: Claim,
    evidence: Evidence,
    models: Sequence[str],
    family: str,
    cell: Mapping[str, float],
    note: str = "",
) -> Judgement:
    """Judge the accuracy that the cell with these settings loses against the baseline."""
    drops = {model: evidence.accuracy_drop(model, family, **cell) for model in models}
    samples = {model: evidence.accuracy_drops(model, family, **cell) for model in models}
    return judged(
        claim,
        points_text(drops),
        note,
        samples={"drop_in_points": samples},
        drop_in_points=list(drops.values()),
    )


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
            largest.append(largest_rac(evidence, model, family, margin))
    measured = "; ".join(
        f"{model} {rac_text(momos)} against {rac_text(qat)}"
        for model, momos, qat in zip(models, racs["momos"], racs["qat"], strict=True)
    )
    note = (
        f"Within {margin} point: not more than {margin} point below the baseline;"
        " none counts as smaller than any."
    )
    momos, qat = racs.values()
    is_met = claim.met(momos_rac=momos, qat_rac=qat)
    decision = compare_racs(evidence, models, margin, met=is_met)
    return judged(claim, measured, note, decision=decision, momos_rac=momos, qat_rac=qat)


@JUDGES.judges("M7")
def tiny_vit_keeps_accuracy(claim: Claim, evidence: Evidence) -> Judgement:
    """Accuracy that Tiny-ViT loses with blocks of 2 and 0.5 % capacity."""
    evidence.require_models(["tiny_vit"])
    cell = {"block_size": 2, "capacity": 0.005}
    return _judge_drops(claim, evidence, ["tiny_vit"], "momos", cell)


@JUDGES.judges("M8")
def resnet20_momos_beats_qat(claim: Claim, evidence: Evidence) -> Judgement:
    """ResNet20's least accurate MoMos cell with blocks of 2, against its most accurate QAT cell.

    Every such MoMos cell must beat every QAT cell: their pairs decide.
    """
    evidence.require_models(["resnet20"])
    momos = evidence.family_cells("resnet20", "momos")
    momos = momos[momos.block_size == 2]
    qat = evidence.family_cells("resnet20", "qat")
    smallest, largest = evidence.accuracies(momos).min(), evidence.accuracies(qat).max()
    runs = {
        method: evidence.accuracies_by_seed("resnet20", method)
        for method in (*momos.method, *qat.method)
    }
    pairs = {f"{a} and {b}": (runs[a], runs[b]) for a in momos.method for b in qat.method}
    return judged(
        claim,
        f"{smallest:.2f} % against {largest:.2f} %",
        samples={
            "smallest_momos_accuracy": {name: pair[0] for name, pair in pairs.items()},
            "largest_qat_accuracy": {name: pair[1] for name, pair in pairs.items()},
        },
        smallest_momos_accuracy=smallest,
        largest_qat_accuracy=largest,
    )


@JUDGES.judges("M9")
def large_blocks_need_capacity(claim: Claim, evidence: Evidence) -> Judgement:
    """Rank correlation of block size and accuracy lost, for each model of the ablation.

    Accuracy is lost from the largest capacity to the smallest. That has a floor: a block size whose
    accuracy is low at every capacity loses little. So the accuracy at each capacity is judged too.
    """
    column = f"test_accuracy_{evidence.checkpoint}"
    rows = evidence.evaluation[evidence.evaluation.grid == "ablation"]
    if rows.block_size.nunique() < 3 or rows.capacity.nunique() < 2:
        raise Missing("Needs an ablation of three block sizes or more and two capacities or more.")
    correlations, samples, parts = [], {}, []
    for model, table, by_seed in _ablations(rows, column):
        drops = (table.iloc[:, -1] - table.iloc[:, 0]).round(9)
        correlations.append(spearman(drops.index, drops))
        samples[model] = {
            seed: spearman(own.index, (own.iloc[:, -1] - own.iloc[:, 0]).round(9))
            for seed, own in by_seed.items()
        }
        shown = ", ".join(f"s={int(size)}: {value:.2f}" for size, value in drops.items())
        parts.append(f"{model} Spearman {correlations[-1]:.3f} (drop in points {shown})")
    note = (
        f"Ablation of {', '.join(samples)},"
        f" seed {', '.join(map(str, sorted(rows.seed.unique())))} (the paper: three models)."
        f" Test accuracy of the {evidence.checkpoint} weights;"
        " non-decreasing is judged by the rank correlation, as the threshold says."
    )
    return judged(
        claim,
        "; ".join(parts),
        note,
        also=_accuracy_by_block_size(claim, rows, column),
        samples={"spearman": samples},
        spearman=correlations,
    )


Ablation = tuple[str, pd.DataFrame, dict[Hashable, pd.DataFrame]]


def _ablations(rows: pd.DataFrame, column: str) -> Iterator[Ablation]:
    """Each model of the ablation: accuracy in percent over seeds, and that of each seed.

    A table has a row per block size and a column per capacity, both in rising order. Raises Missing
    for a cell without accuracy.
    """
    for model, mine in rows.groupby("model", sort=False):
        lacking = Missing(f"Some cell of {model}'s ablation holds no test accuracy.")
        if column not in mine or mine[column].isna().any():
            raise lacking
        whole = 100 * mine.pivot_table(index="block_size", columns="capacity", values=column)
        if whole.isna().any(axis=None):
            raise lacking
        yield (
            model,
            whole,
            {
                seed: 100 * own.pivot(index="block_size", columns="capacity", values=column)
                for seed, own in mine.groupby("seed")
            },
        )


def _accuracy_by_block_size(claim: Claim, rows: pd.DataFrame, column: str) -> str:
    """The second statistic: rank correlation of block size and accuracy, at each capacity."""
    second, means, samples = claim.second(ACCURACY_BY_BLOCK_SIZE), [], {}
    parts = []
    for model, table, by_seed in _ablations(rows, column):
        for capacity in table.columns:
            means.append(spearman(table.index, table[capacity].round(9)))
            name = f"{model} C={percent(capacity)} %"
            samples[name] = {
                seed: spearman(own.index, own[capacity].round(9)) for seed, own in by_seed.items()
            }
            parts.append(f"{name} {means[-1]:.3f}")
    met = second.met(spearman_at_capacity=means)
    decision = decide(second, met, spearman_at_capacity=samples)
    return (
        "Without a floor, Spearman of block size and accuracy at each capacity"
        f" ({second.conditions[0].operator} {second.conditions[0].value}):"
        f" {verdicts.verdict(met)}, decided: {decision.decided} ({', '.join(parts)};"
        f" {decision.interval})."
    )


@JUDGES.judges("M10")
def ratio_falls_with_capacity(claim: Claim, evidence: Evidence) -> Judgement:
    """Rank correlation of capacity and BDM ratio, for blocks of 2 and of 4."""
    correlations, samples = {}, {}
    for model in evidence.require_models(["mlp", "resnet20"]):
        momos = evidence.family_cells(model, "momos")
        runs = evidence.main_rows[evidence.main_rows.model == model]
        for size in (2, 4):
            cells = with_capacity(momos[momos.block_size == size])
            own = runs[runs.method.isin(cells.method)]
            name = f"{model} s={size}"
            correlations[name] = _ratio_correlation(cells)
            samples[name] = {seed: _ratio_correlation(part) for seed, part in own.groupby("seed")}
    measured = "; ".join(f"{name} {value:.3f}" for name, value in correlations.items())
    return judged(
        claim,
        measured,
        samples={"spearman": samples},
        spearman=list(correlations.values()),
    )


def _ratio_correlation(rows: pd.DataFrame) -> float:
    return spearman(measured_values(rows, "capacity"), measured_values(rows, "bdm_1d_ratio"))


@JUDGES.judges("M11")
def larger_blocks_are_simpler(claim: Claim, evidence: Evidence) -> Judgement:
    """Share of capacities at which blocks of 4 have a lower BDM ratio than blocks of 2.

    At each of them the difference of the two ratios, seed by seed, decides.
    """
    models = evidence.require_models(["mlp", "resnet20"])
    lower: list[bool] = []
    parts: list[str] = []
    samples: dict[str, dict[Hashable, float]] = {}
    for model in models:
        momos = with_capacity(evidence.family_cells(model, "momos"))
        measured_values(momos, "bdm_1d_ratio")
        here = [difference < 0 for difference in _ratios_above_small_blocks(momos).values()]
        lower += here
        parts.append(f"{model} {count_text(here)}")
        runs = evidence.main_rows[evidence.main_rows.model == model]
        by_seed = {
            int(seed): _ratios_above_small_blocks(own)
            for seed, own in runs[runs.method.isin(momos.method)].groupby("seed")
        }
        samples |= {
            f"{model} C={percent(capacity)} %": {
                seed: differences[capacity]
                for seed, differences in by_seed.items()
                if capacity in differences
            }
            for capacity in _ratios_above_small_blocks(momos)
        }
    share, second = _share(lower), claim.second(RATIO_AT_LARGER_BLOCKS)
    decision = decide(second, claim.met(share_lower=share), ratio_difference=samples)
    return judged(
        claim, "; ".join([count_text(lower), *parts]), decision=decision, share_lower=share
    )


def _ratios_above_small_blocks(rows: pd.DataFrame) -> dict[float, float]:
    """The BDM ratio with blocks of 4 minus that with blocks of 2, by capacity that both have."""
    small, large = (
        rows[rows.block_size == size].set_index("capacity").bdm_1d_ratio for size in (2, 4)
    )
    return {
        capacity: float(large[capacity] - small[capacity])
        for capacity in small.index
        if capacity in large.index
    }


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
    every = by_initialization(evidence.momos_rows, _all_lower)
    samples = {"share_in_lower_regime": {"initialisations with every cell below": every}}
    return judged(claim, count_text(lower), samples=samples, share_in_lower_regime=_share(lower))


def _all_lower(runs: pd.DataFrame) -> bool:
    return bool((runs.lower_complexity == 1).all())


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
    families = evidence.main_rows[evidence.main_rows.family.isin(["baseline", "momos"])]
    every = by_initialization(families, _all_compress_better)
    interval = share_text("initialisations with every cell larger", every)
    decision = Decision(NO, interval)
    return judged(claim, measured, decision=decision, momos_ratio=ratios, baseline_ratio=baselines)


def _all_compress_better(runs: pd.DataFrame) -> bool:
    """Whether all MoMos runs compress better than the baseline of the same initialisation."""
    names, is_momos = list(COMPRESSORS), runs.family == "momos"
    if is_momos.all():
        return False
    return bool((runs[is_momos][names] > runs[~is_momos][names].iloc[0]).all(axis=None))


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
    decided, interval = reproduction_decision(run, met=bool(inside.all()))
    verdict = verdicts.verdict(inside.all())
    return Judgement(verdict, measured, note if not_run else "", decided, interval)


@JUDGES.judges("M17")
def four_bits_collapse(claim: Claim, evidence: Evidence) -> Judgement:
    """Accuracy that QAT at 4 bits loses against the baseline, by model; the note has 2 bits."""
    note = f"At 2 bits: {points_text(lower)}." if (lower := _drops_at_2_bits(evidence)) else ""
    return _judge_drops(claim, evidence, evidence.every_model(), "qat", {"bits": 4}, note)


def _drops_at_2_bits(evidence: Evidence) -> Mapping[str, float]:
    cells = evidence.deployed
    run = set(cells.model[(cells.family == "qat") & (cells.bits == 2)])
    models = [model for model in evidence.models if model in run]
    return {model: evidence.accuracy_drop(model, "qat", bits=2) for model in models}


def _share(met: Sequence[bool] | np.ndarray) -> float:
    """The share that is true; exactly 1 where all are."""
    return float(np.mean(met))
