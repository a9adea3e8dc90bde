"""The cells of results.json, table after table.

When is a published cell a PASS? Accuracy: within claim M16's tolerance. RAC: to the printed digit;
it follows from the number of weights alone, so that has to be the published model's. BDM ratio:
within half of the printed digit and two standard errors. Accuracies and BDM ratios of another data
set, recipe or budget than the paper's are NOT COMPARABLE.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from momos import metrics
from momos.methods.method import percent
from momos.report.momos import packing, survey
from momos.report.momos.cells import (
    FAIL,
    PASS,
    STATUS,
    Cell,
    Comparison,
    Name,
    Origin,
    Summary,
    bootstrapped,
    make_cell,
    not_run,
    number,
    one_number,
    over_seeds,
)
from momos.report.momos.evidence import cell_key
from momos.report.momos.study import TABLE2_MODEL, Study
from momos.report.shared import published, results, statistics, verdicts


class Measure(NamedTuple):
    """A column of the results, and how results.json shows it."""

    table: str  # paper: Table 1, or Table 2 for its model
    kind: str
    unit: str = ""
    scale: float = 1.0


ACCURACY = Measure("paper", "accuracy", "percent", 100)
MEASURES = {
    "test_accuracy_last": ACCURACY,
    "test_accuracy_best": ACCURACY,
    "test_accuracy_last_remeasured": Measure("readings", "accuracy", "percent", 100),
    "test_accuracy_best_remeasured": Measure("readings", "accuracy", "percent", 100),
    "rac": Measure("paper", "rac"),
    "bdm_1d_ratio": Measure("paper", "bdm"),
    "num_weights": Measure("complexity", "count"),
    "description_bits": Measure("complexity", "count", "bits"),
    "bdm_1d": Measure("complexity", "bdm", "bits"),
    "bdm_1d_initial": Measure("complexity", "exact", "bits"),
    "bdm_1d_ratio_own": Measure("complexity", "bdm"),
    "bdm_1d_z": Measure("complexity", "score"),
    "bdm_1d_normalized": Measure("complexity", "bdm"),
    "bdm_1d_against_shuffled": Measure("complexity", "bdm"),
    "bdm_2d_ratio": Measure("complexity", "bdm"),
    "bdm_2d_ratio_own": Measure("complexity", "bdm"),
    "bdm_2d_z": Measure("complexity", "score"),
    "bdm_2d_normalized": Measure("complexity", "bdm"),
    "bdm_2d_against_shuffled": Measure("complexity", "bdm"),
    "planes": Measure("complexity", "bdm", "bits"),
    "planes_ratio": Measure("complexity", "bdm"),
    "planes_z": Measure("complexity", "score"),
    "sparsity": Measure("complexity", "other", "percent", 100),
    "l2_norm": Measure("complexity", "norm"),
    "distinct_blocks": Measure("complexity", "other"),
}
DEPLOYED_ONLY = (
    "test_accuracy_last",
    "test_accuracy_best",
    "test_accuracy_last_remeasured",
    "test_accuracy_best_remeasured",
    "rac",
    "num_weights",
    "description_bits",
)
# Measure -> the published tables' columns of its mean and standard deviation.
PUBLISHED: dict[str, tuple[str, str | None]] = {
    "test_accuracy_last": ("accuracy_mean", "accuracy_std"),
    "rac": ("rac", None),
    "bdm_1d_ratio": ("bdm_ratio", None),
}
HALF_DIGIT = {"rac": 0.05, "bdm_1d_ratio": 0.005}  # of what the paper prints
NUM_ERRORS = 2  # standard errors that a BDM ratio may differ by
EDGE = 1e-9  # a difference of exactly half a digit agrees


class CellList:
    """The cells of one study. The folders only name the sources."""

    def __init__(self, study: Study, paper_dir: str, results_dir: str) -> None:
        self.study, self.paper_dir, self.results_dir = study, paper_dir, results_dir
        self.rows = study.results.evaluation
        self.main_rows = self.rows[self.rows.grid == "main"]
        self.departures = study.departures
        printed = study.comparison.itertuples()
        self.published = {cell_key(row.model, row.method, row): row for row in printed}

    def __iter__(self) -> Iterator[Cell]:
        yield from self.main()
        yield from self.capacity()
        yield from self.distortion()
        yield from self.zoo()
        yield from self.rac_check()
        yield from self.aggregate()
        yield from self.packing()
        yield from self.singular()

    def main(self) -> Iterator[Cell]:
        """Tables 1 and 2, complexity, compressors: first the main grid, then what it lacks."""
        measures = self._measures()
        run = set()
        for (model, method), rows in self.main_rows.groupby(["model", "method"], sort=False):
            key = cell_key(model, rows.family.iloc[0], rows.iloc[0])
            run.add(key)
            yield from self._of_method(model, method, rows, measures, self.published.get(key))
        taken = set(zip(self.main_rows.model, self.main_rows.method, strict=True))
        for key, row in self.published.items():
            if key not in run:
                yield from self._not_run(row, taken)

    def _measures(self) -> dict[str, Measure]:
        compressors = [
            name
            for compressor in self.study.settings["evaluate"]["compressors"]
            for name in (compressor, f"{compressor}_binary")
        ]
        measures = MEASURES | dict.fromkeys(compressors, Measure("compressors", "ratio"))
        others = [name for name in metrics.names() if name not in MEASURES]
        return measures | dict.fromkeys(others, Measure("metrics", "other"))

    def _of_method(
        self,
        model: str,
        method: str,
        rows: pd.DataFrame,
        measures: Mapping[str, Measure],
        printed: Any,
    ) -> Iterator[Cell]:
        """printed: the published cell with these settings, or None."""
        views = {
            view: part.sort_values("seed") for view, part in rows.groupby("weights", sort=False)
        }
        last_view = list(views)[-1]
        for view, part in views.items():
            for measure_name, measure in measures.items():
                if not _is_measured(part, measure_name, view):
                    continue
                name = Name(
                    _table(measure.table, model),
                    model,
                    method,
                    measure_name + ("_latent" if view == "latent" else ""),
                    measure.kind,
                    measure.unit,
                )
                cell = self._by_seed(name, part[measure_name], part.seed, scale=measure.scale)
                # The paper's BDM ratios are of the latent weights, where there are any.
                as_published = measure_name != "bdm_1d_ratio" or view == last_view
                if printed is not None and measure_name in PUBLISHED and as_published:
                    compared = compare(measure_name, cell, printed, part, self.departures)
                    cell = {**cell, **compared}
                yield cell

    def _by_seed(
        self,
        name: Name,
        values: Sequence[float],
        seeds: Sequence[int],
        *,
        scale: float = 1.0,
        file: str = "evaluation.csv",
        stage: str = "evaluate",
    ) -> Cell:
        """A cell of one value a seed, from a table of its model."""
        origin: Origin = {
            "source": f"{self.results_dir}/{name.model}/{file}",
            "stage": f"{stage}@{name.model}",
        }
        return make_cell(name, over_seeds([scale * value for value in values], seeds), origin)

    def _not_run(self, row: Any, taken: set[tuple[str, str]]) -> Iterator[Cell]:
        """A published configuration that the grid lacks. taken: (model, method) of the grid."""
        method = canonical_name(row)
        method += "_published" if (row.model, method) in taken else ""
        origin = self._published_origin(row)
        for measure_name, (mean, std) in PUBLISHED.items():
            measure = MEASURES[measure_name]
            table = _table(measure.table, row.model)
            name = Name(table, row.model, method, measure_name, measure.kind, measure.unit)
            spread = float(getattr(row, std)) if std else None
            compared = not_run(float(getattr(row, mean)), spread, "this profile does not run it")
            yield make_cell(name, over_seeds([], []), origin, compared)

    def _published_origin(self, row: Any) -> Origin:
        return {"source": f"{self.paper_dir}/{published.TABLES[row.table]}", "stage": "report"}

    def capacity(self) -> Iterator[Cell]:
        """Figures 4 and B.2: the ablation."""
        rows = self.rows[(self.rows.grid == "ablation") & (self.rows.weights == "deployed")]
        for (model, method), part in rows.groupby(["model", "method"], sort=False):
            name = Name("capacity", model, method, "val_accuracy_last", "accuracy", "percent")
            yield self._by_seed(name, part.val_accuracy_last, part.seed, scale=100)

    def distortion(self) -> Iterator[Cell]:
        """Figures 3 and B.1: each run of the main grid at its first, best and last epoch."""
        rows = self.study.results.distortion
        rows = rows[rows.grid == "main"].sort_values("epoch", kind="stable")
        for (model, method), part in rows.groupby(["model", "method"], sort=False):
            of_seed = part.groupby("seed").relative_distortion
            best = part[part.best.astype(str) == "True"].groupby("seed").relative_distortion.last()
            places = {"first": of_seed.first(), "best": best, "last": of_seed.last()}
            for place, values in places.items():
                measure = f"relative_distortion_{place}"
                name = Name("distortion", model, method, measure, "other")
                file, stage = "distortion.csv", "distortion"
                yield self._by_seed(name, values, values.index, file=file, stage=stage)

    def zoo(self) -> Iterator[Cell]:
        """Figure 2: the share of pairs below 1 by source, and each model from elsewhere.

        While one of these is out of reach, their share is not run either.
        """
        surveyed = self.study.results.survey
        absent = survey.not_fetched(self.study.results.not_surveyed)
        own: Origin = {"source": f"{self.results_dir}/*/evaluation.csv", "stage": "evaluate"}
        elsewhere: Origin = {"source": f"{self.results_dir}/zoo.csv", "stage": "survey"}
        for source, rows in surveyed.groupby(survey.origins(surveyed), sort=False):
            if len(absent) and source == survey.ELSEWHERE:
                continue
            place = str(source).replace(" ", "_")
            origin = own if source == results.OWN_SOURCE else elsewhere
            pairs = survey.pairs(rows)
            below = int((pairs.bdm_1d_ratio < 1).sum())
            low, high = statistics.clopper_pearson(below, len(pairs))
            count = Name("zoo", place, "all", "num_pairs", "count")
            yield make_cell(count, one_number(float(len(pairs))), origin)
            share = one_number(100 * below / len(pairs), interval=(100 * low, 100 * high))
            name = Name("zoo", place, "all", "share_below_1", "other", "percent")
            yield make_cell(name, share, origin)
        others = surveyed.assign(origin=survey.origins(surveyed))
        for row in others[others.source != results.OWN_SOURCE].itertuples():
            place = row.origin.replace(" ", "_")
            for measure in ("bdm_1d_ratio", "planes_ratio"):
                name = Name("zoo", place, row.name, measure, "bdm")
                yield make_cell(name, one_number(getattr(row, measure, None)), elsewhere)
        yield from _not_fetched(absent, elsewhere)

    def rac_check(self) -> Iterator[Cell]:
        """What Eq. 21 gives for the published models, beside what the paper prints."""
        for row in self.study.check.itertuples():
            reason = f"does not follow from Eq. 21 with {row.num_weights:,} weights"
            compared: Comparison = {
                "published": float(row.rac),
                "published_std": None,
                "difference": number(row.rac_expected - row.rac),
                "tolerance": HALF_DIGIT["rac"],
                "status": PASS if row.agrees else FAIL,
                "reason": "" if row.agrees else reason,
            }
            name = Name("rac_check", row.model, canonical_name(row), "rac_expected", "rac")
            summary = one_number(row.rac_expected)
            yield make_cell(name, summary, self._published_origin(row), compared)

    def aggregate(self) -> Iterator[Cell]:
        """Each method's accuracy minus the baseline's of the same seed, over all models.

        Runs of the same seed start from the same weights. Models may have other seeds.
        """
        rows = self.main_rows[self.main_rows.weights == "deployed"]
        baselines = list(rows.method[rows.family == "baseline"].drop_duplicates())
        if not baselines:
            return
        keys = {"index": ["model", "seed"], "columns": "method"}
        accuracy = 100 * rows.pivot(**keys, values="test_accuracy_last").sort_index()
        is_run = rows.assign(run=True).pivot(**keys, values="run").sort_index().notna()
        origin: Origin = {"source": f"{self.results_dir}/*/evaluation.csv", "stage": "evaluate"}
        for method in rows.method.drop_duplicates():
            if method == baselines[0]:
                continue
            both = accuracy[[method, baselines[0]]]
            lost = is_run[both.columns].all(axis=1) & both.isna().any(axis=1)
            paired = (both[method] - both[baselines[0]]).mask(lost, np.inf)
            differences = paired.unstack("seed")
            for short, statistic in (("mean", _mean), ("iqm", statistics.interquartile_mean)):
                measure = f"accuracy_difference_{short}"
                name = Name("aggregate", "all", method, measure, "accuracy", "points")
                yield make_cell(name, bootstrapped(differences, statistic), origin)

    def packing(self) -> Iterator[Cell]:
        """Bytes on disk by coding, means over the seeds that were packed so."""
        for model, method, measure, unit, values, seeds in packing.measures(
            self.study.results.packing
        ):
            kind = "accuracy" if unit == "percent" else "ratio"
            name = Name("packing", model, method, measure, kind, unit)
            yield self._by_seed(name, values, seeds, file="packing.csv", stage="pack")

    def singular(self) -> Iterator[Cell]:
        """The second paper's numbers, as `slt_report` wrote them (`momos.report.slt.cells`)."""
        yield from singular_cells(self.study.results.singular)


