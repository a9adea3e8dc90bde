"""Mosaics and their rivals at equal bytes: the table and figure of docs/mosaics.md.

usage: python -m benchmarks.equal_bytes_table [REPORT_DIR] [--figure FILE.svg]

Joins benchmarks/equal_bytes.csv and equal_bytes_lossy.csv with the runs of the committed report on
digits (default), seeds 0 to 2. Of every run the smallest lossless file counts, whichever coder
wrote it; of a lossy codec the smallest that keeps the accuracy on validation images.
"""

import argparse
import re
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter
from scipy import stats

from momos.report.momos.packing import SLACK
from momos.report.shared.figures import METADATA, style
from momos.report.shared.plots import COLOURS, LINES, MARKERS

HERE = Path(__file__).parent
REPORT = HERE.parent / "reports" / "digits"
LOSSLESS = ["safetensors", "gzip", "lzma", "zstd", "fixed", "entropy"]
SEEDS = [0, 1, 2]
KEYS = ["model", "method", "seed"]
OURS = "momos_best"
LOSSY = {"baseline": "nncodec", OURS: "momos"}  # the lossy codec of a method
FAMILIES = {
    "MoMos as published, s=4": "momos_s4_c",
    OURS: r"momos_best(_c|$)",
    f"{OURS}, blocks of 8": "momos_best_s8",
    f"{OURS}, lossy": f"{OURS}, ",
    "QAT": r"qat\d+$",
    "pruned": "pruned",
    "product quantisation": "pq",
    "no mosaic, nncodec": "baseline, ",
}
TITLES = {"mlp": "MLP", "resnet20": "ResNet20", "tiny_vit": "Tiny-ViT"}
SIZES = (25, 330)  # kB, that the figure shows
ERRORS = (1, 60)  # percent, that the figure shows


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
    coded = lossy(pd.read_csv(HERE / "equal_bytes_lossy.csv")).merge(costs, on=KEYS)
    coded["method"] = [f"{method}, {LOSSY[method]}" for method in coded.method]
    columns = [*KEYS, "file_bytes", "test_accuracy"]
    found = pd.concat([studied[columns].merge(costs, on=KEYS), rivals, coded])
    found = found[found.seed.isin(SEEDS)]
    return found.assign(test_accuracy=100 * found.test_accuracy)


def lossy(files: pd.DataFrame) -> pd.DataFrame:
    """Of each run the smallest file of its lossy codec that keeps the accuracy on validation.

    files: what `benchmarks.packing` writes, without runs whose codec keeps it at no setting.
    """
    chosen = []
    for (_, method, _), part in files.groupby(KEYS):
        own = part[part.codec == "safetensors"].val_accuracy.iloc[0]
        kept = part[(part.codec == LOSSY[method]) & (part.val_accuracy >= own - SLACK)]
        chosen.append(kept.nsmallest(1, "bytes"))
    return pd.concat(chosen).rename(columns={"bytes": "file_bytes"})[
        [*KEYS, "file_bytes", "test_accuracy"]
    ]


def table(found: pd.DataFrame) -> pd.DataFrame:
    """A row per network and method, small files first: means, and OURS minus it, paired by seed.

    half, half_own: of the 95 % t intervals of that difference and of the accuracy itself.
    """
    values = found.pivot(index=["model", "method"], columns="seed", values="test_accuracy")
    means = found.groupby(["model", "method"])[
        ["file_bytes", "test_accuracy", "cpu_seconds"]
    ].mean()
    ours = values.xs(OURS, level="method").reindex(values.index.get_level_values("model"))
    gaps = ours.to_numpy() - values.to_numpy()
    means["gap"], means["half"] = gaps.mean(axis=1), _half(gaps)
    means["half_own"] = _half(values.to_numpy())
    means = means.reset_index().sort_values(["model", "file_bytes"])
    best_below = means.groupby("model").test_accuracy.transform(lambda one: one.cummax().shift())
    return means.assign(front=~(means.test_accuracy <= best_below))


def _half(values: np.ndarray) -> np.ndarray:
    """Half of the 95 % t interval of each row's mean."""
    count = values.shape[1]
    return stats.t.ppf(0.975, count - 1) * values.std(axis=1, ddof=1) / np.sqrt(count)


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


def draw(rows: pd.DataFrame, path: Path) -> None:
    """Write the figure as .svg: errors against bytes, a panel per network, t intervals as bars.

    The grey line is the front: no method measured is smaller and as accurate as a point on it.
    """
    with style():
        figure = Figure(figsize=(10, 4.4), layout="constrained")
        panels = figure.subplots(1, len(TITLES), sharey=True)
        for ax, (model, title) in zip(panels, TITLES.items(), strict=True):
            mine = rows[rows.model == model].assign(error=100 - rows.test_accuracy)
            front = mine[mine.front]
            ax.step(front.file_bytes / 1000, front.error, where="post", color="0.75", zorder=0)
            for index, (name, pattern) in enumerate(FAMILIES.items()):
                part = mine[[bool(re.match(pattern, method)) for method in mine.method]]
                lowest = (part.error - part.half_own).clip(lower=ERRORS[0] / 2)
                ax.errorbar(
                    part.file_bytes / 1000,
                    part.error,
                    yerr=[part.error - lowest.clip(upper=part.error), part.half_own],
                    label=name,
                    color=COLOURS[index],
                    marker=MARKERS[index],
                    linestyle=LINES[index],
                    capsize=2,
                )
            ax.set(xscale="log", yscale="log", title=title, xlabel="kB of the whole file")
            ax.set(xlim=SIZES, ylim=ERRORS)
            for axis, ticks in ((ax.xaxis, [30, 50, 100, 200]), (ax.yaxis, [1, 2, 5, 10, 20, 50])):
                axis.set_minor_formatter(NullFormatter())
                axis.set_ticks(ticks, labels=list(map(str, ticks)))
        panels[0].set_ylabel("Test error after decoding (%)")
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=4)
        figure.savefig(path, metadata=METADATA["svg"])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("report", type=Path, nargs="?", default=REPORT)
    parser.add_argument("--figure", type=Path, help="an .svg file to write")
    arguments = parser.parse_args()
    rows = table(runs(arguments.report))
    print(markdown(rows))
    if arguments.figure is not None:
        draw(rows, arguments.figure)
