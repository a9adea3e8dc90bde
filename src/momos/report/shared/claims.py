"""Each claim of data/paper/claims.yaml -> the measured statistic -> a verdict, exactly by its
statistic and threshold.

    SUPPORTED, NOT SUPPORTED   the statistic meets its threshold, or not
    NOT RUN                    runs that it needs are missing, or hold missing values: never a guess
    NOT COMPARABLE             about absolute published accuracies, and the data or the budget differ from the paper's

Test accuracies are those of the last weights, in percent, means over seeds; "MoMos" and "QAT" cells
are those of the one method alone (both together is beyond the paper). A claim about all cells of
the paper needs the paper's twelve configurations for every model of the grid; one about every
model, or one that names models, needs those models in the grid. What the grid has beyond the paper
counts too; where the paper's own configurations alone would change the verdict, the note says so.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from momos import theory
from momos.files import atomic
from momos.report.shared import results

SUPPORTED, NOT_SUPPORTED, NOT_RUN, NOT_COMPARABLE = VERDICTS = (
    "SUPPORTED",
    "NOT SUPPORTED",
    "NOT RUN",
    "NOT COMPARABLE",
)
TABLE1_MODELS = ("mlp", "resnet20", "tiny_vit")
ZOO_SOURCE, ZOO_SIZE = "timm", 200
SETTINGS = ["family", "bits", "block_size", "capacity"]
SINGULAR = tuple(f"S{number}" for number in range(1, 9))  # the second paper's
PUBLISHED_SEEDS = 3  # behind every published mean (Sec. 4)
COMPRESSORS = ("gzip", "lzma", "zstd")


class Judgement(NamedTuple):
    verdict: str
    measured: str
    note: str = ""


class _Missing(Exception):
    """What a claim needs was not run; the message says what."""


@dataclass(frozen=True)
class Evidence:
    """What was measured (the frames of `results.Results`), what was published
    (`published.rac_check`), and how the training went.
    """

    evaluation: pd.DataFrame
    distortion: pd.DataFrame
    survey: pd.DataFrame
    published: pd.DataFrame
    source: str
    epochs: int
    departures: tuple[str, ...] = ()  # settings that are not the paper's (`published.departures`)
    singular: Mapping[str, Judgement] = field(default_factory=dict)  # `read_singular`

    @property
    def comparable(self) -> bool:
        """With published absolute values: the paper's data, recipe and budget."""
        return not self.departures

    @cached_property
    def cells(self) -> pd.DataFrame:
        """The main grid's cells, means over seeds, both views."""
        return results.cells(self.evaluation)

    @property
    def deployed(self) -> pd.DataFrame:
        return self.cells[self.cells.weights == "deployed"]

    @property
    def models(self) -> list[str]:
        return list(dict.fromkeys(self.deployed.model))

    @property
    def paper_settings(self) -> pd.DataFrame:
        """family, bits, block_size, capacity of the paper's twelve configurations."""
        return self.published.rename(columns={"method": "family"})[SETTINGS].drop_duplicates()

    @cached_property
    def paper_only(self) -> "Evidence":
        """Without what the main grid has beyond the paper, and without distortion along the
        ablation's runs.
        """
        known = [_key(row) for row in self.paper_settings.itertuples()]

        def paper(frame: pd.DataFrame) -> np.ndarray:
            return np.array([_key(row) in known for row in frame.itertuples()], dtype=bool)

        evaluation = self.evaluation[(self.evaluation.grid != "main") | paper(self.evaluation)]
        distortion = self.distortion[(self.distortion.grid == "main") & paper(self.distortion)]
        return dataclasses.replace(self, evaluation=evaluation, distortion=distortion)


def judge(claims: Sequence[dict], evidence: Evidence) -> pd.DataFrame:
    """A row per claim in the file's order: id, where, claim, statistic, threshold, measured,
    verdict, note.

    Raises ValueError unless the claims and the functions here are the same ids.
    """
    ids = [claim["id"] for claim in claims]
    unknown, left = (
        [name for name in ids if name not in CLAIMS],
        [name for name in CLAIMS if name not in ids],
    )
    if unknown or left:
        raise ValueError(
            f"claims.yaml and momos.report.shared.claims must name the same claims; no function: {unknown}, not in the file: {left}"
        )
    rows = []
    for claim in claims:
        shown = {key: str(claim[key]) for key in ("id", "where", "claim", "statistic", "threshold")}
        rows.append(shown | judge_claim(claim["id"], evidence)._asdict())
    return pd.DataFrame(rows)