def _not_fetched(absent: pd.DataFrame, origin: Origin) -> Iterator[Cell]:
    """Cells of models whose weights are out of reach, and of the shares that they belong to."""
    if absent.empty:
        return
    reason = f"{len(absent)} models are out of reach"
    names = [
        (Name("zoo", survey.ELSEWHERE, "all", "num_pairs", "count"), reason),
        (Name("zoo", survey.ELSEWHERE, "all", "share_below_1", "other", "percent"), reason),
    ]
    for row in absent.itertuples():
        for measure in ("bdm_1d_ratio", "planes_ratio"):
            names.append((Name("zoo", survey.ELSEWHERE, row.name, measure, "bdm"), row.error))
    for name, why in names:
        yield {**make_cell(name, one_number(None), origin), "not_fetched": why}


def singular_cells(rows: pd.DataFrame) -> Iterator[Cell]:
    """The second paper's cells. rows: `Results.singular`."""
    keys = ["table", "model", "method", "measure", "unit", "source", "stage"]
    for (table, model, method, measure, unit, source, stage), part in rows.groupby(
        keys, sort=False
    ):
        name = Name(table, model, method, measure, "estimate", unit)
        origin: Origin = {"source": source, "stage": stage}
        yield make_cell(name, over_seeds(part.value, part.seed), origin)


