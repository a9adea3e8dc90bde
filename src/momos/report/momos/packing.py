"""Bytes on disk for the report: tables, points of a figure, and cells of results.json.

`packing` is what stage `pack` measured, a row per run and coding (`momos.packing.levels`), with
`title`, `family` and `label` for readers.
"""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import pandas as pd

from momos.methods.method import Method
from momos.report.shared import results, tables

LEVELS = ("fixed", "entropy")  # of the .momos file, without loss
NAMES = {
    "safetensors": "safetensors",
    "bound": "Bound (Eq. 8)",
    "fixed": ".momos, fixed",
    "entropy": ".momos, entropy",
}
LOSSY_NAMES = {"pruned": "Pruned", "refitted": "Motifs refitted", "combined": "All three"}
LOSSY_SERIES = "MoMos, lossy"
# Of the lossy levels the smallest is chosen that keeps the accuracy: on validation images at most
# SLACK below that of the file without loss. What it reaches on test images is shown.
CHOSEN = "Smallest that keeps the accuracy"
SLACK = 0.005


def with_measured_rac(evaluation: pd.DataFrame, packing: pd.DataFrame) -> pd.DataFrame:
    """Add rac_measured (Eq. 21 on disk): bytes in float32 over those in the entropy-coded file."""
    rows = packing[packing.coding == "entropy"].assign(weights="deployed")
    ratios = rows[results.KEYS].assign(rac_measured=4 * rows.num_weights / rows.stored_bytes)
    return evaluation.merge(ratios, how="left", on=results.KEYS, validate="many_to_one")


def lossy_codings(packing: pd.DataFrame) -> list[str]:
    """The codings that change weights, in the order in which they were made."""
    return [name for name in dict.fromkeys(packing.coding) if _is_lossy(name)]


def _is_lossy(coding: str) -> bool:
    """The names that `momos.packing.levels` gives; all others but LEVELS are ordinary files."""
    return coding in LOSSY_NAMES or re.fullmatch(r"motifs\d+", coding) is not None


def mean_sizes(packing: pd.DataFrame) -> pd.DataFrame:
    """Average over the seeds that were packed so: a row per model, method and coding.

    The accuracy has its sample standard deviation beside it.
    """
    keys = ["model", "title", "method", "label", "family", "bits", "block_size", "coding"]
    if "val_accuracy" not in packing:
        packing = packing.assign(val_accuracy=math.nan)
    groups = packing.groupby(keys, sort=False, dropna=False)
    columns = ["file_bytes", "stored_bytes", "bound_bytes", "val_accuracy", "test_accuracy"]
    means = groups[columns].mean()
    return means.assign(
        test_accuracy_std=groups.test_accuracy.std(ddof=1), num_seeds=groups.size()
    ).reset_index()


def lossless_table(packing: pd.DataFrame) -> pd.DataFrame:
    """Kilobytes by method and coding, with the bound of Eq. 8 between.

    Columns: compressors of the safetensors file, the bound, and the codings without loss.
    """
    frame = mean_sizes(packing)
    codings = [
        name for name in dict.fromkeys(packing.coding) if name not in LEVELS and not _is_lossy(name)
    ]
    rows = []
    for (title, label), part in frame.groupby(["title", "label"], sort=False):
        size = part.set_index("coding").file_bytes / 1000
        bound = {NAMES["bound"]: tables.number(part.bound_bytes.iloc[0] / 1000, 1)}
        shown = {
            NAMES.get(name, name): tables.number(size.get(name, float("nan")), 1)
            for name in codings
        }
        rows.append(
            {"Model": title, "Method": label}
            | shown
            | bound
            | {NAMES[name]: tables.number(size[name], 1) for name in LEVELS}
        )
    return pd.DataFrame(rows)


def lossy_table(packing: pd.DataFrame) -> pd.DataFrame | None:
    """Kilobytes and, in brackets, test accuracy (%) by method and level.

    The coding without loss stands in front for comparison. None if there are no lossy levels.
    """
    names = lossy_codings(packing)
    seeds = packing[packing.coding.isin(names)][["model", "method", "seed"]].drop_duplicates()
    if seeds.empty:
        return None
    frame = mean_sizes(packing.merge(seeds, on=["model", "method", "seed"]))
    rows = []
    for (title, label), part in frame.groupby(["title", "label"], sort=False):
        by_coding = part.set_index("coding")
        shown = {
            coding_title(name): _size_and_accuracy(by_coding, name) for name in ("entropy", *names)
        }
        chosen = {CHOSEN: _chosen(by_coding.loc[["entropy", *names]])}
        rows.append({"Model": title, "Method": label} | shown | chosen)
    return pd.DataFrame(rows)


def _chosen(files: pd.DataFrame) -> str:
    """The title of one of a network's files, see CHOSEN. files: by coding, without loss first.

    Empty where validation accuracies are missing, as they are from older imports.
    """
    kept = files[files.val_accuracy >= files.val_accuracy.iloc[0] - SLACK]
    return coding_title(str(kept.file_bytes.idxmin())) if len(kept) else tables.EMPTY


def coding_title(coding: str) -> str:
    """A coding's name for readers: motifs8 -> "Motifs at 8 bits"."""
    known = NAMES | LOSSY_NAMES
    return known[coding] if coding in known else f"Motifs at {coding.removeprefix('motifs')} bits"


def _size_and_accuracy(by_coding: pd.DataFrame, name: str) -> str:
    if name not in by_coding.index:
        return tables.EMPTY
    row = by_coding.loc[name]
    return (
        f"{tables.number(row.file_bytes / 1000, 1)} ({tables.number(100 * row.test_accuracy, 2)})"
    )


def accuracy_points(packing: pd.DataFrame, methods: Mapping[str, Method]) -> pd.DataFrame:
    """Accuracy against file size, a row per point of the figure. methods: `Results.methods`.

    The points are entropy-coded files, by group of methods, and the last lossy level. The columns
    are title, series, kilobytes, and accuracy and accuracy_std in percent.
    """
    frame = mean_sizes(packing)
    last = lossy_codings(packing)[-1:]
    frame = frame[frame.coding.isin(["entropy", *last])]
    series = [
        methods[row.method].group if row.coding == "entropy" else LOSSY_SERIES
        for row in frame.itertuples()
    ]
    return frame.assign(
        series=series,
        kilobytes=frame.file_bytes / 1000,
        accuracy=100 * frame.test_accuracy,
        accuracy_std=100 * frame.test_accuracy_std,
    )


class PackingMeasure(NamedTuple):
    """One number of results.json, with the value of each seed."""

    model: str
    method: str
    name: str
    unit: str
    values: Sequence[float]
    seeds: Sequence[int]


def measures(packing: pd.DataFrame) -> Iterator[PackingMeasure]:
    """Bytes of each coding, accuracy of the lossy ones, RAC on disk; model by model."""
    changed = lossy_codings(packing)
    ordered = packing.sort_values("seed", kind="stable")
    for (model, method, coding), rows in ordered.groupby(["model", "method", "coding"], sort=False):
        seeds = list(rows.seed)
        columns = {f"{coding}_bytes": ("bytes", rows.file_bytes)}
        if coding in changed:
            columns[f"{coding}_accuracy"] = ("percent", 100 * rows.test_accuracy)
        if coding == "entropy":
            columns["bound_bytes"] = ("bytes", rows.bound_bytes)
            columns["rac_measured"] = ("", 4 * rows.num_weights / rows.stored_bytes)
        for name, (unit, values) in columns.items():
            yield PackingMeasure(model, method, name, unit, list(values), seeds)