def judge_claim(name: str, evidence: Evidence) -> Judgement:
    """One claim by its id, with what a reader has to know beside the verdict."""
    found = _tried(name, evidence)
    notes = [found.note]
    if name in MEASURED and found.verdict in (SUPPORTED, NOT_SUPPORTED):
        alone = _tried(name, evidence.paper_only)
        if alone.verdict != found.verdict:
            notes.append(
                f"On the paper's own configurations alone: {alone.verdict} ({alone.measured})."
            )
        if not evidence.comparable:
            notes.append(
                f"On {evidence.source}, at most {evidence.epochs} epochs: not the paper's data, recipe or budget."
            )
    return found._replace(note=" ".join(note for note in notes if note))


def counts(verdicts: pd.DataFrame) -> dict[str, int]:
    """How often each verdict was given, all four of them."""
    return {name: int((verdicts.verdict == name).sum()) for name in VERDICTS}


def compare_accuracy(evidence: Evidence) -> pd.DataFrame:
    """Every published cell beside the grid's own, in percent: here, here_std, difference, allowed,
    bdm_here (of latent weights, as the authors measure QAT), verdict. The verdict is M16's for one
    cell: within 2 combined standard errors or 1 point (3 published seeds).
    """
    cells = {(row.model, *_key(row), row.weights): row for row in evidence.cells.itertuples()}
    rows = []
    for row in evidence.published.rename(columns={"method": "family"}).itertuples():
        deployed, latent = (
            cells.get((row.model, *_key(row), view)) for view in ("deployed", "latent")
        )
        rows.append(_compare_cell(row, deployed, latent, evidence.comparable))
    return evidence.published.reset_index(drop=True).join(pd.DataFrame(rows))


def _compare_cell(published, deployed, latent, comparable: bool) -> dict:
    """deployed, latent: the same cell of the grid, None where there is none."""
    if deployed is None or math.isnan(deployed.test_accuracy_last):
        return dict.fromkeys(
            ("here", "here_std", "difference", "allowed", "bdm_here"), math.nan
        ) | {"verdict": NOT_RUN}
    here, std = 100 * deployed.test_accuracy_last, 100 * deployed.test_accuracy_last_std
    own_error = (
        0.0 if math.isnan(std) else std / math.sqrt(deployed.num_seeds)
    )  # one seed: no spread known
    allowed = max(
        1.0, 2 * math.hypot(own_error, published.accuracy_std / math.sqrt(PUBLISHED_SEEDS))
    )
    difference = _round(here - published.accuracy_mean)
    return {
        "here": here,
        "here_std": std,
        "difference": difference,
        "allowed": allowed,
        "bdm_here": (latent or deployed).bdm_1d_ratio,
        "verdict": _verdict(abs(difference) <= allowed) if comparable else NOT_COMPARABLE,
    }


def wilson(successes: int, total: int, z: float = 1.959963984540054) -> tuple[float, float]:
    """95 % interval of a share (Wilson 1927). Raises ValueError for total below 1."""
    if total < 1:
        raise ValueError(f"wilson needs at least one trial, got {total}")
    share, denominator = successes / total, 1 + z * z / total
    centre = (share + z * z / (2 * total)) / denominator
    half = z * math.sqrt(share * (1 - share) / total + z * z / (4 * total * total)) / denominator
    return centre - half, centre + half


def spearman(x: Sequence[float], y: Sequence[float]) -> float:
    """Rank correlation, ties at their mean rank; NaN where either is constant, so that it meets no
    threshold.
    """
    a, b = (pd.Series(np.asarray(values, dtype=float)).rank().to_numpy() for values in (x, y))
    a, b = a - a.mean(), b - b.mean()
    scale = math.sqrt((a @ a) * (b @ b))
    return float(a @ b) / scale if scale else math.nan


def _tried(name: str, evidence: Evidence) -> Judgement:
    try:
        return CLAIMS[name](evidence)
    except _Missing as missing:
        return Judgement(NOT_RUN, "", str(missing))


