"""Figures made of the panels in `plots`, their common style, and files of them.

The same figure gives the same bytes each time.
"""

import contextlib
import math
import multiprocessing
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import BoundaryNorm, LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import LogFormatter

from momos.files import atomic
from momos.report.shared import imported, plots

FORMATS = ("png", "svg", "pdf")
OTHER_PEOPLE = "other people's"  # networks, where their families are too many
MOST_LINES = 10  # groups in the panel of bit planes, own runs and other people's together
STYLE: dict[str, Any] = {
    "font.family": "DejaVu Sans",  # comes with matplotlib
    "font.size": 11,
    "axes.titlesize": 11,
    "axes.labelsize": 11,
    "xtick.labelsize": 10,
    "ytick.labelsize": 10,
    "legend.fontsize": 10,
    "legend.frameon": False,
    "axes.grid": True,
    "grid.color": "0.88",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "figure.constrained_layout.use": True,
    "savefig.dpi": 160,
    "pdf.fonttype": 42,
    "svg.hashsalt": "momos",
}
# No date, and no program that names its version.
METADATA = {
    "png": {"Software": None},
    "svg": {"Date": None, "Creator": None},
    "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
}


@contextlib.contextmanager
def style() -> Iterator[None]:
    """Use matplotlib's own defaults and STYLE inside the block, whatever matplotlibrc says."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        # matplotlib's stubs want every key as a literal.
        matplotlib.rcParams.update(STYLE)  # type: ignore[arg-type]
        yield


class Drawing(NamedTuple):
    """A figure of a report before it is drawn."""

    caption: str
    draw: Callable[[], Figure]


def write_all(drawings: Mapping[str, Drawing], folder: Path) -> None:
    """Write every figure as .png, .svg and .pdf, and captions.json. drawings: by file name.

    Two processes share them where this one can be forked, as a fork of the warm interpreter can.
    """
    names = list(drawings)

    def draw(some: Sequence[str]) -> None:
        with style():
            for name in some:
                save(drawings[name].draw(), folder, name)

    if _may_fork() and len(names) > 1:
        _side_by_side(draw, names[::2], names[1::2])
    else:
        draw(names)
    captions = {name: drawing.caption for name, drawing in drawings.items()}
    atomic.write_json(folder / "captions.json", captions)


def _may_fork() -> bool:
    """Whether there are cores for two, and no other thread, whose locks a fork would inherit."""
    if not sys.platform.startswith("linux"):
        return False
    return len(os.sched_getaffinity(0)) > 1 and len(os.listdir("/proc/self/task")) == 1


def _side_by_side(
    draw: Callable[[Sequence[str]], None], mine: Sequence[str], others: Sequence[str]
) -> None:
    """Call draw for both parts, the second in a fork. Raises what draw raises."""
    fork = multiprocessing.get_context("fork").Process(target=draw, args=[others])
    fork.start()
    try:
        draw(mine)
    finally:
        fork.join()
    if fork.exitcode:
        draw(others)  # here it raises what it raised there


def markdown(drawings: Mapping[str, Drawing]) -> str:
    """Every figure with its caption, as a report's README.md shows it."""
    return "\n\n".join(
        f"![{caption.split('. ')[0]}](figures/{name}.png)\n\n"
        f"{caption} ([SVG](figures/{name}.svg), [PDF](figures/{name}.pdf))"
        for name, (caption, _) in drawings.items()
    )


def save(figure: Figure, folder: Path, name: str) -> None:
    """Write folder/name.png, .svg and .pdf."""
    folder.mkdir(parents=True, exist_ok=True)
    if engine := figure.get_layout_engine():
        engine.execute(figure)  # once for all formats
    # Without this, savefig would put the layout engine back at its end.
    with matplotlib.rc_context({"figure.constrained_layout.use": False}):
        figure.set_layout_engine(None)  # any engine, even "none", makes every format draw twice
        for kind in FORMATS:
            figure.savefig(folder / f"{name}.{kind}", metadata=METADATA[kind])


