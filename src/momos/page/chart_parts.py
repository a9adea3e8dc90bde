"""What the interactive charts share: colours, menus, tooltips, the look of a Vega-Lite chart.

Series are told apart on white and on near-black, and never by colour alone: each has its own shape
or dash as well. Text takes the page's colour (currentColor), so one picture serves light and dark.
"""

from typing import Any

import altair as alt
import pandas as pd

COLOURS = ("#2b7fc4", "#d0611f", "#12946e", "#b8639d", "#7f7f87", "#a97b16", "#5a6bd6", "#c24a55")
SHAPES = (
    "circle",
    "square",
    "triangle-up",
    "diamond",
    "cross",
    "triangle-down",
    "triangle-right",
    "triangle-left",
)
DASHES = ([1, 0], [6, 3], [2, 2], [8, 3, 2, 3], [4, 2], [10, 4], [1, 3], [6, 2, 1, 2])
TEXT = {"labelColor": "currentColor", "titleColor": "currentColor", "labelFontSize": 12}
LOOK: dict[str, Any] = {
    "axis": {
        "gridColor": "currentColor",
        "gridOpacity": 0.13,
        "domainColor": "currentColor",
        "tickColor": "currentColor",
        "titleFontWeight": "normal",
        "titleFontSize": 13,
    }
    | TEXT,
    "legend": {
        "orient": "bottom",
        "title": None,
        "columns": 3,
        "symbolSize": 80,
        "symbolStrokeWidth": 2,
        "symbolOpacity": 1,
    }
    | TEXT,
    "view": {"stroke": None},
    "font": "system-ui, sans-serif",
}
ALL = "all"
Spec = dict[str, Any]


def spec(chart: alt.LayerChart | alt.FacetChart, *, height: int) -> Spec:
    """The finished chart as a Vega-Lite specification: as wide as its place, height in pixels."""
    fitted = chart.properties(
        width="container",
        height=height,
        background="transparent",
        autosize={"type": "fit-x", "contains": "padding"},
    )
    return fitted.configure(**LOOK).to_dict()


def select(name: str, values: pd.Series, *, every: bool = False) -> alt.Parameter:
    """A menu of the values; with `every`, the choice of all of them comes first."""
    options = [ALL] * every + list(dict.fromkeys(values))
    menu = alt.binding_select(options=options, name=f"{name.capitalize()} ")
    return alt.param(name=name, value=options[0], bind=menu)


def tip(field: str, title: str, form: str | None = None) -> alt.Tooltip:
    """A line of a tooltip. form: of a number, as d3 formats it; None for text."""
    kind = "Q" if form else "N"
    return alt.Tooltip(f"{field}:{kind}", title=title, format=form or alt.Undefined)


def _scale(values: pd.Series, looks: tuple, *, shift: bool) -> alt.Scale:
    """The same look for a name in every layer of a chart. Looks repeat when they run out.

    shift: by one at each repetition, so that shapes stand beside other colours than before.
    """
    names, wide = list(dict.fromkeys(values)), len(looks)
    places = [index + index // wide * shift for index in range(len(names))]
    return alt.Scale(domain=names, range=[looks[place % wide] for place in places])


def colour(values: pd.Series, field: str = "group") -> alt.Color:
    return alt.Color(f"{field}:N", scale=_scale(values, COLOURS, shift=False))


def shape(values: pd.Series, field: str = "group") -> alt.Shape:
    return alt.Shape(f"{field}:N", scale=_scale(values, SHAPES, shift=True))


def dash(values: pd.Series, field: str = "group") -> alt.StrokeDash:
    return alt.StrokeDash(f"{field}:N", scale=_scale(values, DASHES, shift=True))
