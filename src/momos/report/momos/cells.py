"""Every number of the report in one document, results.json: what was measured, how sure it is, what
the paper printed, where it is from.

    {"schema": 1, "profile", "data", "summary", "imported": [...], "cells": [...], "claims": [...],
    "counts", "pareto", "names", "settings"}

A cell has
    id          table/model/method/measure; a measure of the weights behind quantised ones ends in _latent
    kind        accuracy, rac, bdm, count, exact (a number that no training touches), norm, ratio, estimate (sampled, or a point of a
                coarse grid), other: decides how far it may move unnoticed (`momos.regression`)
    unit        percent, points (of accuracy), bits, bytes, or ""
    value, std, num_seeds, seeds, values     mean and sample standard deviation over seeds (null for one), and each seed's own value;
                no seeds: not a mean, but one number
    interval, interval_method                95 %: t (Student over seeds), wilson (a share), bootstrap (over models and seeds), or null
    source, stage                            the file that it was computed from, and the stage that wrote it; of what was not run, the
                file of the published value
and where the paper has the same cell
    published, published_std, difference, tolerance, status (PASS, FAIL, NOT RUN, NOT COMPARABLE),
    reason

When is a cell a PASS? Accuracy: claim M16's tolerance, two combined standard errors or one point.
RAC: the printed digit; it follows from the number of weights alone, so that has to be the published
model's. BDM ratio: half of the printed digit and two standard errors. Accuracies and BDM ratios of
another data set, recipe or budget than the paper's are NOT COMPARABLE.

summary is what `prepare` says of the data, imported which runs come from elsewhere and from where
(`momos.report.shared.imported`), settings what params.yaml held, names the models' and methods'
names for readers. Numbers have 12 significant digits, and no NaN: null.
"""

import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from momos import metrics
from momos.report.momos import packing as sizes
from momos.report.shared import claims, published, results
from momos.report.shared import statistics as intervals

SCHEMA = 1
PASS, FAIL = "PASS", "FAIL"
STATUS = {claims.SUPPORTED: PASS, claims.NOT_SUPPORTED: FAIL}
STATUSES = (PASS, FAIL, claims.NOT_RUN, claims.NOT_COMPARABLE)
TABLE2_MODEL = "mobilevit"


class Measure(NamedTuple):
    table: str  # paper: Table 1, or Table 2 for its model
    kind: str
    unit: str = ""
    scale: float = 1.0


MEASURES = {
    "test_accuracy_last": Measure("paper", "accuracy", "percent", 100),
    "test_accuracy_best": Measure("paper", "accuracy", "percent", 100),
    "rac": Measure("paper", "rac"),
    "bdm_1d_ratio": Measure("paper", "bdm"),
    "num_weights": Measure("complexity", "count"),
    "description_bits": Measure("complexity", "count", "bits"),
    "bdm_1d": Measure("complexity", "bdm", "bits"),
    "bdm_1d_initial": Measure("complexity", "exact", "bits"),
    "bdm_1d_normalized": Measure("complexity", "bdm"),
    "bdm_1d_against_shuffled": Measure("complexity", "bdm"),
    "bdm_2d_ratio": Measure("complexity", "bdm"),
    "bdm_2d_normalized": Measure("complexity", "bdm"),
    "bdm_2d_against_shuffled": Measure("complexity", "bdm"),
    "sparsity": Measure("complexity", "other", "percent", 100),
    "l2_norm": Measure("complexity", "norm"),
    "distinct_blocks": Measure("complexity", "other"),
}
DEPLOYED_ONLY = (
    "test_accuracy_last",
    "test_accuracy_best",
    "rac",
    "num_weights",
    "description_bits",
)
PUBLISHED = {
    "test_accuracy_last": ("accuracy_mean", "accuracy_std"),
    "rac": ("rac", None),
    "bdm_1d_ratio": ("bdm_ratio", None),
}
HALF_DIGIT = {"rac": 0.05, "bdm_1d_ratio": 0.005}  # of what the paper prints
EDGE = 1e-9  # a difference of exactly half a digit agrees