def weights(tensors: dict[str, pd.DataFrame], counts: dict[str, pd.DataFrame] | None) -> Figure:
    """Figure 1: values, signs, and how often each block is repeated, a column per tensor.

    tensors: title -> matrix. counts: for the same titles, the number of times that each weight's
    block occurs; None leaves that row out.
    """
    sizes = np.abs(np.concatenate([part.to_numpy().ravel() for part in tensors.values()]))
    limit = float(np.quantile(sizes, 0.99)) or 1.0
    figure = Figure(figsize=(9, 8.3 if counts else 5.6))
    engine = figure.get_layout_engine()
    if isinstance(engine, ConstrainedLayoutEngine):
        engine.set(h_pad=0.02, hspace=0.02)
    axes = figure.subplots(3 if counts else 2, len(tensors), squeeze=False)
    for column, (title, part) in enumerate(tensors.items()):
        plots.values(part, axes[0, column], limit=limit).set_title(title)
        plots.signs(part, axes[1, column])
    _colorbar(figure, axes[0], Normalize(-limit, limit), "values", "Weight")
    bar = _colorbar(
        figure, axes[1], BoundaryNorm([0, 0.5, 1], 256), "signs", "Sign (what BDM sees)"
    )
    bar.set_ticks([0.25, 0.75], labels=["≤ 0", "> 0"])
    if counts:
        most = max(2, max(int(part.to_numpy().max()) for part in counts.values()))
        for column, part in enumerate(counts.values()):
            plots.reuse(part, axes[2, column], limit=most)
        bar = _colorbar(figure, axes[2], LogNorm(1, most), "reuse", "Times its block occurs")
        bar.ax.yaxis.set_major_formatter(LogFormatter())
    return figure


def _colorbar(figure: Figure, axes, norm: Normalize, name: str, label: str):
    return figure.colorbar(
        ScalarMappable(norm, plots.MAPS[name]), ax=list(axes), label=label, shrink=0.9, pad=0.02
    )


def survey(rows: pd.DataFrame) -> Figure:
    """Figure 2: own runs by model, and models from elsewhere against their size.

    Below, where they were measured: bit planes, and checkpoints along a training.
    rows: num_weights, bdm_1d_ratio, group, title, source; plane_<i>_ratio; series, step.
    """
    own = rows.source == imported.OWN_SOURCE
    both = ((plots.ratio_by_model, rows[own]), (plots.ratio_against_size, rows[~own]))
    panels = [(draw, _few_groups(part)) for draw, part in both if len(part)]
    drawn = [*panels, *_further_panels(rows)]
    wide, high = min(len(drawn), 2), math.ceil(len(drawn) / 2)
    figure = Figure(figsize=(7.5 if wide == 1 else 12, 5.4 * high))
    axes = figure.subplots(high, wide, squeeze=False, sharey=high == 1).flat
    for place, (draw, part) in enumerate(drawn):
        draw(part, axes[place])
        axes[place].legend(
            loc="upper center", bbox_to_anchor=(0.5, -0.22), ncols=2, columnspacing=1
        )
    for place, (_, part) in enumerate(panels):
        axes[place].set_title(_share_below(_trainings(part[part.source != imported.CONTROL])))
    for ax in axes[len(drawn) :]:
        ax.set_axis_off()
    return figure


def _further_panels(rows: pd.DataFrame) -> list[tuple[Callable, pd.DataFrame]]:
    """Panels on what some surveys lack: bit planes, and series of checkpoints."""
    panels: list[tuple[Callable, pd.DataFrame]] = []
    if "plane_7_ratio" in rows and rows.plane_7_ratio.notna().any():
        # own runs last: the others have the looks of their panel above
        measured = rows[rows.plane_7_ratio.notna()].sort_values(
            "source", key=lambda sources: sources == imported.OWN_SOURCE, kind="stable"
        )
        panels.append((plots.ratio_by_plane, _few_groups(measured, most=MOST_LINES)))
    if "series" in rows and rows.series.notna().any():
        panels.append((plots.ratio_along_training, rows[rows.series.notna()]))
    return panels


def _trainings(rows: pd.DataFrame) -> pd.Series:
    """Ratios of trained models; the checkpoints of one training count once, with their mean."""
    if "series" not in rows:
        return rows.bdm_1d_ratio
    names = rows.series.where(rows.series.notna(), rows.index.to_series())
    return rows.bdm_1d_ratio.groupby(names.astype(str)).mean()


def _share_below(ratios: pd.Series) -> str:
    if ratios.empty:
        return "models that nobody trained"
    below = int((ratios < 1).sum())
    return f"{below} of {len(ratios)} trained models below 1 ({100 * below / len(ratios):.0f} %)"


def _few_groups(rows: pd.DataFrame, *, most: int = len(plots.MARKERS)) -> pd.DataFrame:
    """Group models by where they are from where there are more than `most` families.

    First other people's by source, then all of these as one group, last the own runs too.
    """
    others = ~rows.source.isin((imported.OWN_SOURCE, imported.CONTROL))
    for name in (rows.group, rows.source, OTHER_PEOPLE):
        groups = rows.group.mask(others, name)
        if groups.nunique() <= most:
            return rows.assign(group=groups)
    return rows.assign(group=rows.source.mask(others, OTHER_PEOPLE))


