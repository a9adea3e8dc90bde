"""Test accuracy against relative algorithmic compression (RAC), with the published points."""

from collections.abc import Iterator, Mapping
from typing import Any

import altair as alt
import pandas as pd

from momos.page import chart_parts as parts
from momos.page.report_folder import ReportFolder

CAPTION = (
    "Test accuracy against relative algorithmic compression (RAC). The line joins what no other "
    "method beats in both; behind it, grey and dashed, the published points and their front "
    "(where the table says NOT COMPARABLE only their shape means anything). Whiskers: 95 % "
    "intervals over seeds. Point at a mark for its numbers."
)
GREY = "#7f7f87"
CHOSEN = "datum.model === model"  # in Vega's expressions: by the menus of the chart


def chart(report: ReportFolder) -> parts.Spec:
    return draw_accuracy_against_rac(
        measured_points(report), fronts(report), published_points(report)
    )


def _pairs(report: ReportFolder) -> Iterator[tuple[Mapping[str, Any], Mapping[str, Any]]]:
    """The accuracy and the RAC of each model and method of Tables 1 and 2."""
    for name, cell in report.cells.items():
        if cell["measure"] == "test_accuracy_last":
            yield cell, report.cells[name.removesuffix("test_accuracy_last") + "rac"]


def _labels(report: ReportFolder, cell: Mapping[str, Any]) -> dict[str, Any]:
    return report.labels(cell["model"], cell["method"])


def measured_points(report: ReportFolder) -> pd.DataFrame:
    """Columns model, method, group, rac, accuracy (percent), and its interval from low to high."""
    rows = []
    for accuracy, rac in _pairs(report):
        if accuracy["value"] is not None and rac["value"] is not None:
            low, high = accuracy["interval"] or (None, None)
            point = {"rac": rac["value"], "accuracy": accuracy["value"], "low": low, "high": high}
            rows.append(_labels(report, accuracy) | point)
    columns = ["model", "method", "group", "rac", "accuracy", "low", "high"]
    return pd.DataFrame(rows, columns=columns).astype({"low": float, "high": float})


def published_points(report: ReportFolder) -> pd.DataFrame:
    """Columns model, method, group, rac, accuracy (percent)."""
    rows = [
        _labels(report, accuracy) | {"rac": rac["published"], "accuracy": accuracy["published"]}
        for accuracy, rac in _pairs(report)
        if "published" in accuracy
    ]
    return pd.DataFrame(rows, columns=["model", "method", "group", "rac", "accuracy"])


def fronts(report: ReportFolder) -> pd.DataFrame:
    """The points on each model's Pareto front by RAC: model, kind, rac, accuracy.

    kind: measured or published.
    """
    rows, results = [], report.results
    for accuracy, rac in _pairs(report):
        model, method = accuracy["model"], accuracy["method"].removesuffix("_published")
        for kind, field in (("measured", "value"), ("published", "published")):
            if method in results["pareto"][model][kind] and accuracy.get(field) is not None:
                point = {"rac": rac[field], "accuracy": accuracy[field]}
                rows.append({"model": results["names"]["models"][model], "kind": kind} | point)
    front = pd.DataFrame(rows, columns=["model", "kind", "rac", "accuracy"])
    return front.sort_values(["model", "kind", "rac"], kind="stable")


def draw_accuracy_against_rac(
    points: pd.DataFrame, fronts: pd.DataFrame, published: pd.DataFrame
) -> parts.Spec:
    """One model at a time, all its methods or one group of them.

    points: as `measured_points`, with NaN where there is no interval. fronts: as `fronts`.
    published: as `published_points`.
    """
    model = parts.select("model", points.model)
    group = parts.select("method", points.group, every=True)
    behind = alt.param(
        name="behind", value=True, bind=alt.binding_checkbox(name="Published points ")
    )
    layers = [*_published_layers(published, fronts), *_measured_layers(points, fronts)]
    return parts.spec(alt.layer(*layers).add_params(model, group, behind), height=360)


def _position() -> dict[str, Any]:
    x = alt.X("rac:Q", title="RAC (times), log scale")
    y = alt.Y("accuracy:Q", title="Test accuracy (%)")
    return {
        "x": x.scale(type="log", nice=False, padding=14).axis(values=[1, 2, 4, 8, 16], format="~g"),
        "y": y.scale(zero=False, padding=8),
    }


def _tips(title: str) -> list[alt.Tooltip]:
    return [
        parts.tip("method", title),
        parts.tip("rac", "RAC", ".2f"),
        parts.tip("accuracy", "Accuracy (%)", ".2f"),
    ]


def _published_layers(published: pd.DataFrame, fronts: pd.DataFrame) -> list[alt.Chart]:
    line = alt.Chart(fronts).transform_filter(f"{CHOSEN} && behind && datum.kind === 'published'")
    points = alt.Chart(published).transform_filter(f"{CHOSEN} && behind")
    return [
        line.mark_line(
            interpolate="step-before", color=GREY, strokeDash=[3, 3], strokeWidth=1.5
        ).encode(**_position()),
        points.mark_point(
            size=36, opacity=0.75, color=GREY, shape="circle", description="published"
        ).encode(**_position(), tooltip=_tips("Published")),
    ]


def _measured_layers(points: pd.DataFrame, fronts: pd.DataFrame) -> list[alt.Chart]:
    line = alt.Chart(fronts).transform_filter(f"{CHOSEN} && datum.kind === 'measured'")
    marks = alt.Chart(points).transform_filter(CHOSEN)
    marks = marks.transform_filter("method === 'all' || datum.group === method")
    colour, place = parts.colour(points.group), _position()
    ends = {"y": alt.Y("low:Q").scale(zero=False), "y2": "high:Q"}
    interval = [parts.tip("low", "95 % from", ".2f"), parts.tip("high", "to", ".2f")]
    return [
        line.mark_line(
            interpolate="step-before", color="currentColor", strokeWidth=1.2, opacity=0.8
        ).encode(**place),
        marks.mark_rule(opacity=0.7, strokeWidth=1.4).encode(x=place["x"], **ends, color=colour),
        marks.mark_point(filled=True, size=85, opacity=1).encode(
            **place,
            color=colour,
            shape=parts.shape(points.group),
            tooltip=_tips("Method") + interval,
        ),
    ]
