"""Panels of the papers' figures: a DataFrame is drawn on an Axes, which is returned.

Nothing is read, computed or saved here. Every series has its own marker and line style besides its
colour, so that all of it can be told apart in greyscale.
"""

import re
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

# Colour-blind safe, and of falling lightness in this order where two follow each other.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#8C510A", "#444444", "#E69F00")
NUM_NAMED = 4  # of Figure 2's models from elsewhere
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<")
LINES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (7, 2)), (0, (1, 1)), (0, (3, 1, 1, 1)))
DASHES = (
    "",
    (5, 2),
    (6, 2, 1, 2),
    (1, 1),
    (5, 1, 1, 1, 1, 1),
    (7, 2),
    (2, 1),
    (3, 1, 1, 1),
)  # the same in seaborn's words
REFERENCE: dict[str, Any] = {"color": "black", "linewidth": 1.2, "linestyle": (0, (6, 3))}
# Lightness rises or falls along each of these: they survive greyscale.
MAPS = {"values": "cividis", "signs": "gray", "reuse": "magma_r"}


def values(matrix: pd.DataFrame, ax: Axes, *, limit: float) -> Axes:
    """Draw weights, dark negative and bright positive; the scale ends at -limit and limit."""
    return _picture(matrix, ax, MAPS["values"], -limit, limit)


def signs(matrix: pd.DataFrame, ax: Axes) -> Axes:
    """Draw what BDM sees: white where weight > 0, black elsewhere."""
    return _picture(matrix > 0, ax, MAPS["signs"], 0, 1)


def reuse(counts: pd.DataFrame, ax: Axes, *, limit: float) -> Axes:
    """Draw how often each weight's block occurs, as log10; a unique block is bright."""
    return _picture(np.log10(counts), ax, MAPS["reuse"], 0, np.log10(limit))


def _picture(matrix: pd.DataFrame, ax: Axes, colours: str, low: float, high: float) -> Axes:
    ax.imshow(
        matrix.to_numpy(float),
        cmap=colours,
        vmin=low,
        vmax=high,
        interpolation="nearest",
        aspect="equal",
    )
    ax.set(xticks=[], yticks=[])
    return ax


def ratio_against_size(survey: pd.DataFrame, ax: Axes) -> Axes:
    """Figure 2. Below the line at 1, training made the weights simpler.

    survey: num_weights, bdm_1d_ratio, group, title. The lowest ones are named.
    """
    for index, (name, rows) in enumerate(survey.groupby("group", sort=False)):
        ax.plot(rows.num_weights, rows.bdm_1d_ratio, label=name, **_points(index))
    for place, row in enumerate(survey.nsmallest(NUM_NAMED, "bdm_1d_ratio").itertuples()):
        point, shift = (row.num_weights, row.bdm_1d_ratio), (4, -9 if place % 2 else 2)
        ax.annotate(row.title, point, shift, textcoords="offset points", fontsize=8)
    ax.set(xscale="log", xlabel="Number of weights")
    return _ratio_axis(ax)


def ratio_by_model(survey: pd.DataFrame, ax: Axes) -> Axes:
    """Figure 2 for many runs of a few models, in order of size, groups side by side.

    survey: as for `ratio_against_size`, and title (the model).
    """
    models = survey.drop_duplicates("title").sort_values("num_weights")
    places = {title: place for place, title in enumerate(models.title)}
    groups = list(dict.fromkeys(survey.group))
    for index, name in enumerate(groups):
        rows = survey[survey.group == name]
        shift = 0.7 * ((index + 0.5) / len(groups) - 0.5)
        ax.plot(rows.title.map(places) + shift, rows.bdm_1d_ratio, label=name, **_points(index))
    ax.set_xticks(
        range(len(models)), [f"{row.title}\n{row.num_weights:,}" for row in models.itertuples()]
    )
    ax.set(xlabel="Model and its number of weights", xlim=(-0.5, len(models) - 0.5))
    return _ratio_axis(ax)


