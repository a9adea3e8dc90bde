"""Cost against size, one figure per family, readable in greyscale."""

import statistics
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from momos.report.shared.figures import METADATA, style
from momos.report.shared.plots import COLOURS, LINES, MARKERS


def draw(name: str, family: dict, folder: Path) -> None:
    """Write folder/name.svg of a family as the results hold it.

    The legend gives the power of size by which a cost grows at its end.
    """
    with style():
        figure = Figure(figsize=(6.4, 4.2))
        ax = figure.subplots()
        labels = dict.fromkeys(label for point in family["points"] for label in point["seconds"])
        for index, label in enumerate(labels):
            points = [point for point in family["points"] if label in point["seconds"]]
            size = [point["size"] for point in points]
            divisors = [point["items"] if family["per"] else 1 for point in points]
            low, cost, high = (
                np.array([_quartiles(point["seconds"][label]) for point in points]).T / divisors
            )
            shown = label.replace("_", " ") + ("" if family["per"] else _growth(size, cost))
            ax.errorbar(
                size,
                cost,
                yerr=[cost - low, high - cost],
                label=shown,
                color=COLOURS[index],
                marker=MARKERS[index],
                linestyle=LINES[index],
                capsize=2.5,
            )
        unit = f"s per {family['per']}" if family["per"] else "s"
        ax.set(
            xscale="log",
            yscale="log",
            xlabel=family["axis"],
            ylabel=f"CPU time, one thread ({unit})",
        )
        sizes = [point["size"] for point in family["points"]]
        if max(sizes) < 100 * min(sizes):  # few powers of ten to label
            ax.set_xticks(sizes, labels=[f"{size:,}" for size in sizes])
            ax.xaxis.set_minor_locator(NullLocator())
        ax.legend()
        folder.mkdir(parents=True, exist_ok=True)
        figure.savefig(folder / f"{name}.svg", metadata=METADATA["svg"])


def _quartiles(seconds: list[float]) -> tuple[float, float, float]:
    low, high = np.quantile(seconds, [0.25, 0.75])
    middle = statistics.median(seconds)
    return min(low, middle), middle, max(high, middle)


def _growth(size: list[float], cost: np.ndarray) -> str:
    if len(size) < 2:
        return ""
    power = np.log(cost[-1] / cost[-2]) / np.log(size[-1] / size[-2])
    return rf", $\propto n^{{{power:.2f}}}$"
