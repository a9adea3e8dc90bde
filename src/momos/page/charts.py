"""The page's interactive charts: numbers of the report -> Vega-Lite specifications, by Altair. No
reading, no computing.

Colours are told apart on white and on near-black, and never alone: every series has its own shape
or dash as well. Text takes the page's colour (currentColor), so that one picture serves light and
dark.
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
ALL = "all"
Spec = dict[str, Any]


def accuracy_against_rac(
    points: pd.DataFrame, fronts: pd.DataFrame, published: pd.DataFrame
) -> Spec:
    """points: model, method, group, rac, accuracy, low, high (percent; NaN without an interval).
    published: model, method, rac, accuracy. fronts: model, kind (measured, published), rac,
    accuracy in order of rac.
    """
    model, group = _select("model", points.model), _select("method", points.group, every=True)
    behind = alt.param(
        name="behind", value=True, bind=alt.binding_checkbox(name="Published points ")
    )
    chosen, kept = "datum.model === model", "method === 'all' || datum.group === method"
    x = (
        alt.X("rac:Q", title="RAC (times), log scale")
        .scale(type="log", nice=False, padding=14)
        .axis(values=[1, 2, 4, 8, 16], format="~g")
    )
    y = alt.Y("accuracy:Q", title="Test accuracy (%)").scale(zero=False, padding=8)
    tips = [
        _tip("method", "Method"),
        _tip("rac", "RAC", ".2f"),
        _tip("accuracy", "Accuracy (%)", ".2f"),
    ]
    theirs = alt.Chart(published).transform_filter(f"{chosen} && behind")
    their_points = theirs.mark_point(
        size=36, opacity=0.75, color="#7f7f87", shape="circle", description="published"
    )
    their_line = alt.Chart(fronts).transform_filter(
        f"{chosen} && behind && datum.kind === 'published'"
    )
    our_line = alt.Chart(fronts).transform_filter(f"{chosen} && datum.kind === 'measured'")
    ours = alt.Chart(points).transform_filter(chosen).transform_filter(kept)
    whole = [_tip("low", "95 % from", ".2f"), _tip("high", "to", ".2f")]
    layers = alt.layer(
        their_line.mark_line(
            interpolate="step-before", color="#7f7f87", strokeDash=[3, 3], strokeWidth=1.5
        ).encode(x=x, y=y),
        their_points.encode(
            x=x, y=y, tooltip=[alt.Tooltip("method:N", title="Published"), *tips[1:]]
        ),
        our_line.mark_line(
            interpolate="step-before", color="currentColor", strokeWidth=1.2, opacity=0.8
        ).encode(x=x, y=y),
        ours.mark_rule(opacity=0.7, strokeWidth=1.4).encode(
            x=x, y=alt.Y("low:Q").scale(zero=False), y2="high:Q", color=_colour(points.group)
        ),
        ours.mark_point(filled=True, size=85, opacity=1).encode(
            x=x, y=y, color=_colour(points.group), shape=_shape(points.group), tooltip=tips + whole
        ),
    )
    return _spec(layers.add_params(model, group, behind), height=360)


def training(curves: pd.DataFrame) -> Spec:
    """curves: model, method, group, epoch, loss (nats), accuracy (percent), means over seeds."""
    model = _select("model", curves.model)
    measure = alt.param(
        name="measure",
        value="accuracy",
        bind=alt.binding_select(options=["accuracy", "loss"], name="Validation "),
    )
    method = _select("method", curves.method, every=True)
    value = "measure === 'loss' ? datum.loss : datum.accuracy"
    base = (
        alt.Chart(curves)
        .transform_filter("datum.model === model")
        .transform_filter("method === 'all' || datum.method === method")
    )
    base = base.transform_calculate(value=value)
    y = alt.Y("value:Q", title="Validation accuracy (%) or loss (nats)").scale(
        zero=False, padding=6
    )
    x = alt.X("epoch:Q", title="Epoch").axis(tickMinStep=1, format="d")
    detail = {
        "color": _colour(curves.group).legend(symbolType="stroke"),
        "strokeDash": _dash(curves.group),
        "detail": "method:N",
    }
    tips = [
        _tip("method", "Method"),
        alt.Tooltip("epoch:Q", title="Epoch", format="d"),
        _tip("value", "Value", ".3f"),
    ]
    lines = base.mark_line(strokeWidth=1.5).encode(x=x, y=y, **detail)
    dots = base.mark_point(filled=True, size=22).encode(
        x=x, y=y, color=_colour(curves.group).legend(symbolType="stroke"), tooltip=tips
    )
    return _spec(alt.layer(lines, dots).add_params(model, measure, method), height=340)


def ratio_against_size(pairs: pd.DataFrame) -> Spec:
    """Figure 2. pairs: name, title, group, num_weights, bdm_1d_ratio. Few models: each in a column
    of its own, by size.
    """
    group = _select("method", pairs.group, every=True)
    base = alt.Chart(pairs).transform_filter("method === 'all' || datum.group === method")
    y = alt.Y("bdm_1d_ratio:Q", title="BDM trained / BDM initial (1-D)").scale(
        zero=False, padding=8
    )
    tips = [
        _tip("name", "Model"),
        _tip("group", "Group"),
        _tip("num_weights", "Weights", ",d"),
        _tip("bdm_1d_ratio", "BDM ratio", ".4f"),
    ]
    look = {"color": _colour(pairs.group), "shape": _shape(pairs.group), "tooltip": tips}
    if pairs.title.nunique() <= 5:
        order = list(pairs.drop_duplicates("title").sort_values("num_weights").title)
        place = {
            "x": alt.X("title:N", sort=order, title="Model, by number of weights").axis(
                labelAngle=0
            ),
            "xOffset": alt.XOffset("group:N"),
        }
    else:
        place = {
            "x": alt.X("num_weights:Q", title="Number of weights").scale(
                type="log", nice=False, padding=10
            )
        }
    level = (
        alt.Chart(pd.DataFrame({"one": [1.0]}))
        .mark_rule(strokeDash=[6, 3], color="currentColor")
        .encode(y="one:Q")
    )
    marks = base.mark_point(size=48, opacity=0.9, strokeWidth=1.6).encode(**place, y=y, **look)
    return _spec(alt.layer(level, marks).add_params(group), height=320)


def accuracy_against_capacity(points: pd.DataFrame) -> Spec:
    """Figures 4 and B.2. points: model, method, size (s = ...), capacity (% of blocks), accuracy
    (percent).
    """
    model = _select("model", points.model)
    base = alt.Chart(points).transform_filter("datum.model === model")
    x = alt.X("capacity:Q", title="Capacity (% of blocks), log scale").scale(
        type="log", nice=False, padding=12
    )
    x = x.axis(format="~g", values=sorted(set(points.capacity)))
    place = {
        "x": x,
        "y": alt.Y("accuracy:Q", title="Validation accuracy (%)").scale(zero=False, padding=8),
    }
    tips = [_tip("method", "Method"), _tip("accuracy", "Accuracy (%)", ".2f")]
    lines = base.mark_line(strokeWidth=1.5).encode(
        **place, color=_colour(points["size"], "size"), strokeDash=_dash(points["size"], "size")
    )
    dots = base.mark_point(filled=True, size=60, opacity=1).encode(
        **place,
        color=_colour(points["size"], "size"),
        shape=_shape(points["size"], "size"),
        tooltip=tips,
    )
    return _spec(alt.layer(lines, dots).add_params(model), height=320)


def critical_against_llc(points: pd.DataFrame) -> Spec:
    """Singular MDL, Fig. 2 and 3. points: scheme, run, step, llc, critical; a line per run is its
    least-squares fit.
    """
    scheme = _select("scheme", points.scheme)
    base = alt.Chart(points).transform_filter("datum.scheme === scheme")
    x = alt.X("llc:Q", title="Local learning coefficient").scale(zero=False, padding=12)
    y = alt.Y("critical:Q", title="Critical value").scale(zero=False, padding=8)
    tips = [
        _tip("run", "Run"),
        _tip("step", "Step", ",d"),
        _tip("llc", "LLC", ".2f"),
        _tip("critical", "Critical", ".4~g"),
    ]
    look = {
        "color": _colour(points.run, "run"),
        "shape": _shape(points.run, "run"),
        "tooltip": tips,
    }
    fits = base.transform_regression("llc", "critical", groupby=["run"]).mark_line(strokeWidth=1.2)
    lines = fits.encode(x=x, y=y, color=_colour(points.run, "run"))
    marks = base.mark_point(filled=True, size=70, opacity=1).encode(x=x, y=y, **look)
    return _spec(alt.layer(lines, marks).add_params(scheme), height=320)


def _spec(chart: alt.LayerChart, *, height: int) -> Spec:
    axis = {
        "gridColor": "currentColor",
        "gridOpacity": 0.13,
        "domainColor": "currentColor",
        "tickColor": "currentColor",
    }
    text = {
        "labelColor": "currentColor",
        "titleColor": "currentColor",
        "titleFontWeight": "normal",
        "labelFontSize": 12,
        "titleFontSize": 13,
    }
    legend = {
        "orient": "bottom",
        "title": None,
        "columns": 3,
        "symbolSize": 80,
        "symbolStrokeWidth": 2,
        "symbolOpacity": 1,
        "labelColor": "currentColor",
    }
    config = {
        "axis": axis | text,
        "legend": legend | {"labelFontSize": 12, "titleColor": "currentColor"},
        "view": {"stroke": None},
        "font": "system-ui, sans-serif",
    }
    chart = chart.properties(
        width="container",
        height=height,
        background="transparent",
        autosize={"type": "fit-x", "contains": "padding"},
    )
    return chart.configure(**config).to_dict()


def _select(name: str, values: pd.Series, *, every: bool = False) -> alt.Parameter:
    """A menu of the values; with `every`, all of them at first."""
    options = [ALL] * every + list(dict.fromkeys(values))
    return alt.param(
        name=name,
        value=options[0],
        bind=alt.binding_select(options=options, name=f"{name.capitalize()} "),
    )


def _tip(field: str, title: str, form: str | None = None) -> alt.Tooltip:
    return alt.Tooltip(
        f"{field}:{'Q' if form else 'N'}", title=title, **({"format": form} if form else {})
    )


def _scale(values: pd.Series, looks: tuple) -> alt.Scale:
    """The same look for a name in every chart part; beyond the number of looks they repeat."""
    names = list(dict.fromkeys(values))
    return alt.Scale(domain=names, range=[looks[index % len(looks)] for index in range(len(names))])


def _colour(values: pd.Series, field: str = "group") -> alt.Color:
    return alt.Color(f"{field}:N", scale=_scale(values, COLOURS))


def _shape(values: pd.Series, field: str = "group") -> alt.Shape:
    return alt.Shape(f"{field}:N", scale=_scale(values, SHAPES))


def _dash(values: pd.Series, field: str = "group") -> alt.StrokeDash:
    return alt.StrokeDash(f"{field}:N", scale=_scale(values, DASHES))
