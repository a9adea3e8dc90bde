"""Figures as data URIs: a page that holds them shows them without scripts and without network."""

import base64
import re
from pathlib import Path

from momos.page.svg import minified

LARGE = 200_000  # bytes beyond which a picture may be a PNG, if that is smaller


def data_uri(svg: Path) -> str:
    """The figure as a data URI that is safe between double quotes in HTML.

    It holds the minified SVG, or the PNG beside it where the SVG is large and the PNG smaller.
    Raises ValueError for a file that is missing.
    """
    png = svg.with_suffix(".png")
    for path in (svg, png):
        if not path.is_file():
            raise ValueError(
                f"{path} is missing: expected a figure written by an earlier stage "
                "(run `dvc repro`)"
            )
    as_svg = svg_uri(svg.read_text())
    as_png = "data:image/png;base64," + base64.b64encode(png.read_bytes()).decode()
    return as_png if LARGE < len(as_svg) > len(as_png) else as_svg


def svg_uri(svg: str) -> str:
    """The text of Matplotlib's SVG as a data URI that is safe between double quotes in HTML."""
    return "data:image/svg+xml," + _percent_encoded(minified(svg))


def _percent_encoded(svg: str) -> str:
    """Without the characters that end an attribute, begin an entity or a fragment, or get lost."""
    return re.sub(r'[%#"&\t\r\n]', lambda one: f"%{ord(one.group()):02X}", svg)