def document(study, *, paper_dir: str, results_dir: str) -> dict[str, Any]:
    """study: `report.Study`. The folders only name the sources. Raises ValueError if two cells
    share an id.
    """
    build = _Builder(study, paper_dir, results_dir)
    cells = [
        *build.main(),
        *build.capacity(),
        *build.distortion(),
        *build.zoo(),
        *build.rac_check(),
        *build.aggregate(),
    ]
    cells += [*build.packing(), *build.singular()]
    repeated = [name for name, count in Counter(cell["id"] for cell in cells).items() if count > 1]
    if repeated:
        raise ValueError(
            f"results.json: every cell needs its own id, got twice: {', '.join(repeated[:5])}"
        )
    counts = {
        "claims": claims.counts(study.verdicts),
        "rac_check": _agreement(study.check),
        "published": _statuses(cells),
    }
    return {
        "schema": SCHEMA,
        "profile": study.name,
        "data": {key: study.data[key] for key in ("source", "sha256")},
        "summary": dict(study.data),
        "imported": list(study.imported),
        "cells": cells,
        "claims": study.verdicts[
            ["id", "verdict", "claim", "measured", "threshold", "statistic", "where", "note"]
        ].to_dict("records"),
        "counts": counts,
        "pareto": build.pareto(),
        "names": build.names(),
        "settings": dict(study.settings),
    }


def text(values: Mapping[str, Any]) -> str:
    """The document as JSON, a line per cell and per claim, so that a difference is a line."""
    parts = []
    for key, value in values.items():
        lines = (
            [json.dumps(row, ensure_ascii=False, allow_nan=False) for row in value]
            if isinstance(value, list)
            else None
        )
        body = (
            "[\n" + ",\n".join(lines) + "\n]"
            if lines
            else json.dumps(value, ensure_ascii=False, allow_nan=False)
        )
        parts.append(f"{json.dumps(key)}: {body}")
    return "{\n" + ",\n".join(parts) + "\n}\n"


def by_id(values: Mapping[str, Any]) -> dict[str, dict]:
    """id -> cell"""
    return {cell["id"]: cell for cell in values["cells"]}


def _agreement(check: pd.DataFrame) -> dict[str, int]:
    return {"agree": int(check.agrees.sum()), "cells": len(check)}


def _statuses(cells: Sequence[dict]) -> dict[str, dict[str, int]]:
    """Of the published cells, by kind: how many have each status."""
    paper = [
        cell for cell in cells if cell["table"] in ("table1", "table2") and "published" in cell
    ]
    kinds = dict.fromkeys(cell["kind"] for cell in paper)
    found = Counter((cell["kind"], cell["status"]) for cell in paper)
    return {kind: {status: found[kind, status] for status in STATUSES} for kind in kinds}