def distortion(curves: pd.DataFrame, *, columns: int) -> Figure:
    """Figures 3 and B.1, a panel per label.

    curves: label, epoch, relative_distortion, val_loss, means over seeds.
    """
    labels = list(dict.fromkeys(curves.label))
    rows = math.ceil(len(labels) / columns)
    figure = Figure(figsize=(0.8 + 3.1 * columns, 0.5 + 2.4 * rows))
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for place, (ax, name) in enumerate(zip(axes, labels, strict=False)):
        plots.distortion_and_loss(curves[curves.label == name], ax).set_title(name)
        below = place + columns < len(labels)
        beside = place % columns < columns - 1 and place + 1 < len(labels)
        _only_outer_labels(
            ax, figure.axes[-1], left=place % columns == 0, right=not beside, bottom=not below
        )
    for ax in axes[len(labels) :]:
        ax.set_axis_off()
    lines = [line for ax in figure.axes for line in ax.get_lines()]
    shown = list({line.get_label(): line for line in lines}.values())
    figure.legend(handles=shown, loc="outside upper center", ncols=2)
    return figure


def _only_outer_labels(ax: Axes, twin: Axes, *, left: bool, right: bool, bottom: bool) -> None:
    ax.set(xlabel=ax.get_xlabel() if bottom else "", ylabel=ax.get_ylabel() if left else "")
    twin.set_ylabel(twin.get_ylabel() if right else "")


def capacity(points: pd.DataFrame, baseline: float | None, title: str) -> Figure:
    """Figures 4 and B.2, one model."""
    figure = Figure(figsize=(7.5, 4.4))
    ax = plots.accuracy_against_capacity(points, figure.subplots(), baseline=baseline)
    ax.set_title(title)
    ax.legend(title="Block size", loc="center left", bbox_to_anchor=(1.01, 0.5))
    return figure


def compression(measured: pd.DataFrame, published: pd.DataFrame) -> Figure:
    """Accuracy against RAC, a column per model.

    The published points are of other data: they stand below, hollow, with axes of their own.
    """
    titles = list(dict.fromkeys(measured.title))
    order = list(dict.fromkeys([*measured.series, *published.series]))
    rows = 2 if len(published) else 1
    figure = Figure(figsize=(1.2 + 3.2 * len(titles), 0.7 + 2.9 * rows))
    axes = figure.subplots(rows, len(titles), squeeze=False)
    for row, (frame, kind) in enumerate(((measured, "measured"), (published, "published"))[:rows]):
        for ax, title in zip(axes[row], titles, strict=True):
            points = frame[frame.title == title]
            if points.empty:
                ax.set_axis_off()
                continue
            plots.accuracy_against_rac(points, ax, order=order, hollow=kind == "published")
            ax.set(title=f"{title}, {kind}", xlabel=ax.get_xlabel() if row == rows - 1 else "")
    _one_legend(figure, axes.ravel(), columns=min(len(order), 5))
    return figure


def sizes(points: pd.DataFrame, *, hollow: str) -> Figure:
    """Accuracy against bytes on disk, a column per model.

    points: title, series, kilobytes, accuracy, accuracy_std. hollow: the series drawn hollow.
    """
    titles = list(dict.fromkeys(points.title))
    order = sorted(dict.fromkeys(points.series), key=lambda name: name == hollow)
    figure = Figure(figsize=(1.2 + 3.2 * len(titles), 3.9))
    axes = figure.subplots(1, len(titles), squeeze=False)[0]
    for ax, title in zip(axes, titles, strict=True):
        plots.accuracy_against_bytes(
            points[points.title == title], ax, order=order, hollow=hollow
        ).set_title(title)
    axes[0].set_ylabel("Test accuracy (%)")
    _one_legend(figure, axes, columns=min(len(order), 6))
    return figure


def training(curves: pd.DataFrame) -> Figure:
    """Validation loss and accuracy along training, a column per model.

    curves: title, label, epoch, val_loss, val_accuracy (%).
    """
    titles = list(dict.fromkeys(curves.title))
    figure = Figure(figsize=(1.2 + 3.2 * len(titles), 6.6))
    axes = figure.subplots(2, len(titles), squeeze=False, sharex="col")
    measures = {"val_loss": "Validation loss (nats)", "val_accuracy": "Validation accuracy (%)"}
    for row, (column, name) in enumerate(measures.items()):
        for ax, title in zip(axes[row], titles, strict=True):
            plots.training(curves[curves.title == title], ax, column=column)
            ax.set(
                title=title if row == 0 else "",
                xlabel="Epoch" if row else "",
                yscale="linear" if row else "log",
            )
        axes[row, 0].set_ylabel(name)
    _one_legend(figure, axes[0], columns=4)
    return figure


def _one_legend(figure: Figure, axes, columns: int) -> None:
    entries: dict[str, Any] = {}
    for ax in axes:
        handles, names = ax.get_legend_handles_labels()
        entries = dict(zip(names, handles, strict=True)) | entries
    figure.legend(entries.values(), entries.keys(), loc="outside upper center", ncols=columns)