def ratio_by_plane(survey: pd.DataFrame, ax: Axes) -> Axes:
    """BDM of each bit plane relative to initial weights, the most significant plane first.

    survey: group, plane_<i>_ratio. A line is the median over a group.
    """
    columns = [name for name in survey if re.fullmatch(r"plane_\d+_ratio", name)]
    places = sorted((int(name.split("_")[1]) for name in columns), reverse=True)
    for index, (name, rows) in enumerate(survey.groupby("group", sort=False)):
        medians = [rows[f"plane_{place}_ratio"].median() for place in places]
        ax.plot([str(place) for place in places], medians, label=name, **_line(index, len(places)))
    ax.axhline(1, label="no change", **REFERENCE)
    ax.set(xlabel=f"Bit plane ({places[0]}: most significant)")
    ax.set_ylabel("BDM trained / BDM initial (planes)")
    return ax


def ratio_along_training(survey: pd.DataFrame, ax: Axes) -> Axes:
    """A line for each training of which there are checkpoints.

    survey: series, step, bdm_1d_ratio. The last checkpoint of a training lies at 100 %.
    """
    for index, (name, rows) in enumerate(survey.groupby("series", sort=False)):
        own = rows.sort_values("step")
        percent = 100 * own.step / own.step.max()
        ax.plot(percent, own.bdm_1d_ratio, label=name, **_line(index, len(own)))
    ax.set(xlabel="Steps (% of the last checkpoint's)")
    return _ratio_axis(ax)


def _ratio_axis(ax: Axes) -> Axes:
    ax.axhline(1, label="no change", **REFERENCE)
    ax.set_ylabel("BDM trained / BDM initial (1-D)")
    return ax


def distortion_and_loss(curve: pd.DataFrame, ax: Axes) -> Axes:
    """Figure 3: distortion on the left axis, validation loss on the right one.

    curve: epoch, relative_distortion, val_loss.
    """
    other = ax.twinx()
    (left,) = ax.plot(
        curve.epoch, curve.relative_distortion, label="Distortion (left)", **_line(0, len(curve))
    )
    (right,) = other.plot(
        curve.epoch, curve.val_loss, label="Validation loss (right)", **_line(1, len(curve))
    )
    ax.set(xlabel="Epoch", ylabel=r"$\|w-\hat{w}\|\,/\,\|w\|$")
    other.set_ylabel("Cross-entropy (nats)")
    other.grid(False)
    for axis, line in ((ax, left), (other, right)):
        axis.set_ylim(bottom=0)
        axis.tick_params(axis="y", colors=line.get_color())
        axis.yaxis.label.set_color(line.get_color())
        axis.yaxis.set_major_locator(MaxNLocator(4))
    ax.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    return ax


def accuracy_against_capacity(points: pd.DataFrame, ax: Axes, *, baseline: float | None) -> Axes:
    """Figure 4: a line per block size, and the baseline as a level (percent).

    points: capacity in (0, 1], accuracy in percent, block_size.
    """
    sizes = [f"s = {int(size)}" for size in sorted(points.block_size.unique())]
    shown = points.assign(
        series=[f"s = {int(size)}" for size in points.block_size], percent=100 * points.capacity
    )
    sns.lineplot(shown, x="percent", y="accuracy", ax=ax, **_series(sizes))
    if baseline is not None:
        ax.axhline(baseline, label="Baseline", **REFERENCE)
    ax.set(xscale="log", xlabel="Capacity (% of blocks)", ylabel="Validation accuracy (%)")
    ax.set_xticks(sorted({100 * value for value in points.capacity}))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    ax.xaxis.set_minor_formatter(NullFormatter())
    return ax