def compare(
    name: str,
    measured: Summary | Cell,
    printed: Any,
    rows: pd.DataFrame,
    departures: Sequence[str],
) -> Comparison:
    """Hold a measured number against the published one.

    name: a measure of PUBLISHED; printed: a row of `Study.comparison`; rows: the cell's runs;
    departures: settings that are not the paper's.
    """
    mean, std = PUBLISHED[name]
    published_mean = float(getattr(printed, mean))
    published_std = float(getattr(printed, std)) if std else None
    if measured["value"] is None:
        return not_run(published_mean, published_std, "a seed has no value")
    if name == "test_accuracy_last":
        status = STATUS.get(printed.verdict, printed.verdict)
        difference, tolerance = printed.difference, printed.allowed
    else:
        difference = measured["value"] - published_mean
        tolerance = HALF_DIGIT[name] + _sampling_error(name, measured)
        status = PASS if abs(difference) <= tolerance + EDGE else FAIL
    reason = _not_comparable(name, printed, rows, departures)
    return {
        "published": published_mean,
        "published_std": published_std,
        "difference": number(difference),
        "tolerance": number(tolerance),
        "status": verdicts.NOT_COMPARABLE if reason else status,
        "reason": reason,
    }


def _sampling_error(name: str, measured: Summary | Cell) -> float:
    """How far the mean may lie off by chance; RAC follows from counts and may not."""
    if name == "rac" or measured["std"] is None:
        return 0.0
    return NUM_ERRORS * measured["std"] / math.sqrt(measured["num_seeds"])


