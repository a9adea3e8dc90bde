"""The page's interactive charts, a file each, named after the static figure that it stands for.

Such a file has

    CAPTION: str                                      what the page prints under the chart
    def chart(report: ReportFolder) -> Spec | None    None for a report without its numbers

A figure of several files, such as figure4_mlp and figure4_resnet20, has one chart, figure4, in the
place of the first. Without scripts, and on paper, the static figures stand there instead.
"""

import importlib
import pkgutil
from typing import NamedTuple

import altair as alt

from momos.page.chart_parts import Spec
from momos.page.report_folder import ReportFolder


class Chart(NamedTuple):
    caption: str
    spec: Spec


def chart_names() -> list[str]:
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def draw_charts(report: ReportFolder) -> dict[str, Chart]:
    """The charts that the report has numbers for, by name.

    Raises ValueError naming a file that is missing or damaged.
    """
    charts = {}
    with alt.data_transformers.enable("default", max_rows=None):
        for name in chart_names():
            module = importlib.import_module(f"{__name__}.{name}")
            if (spec := module.chart(report)) is not None:
                charts[name] = Chart(module.CAPTION, spec)
    return charts


def chart_for(figure: str, charts: dict[str, Chart]) -> str | None:
    """The name of the chart for a static figure: its own name, or what comes before a _."""
    names = (name for name in charts if figure == name or figure.startswith(f"{name}_"))
    return next(names, None)