def accuracy_against_rac(points: pd.DataFrame, ax: Axes, *, order: list[str], hollow: bool) -> Axes:
    """Accuracy against RAC, a marker per series; equal places in `order` look the same.

    points: rac, accuracy and accuracy_std in percent, series.
    """
    for name, rows in points.groupby("series", sort=False):
        style = _line(order.index(name), 1) | ({"markerfacecolor": "white"} if hollow else {})
        ax.errorbar(
            rows.rac,
            rows.accuracy,
            yerr=rows.accuracy_std.fillna(0),
            label=name,
            capsize=2.5,
            elinewidth=1,
            **style,
        )
    ax.set(xscale="log", xlabel="RAC (times)", ylabel="Test accuracy (%)")
    ax.set_xticks([1, 2, 4, 8, 16])
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    ax.xaxis.set_minor_formatter(NullFormatter())
    return ax


def accuracy_against_bytes(
    points: pd.DataFrame, ax: Axes, *, order: list[str], hollow: str
) -> Axes:
    """Accuracy against bytes on disk, a marker per series; equal places in `order` look the same.

    points: kilobytes, accuracy and accuracy_std in percent, series.
    """
    for name, rows in points.sort_values("kilobytes", kind="stable").groupby("series", sort=False):
        style = _line(order.index(name), 1) | (
            {"markerfacecolor": "white"} if name == hollow else {}
        )
        ax.errorbar(
            rows.kilobytes,
            rows.accuracy,
            yerr=rows.accuracy_std.fillna(0),
            label=name,
            capsize=2.5,
            elinewidth=1,
            **style,
        )
    ax.set(xscale="log", xlabel="File (kB)")
    ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    ax.xaxis.set_minor_formatter(NullFormatter())
    return ax


def training(curves: pd.DataFrame, ax: Axes, *, column: str) -> Axes:
    """Draw a column against the epoch, a line per label. curves: epoch, label and the column."""
    labels = list(dict.fromkeys(curves.label))
    every = max(1, curves.epoch.nunique() // 8)
    sns.lineplot(
        curves.rename(columns={"label": "series"}),
        x="epoch",
        y=column,
        ax=ax,
        markevery=every,
        **_series(labels),
    )
    if (legend := ax.get_legend()) is not None:
        legend.remove()  # panels share one
    ax.set(xlabel="Epoch", ylabel="")
    ax.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    return ax


def _series(names: list[str]) -> dict[str, Any]:
    """Arguments of seaborn for a line per entry of the column `series`.

    Each has its own colour, marker and dashes.
    """
    order = {
        "hue": "series",
        "style": "series",
        "hue_order": names,
        "style_order": names,
        "errorbar": None,
        "estimator": None,
    }
    look = {
        "palette": list(COLOURS[: len(names)]),
        "markers": list(MARKERS[: len(names)]),
        "dashes": list(DASHES[: len(names)]),
    }
    return order | look | {"linewidth": 1.5, "markersize": 5, "markeredgewidth": 0}


def _points(index: int) -> dict[str, Any]:
    colour, marker = COLOURS[index % len(COLOURS)], _beside_colour(MARKERS, index)
    filled = colour if index % 2 == 0 else "white"  # a second cue beside the shape
    return {
        "linestyle": "none",
        "marker": marker,
        "color": colour,
        "markerfacecolor": filled,
        "markersize": 5.5,
        "alpha": 0.9,
    }


def _beside_colour(looks: tuple, index: int) -> Any:
    """The look of series number `index`: where colours repeat, it is the next one's."""
    return looks[(index + index // len(COLOURS)) % len(looks)]


def _line(index: int, num_points: int) -> dict[str, Any]:
    """Line style of series number `index`, with some eight markers along the line."""
    style = {
        "color": COLOURS[index % len(COLOURS)],
        "linestyle": _beside_colour(LINES, index),
        "marker": _beside_colour(MARKERS, index),
    }
    return style | {"linewidth": 1.5, "markersize": 4.5, "markevery": max(1, num_points // 8)}
