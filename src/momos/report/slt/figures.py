"""The singular-MDL study's figures, made of panels that are drawn on Axes.

Data frames go in, figures come out; nothing is read or saved.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure

from momos.report.shared import plots
from momos.report.slt.fits import fit

STRENGTHS = {
    "quantization": "Number of values n_q",
    "quantization_max": "Number of values n_q (θ = max|w|)",
    "factorization": "Parameters after / before",
    "noise_absolute": "Noise σ",
    "noise_relative": "Relative noise σ",
    "pruning": "Heads kept (share)",
}
VALUES = {
    "quantization": "Critical n_q",
    "quantization_max": "Critical n_q (θ = max|w|)",
    "factorization": "Critical fraction",
    "noise_absolute": "Critical σ",
    "noise_relative": "Critical relative σ",
    "pruning": "Critical share of heads",
}
AXES = {
    "llc_mean": "LLC",
    "step": "Training step",
    "hessian_trace": "tr(H)",
    "sigma": "Critical σ of plain noise",
}
LOG_STRENGTH = {"quantization", "quantization_max", "noise_absolute", "noise_relative"}
COLOURS = "viridis"  # lightness rises along training
Runs = Sequence[tuple[str, int]]


def curves(curve: pd.DataFrame, runs: Runs, scheme: str, eps: Sequence[float]) -> Figure:
    """Loss increase against strength: a panel per run, a line per step; dotted: the tolerances."""
    figure, axes = _panels(1, len(runs))
    norm = LogNorm(curve.step.min(), max(curve.step.max(), curve.step.min() + 1))
    for ax, run in zip(axes[0], runs, strict=True):
        loss_curves(_of(curve, run), ax, scheme=scheme, eps=eps, norm=norm).set_title(_name(run))
    figure.colorbar(
        ScalarMappable(norm, COLOURS), ax=list(axes[0]), label="Training step", shrink=0.9
    )
    return figure


def loss_curves(
    curve: pd.DataFrame, ax: Axes, *, scheme: str, eps: Sequence[float], norm: Normalize
) -> Axes:
    """Draw a line per step. curve: step, strength, cost, rise (nats), of one run."""
    colours = ScalarMappable(norm, COLOURS)
    at = "cost" if scheme == "factorization" else "strength"
    for place, (step, rows) in enumerate(curve.groupby("step")):
        rows = rows.sort_values(at)
        ax.plot(
            rows[at],
            rows["rise"],
            color=colours.to_rgba(step),
            marker=plots.MARKERS[place % len(plots.MARKERS)],
            markersize=3.5,
            lw=1.2,
        )
    for value in eps:
        ax.axhline(value, color="black", linewidth=0.8, linestyle=":")
    top = max(4 * max(eps), min(float(curve["rise"].max()), 20 * max(eps)))
    ax.set(xlabel=STRENGTHS[scheme], ylabel="Loss increase (nats)", ylim=(-0.05 * top, top))
    ax.set_xscale("log" if scheme in LOG_STRENGTH else "linear")
    return ax


def against(
    points: dict[str, pd.DataFrame], runs: Runs, x: str, fit_steps: Sequence[int]
) -> Figure:
    """Critical value against x: a row per scheme, a column per run, with linear fits.

    points: scheme -> its points. fit_steps: the first and the last step of the fits.
    """
    figure, axes = _panels(len(points), len(runs))
    for row, (name, frame) in zip(axes, points.items(), strict=True):
        y, label = (
            ("log2", "log2 of critical n_q (bits)")
            if name.endswith(" bits")
            else ("value", VALUES[name])
        )
        for ax, run in zip(row, runs, strict=True):
            fitted(_of(frame, run), ax, x=x, y=y, fit_steps=fit_steps)
            ax.set(
                title=f"{_name(run)}\n{ax.get_title()}",
                ylabel=label if run == runs[0] else "",
                xlabel=AXES[x],
            )
    return figure


def fitted(points: pd.DataFrame, ax: Axes, *, x: str, y: str, fit_steps: Sequence[int]) -> Axes:
    """Draw points and the least-squares line within fit_steps, with its 95 % confidence band.

    points: step, x, y, llc_std. Those outside fit_steps are hollow.
    """
    points = points[points[y].notna() & points[x].notna()].sort_values("step")
    inside = points.step.between(*fit_steps)
    mine = points[inside]
    spread = mine.llc_std if x == "llc_mean" else None
    ax.errorbar(
        mine[x],
        mine[y],
        xerr=spread,
        fmt="o",
        color=plots.COLOURS[0],
        markersize=5,
        elinewidth=0.8,
        label="Checkpoint",
    )
    rest = points[~inside]
    ax.plot(
        rest[x],
        rest[y],
        "o",
        color=plots.COLOURS[0],
        markerfacecolor="white",
        markersize=5,
        label="outside the fit",
    )
    regression = fit(mine[x], mine[y])
    if regression is None:
        ax.set_title(f"{len(mine)} points, no fit")
        return ax
    places = np.linspace(mine[x].min(), mine[x].max(), 100)
    line, half = regression.band(places)
    ax.plot(places, line, **plots.REFERENCE)
    ax.fill_between(places, line - half, line + half, color="black", alpha=0.12, linewidth=0)
    ax.set_title(f"R² = {regression.r2:.3f}, steps {mine.step.min()} to {mine.step.max()}")
    return ax


def three_eps(points: dict[float, dict[str, pd.DataFrame]], runs: Runs) -> Figure:
    """Critical value against LLC: a row per scheme, a column per eps, a line per run.

    points: eps -> scheme -> points.
    """
    names = list(next(iter(points.values())))
    figure, axes = _panels(len(names), len(points))
    for row, scheme in zip(axes, names, strict=True):
        for ax, (eps, frames) in zip(row, points.items(), strict=True):
            for place, run in enumerate(runs):
                _line(
                    _of(frames[scheme], run).dropna(subset="value"),
                    ax,
                    "llc_mean",
                    "value",
                    place,
                    _name(run),
                )
            ax.set(
                title=f"eps = {eps:g}",
                xlabel=AXES["llc_mean"],
                ylabel=VALUES[scheme] if ax is row[0] else "",
            )
    _legend(figure, axes[0, 0])
    return figure


def controls(points: dict[str, pd.DataFrame], runs: Runs, fit_steps: Sequence[int]) -> Figure:
    """Critical n_q with its linear fit: a row per control, a column per run.

    points: control -> points with a column of that name.
    """
    figure, axes = _panels(len(points), len(runs))
    for row, (x, frame) in zip(axes, points.items(), strict=True):
        for ax, run in zip(row, runs, strict=True):
            fitted(_of(frame, run), ax, x=x, y="value", fit_steps=fit_steps)
            ax.set(
                title=f"{_name(run)}\n{ax.get_title()}",
                xlabel=AXES[x],
                ylabel="Critical n_q" if run == runs[0] else "",
            )
    return figure


def llc_against_step(llc: pd.DataFrame, history: pd.DataFrame, runs: Runs) -> Figure:
    """LLC, the rise of the loss while sampling, and the training's held-out loss, by step.

    The LLC has its sample standard deviation over chains.
    """
    figure, axes = _panels(1, 3)
    for place, run in enumerate(runs):
        mine, name = _of(llc, run), _name(run)
        style: dict[str, Any] = {
            "color": plots.COLOURS[place],
            "marker": plots.MARKERS[place],
            "linestyle": plots.LINES[place % len(plots.LINES)],
        }
        axes[0, 0].errorbar(
            mine.step,
            mine.llc_mean,
            yerr=mine.llc_std,
            capsize=2.5,
            markersize=4.5,
            label=name,
            **style,
        )
        _line(mine, axes[0, 1], "step", "loss_rise", place, name)
        if len(history):
            _line(_of(history, run), axes[0, 2], "step", "val_loss", place, name)
    for ax, label in zip(
        axes[0], ("LLC", "Loss rise while sampling (nats)", "Held-out loss (nats)"), strict=True
    ):
        ax.set(xlabel=AXES["step"], ylabel=label, xscale="log")
    _legend(figure, axes[0, 0])
    return figure


def measures(frame: pd.DataFrame, runs: Runs) -> Figure:
    """Every measure along training: a row each, a column per model, a line per seed.

    frame: model, seed, step, and a column per measure under its name for readers.
    """
    names = [name for name in frame if name not in ("model", "seed", "step")]
    models = list(dict.fromkeys(model for model, _ in runs))
    figure = Figure(figsize=(1.4 + 5.2 * len(models), 0.8 + 1.25 * len(names)))
    axes = figure.subplots(len(names), len(models), squeeze=False, sharex="col")
    for row, name in zip(axes, names, strict=True):
        for ax, model in zip(row, models, strict=True):
            seeds = [run for run in runs if run[0] == model]
            for place, run in enumerate(seeds):
                mine = _of(frame, run).dropna(subset=name)
                _line(mine, ax, "step", name, place, f"seed {run[1]}")
            ax.set(xscale="log", ylabel=name.replace(" of ", "\nof ") if ax is row[0] else "")
            ax.yaxis.label.set(rotation=0, ha="right", va="center")
    for ax, model in zip(axes[0], models, strict=True):
        ax.set(title=model)
    for ax in axes[-1]:
        ax.set(xlabel=AXES["step"])
    _legend(figure, axes[0, 0])
    return figure


def along(frame: pd.DataFrame) -> Figure:
    """Every measure along image trainings: a row each, a column per model, a line per method.

    frame: model, method, seed, step, and a column per measure under its name for readers. Lines
    are means over seeds, bands go from the smallest to the largest.
    """
    names = [name for name in frame if name not in ("model", "method", "seed", "step")]
    models, methods = frame.model.unique(), list(frame.method.unique())
    figure = Figure(figsize=(1.6 + 2.6 * len(models), 1.0 + 1.15 * len(names)))
    axes = figure.subplots(len(names), len(models), squeeze=False, sharex="col", sharey="row")
    for row, name in zip(axes, names, strict=True):
        for ax, model in zip(row, models, strict=True):
            for place, method in enumerate(methods):
                mine = frame[(frame.model == model) & (frame.method == method)]
                over_seeds(mine, ax, name, place, method)
            ax.set(xscale="log", ylabel=name.replace(" of ", "\nof ") if ax is row[0] else "")
            ax.yaxis.label.set(rotation=0, ha="right", va="center")
    for ax, model in zip(axes[0], models, strict=True):
        ax.set(title=model.replace("_", " "))
    for ax in axes[-1]:
        ax.set(xlabel=AXES["step"])
    _legend(figure, axes[0, 0])
    return figure


def over_seeds(rows: pd.DataFrame, ax: Axes, y: str, place: int, name: str) -> Axes:
    """Draw the mean of y over seeds against step, with a band over all seeds. rows: step, y."""
    found = rows.groupby("step")[y].agg(["mean", "min", "max"]).dropna().reset_index()
    _line(found, ax, "step", "mean", place, name)
    colour = plots.COLOURS[place % len(plots.COLOURS)]
    ax.fill_between(found.step, found["min"], found["max"], color=colour, alpha=0.15, linewidth=0)
    return ax


def images(complexity: pd.DataFrame, n_q: str) -> Figure:
    """Image classifiers: critical n_q, RAC and 1-D BDM ratio against LLC, a marker per model."""
    measures = {n_q: "Critical n_q", "rac": "RAC (times)", "bdm_1d_ratio": "1-D BDM ratio"}
    figure, axes = _panels(1, len(measures))
    for ax, (column, label) in zip(axes[0], measures.items(), strict=True):
        for place, (name, rows) in enumerate(complexity.groupby("model", sort=False)):
            style = {
                "color": plots.COLOURS[place],
                "fmt": plots.MARKERS[place],
                "markersize": 5.5,
                "elinewidth": 0.8,
            }
            ax.errorbar(rows.llc_mean, rows[column], xerr=rows.llc_std, label=name, **style)
        ax.set(xlabel=AXES["llc_mean"], ylabel=label)
    _legend(figure, axes[0, 0])
    return figure


def _panels(rows: int, columns: int) -> tuple[Figure, np.ndarray]:
    figure = Figure(figsize=(0.9 + 3.4 * columns, 0.7 + 2.9 * rows))
    return figure, figure.subplots(rows, columns, squeeze=False)


def _of(frame: pd.DataFrame, run: tuple[str, int]) -> pd.DataFrame:
    return frame[(frame.model == run[0]) & (frame.seed == run[1])].sort_values("step")


def _name(run: tuple[str, int]) -> str:
    return f"{run[0]}, seed {run[1]}"


def _line(rows: pd.DataFrame, ax: Axes, x: str, y: str, place: int, name: str) -> None:
    place %= len(plots.COLOURS)
    style: dict[str, Any] = {
        "color": plots.COLOURS[place],
        "marker": plots.MARKERS[place],
        "linestyle": plots.LINES[place],
    }
    ax.plot(rows[x], rows[y], markersize=4.5, linewidth=1.4, label=name, **style)


def _legend(figure: Figure, ax: Axes) -> None:
    handles, names = ax.get_legend_handles_labels()
    figure.legend(handles, names, loc="outside upper center", ncols=min(len(names), 5) or 1)
