"""Figures 4 and B.2: validation accuracy against capacity, by block size."""

import altair as alt
import pandas as pd

from momos.page import chart_parts as parts
from momos.page.report_folder import ReportFolder

CAPTION = (
    "Figures 4 and B.2. Validation accuracy of the last weights against capacity, by block size."
)


def chart(report: ReportFolder) -> parts.Spec | None:
    points = capacity_points(report)
    return draw_accuracy_against_capacity(points) if len(points) else None


def capacity_points(report: ReportFolder) -> pd.DataFrame:
    """Columns model, method, group, size ("s = 4"), capacity (% of blocks), accuracy (percent).

    The ids of the ablation's numbers hold their settings: s4_c0.01 for instance.
    """
    rows = []
    for cell in report.results["cells"]:
        if cell["table"] == "capacity" and cell["value"] is not None:
            size, capacity = (float(part[1:]) for part in cell["method"].split("_"))
            point = {"size": f"s = {int(size)}", "capacity": 100 * capacity}
            labels = report.labels(cell["model"], cell["method"])
            rows.append(labels | point | {"accuracy": cell["value"]})
    return pd.DataFrame(rows)


def draw_accuracy_against_capacity(points: pd.DataFrame) -> parts.Spec:
    """One model at a time, a line per block size. points: as `capacity_points`."""
    model, sizes = parts.select("model", points.model), points["size"]
    chosen = alt.Chart(points).transform_filter("datum.model === model")
    x = alt.X("capacity:Q", title="Capacity (% of blocks), log scale")
    x = x.scale(type="log", nice=False, padding=12)
    y = alt.Y("accuracy:Q", title="Validation accuracy (%)")
    place = {
        "x": x.axis(format="~g", values=sorted(set(points.capacity))),
        "y": y.scale(zero=False, padding=8),
        "color": parts.colour(sizes, "size"),
    }
    tips = [parts.tip("method", "Method"), parts.tip("accuracy", "Accuracy (%)", ".2f")]
    lines = chosen.mark_line(strokeWidth=1.5).encode(**place, strokeDash=parts.dash(sizes, "size"))
    dots = chosen.mark_point(filled=True, size=60, opacity=1).encode(
        **place, shape=parts.shape(sizes, "size"), tooltip=tips
    )
    return parts.spec(alt.layer(lines, dots).add_params(model), height=320)
