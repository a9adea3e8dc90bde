"""Singular MDL, Figures 2 and 3: critical values against the local learning coefficient."""

from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt
import pandas as pd

from momos.page import chart_parts as parts
from momos.page.report_folder import ReportFolder

CAPTION = (
    "Critical values against the local learning coefficient, a mark a checkpoint, with each run's "
    "least-squares line. Point at a mark for its step."
)


def chart(report: ReportFolder) -> parts.Spec | None:
    points = critical_points(report.results["cells"])
    return draw_critical_against_llc(points) if len(points) else None


def critical_points(cells: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Every checkpoint of every run: scheme, run, step, llc, critical (its critical value)."""
    measured = [cell for cell in cells if cell["table"] == "slt_checkpoints"]
    by_seed = {
        cell["id"]: dict(zip(cell["seeds"], cell["values"], strict=True)) for cell in measured
    }
    rows = []
    for cell in measured:
        if cell["measure"].startswith("critical_"):
            llc = by_seed[cell["id"].replace(cell["measure"], "llc_mean")]
            step = int(cell["method"].removeprefix("step"))
            start = {"scheme": cell["measure"].replace("_", " "), "step": step}
            rows += [
                start | {"run": f"{cell['model']} {seed}", "llc": llc[seed], "critical": value}
                for seed, value in by_seed[cell["id"]].items()
                if value
            ]
    return pd.DataFrame(rows, columns=["scheme", "run", "step", "llc", "critical"])


def draw_critical_against_llc(points: pd.DataFrame) -> parts.Spec:
    """One scheme at a time; a line per run is its least-squares fit. points: `critical_points`."""
    scheme = parts.select("scheme", points.scheme)
    chosen = alt.Chart(points).transform_filter("datum.scheme === scheme")
    x = alt.X("llc:Q", title="Local learning coefficient")
    y = alt.Y("critical:Q", title="Critical value")
    place = {
        "x": x.scale(zero=False, padding=12),
        "y": y.scale(zero=False, padding=8),
        "color": parts.colour(points.run, "run"),
    }
    tips = [
        parts.tip("run", "Run"),
        parts.tip("step", "Step", ",d"),
        parts.tip("llc", "LLC", ".2f"),
        parts.tip("critical", "Critical", ".4~g"),
    ]
    fits = chosen.transform_regression("llc", "critical", groupby=["run"])
    lines = fits.mark_line(strokeWidth=1.2).encode(**place)
    marks = chosen.mark_point(filled=True, size=70, opacity=1).encode(
        **place, shape=parts.shape(points.run, "run"), tooltip=tips
    )
    return parts.spec(alt.layer(lines, marks).add_params(scheme), height=320)
