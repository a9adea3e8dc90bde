"""Which rows and columns the page's tables have."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import pandas as pd

from momos.page.numbers import EMPTY

Results = Mapping[str, Any]  # results.json

# measure, title, digits
COMPLEXITY = (
    ("bdm_1d_ratio", "1-D ratio", 3),
    ("bdm_1d_z", "1-D z", 1),
    ("bdm_1d_normalized", "1-D normalised", 3),
    ("bdm_1d_against_shuffled", "1-D / shuffled", 3),
    ("bdm_2d_ratio", "2-D ratio", 3),
    ("bdm_2d_z", "2-D z", 1),
    ("bdm_2d_normalized", "2-D normalised", 3),
    ("bdm_2d_against_shuffled", "2-D / shuffled", 3),
    ("planes_ratio", "Planes ratio", 3),
    ("planes_z", "Planes z", 1),
    ("sparsity", "Zeros (%)", 1),
    ("l2_norm", "L2 norm", 1),
    ("distinct_blocks", "Distinct blocks", 0),
)
# of packing, without loss: ordinary files come before, lossy ones after
MOMOS_FILES = ("bound_bytes", "fixed_bytes", "entropy_bytes")
OTHERWISE_SHOWN = "rac_measured"  # of packing: a column of Tables 1 and 2


def paper_tables(results: Results) -> list[dict[str, Any]]:
    """Tables 1 and 2, one per model: table, model, title, methods, and run (whether any was)."""
    tables: dict[tuple[str, str], dict[str, Any]] = {}
    for cell in results["cells"]:
        if cell["table"] in ("table1", "table2"):
            table, model = cell["table"], cell["model"]
            title = results["names"]["models"][model]
            empty = {"table": table, "model": model, "methods": [], "run": False, "title": title}
            entry = tables.setdefault((table, model), empty)
            entry["methods"] += [cell["method"]] if cell["method"] not in entry["methods"] else []
            entry["run"] |= cell["value"] is not None
    return list(tables.values())


def num_seeds(results: Results) -> list[int]:
    """The fewest and the most seeds of a number of Tables 1 and 2 that was run."""
    numbers = [
        cell["num_seeds"] for cell in results["cells"] if cell["table"] in ("table1", "table2")
    ]
    run = [number for number in numbers if number] or [0]
    return [min(run), max(run)]


def methods_by_model(results: Results, table: str) -> dict[str, list[str]]:
    methods: dict[str, dict[str, None]] = {}
    for cell in results["cells"]:
        if cell["table"] == table:
            methods.setdefault(cell["model"], {})[cell["method"]] = None
    return {model: list(names) for model, names in methods.items()}


def measures_of(results: Results, table: str) -> list[str]:
    """In the order of the numbers."""
    return list(
        dict.fromkeys(cell["measure"] for cell in results["cells"] if cell["table"] == table)
    )


def metrics(results: Results) -> list[str]:
    """Measures of momos.metrics, those of the latent weights left out."""
    names = measures_of(results, "metrics")
    return list(dict.fromkeys(name.removesuffix("_latent") for name in names))


class PackingMeasures(NamedTuple):
    """Columns of the tables of files."""

    lossless: list[str]  # ordinary files, then .momos
    lossy: list[str]  # each one's bytes, then its accuracy


def packing_measures(results: Results) -> PackingMeasures:
    """Sizes of files, ordinary ones first; each lossy one's accuracy after its bytes."""
    names = [name for name in measures_of(results, "packing") if name != OTHERWISE_SHOWN]
    lossy = [name for name in names if f"{name.rpartition('_')[0]}_accuracy" in names]
    ordinary = [name for name in names if name not in (*MOMOS_FILES, *lossy)]
    momos = [name for name in MOMOS_FILES if name in names]
    return PackingMeasures([*ordinary, *momos], lossy)


def cost_rows(costs: pd.DataFrame) -> list[dict[str, Any]]:
    """What training cost by stage and model, and in all.

    costs: cost.csv, a row per run. Returns texts: runs, hours, median (seconds), gpu_hours, and
    the peaks memory and gpu_memory (GiB).
    """
    stage = costs.grid.map({"main": "train", "ablation": "ablation"})
    parts = [(*key, part) for key, part in costs.groupby([stage, costs.model], sort=False)]
    return [_cost_row(*part) for part in [*parts, ("all", "all", costs)]]


def _cost_row(stage: str, model: str, part: pd.DataFrame) -> dict[str, Any]:
    on_gpu = part[~part.device.isin(["cpu", "mps"])]
    gpu_memory = part.peak_device_memory_bytes.max()
    return {
        "stage": stage,
        "model": model,
        "runs": len(part),
        "hours": f"{part.seconds.sum() / 3600:.2f}",
        "median": f"{part.seconds.median():,.1f}",
        "gpu_hours": f"{on_gpu.seconds.sum() / 3600:.2f}",
        "memory": f"{part.peak_memory_bytes.max() / 2**30:.2f}",
        "gpu_memory": EMPTY if pd.isna(gpu_memory) else f"{gpu_memory / 2**30:.2f}",
    }
