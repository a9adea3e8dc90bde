"""The look of the command's own figures, as SVG in a page or as a PNG; the same bytes each time."""

import contextlib
import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from momos.page.pictures import svg_uri

STYLE: dict[str, Any] = {
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.prop_cycle": (
        "cycler(marker=['o', 's', '^', 'D', 'v', 'P'], color=['#2b7fc4', '#d0611f', '#12946e',"
        " '#b8639d', '#7f7f87', '#a97b16'])"
    ),
    "figure.constrained_layout.use": True,
    "grid.color": "0.88",
    "legend.frameon": False,
    "lines.markersize": 4,
    "savefig.dpi": 160,
    "svg.hashsalt": "momos",
}


def svg_of(draw: Callable[[], Figure]) -> str:
    """The figure as a data URI."""
    with _style():
        file = io.StringIO()
        draw().savefig(file, format="svg", metadata={"Date": None, "Creator": None})
    return svg_uri(file.getvalue())


def write_png(draw: Callable[[], Figure], path: Path) -> None:
    """Write the figure as a PNG. Raises OSError naming the file that can't be written."""
    with _style():
        draw().savefig(path, format="png", metadata={"Software": None})


@contextlib.contextmanager
def _style() -> Iterator[None]:
    """Matplotlib's own defaults and STYLE inside the block, whatever matplotlibrc says."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(STYLE)  # type: ignore[arg-type]  # its stubs want literals
        yield
