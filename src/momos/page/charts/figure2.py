"""Figure 2: BDM of trained weights relative to their initialisation, by the model's size."""

from typing import Any

import altair as alt
import pandas as pd

from momos.page import chart_parts as parts
from momos.page.report_folder import ReportFolder

CAPTION = (
    "Figure 2. 1-D BDM of trained weights relative to the same architecture at initialisation; "
    "each mark is one trained model, and a line connects checkpoints of one training."
)
SERIES = ("series", "step")
NOTES = {"trained_on": "Trained on", "licence": "Licence", "notes": "Notes"}  # column -> title
MOST_COLUMNS = 5  # models up to which each has a column of its own


def chart(report: ReportFolder) -> parts.Spec:
    return draw_ratio_against_size(surveyed_pairs(report.table("tables/survey.csv")))


def surveyed_pairs(rows: pd.DataFrame) -> pd.DataFrame:
    """The pairs that could be measured: name, source, title, group, num_weights, bdm_1d_ratio.

    And series, step and the notes of `NOTES`, each where it is known of any.
    """
    columns = ["name", "source", "title", "group", "num_weights", "bdm_1d_ratio"]
    known = [name for name in (*SERIES, *NOTES) if name in rows and rows[name].notna().any()]
    pairs = rows.loc[rows.error.isna(), columns + known].round({"bdm_1d_ratio": 6})
    return pairs.fillna({name: "" for name in known if name in NOTES})


def draw_ratio_against_size(pairs: pd.DataFrame) -> parts.Spec:
    """A few models each in a column of its own, by size; many against their number of weights.

    pairs: as `surveyed_pairs`.
    """
    group = parts.select("method", pairs.group, every=True)
    chosen = alt.Chart(pairs).transform_filter("method === 'all' || datum.group === method")
    y = alt.Y("bdm_1d_ratio:Q", title="BDM trained / BDM initial (1-D)")
    tips = [
        parts.tip("name", "Model"),
        parts.tip("group", "Group"),
        parts.tip("num_weights", "Weights", ",d"),
        parts.tip("bdm_1d_ratio", "BDM ratio", ".4f"),
        parts.tip("source", "Source"),
        *(parts.tip(name, title) for name, title in NOTES.items() if name in pairs),
    ]
    marks = chosen.mark_point(size=48, opacity=0.9, strokeWidth=1.6).encode(
        **_across(pairs),
        y=y.scale(zero=False, padding=8),
        color=parts.colour(pairs.group),
        shape=parts.shape(pairs.group),
        tooltip=tips,
    )
    lines = [_trainings(chosen, y)] if "series" in pairs and _are_many(pairs) else []
    return parts.spec(alt.layer(_line_at_one(), *lines, marks).add_params(group), height=320)


def _trainings(pairs: alt.Chart, y: alt.Y) -> alt.Chart:
    """A line through the checkpoints of each training, which all have one number of weights."""
    lines = pairs.transform_filter("datum.series !== null").mark_line(opacity=0.5, strokeWidth=1)
    return lines.encode(
        x="num_weights:Q", y=y, detail="series:N", order="step:Q", color=alt.value("currentColor")
    )


def _are_many(pairs: pd.DataFrame) -> bool:
    return pairs.title.nunique() > MOST_COLUMNS


def _across(pairs: pd.DataFrame) -> dict[str, Any]:
    if _are_many(pairs):
        x = alt.X("num_weights:Q", title="Number of weights")
        return {"x": x.scale(type="log", nice=False, padding=10)}
    order = list(pairs.drop_duplicates("title").sort_values("num_weights").title)
    x = alt.X("title:N", sort=order, title="Model, by number of weights")
    return {"x": x.axis(labelAngle=0), "xOffset": alt.XOffset("group:N")}


def _line_at_one() -> alt.Chart:
    level = alt.Chart(pd.DataFrame({"one": [1.0]}))
    return level.mark_rule(strokeDash=[6, 3], color="currentColor").encode(y="one:Q")
