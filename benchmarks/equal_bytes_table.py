"""Mosaics and their rivals at equal bytes: the table of docs/mosaics.md.

usage: python -m benchmarks.equal_bytes_table [REPORT_DIR]

Joins benchmarks/equal_bytes.csv with the runs of the committed report on digits (default), seeds 0
to 2. Of every run the smallest lossless file counts, whichever coder wrote it.
"""

import sys
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import stats

HERE = Path(__file__).parent
REPORT = HERE.parent / "reports" / "digits"
LOSSLESS = ["safetensors", "gzip", "lzma", "zstd", "fixed", "entropy"]
SEEDS = [0, 1, 2]
KEYS = ["model", "method", "seed"]
OURS = "momos_best"


def runs(report: Path) -> pd.DataFrame:
    """A row per run: file_bytes, test_accuracy in percent, cpu_seconds of its training."""
    packed = pd.read_csv(report / "tables" / "packing_runs.csv")
    packed = packed[packed.coding.isin(LOSSLESS) & packed.imported.isna()]
    studied = packed.sort_values("file_bytes", kind="stable").groupby(KEYS, as_index=False).first()
    costs = pd.read_csv(report / "cost" / "cost.csv").query("grid == 'main'")
    costs = costs[[*KEYS, "cpu_seconds"]]
    rivals = pd.read_csv(HERE / "equal_bytes.csv")
    begun = costs[costs.method == "baseline"].set_index(["model", "seed"]).cpu_seconds
    tuned = rivals.method.str.startswith(("pq", "pruned"))
    rivals.loc[tuned, "cpu_seconds"] += [
        begun[key] for key in zip(rivals.model[tuned], rivals.seed[tuned], strict=True)
    ]
    found = pd.concat(
        [studied[[*KEYS, "file_bytes", "test_accuracy"]].merge(costs, on=KEYS), rivals]
    )
    found = found[found.seed.isin(SEEDS)]
    return found.assign(test_accuracy=100 * found.test_accuracy)


def table(found: pd.DataFrame) -> pd.DataFrame:
    """A row per network and method, small files first: means, and OURS minus it, paired by seed."""
    values = found.pivot(index=["model", "method"], columns="seed", values="test_accuracy")
    means = found.groupby(["model", "method"])[
        ["file_bytes", "test_accuracy", "cpu_seconds"]
    ].mean()
    ours = values.xs(OURS, level="method").reindex(values.index.get_level_values("model"))
    gaps = ours.to_numpy() - values.to_numpy()
    error = gaps.std(axis=1, ddof=1) / np.sqrt(len(SEEDS))
    means["gap"], means["half"] = gaps.mean(axis=1), stats.t.ppf(0.975, len(SEEDS) - 1) * error
    means = means.reset_index().sort_values(["model", "file_bytes"])
    best_below = means.groupby("model").test_accuracy.transform(lambda one: one.cummax().shift())
    return means.assign(front=~(means.test_accuracy <= best_below))


def markdown(rows: pd.DataFrame) -> str:
    """The table for readers; methods on the front of their network are bold."""
    lines = [
        f"| Network | Method | kB | Accuracy | `{OURS}` minus it (95 % t interval) | CPU s |",
        "| --- | --- | ---: | ---: | --- | ---: |",
    ]
    for row in rows.itertuples():
        name = f"**{row.method}**" if row.front else row.method
        low, high = row.gap - row.half, row.gap + row.half
        gap = "" if row.method == OURS else f"{row.gap:+.1f} ({low:+.1f} to {high:+.1f})"
        lines.append(
            f"| {row.model} | {name} | {row.file_bytes / 1000:.1f} | {row.test_accuracy:.1f} |"
            f" {gap} | {row.cpu_seconds:.1f} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    print(markdown(table(runs(Path(sys.argv[1]) if len(sys.argv) > 1 else REPORT))))
