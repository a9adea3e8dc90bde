"""A page that compares weight files: one HTML file, which needs no network and no scripts.

Rows are mappings: `name` for readers, `series` and `step` of a checkpoint, and numbers by name.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, StrMethodFormatter

from momos.page.drawing import svg_of

TEMPLATES = Path(__file__).parent / "templates"
NAMED_LAYERS = 60  # most layers that are named on an axis
MOST_PICTURES = 4  # layers that are shown as pictures
LONG_NAME = 34  # characters of a name in a figure
LINEAR_Z = 10  # up to here the axis of z is linear, beyond it logarithmic
RATIO, BYTES = "Ratio to fresh weights", "Bytes"
MEASURES = {"bdm_1d": "BDM 1-D", "bdm_2d": "BDM 2-D", "planes": "planes"}
LAYERS = (
    "Layer by layer, in the file's order: how far the complexity of the signs lies from that of "
    "fresh weights, in their standard deviations, and the bits that zstd needs for a weight. "
    "There is no z where fresh weights are all the same."
)
CORNERS = (
    "Corners of the largest layers. Each layer has one scale, from its most negative value (dark) "
    "to its most positive one (bright)."
)
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
) -> list[tuple[str, list[tuple[str, str]]]]:
    """Caption and panels (what a panel shows, data URI) of each figure that has something to show.

    Panels stand side by side on a wide screen, one below the other on a phone.
    """
    few = _few(rows)
    names = [str(rows[place]["name"]) for place in few]
    layers, pictures = [layers[place] for place in few], [pictures[place] for place in few]
    drawn: list[tuple[str, dict[str, Callable[[], Figure]]]] = []
    for series in dict.fromkeys(row["series"] for row in rows if row["series"]):
        own = [row for row in rows if row["series"] == series]
        caption = f"Along the training ({series}): complexity against fresh weights, and bytes."
        drawn.append((caption, _along_training(own)))
    if layers[0]:
        drawn.append((LAYERS, _by_layer(names, layers)))
        largest = sorted(layers[0], key=lambda row: -row["num_weights"])
        shown = [row["name"] for row in largest if row["name"] in pictures[0]][:MOST_PICTURES]
        corners: dict[str, Callable[[], Figure]] = {
            f"Corner of {layer}": partial(_corner, names, layer, pictures) for layer in shown
        }
        drawn += [(CORNERS, corners)] if shown else []
    return [
        (caption, [(title, svg_of(draw)) for title, draw in panels.items()])
        for caption, panels in drawn
    ]


def _few(rows: Sequence[Row]) -> list[int]:
    """Places of the files that are shown layer by layer: of a training its first and its last."""
    places = {row["series"]: place for place, row in enumerate(rows) if row["series"]}
    first = {row["series"]: place for place, row in reversed(list(enumerate(rows)))}
    ends = {*places.values(), *first.values()}
    return [place for place, row in enumerate(rows) if not row["series"] or place in ends]


def _along_training(rows: Sequence[Row]) -> dict[str, Callable[[], Figure]]:
    """Ratios and z of the measures, and bytes by compressor, by step."""
    ratios = {label: f"{key}_ratio" for key, label in MEASURES.items()}
    z = {label: f"{key}_z" for key, label in MEASURES.items()}
    coded = [key for key in rows[0] if key.endswith("_bytes") and key not in COLUMNS]
    sizes = {key.removesuffix("_bytes"): key for key in coded}
    panels = {RATIO: ratios, "z": z, BYTES: {"as stored": "weight_bytes"} | sizes}
    return {label: partial(_by_step, rows, label, lines) for label, lines in panels.items()}


def _by_step(rows: Sequence[Row], label: str, lines: Mapping[str, str]) -> Figure:
    """A line for each label and key of the rows."""
    figure = Figure(figsize=(3.9, 3.4))
    ax = figure.subplots()
    for name, key in lines.items():
        ax.plot([row["step"] for row in rows], _values(rows, key), label=name)
    ax.set(xlabel="Step", ylabel=label)
    if label == BYTES:
        ax.set_ylim(bottom=0, top=1.05 * ax.get_ylim()[1])
        ax.yaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    else:
        ax.axhline(1.0 if label == RATIO else 0.0, color="black", linewidth=1)
    figure.legend(loc="outside upper center", ncols=3)
    return figure


def _by_layer(
    names: Sequence[str], layers: Sequence[Sequence[Row]]
) -> dict[str, Callable[[], Figure]]:
    """z of the signs' complexity, and bits that a weight needs."""
    panels = {"z of BDM 1-D": "bdm_1d_z", "Bits a weight (zstd)": "zstd_bits_per_weight"}
    return {label: partial(_layers, names, layers, label, key) for label, key in panels.items()}


def _layers(names: Sequence[str], layers: Sequence[Sequence[Row]], label: str, key: str) -> Figure:
    """A line a file; layers from top to bottom."""
    count = len(layers[0])
    figure = Figure(figsize=(4.9, 1.2 + 0.2 * len(names) + 0.22 * min(count, NAMED_LAYERS)))
    ax = figure.subplots()
    for name, rows in zip(names, layers, strict=True):
        ax.plot(_values(rows, key), range(count), label=_short(name), linewidth=0.8)
    ax.set_xlabel(label)
    if key.endswith("_z"):
        ax.axvline(0, color="black", linewidth=1)
        _widen_middle(ax)
    ax.set_ylim(count - 0.5, -0.5)
    if count <= NAMED_LAYERS:
        ax.set_yticks(range(count), [_short(row["name"]) for row in layers[0]], fontsize=8)
    else:
        ax.yaxis.set_major_locator(MaxNLocator(integer=True))
    figure.legend(loc="outside upper left")
    return figure


def _widen_middle(ax: Axes) -> None:
    """Make an axis of z logarithmic beyond LINEAR_Z, if some value lies far beyond it."""
    low, high = ax.get_xlim()
    if max(-low, high) > 3 * LINEAR_Z:
        ax.set_xscale("symlog", linthresh=LINEAR_Z)
        ends = [LINEAR_Z * 10**power for power in range(20) if LINEAR_Z * 10**power <= -low + high]
        ticks = [*(-end for end in reversed(ends)), 0, *ends]
        ax.set_xticks([one for one in ticks if low <= one <= high])
        ax.xaxis.set_major_formatter(StrMethodFormatter("{x:,g}"))
        ax.set_xlim(low, high)


def _corner(
    names: Sequence[str], layer: str, pictures: Sequence[Mapping[str, np.ndarray]]
) -> Figure:
    """The same corner of a layer in each file, one below the other."""
    figure = Figure(figsize=(2.7, 0.3 + 2.5 * len(names)))
    axes = figure.subplots(len(names), 1, squeeze=False)[:, 0]
    limit = max(float(np.abs(own[layer]).max()) for own in pictures) or 1.0
    for ax, name, own in zip(axes, names, pictures, strict=True):
        options = {"vmin": -limit, "vmax": limit, "cmap": "cividis"}
        ax.imshow(own[layer], interpolation="nearest", aspect="auto", **options)
        ax.set(xticks=[], yticks=[])
        ax.set_ylabel(_short(name), fontsize=8)
    axes[0].set_title(_short(layer), fontsize=8)
    return figure


def _short(name: str) -> str:
    """A name of which the middle is left out where it is long."""
    return name if len(name) <= LONG_NAME else f"{name[:14]}…{name[15 - LONG_NAME :]}"


def _values(rows: Sequence[Row], key: str) -> list[float]:
    """NaN, of which nothing is drawn, where a row has no value."""
    return [np.nan if row.get(key) is None else row[key] for row in rows]