def _not_comparable(name: str, printed: Any, rows: pd.DataFrame, departures: Sequence[str]) -> str:
    """Why a number can't be held against the published one; empty if it can.

    As for the claims, one departure bars all.
    """
    if name != "rac":
        own = [
            departure
            for departure in departures
            if not departure.startswith("models.")
            or departure.startswith(f"models.{printed.model}.")
        ]
        return "; ".join(own or departures)
    here, theirs = int(rows.num_weights.iloc[0]), published.NUM_WEIGHTS[printed.model]
    by_definition = printed.method != "momos"
    if by_definition or here == theirs:
        return ""
    return f"{here:,} weights here, {theirs:,} in the published model"


def _is_measured(rows: pd.DataFrame, measure: str, view: str) -> bool:
    if measure not in rows or rows[measure].isna().all():
        return False
    return view != "latent" or measure not in DEPLOYED_ONLY


def canonical_name(row: Any) -> str:
    """The name that the profiles give to a published cell's settings: qat4, momos_s2_c0_5."""
    if row.method == "baseline":
        return "baseline"
    if row.method == "qat":
        return f"qat{int(row.bits)}"
    return f"momos_s{int(row.block_size)}_c{percent(row.capacity).replace('.', '_')}"


def _table(name: str, model: str) -> str:
    if name != "paper":
        return name
    return "table2" if model == TABLE2_MODEL else "table1"


def _mean(scores: np.ndarray) -> np.ndarray:
    return scores.mean(axis=-1)