class _Builder:
    """The cells of one study, table after table."""

    def __init__(self, study, paper_dir: str, results_dir: str):
        self.study, self.paper_dir, self.results_dir = study, paper_dir, results_dir
        self.rows = study.results.evaluation
        self.main_rows = self.rows[self.rows.grid == "main"]
        self.departures = study.departures
        self.published = {
            claims.cell_key(row.model, row.method, row): row
            for row in study.comparison.itertuples()
        }

    def main(self) -> Iterator[dict]:
        """Tables 1 and 2, complexity, compressors: the main grid, then what the paper has beyond
        it.
        """
        measures = MEASURES | {
            name: Measure("compressors", "ratio")
            for compressor in self.study.settings["evaluate"]["compressors"]
            for name in (compressor, f"{compressor}_binary")
        }
        measures |= {
            name: Measure("metrics", "other") for name in metrics.names() if name not in MEASURES
        }
        run = set()
        for (model, method), rows in self.main_rows.groupby(["model", "method"], sort=False):
            key = claims.cell_key(model, rows.family.iloc[0], rows.iloc[0])
            run.add(key)
            yield from self._cells_of(model, method, rows, measures, self.published.get(key))
        taken = set(zip(self.main_rows.model, self.main_rows.method, strict=True))
        for key, row in self.published.items():
            if key not in run:
                yield from self._not_run(row, taken)

    def _cells_of(
        self, model: str, method: str, rows: pd.DataFrame, measures: Mapping[str, Measure], printed
    ) -> Iterator[dict]:
        views = {
            name: part.sort_values("seed") for name, part in rows.groupby("weights", sort=False)
        }
        for view, part in views.items():
            for name, measure in measures.items():
                if (
                    name not in part
                    or part[name].isna().all()
                    or (view == "latent" and name in DEPLOYED_ONLY)
                ):
                    continue
                suffix = "_latent" if view == "latent" else ""
                cell = self._measured(
                    _table(measure.table, model),
                    model,
                    method,
                    name + suffix,
                    measure,
                    part[name],
                    part.seed,
                )
                as_published = name in PUBLISHED and (
                    name != "bdm_1d_ratio" or view == list(views)[-1]
                )  # BDM of latent weights
                yield (
                    cell | self._compared(name, cell, printed, part)
                    if printed is not None and as_published
                    else cell
                )

    def _measured(
        self,
        table,
        model,
        method,
        name,
        measure: Measure,
        values,
        seeds,
        *,
        file="{model}/evaluation.csv",
        stage="evaluate",
    ):
        where = {
            "source": f"{self.results_dir}/{file.format(model=model)}",
            "stage": f"{stage}@{model}",
        }
        numbers = [measure.scale * value for value in values]
        return (
            _over_seeds(table, model, method, name, measure.kind, measure.unit, numbers, seeds)
            | where
        )

    def _compared(self, name: str, cell: dict, printed, rows: pd.DataFrame) -> dict:
        mean, std = (
            None if key is None else float(getattr(printed, key)) for key in PUBLISHED[name]
        )
        start = {"published": mean, "published_std": std}
        if cell["value"] is None:
            return start | _missing("a seed has no value")
        if name == "test_accuracy_last":
            status, difference, tolerance = (
                STATUS.get(printed.verdict, printed.verdict),
                printed.difference,
                printed.allowed,
            )
        else:
            error = 0.0 if cell["std"] is None else 2 * cell["std"] / math.sqrt(cell["num_seeds"])
            difference, tolerance = (
                cell["value"] - mean,
                HALF_DIGIT[name] + (0.0 if name == "rac" else error),
            )
            status = PASS if abs(difference) <= tolerance + EDGE else FAIL
        reason = self._not_comparable(name, printed, rows)
        status = claims.NOT_COMPARABLE if reason else status
        return start | {
            "difference": _number(difference),
            "tolerance": _number(tolerance),
            "status": status,
            "reason": reason,
        }

    def _not_comparable(self, name: str, printed, rows: pd.DataFrame) -> str:
        """Why a number can't be held against the published one; empty if it can. As for the claims,
        one departure bars all.
        """
        if name != "rac":
            own = [
                text
                for text in self.departures
                if not text.startswith("models.") or text.startswith(f"models.{printed.model}.")
            ]
            return "; ".join(own or self.departures)
        here, theirs = int(rows.num_weights.iloc[0]), published.NUM_WEIGHTS[printed.model]
        by_definition = printed.method != "momos"
        return (
            ""
            if by_definition or here == theirs
            else f"{here:,} weights here, {theirs:,} in the published model"
        )

    def _not_run(self, row, taken: set[tuple[str, str]]) -> Iterator[dict]:
        method = canonical_name(row)
        method += "_published" if (row.model, method) in taken else ""
        for name, (mean, std) in PUBLISHED.items():
            cell = self._measured(
                _table("paper", row.model), row.model, method, name, MEASURES[name], [], []
            )
            cell |= {"source": f"{self.paper_dir}/{published.TABLES[row.table]}", "stage": "report"}
            printed = {
                "published": float(getattr(row, mean)),
                "published_std": float(getattr(row, std)) if std else None,
            }
            yield cell | printed | _missing("this profile does not run it")

    def capacity(self) -> Iterator[dict]:
        """Figures 4 and B.2: the ablation."""
        rows = self.rows[(self.rows.grid == "ablation") & (self.rows.weights == "deployed")]
        for (model, method), part in rows.groupby(["model", "method"], sort=False):
            measure = Measure("capacity", "accuracy", "percent", 100)
            yield self._measured(
                "capacity",
                model,
                method,
                "val_accuracy_last",
                measure,
                part.val_accuracy_last,
                part.seed,
            )

    def distortion(self) -> Iterator[dict]:
        """Figures 3 and B.1: where each run of the main grid stands at its first, best and last
        epoch.
        """
        rows = self.study.results.distortion
        rows = rows[rows.grid == "main"].sort_values("epoch", kind="stable")
        for (model, method), part in rows.groupby(["model", "method"], sort=False):
            by_seed = part.groupby("seed").relative_distortion
            best = part[part.best.astype(str) == "True"].groupby("seed").relative_distortion.last()
            for name, values in (
                ("first", by_seed.first()),
                ("best", best),
                ("last", by_seed.last()),
            ):
                where = {"file": "{model}/distortion.csv", "stage": "distortion"}
                measure = Measure("distortion", "other")
                yield self._measured(
                    "distortion",
                    model,
                    method,
                    f"relative_distortion_{name}",
                    measure,
                    values,
                    values.index,
                    **where,
                )

    def zoo(self) -> Iterator[dict]:
        """Figure 2: the share of pairs below 1 by where they come from, and each model that is not
        the pipeline's own.
        """
        survey = self.study.results.survey
        own = {"source": f"{self.results_dir}/*/evaluation.csv", "stage": "evaluate"}
        elsewhere = {"source": f"{self.results_dir}/zoo.csv", "stage": "survey"}
        for source, rows in survey.groupby("source", sort=False):
            name, where = (
                source.replace(" ", "_"),
                own if source == results.OWN_SOURCE else elsewhere,
            )
            below = int((rows.bdm_1d_ratio < 1).sum())
            wilson = {
                "interval": [_number(100 * end) for end in claims.wilson(below, len(rows))],
                "interval_method": "wilson",
            }
            yield _plain("zoo", name, "all", "num_pairs", "count", "", float(len(rows))) | where
            yield (
                _plain(
                    "zoo",
                    name,
                    "all",
                    "share_below_1",
                    "other",
                    "percent",
                    _number(100 * below / len(rows)),
                )
                | wilson
                | where
            )
        for row in survey[survey.source != results.OWN_SOURCE].itertuples():
            yield (
                _plain(
                    "zoo",
                    row.source.replace(" ", "_"),
                    row.name,
                    "bdm_1d_ratio",
                    "bdm",
                    "",
                    _number(row.bdm_1d_ratio),
                )
                | elsewhere
            )

    def packing(self) -> Iterator[dict]:
        """Bytes on disk by coding, means over the seeds that were packed so; `sizes`."""
        where = {"file": "{model}/packing.csv", "stage": "pack"}
        for model, method, name, unit, values, seeds in sizes.measures(self.study.results.packing):
            measure = Measure("packing", "accuracy" if unit == "percent" else "ratio", unit)
            yield self._measured("packing", model, method, name, measure, values, seeds, **where)

    def rac_check(self) -> Iterator[dict]:
        """What Eq. 21 gives for the published models, beside what the paper prints."""
        for row in self.study.check.itertuples():
            where = {"source": f"{self.paper_dir}/{published.TABLES[row.table]}", "stage": "report"}
            reason = (
                ""
                if row.agrees
                else f"does not follow from Eq. 21 with {row.num_weights:,} weights"
            )
            judged = {
                "difference": _number(row.rac_expected - row.rac),
                "tolerance": HALF_DIGIT["rac"],
            }
            judged |= {"status": PASS if row.agrees else FAIL, "reason": reason}
            cell = _plain(
                "rac_check",
                row.model,
                canonical_name(row),
                "rac_expected",
                "rac",
                "",
                _number(row.rac_expected),
            )
            yield cell | where | {"published": float(row.rac), "published_std": None} | judged

    def aggregate(self) -> Iterator[dict]:
        """Over models, each method's accuracy minus the baseline's of the same seed, which starts
        from the same weights.
        """
        rows = self.main_rows[self.main_rows.weights == "deployed"]
        table = (
            100
            * rows.pivot(
                index=["model", "seed"], columns="method", values="test_accuracy_last"
            ).sort_index()
        )
        baselines = list(rows.method[rows.family == "baseline"].drop_duplicates())
        where = {"source": f"{self.results_dir}/*/evaluation.csv", "stage": "evaluate"}
        for method in rows.method.drop_duplicates() if baselines else ():
            if method == baselines[0]:
                continue
            differences = (table[method] - table[baselines[0]]).unstack("seed")  # (models, seeds)
            for name, statistic in (("mean", _mean), ("iqm", intervals.interquartile_mean)):
                start = _plain(
                    "aggregate", "all", method, f"accuracy_difference_{name}", "accuracy", "points"
                )
                yield start | _bootstrapped(differences, statistic) | where

    def singular(self) -> Iterator[dict]:
        """The second paper's, as `slt_report` wrote them (`momos.report.slt.cells`)."""
        keys = ["table", "model", "method", "measure", "unit", "source", "stage"]
        for (
            table,
            model,
            method,
            name,
            unit,
            source,
            stage,
        ), part in self.study.results.singular.groupby(keys, sort=False):
            yield _over_seeds(
                table, model, method, name, "estimate", unit, part.value, part.seed
            ) | {"source": source, "stage": stage}

    def pareto(self) -> dict[str, dict[str, list[str]]]:
        """Per model, the methods that no other one beats in accuracy and RAC: measured here, and
        published.
        """
        rows = results.cells(self.main_rows)
        rows = rows[rows.weights == "deployed"].rename(columns={"test_accuracy_last": "accuracy"})
        printed = self.study.check.rename(columns={"accuracy_mean": "accuracy"})
        printed = printed.assign(method=[canonical_name(row) for row in printed.itertuples()])
        models = dict.fromkeys([*rows.model, *printed.model])
        return {
            model: {"measured": _front(rows, model), "published": _front(printed, model)}
            for model in models
        }

    def names(self) -> dict[str, dict]:
        """Model -> title; method -> label, and the group that it shares a line with."""
        check = self.study.check
        printed = check.assign(method=[canonical_name(row) for row in check.itertuples()])
        theirs, ours = _method_names(printed), _method_names(self.rows)
        apart = {
            f"{name}_published": theirs[name]
            for name in theirs
            if ours.get(name, theirs[name]) != theirs[name]
        }
        titles = {
            row.model: row.title for frame in (printed, self.rows) for row in frame.itertuples()
        }
        return {"models": titles, "methods": theirs | ours | apart}


