"""A page that compares weight files: one HTML file, which needs no network and no scripts.

Rows are mappings: `name` for readers, `series` and `step` of a checkpoint, and numbers by name.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from momos.page.drawing import svg_of

TEMPLATES = Path(__file__).parent / "templates"
NAMED_LAYERS = 60  # most layers that are named on an axis
MOST_PICTURES = 4  # layers that are shown as pictures
COLUMNS = {
    "num_weights": ("Weights", "{:,}"),
    "stored_dtype": ("Stored as", "{}"),
    "file_bytes": ("File (bytes)", "{:,}"),
    "weight_bytes": ("Weights (bytes)", "{:,}"),
    "bdm_1d_ratio": ("BDM 1-D ratio", "{:.4f}"),
    "bdm_1d_z": ("z", "{:.1f}"),
    "bdm_2d_ratio": ("BDM 2-D ratio", "{:.4f}"),
    "bdm_2d_z": ("z", "{:.1f}"),
    "planes_ratio": ("Planes ratio", "{:.4f}"),
    "planes_z": ("z", "{:.1f}"),
    "sparsity": ("Zeros", "{:.2%}"),
}
EMPTY = "–"
Row = Mapping[str, Any]


def shown_columns(rows: Sequence[Row]) -> dict[str, tuple[str, str]]:
    """Key -> title and format of the table's columns; a compressor's stand behind the bytes."""
    coded = [key for key in rows[0] if key.endswith("_bytes") and key not in COLUMNS]
    titles = {key: (f"{key.removesuffix('_bytes')} (bytes)", "{:,}") for key in coded}
    keys = list(COLUMNS)
    place = keys.index("weight_bytes") + 1
    ordered = [*keys[:place], *coded, *keys[place:]]
    return {key: (COLUMNS | titles)[key] for key in ordered}


def cell_text(row: Row, key: str, form: str) -> str:
    """A number for readers; EMPTY where there is none."""
    value = row.get(key)
    return EMPTY if value is None else form.format(value)


def render_comparison(
    rows: Sequence[Row],
    layers: Sequence[Sequence[Row]],
    pictures: Sequence[Mapping[str, np.ndarray]],
    *,
    others: str = "",
) -> str:
    """The whole page.

    rows: a file each. layers: of each file a row a tensor, for the tensors that all of them have.
    pictures: of each file tensor -> a part of it. others: names of further tensors, for readers.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES), autoescape=True, undefined=jinja2.StrictUndefined
    )
    environment.globals |= {"cell_text": cell_text}
    return environment.get_template("comparison.html").render(
        rows=rows,
        columns=shown_columns(rows),
        figures=_figures(rows, layers, pictures),
        others=others,
    )


def _figures(
    rows: Sequence[Row],
    layers: Sequence[Sequence[Row]],
    pictures: Sequence[Mapping[str, np.ndarray]],
) -> list[tuple[str, str]]:
    """(caption, data URI) of each figure that has something to show."""
    few = _few(rows)
    names = [str(rows[place]["name"]) for place in few]
    layers, pictures = [layers[place] for place in few], [pictures[place] for place in few]
    drawn: list[tuple[str, Callable[[], Figure]]] = []
    for series in dict.fromkeys(row["series"] for row in rows if row["series"]):
        own = [row for row in rows if row["series"] == series]
        caption = f"Along the training ({series}): complexity against fresh weights, and bytes."
        drawn.append((caption, lambda own=own: _along_training(own)))  # type: ignore[misc]
    if layers[0]:
        caption = (
            "Layer by layer, in the file's order: how far the complexity of the signs lies "
            "from that of fresh weights, in their standard deviations, and the bits that zstd "
            "needs for a weight."
        )
        drawn.append((caption, lambda: _by_layer(names, layers)))
        caption = (
            "Corners of the largest layers. Each layer has one scale, from its most negative value "
            "(dark) to its most positive one (bright)."
        )
        largest = sorted(layers[0], key=lambda row: -row["num_weights"])
        shown = [row["name"] for row in largest if row["name"] in pictures[0]][:MOST_PICTURES]
        if shown:
            drawn.append((caption, lambda: _corners(names, shown, pictures)))
    return [(caption, svg_of(draw)) for caption, draw in drawn]


