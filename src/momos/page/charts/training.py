"""Training curves: validation accuracy or loss by epoch."""

from collections.abc import Mapping
from typing import Any

import altair as alt
import pandas as pd

from momos.page import chart_parts as parts
from momos.page.report_folder import ReportFolder

CAPTION = "Training curves, means over seeds."
MOST_EPOCHS = 60  # drawn of a curve


def chart(report: ReportFolder) -> parts.Spec:
    return draw_curves(curves(report.table("tables/training.csv"), report.results["names"]))


def curves(training: pd.DataFrame, names: Mapping[str, Any]) -> pd.DataFrame:
    """Columns model, method, group, epoch, loss (nats), accuracy (percent): means over seeds.

    At most about MOST_EPOCHS epochs of each curve, the first and the last among them.
    """
    every = -(-int(training.epoch.max()) // MOST_EPOCHS)
    last = training.groupby(["model", "method"]).epoch.transform("max")
    is_drawn = (training.epoch == 1) | (training.epoch == last) | (training.epoch % every == 0)
    rows = training[is_drawn]
    methods = [names["methods"][name] for name in rows.method]
    columns = {
        "model": [names["models"][name] for name in rows.model],
        "method": [method["label"] for method in methods],
        "group": [method["group"] for method in methods],
        "epoch": rows.epoch.to_numpy(),
        "loss": rows.val_loss.round(5).to_numpy(),
        "accuracy": (100 * rows.val_accuracy).round(3).to_numpy(),
    }
    return pd.DataFrame(columns)


def draw_curves(curves: pd.DataFrame) -> parts.Spec:
    """One model and one measure at a time, all methods or one. curves: as `curves`."""
    model = parts.select("model", curves.model)
    measures = alt.binding_select(options=["accuracy", "loss"], name="Validation ")
    measure = alt.param(name="measure", value="accuracy", bind=measures)
    method = parts.select("method", curves.method, every=True)
    chosen = (
        alt.Chart(curves)
        .transform_filter("datum.model === model")
        .transform_filter("method === 'all' || datum.method === method")
        .transform_calculate(value="measure === 'loss' ? datum.loss : datum.accuracy")
    )
    y = alt.Y("value:Q", title="Validation accuracy (%) or loss (nats)")
    place = {
        "x": alt.X("epoch:Q", title="Epoch").axis(tickMinStep=1, format="d"),
        "y": y.scale(zero=False, padding=6),
        "color": parts.colour(curves.group).legend(symbolType="stroke"),
    }
    tips = [
        parts.tip("method", "Method"),
        parts.tip("epoch", "Epoch", "d"),
        parts.tip("value", "Value", ".3f"),
    ]
    lines = chosen.mark_line(strokeWidth=1.5).encode(
        **place, strokeDash=parts.dash(curves.group), detail="method:N"
    )
    dots = chosen.mark_point(filled=True, size=22).encode(**place, tooltip=tips)
    return parts.spec(alt.layer(lines, dots).add_params(model, measure, method), height=340)