def _m1(evidence: Evidence) -> Judgement:
    zoo = evidence.survey[evidence.survey.source == ZOO_SOURCE]
    judged = len(zoo) >= ZOO_SIZE
    ratios = _numbers(
        zoo if judged else evidence.survey[evidence.survey.source != results.CONTROL],
        "bdm_1d_ratio",
    )
    below = int((ratios < 1).sum())
    low, high = wilson(below, len(ratios))
    measured = f"{below} of {len(ratios)} = {below / len(ratios):.3f}, 95 % interval {low:.3f} to {high:.3f}"
    if judged:
        return Judgement(_verdict(below / len(ratios) >= 0.90), measured)
    return Judgement(
        NOT_RUN,
        measured,
        f"Needs {ZOO_SIZE} {ZOO_SOURCE} models; the share is of {len(ratios)} other pairs.",
    )


def _m2(evidence: Evidence) -> Judgement:
    for model in evidence.models:
        for family in ("baseline", "qat", "momos"):
            _family(evidence, model, family)
    ratios = _numbers(evidence.deployed, "bdm_1d_ratio")
    latent = _numbers(evidence.cells[evidence.cells.weights == "latent"], "bdm_1d_ratio")
    measured = (
        f"{_share(ratios < 1)} deployed; latent weights of quantised cells {_share(latent < 1)}"
    )
    return Judgement(
        _verdict((ratios < 1).all()), measured, _worst(evidence.deployed, "bdm_1d_ratio", "largest")
    )


def _m3(evidence: Evidence) -> Judgement:
    ratios, correlations = [], []
    for _, rows in _momos_epochs(evidence).groupby(["model", "method", "seed"], sort=False):
        if len(rows) < 2:
            raise _Missing("Needs two epochs or more.")
        distortion = _numbers(rows, "relative_distortion")
        ratios.append(distortion[-1] / distortion[0] if distortion[0] else math.nan)
        if rows.imported.iloc[0] and rows.distortion.isna().all():
            continue  # an import may have relative distortion alone
        correlations.append(spearman(_numbers(rows, "distortion"), _numbers(rows, "val_loss")))
    if not correlations:
        raise _Missing("No run has its distortion, only a relative one.")
    median = float(np.median(correlations))
    fell = np.array(ratios) < 1
    measured = f"fell in {_share(fell)} runs, largest ratio {_largest(ratios):.3f}; median correlation {median:.3f}"
    without = len(ratios) - len(correlations)
    note = (
        f"The correlation is over {len(correlations)} runs: {without} imported ones have relative distortion alone."
        if without
        else ""
    )
    return Judgement(_verdict(fell.all() and median > 0.5), measured, note)


def _m4(evidence: Evidence) -> Judgement:
    rows = _momos_epochs(evidence)
    best = rows[rows.best.astype(str) == "True"]
    if (
        best.groupby(["model", "method", "seed"]).ngroups
        < rows.groupby(["model", "method", "seed"]).ngroups
    ):
        raise _Missing("Some run has no best epoch.")
    _numbers(best, "relative_distortion")
    medians = best.groupby(["title", "label"], sort=False).relative_distortion.median()
    measured = f"below 0.05 in {_share(medians < 0.05)} configurations; median of medians {medians.median():.3f}"
    note = f"Largest {medians.max():.3f} ({', '.join(medians.idxmax())}), smallest {medians.min():.3f} ({', '.join(medians.idxmin())})."
    return Judgement(_verdict((medians < 0.05).all()), measured, note)


def _m5(evidence: Evidence) -> Judgement:
    drops = {
        model: _drop(evidence, model, "momos", block_size=2, capacity=0.10)
        for model in _every_model(evidence)
    }
    return Judgement(_verdict(all(drop <= 1 for drop in drops.values())), _points(drops))


def _m6(evidence: Evidence) -> Judgement:
    held, parts = [], []
    for model in _every_model(evidence):
        momos, qat = (_largest_rac(evidence, model, family) for family in ("momos", "qat"))
        held.append(momos > qat)
        parts.append(f"{model} {_or_none(momos)} against {_or_none(qat)}")
    note = (
        "Within 1 point: not more than 1 point below the baseline; none counts as smaller than any."
    )
    return Judgement(_verdict(all(held)), "; ".join(parts), note)


def _m7(evidence: Evidence) -> Judgement:
    _need_models(evidence, ["tiny_vit"])
    drop = _drop(evidence, "tiny_vit", "momos", block_size=2, capacity=0.005)
    return Judgement(_verdict(drop <= 1), _points({"tiny_vit": drop}))