def _method_names(rows: pd.DataFrame) -> dict[str, dict[str, str]]:
    first = rows.drop_duplicates("method")
    return {
        row.method: {"label": row.label, "group": results.group(row.bits, row.block_size)}
        for row in first.itertuples()
    }


def canonical_name(row) -> str:
    """The name that the profiles give to a published cell's settings: qat4, momos_s2_c0_5."""
    if row.method == "baseline":
        return "baseline"
    size = results.percent(row.capacity).replace(".", "_")
    return f"qat{int(row.bits)}" if row.method == "qat" else f"momos_s{int(row.block_size)}_c{size}"


def _table(name: str, model: str) -> str:
    return ("table2" if model == TABLE2_MODEL else "table1") if name == "paper" else name


def _front(rows: pd.DataFrame, model: str) -> list[str]:
    mine = rows[(rows.model == model) & rows.accuracy.notna() & rows.rac.notna()]
    return list(mine.method[intervals.pareto_front(mine[["rac", "accuracy"]].round(9).to_numpy())])


def _over_seeds(
    table, model, method, name, kind: str, unit: str, values: Iterable[float], seeds: Iterable[int]
) -> dict:
    """A cell of one value a seed."""
    start = {
        "id": f"{table}/{model}/{method}/{name}",
        "table": table,
        "model": model,
        "method": method,
        "measure": name,
    }
    return (
        start
        | {"kind": kind, "unit": unit}
        | _summary([_number(value) for value in values], [int(seed) for seed in seeds])
    )