def _few(rows: Sequence[Row]) -> list[int]:
    """Places of the files that are shown layer by layer: of a training its first and its last."""
    places = {row["series"]: place for place, row in enumerate(rows) if row["series"]}
    first = {row["series"]: place for place, row in reversed(list(enumerate(rows)))}
    ends = {*places.values(), *first.values()}
    return [place for place, row in enumerate(rows) if not row["series"] or place in ends]


def _along_training(rows: Sequence[Row]) -> Figure:
    """Ratios and z of the measures, and bytes by compressor, by step."""
    figure = Figure(figsize=(11, 3.6))
    ratio, z, size = figure.subplots(1, 3)
    steps = [row["step"] for row in rows]
    for measure, label in (("bdm_1d", "BDM 1-D"), ("bdm_2d", "BDM 2-D"), ("planes", "planes")):
        for ax, part in ((ratio, "ratio"), (z, "z")):
            ax.plot(steps, _values(rows, f"{measure}_{part}"), label=label)
    for key in ("weight_bytes", *_coded(rows[0])):
        size.plot(steps, _values(rows, key), label=key.removesuffix("_bytes"))
    for ax, label in ((ratio, "Ratio to fresh weights"), (z, "z"), (size, "Bytes")):
        ax.set(xlabel="Step", ylabel=label)
        ax.legend()
    size.set_yscale("log")
    return figure


def _coded(row: Row) -> list[str]:
    return [key for key in row if key.endswith("_bytes") and key not in COLUMNS]


def _by_layer(names: Sequence[str], layers: Sequence[Sequence[Row]]) -> Figure:
    """A line a file; layers from top to bottom."""
    count = len(layers[0])
    figure = Figure(figsize=(11, 1.6 + 0.22 * min(count, NAMED_LAYERS)))
    panels: tuple[tuple[Axes, str, str], ...] = tuple(
        zip(
            figure.subplots(1, 2, sharey=True),
            ("bdm_1d_z", "zstd_bits_per_weight"),
            ("z of BDM 1-D", "Bits a weight (zstd)"),
            strict=True,
        )
    )
    for ax, key, label in panels:
        for name, rows in zip(names, layers, strict=True):
            ax.plot(_values(rows, key), range(count), label=name, linewidth=0.8)
        ax.set_xlabel(label)
    first = panels[0][0]
    first.axvline(0, color="black", linewidth=1)
    first.invert_yaxis()
    if count <= NAMED_LAYERS:
        first.set_yticks(range(count), [row["name"] for row in layers[0]], fontsize=8)
    else:
        first.yaxis.set_major_locator(MaxNLocator(integer=True))
    figure.legend(*first.get_legend_handles_labels(), loc="outside upper center", ncols=3)
    return figure


def _corners(
    names: Sequence[str], layers: Sequence[str], pictures: Sequence[Mapping[str, np.ndarray]]
) -> Figure:
    """A row a file, a column a layer."""
    figure = Figure(figsize=(2.6 * len(layers), 2.4 * len(names)))
    grid = figure.subplots(len(names), len(layers), squeeze=False)
    for column, layer in enumerate(layers):
        limit = max(float(np.abs(own[layer]).max()) for own in pictures) or 1.0
        for place, own in enumerate(pictures):
            ax = grid[place, column]
            options = {"vmin": -limit, "vmax": limit, "cmap": "cividis"}
            ax.imshow(own[layer], interpolation="nearest", aspect="auto", **options)
            ax.set(xticks=[], yticks=[])
            if place == 0:
                ax.set_title(layer, fontsize=8)
        for place, name in enumerate(names):
            grid[place, 0].set_ylabel(name, fontsize=8)
    return figure


def _values(rows: Sequence[Row], key: str) -> list[float]:
    """NaN, of which nothing is drawn, where a row has no value."""
    return [np.nan if row.get(key) is None else row[key] for row in rows]