def _m8(evidence: Evidence) -> Judgement:
    _need_models(evidence, ["resnet20"])
    momos, qat = _family(evidence, "resnet20", "momos"), _family(evidence, "resnet20", "qat")
    smallest = _accuracies(momos[momos.block_size == 2]).min()
    largest = _accuracies(qat).max()
    return Judgement(_verdict(smallest > largest), f"{smallest:.2f} % against {largest:.2f} %")


def _m9(evidence: Evidence) -> Judgement:
    cells = (
        results.cells(evidence.evaluation, grid="ablation")
        if (evidence.evaluation.grid == "ablation").any()
        else None
    )
    if cells is None or cells.block_size.nunique() < 3 or cells.capacity.nunique() < 2:
        raise _Missing("Needs an ablation of three block sizes or more and two capacities or more.")
    correlations, parts = [], []
    for model, rows in cells.groupby("model", sort=False):
        accuracy = rows.pivot(
            index="block_size", columns="capacity", values="val_accuracy_last"
        ).sort_index(axis=1)
        if accuracy.isna().any(axis=None):
            raise _Missing(f"Some cell of {model}'s ablation holds no validation accuracy.")
        drop = 100 * (accuracy.iloc[:, -1] - accuracy.iloc[:, 0])
        correlations.append(spearman(drop.index, drop.round(9)))
        drops = ", ".join(f"s={int(size)}: {value:.2f}" for size, value in drop.items())
        parts.append(f"{model} Spearman {correlations[-1]:.3f} (drop in points {drops})")
    ran = evidence.evaluation[evidence.evaluation.grid == "ablation"]
    of = f"Ablation of {', '.join(cells.model.unique())}, seed {', '.join(map(str, sorted(ran.seed.unique())))} (the paper: three models). "
    note = (
        of
        + "Validation accuracy of the last weights; non-decreasing is judged by the rank correlation, as the threshold says."
    )
    return Judgement(_verdict(all(value > 0.8 for value in correlations)), "; ".join(parts), note)


def _m10(evidence: Evidence) -> Judgement:
    _need_models(evidence, ["mlp", "resnet20"])
    found = {}
    for model in ("mlp", "resnet20"):
        momos = _family(evidence, model, "momos")
        for size in (2, 4):
            rows = _with_capacity(momos[momos.block_size == size])
            found[f"{model} s={size}"] = spearman(
                _numbers(rows, "capacity"), _numbers(rows, "bdm_1d_ratio")
            )
    measured = "; ".join(f"{name} {value:.3f}" for name, value in found.items())
    return Judgement(_verdict(all(value > 0.8 for value in found.values())), measured)


def _m11(evidence: Evidence) -> Judgement:
    _need_models(evidence, ["mlp", "resnet20"])
    lower, parts = [], []
    for model in ("mlp", "resnet20"):
        momos = _with_capacity(_family(evidence, model, "momos"))
        _numbers(momos, "bdm_1d_ratio")
        small, large = (
            momos[momos.block_size == size].set_index("capacity").bdm_1d_ratio for size in (2, 4)
        )
        shared = [capacity for capacity in small.index if capacity in large.index]
        here = [large[capacity] < small[capacity] for capacity in shared]
        lower += here
        parts.append(f"{model} {_share(np.array(here))}")
    return Judgement(_verdict(all(lower)), f"{_share(np.array(lower))}; " + "; ".join(parts))


def _m12(evidence: Evidence) -> Judgement:
    agrees = evidence.published.agrees.to_numpy(bool)
    momos = evidence.published[evidence.published.method == "momos"]
    parts = [
        f"{model} {int(rows.agrees.sum())} of {len(rows)}"
        for model, rows in momos.groupby("model", sort=False)
    ]
    note = "From the published models' own numbers of weights (MobileViT's assumed); see the RAC table for both numbers of each cell."
    return Judgement(
        _verdict(agrees.all()), f"{_share(agrees)}; MoMos cells: {'; '.join(parts)}", note
    )


def _m13(evidence: Evidence) -> Judgement:
    cells = pd.concat([_family(evidence, model, "momos") for model in evidence.models])
    lower = _numbers(cells, "lower_complexity") == 1
    return Judgement(_verdict(lower.all()), _share(lower))