def _plain(
    table: str,
    model: str,
    method: str,
    measure: str,
    kind: str,
    unit: str,
    value: float | None = None,
) -> dict:
    """A cell that is no mean over seeds."""
    start = {
        "id": f"{table}/{model}/{method}/{measure}",
        "table": table,
        "model": model,
        "method": method,
        "measure": measure,
    }
    return start | {"kind": kind, "unit": unit} | _summary([] if value is None else [value], [])


def _summary(values: Sequence[float | None], seeds: Sequence[int]) -> dict:
    """A mean over a missing value is missing."""
    whole = bool(values) and None not in values
    interval = intervals.student(values) if whole else None
    return {
        "value": _number(np.mean(values)) if whole else None,
        "std": _number(np.std(values, ddof=1)) if whole and len(values) > 1 else None,
        "num_seeds": len(seeds),
        "seeds": list(seeds),
        "values": list(values),
        "interval": [_number(end) for end in interval] if interval else None,
        "interval_method": "t" if interval else None,
    }


def _bootstrapped(differences: pd.DataFrame, statistic) -> dict:
    """differences (models, seeds)"""
    scores = differences.to_numpy(float)
    whole = bool(np.isfinite(scores).all())
    interval = intervals.stratified_bootstrap(scores, statistic, seed=0) if whole else None
    return {
        "value": _number(statistic(scores.ravel())) if whole else None,
        "std": None,
        "num_seeds": scores.shape[1],
        "seeds": [int(seed) for seed in differences.columns],
        "models": list(differences.index),
        "values": [_number(value) for value in scores.ravel()],
        "interval": [_number(end) for end in interval] if interval else None,
        "interval_method": "bootstrap" if interval else None,
    }


def _mean(scores: np.ndarray) -> np.ndarray:
    return scores.mean(axis=-1)


def _missing(reason: str) -> dict:
    return {"difference": None, "tolerance": None, "status": claims.NOT_RUN, "reason": reason}


def _number(value: float) -> float | None:
    """Twelve significant digits; null for NaN."""
    return None if value is None or math.isnan(value) else float(f"{value:.12g}")
