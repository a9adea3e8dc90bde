"""Bytes on disk for the report: what stage `pack` measured, as tables, points of a figure, and
cells of results.json.

`packing` is a row per run and coding (see `momos.packing.levels`), with `title`, `family` and
`label` for readers.
"""

from collections.abc import Iterator, Sequence

import pandas as pd

from momos.report.shared import results, tables

ORDINARY = ("safetensors", "gzip", "bz2", "lzma", "zstd")  # file and compressors of it
LEVELS = ("fixed", "entropy")  # of the .momos file, without loss
NAMES = {
    "safetensors": "safetensors",
    "bound": "Bound (Eq. 8)",
    "fixed": ".momos, fixed",
    "entropy": ".momos, entropy",
}
LOSSY_NAMES = {"pruned": "Pruned", "refitted": "Motifs refitted", "combined": "All three"}
LOSSY_SERIES = "MoMos, lossy"


def with_measured_rac(evaluation: pd.DataFrame, packing: pd.DataFrame) -> pd.DataFrame:
    """With rac_measured of the deployed weights: float32 bytes over those that they take in the
    entropy-coded file (Eq. 21 on disk).
    """
    rows = packing[packing.coding == "entropy"].assign(weights="deployed")
    ratios = rows[results.KEYS].assign(rac_measured=4 * rows.num_weights / rows.stored_bytes)
    return evaluation.merge(ratios, how="left", on=results.KEYS, validate="many_to_one")


def lossy(packing: pd.DataFrame) -> list[str]:
    """Codings that change weights, in the order in which they were made."""
    return [name for name in dict.fromkeys(packing.coding) if name not in (*ORDINARY, *LEVELS)]


def cells(packing: pd.DataFrame) -> pd.DataFrame:
    """A row per model, method and coding: means over the seeds that have it, and the accuracy's
    sample standard deviation.
    """
    keys = ["model", "title", "method", "label", "family", "bits", "block_size", "coding"]
    groups = packing.groupby(keys, sort=False, dropna=False)
    means = groups[["file_bytes", "stored_bytes", "bound_bytes", "test_accuracy"]].mean()
    return means.assign(
        test_accuracy_std=groups.test_accuracy.std(ddof=1), num_seeds=groups.size()
    ).reset_index()


def lossless_table(packing: pd.DataFrame) -> pd.DataFrame:
    """Kilobytes by method and coding, the bound between."""
    frame = cells(packing)
    codings = [name for name in ORDINARY if name in set(frame.coding)]
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
    """Kilobytes and, in brackets, test accuracy (%) by method and level; without loss for
    comparison. None if there are no lossy levels.
    """
    names = lossy(packing)
    seeds = packing[packing.coding.isin(names)][["model", "method", "seed"]].drop_duplicates()
    if seeds.empty:
        return None
    frame = cells(packing.merge(seeds, on=["model", "method", "seed"]))
    rows = []
    for (title, label), part in frame.groupby(["title", "label"], sort=False):
        by_coding = part.set_index("coding")
        shown = {name_of(name): _size_and_accuracy(by_coding, name) for name in ("entropy", *names)}
        rows.append({"Model": title, "Method": label} | shown)
    return pd.DataFrame(rows)


def name_of(coding: str) -> str:
    """motifs8 -> "Motifs at 8 bits"."""
    known = NAMES | LOSSY_NAMES
    return known[coding] if coding in known else f"Motifs at {coding.removeprefix('motifs')} bits"


def _size_and_accuracy(by_coding: pd.DataFrame, name: str) -> str:
    if name not in by_coding.index:
        return tables.EMPTY
    row = by_coding.loc[name]
    return (
        f"{tables.number(row.file_bytes / 1000, 1)} ({tables.number(100 * row.test_accuracy, 2)})"
    )


def points(packing: pd.DataFrame) -> pd.DataFrame:
    """title, series, kilobytes, accuracy and accuracy_std in percent: entropy-coded files by group
    of methods, and the last lossy level.
    """
    frame = cells(packing)
    last = lossy(packing)[-1:]
    frame = frame[frame.coding.isin(["entropy", *last])]
    groups = [results.group(row.bits, row.block_size) for row in frame.itertuples()]
    series = [
        name if coding == "entropy" else LOSSY_SERIES
        for name, coding in zip(groups, frame.coding, strict=True)
    ]
    accuracy = {
        "accuracy": 100 * frame.test_accuracy,
        "accuracy_std": 100 * frame.test_accuracy_std,
    }
    return frame.assign(series=series, kilobytes=frame.file_bytes / 1000, **accuracy)


def measures(
    packing: pd.DataFrame,
) -> Iterator[tuple[str, str, str, str, Sequence[float], Sequence[int]]]:
    """(model, method, measure, unit, values, seeds) of each number: bytes of each coding, accuracy
    of the lossy ones, RAC on disk.
    """
    changed = lossy(packing)
    for (model, method, coding), rows in packing.sort_values("seed", kind="stable").groupby(
        ["model", "method", "coding"], sort=False
    ):
        key, seeds = (model, method), list(rows.seed)
        yield *key, f"{coding}_bytes", "bytes", list(rows.file_bytes), seeds
        if coding in changed:
            yield *key, f"{coding}_accuracy", "percent", list(100 * rows.test_accuracy), seeds
        if coding == "entropy":
            yield *key, "bound_bytes", "bytes", list(rows.bound_bytes), seeds
            yield *key, "rac_measured", "", list(4 * rows.num_weights / rows.stored_bytes), seeds