def _m14(evidence: Evidence) -> Judgement:
    grid = {
        "max_blocks": 64,
        "num_weights": (24, 60, 120),
        "block_sizes": tuple(range(1, 13)),
        "capacities": (0.005, 0.01, 0.05, 0.1, 0.5),
    }
    found = theory.check(**grid)
    shown = ", ".join(f"{key} {value}" for key, value in grid.items())
    return Judgement(
        _verdict(not found), f"{len(found)} counterexamples", f"Exact integers over {shown}."
    )


def _m15(evidence: Evidence) -> Judgement:
    larger, parts = [], []
    for name in COMPRESSORS:
        for model in evidence.models:
            baseline = _numbers(_family(evidence, model, "baseline"), name)[0]
            here = _numbers(_family(evidence, model, "momos"), name) > baseline
            larger.append(here)
            parts.append(f"{name} {model} {_share(here)}")
    together = np.concatenate(larger)
    return Judgement(_verdict(together.all()), f"{_share(together)}; " + "; ".join(parts))


def _m16(evidence: Evidence) -> Judgement:
    cells = compare_accuracy(evidence)
    run = cells[cells.verdict != NOT_RUN]
    if not evidence.comparable:
        reason = f"Not the paper's setting: {'; '.join(evidence.departures)}."
        return Judgement(
            NOT_COMPARABLE, f"{len(run)} of {len(cells)} published cells have a counterpart", reason
        )
    inside = run.verdict == SUPPORTED
    measured = f"{_share(inside)} cells within" if len(run) else ""
    if inside.all() and len(run) < len(cells):
        return Judgement(
            NOT_RUN,
            measured,
            f"{len(cells) - len(run)} of {len(cells)} published cells were not run.",
        )
    note = (
        ""
        if len(run) == len(cells)
        else f"One cell outside refutes it; {len(cells) - len(run)} of {len(cells)} cells were not run."
    )
    return Judgement(_verdict(inside.all()), measured, note)


def _m17(evidence: Evidence) -> Judgement:
    models = _every_model(evidence)
    drops = {model: _drop(evidence, model, "qat", bits=4) for model in models}
    two = evidence.deployed[(evidence.deployed.family == "qat") & (evidence.deployed.bits == 2)]
    lower = {
        model: _drop(evidence, model, "qat", bits=2) for model in models if model in set(two.model)
    }
    note = f"At 2 bits: {_points(lower)}." if lower else ""
    return Judgement(_verdict(all(drop >= 10 for drop in drops.values())), _points(drops), note)


def _of_singular(name: str) -> Callable[[Evidence], Judgement]:
    """What the stage slt_report has judged."""
    return lambda evidence: evidence.singular.get(
        name, Judgement(NOT_RUN, "", "The stage `slt_report` has not run.")
    )


def read_singular(path: Path) -> dict[str, Judgement]:
    """slt_report's verdicts by id; none where it has not run. Raises ValueError naming a damaged
    file.
    """
    if not path.is_file():
        return {}
    return {name: Judgement(**found) for name, found in atomic.read_json(path).items()}


MEASURED: dict[str, Callable[[Evidence], Judgement]] = {
    "M2": _m2, "M3": _m3, "M4": _m4, "M5": _m5, "M6": _m6, "M7": _m7, "M8": _m8, "M9": _m9, "M10": _m10, "M11": _m11,
    "M13": _m13, "M15": _m15, "M17": _m17,
}  # fmt: skip
CLAIMS = (
    MEASURED
    | {"M1": _m1, "M12": _m12, "M14": _m14, "M16": _m16}
    | {name: _of_singular(name) for name in SINGULAR}
)


def _verdict(met: bool) -> str:
    return SUPPORTED if met else NOT_SUPPORTED


def _settings_key(family: str, bits: float, block_size: float, capacity: float) -> tuple:
    """Comparable settings: NaN as None, capacities as printed."""
    size = None if pd.isna(block_size) else int(block_size)
    return family, int(bits), size, None if pd.isna(capacity) else results.percent(capacity)


def _key(row) -> tuple:
    return _settings_key(row.family, row.bits, row.block_size, row.capacity)


def cell_key(model: str, family: str, row) -> tuple:
    """Of a model's cell, however its row calls the method: equal for equal settings."""
    return model, *_settings_key(family, row.bits, row.block_size, row.capacity)


def _need_models(evidence: Evidence, models: Sequence[str]) -> None:
    missing = [model for model in models if model not in evidence.models]
    if missing:
        raise _Missing(f"Not in the grid: {', '.join(missing)}.")


def _every_model(evidence: Evidence) -> list[str]:
    """The models of the grid, among which Table 1's must be."""
    _need_models(evidence, TABLE1_MODELS)
    return evidence.models


def _family(evidence: Evidence, model: str, family: str) -> pd.DataFrame:
    """A model's deployed cells of one family, among which the paper's must be."""
    cells = evidence.deployed[
        (evidence.deployed.model == model) & (evidence.deployed.family == family)
    ]
    there = {_key(row) for row in cells.itertuples()}
    wanted = [_key(row) for row in evidence.paper_settings.itertuples() if row.family == family]
    absent = [key for key in wanted if key not in there]
    missing = [
        f"{bits} bits" if size is None else f"s={size} C={share} %"
        for _, bits, size, share in absent
    ]
    if missing:
        raise _Missing(f"Not in the grid: {family} of {model} at {', '.join(missing)}.")
    return cells


def _momos_epochs(evidence: Evidence) -> pd.DataFrame:
    """Epochs of all MoMos runs, ablation included, in order; every model must have the paper's
    configurations.
    """
    for model in evidence.models:
        _family(evidence, model, "momos")
    rows = _once(evidence.distortion[evidence.distortion.family == "momos"])
    if not set(evidence.models) <= set(rows.model):
        raise _Missing("Some model has no distortion measured.")
    return rows.sort_values("epoch", kind="stable")


def _once(rows: pd.DataFrame) -> pd.DataFrame:
    """Without ablation runs that repeat one of the main grid: the same settings and seed are the
    same training.
    """
    keys = list(
        zip(
            rows.model,
            map(_key, rows.itertuples()),
            rows.num_motifs.fillna(-1),
            rows.seed,
            strict=True,
        )
    )
    main = {key for key, grid in zip(keys, rows.grid, strict=True) if grid == "main"}
    return rows[
        [grid == "main" or key not in main for key, grid in zip(keys, rows.grid, strict=True)]
    ]


def _with_capacity(cells: pd.DataFrame) -> pd.DataFrame:
    """Without methods that state their number of motifs instead."""
    return cells[cells.capacity.notna()]


def _numbers(cells: pd.DataFrame, column: str) -> np.ndarray:
    """A column, all of it measured."""
    if column not in cells:
        raise _Missing(f"{column} was not measured.")
    values = cells[column].to_numpy(float)
    if np.isnan(values).any():
        raise _Missing(
            f"{column} is missing for {int(np.isnan(values).sum())} of {len(values)} rows."
        )
    return values


def _accuracies(cells: pd.DataFrame) -> np.ndarray:
    return 100 * _numbers(cells, "test_accuracy_last")


def _drop(evidence: Evidence, model: str, family: str, **settings: float) -> float:
    """Baseline's mean minus a cell's, in points."""
    cells = evidence.deployed[
        (evidence.deployed.model == model) & (evidence.deployed.family == family)
    ]
    for name, value in settings.items():
        cells = cells[np.isclose(cells[name], value)]
    if cells.empty:
        wanted = ", ".join(f"{name} {value}" for name, value in settings.items())
        raise _Missing(f"Not in the grid: {family} of {model} with {wanted}.")
    return _round(_accuracies(_family(evidence, model, "baseline"))[0] - _accuracies(cells)[0])


def _largest_rac(evidence: Evidence, model: str, family: str) -> float:
    """Among the cells at most 1 point below the baseline; -inf if there is none."""
    cells = _family(evidence, model, family)
    baseline = _accuracies(_family(evidence, model, "baseline"))[0]
    close = np.round(baseline - _accuracies(cells), 9) <= 1
    return float(max(_numbers(cells, "rac")[close], default=-math.inf))


def _round(points: float) -> float:
    """Differences of means of the same few counts, without the last digits of floating point."""
    return round(float(points), 9)


def _largest(values: Sequence[float]) -> float:
    return float(np.max(values))


def _or_none(rac: float) -> str:
    return "none" if math.isinf(rac) else f"{rac:.2f}"


def _share(met) -> str:
    met = np.asarray(met, dtype=bool)
    return f"{int(met.sum())} of {len(met)}"


def _points(drops: dict[str, float]) -> str:
    return "; ".join(f"{model} {drop:+.2f} points" for model, drop in drops.items())


def _worst(cells: pd.DataFrame, column: str, word: str) -> str:
    row = cells.loc[cells[column].idxmax()]
    return f"The {word}: {row[column]:.3f} ({row.title}, {row.label})."
