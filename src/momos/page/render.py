"""index.html: one file with everything that a reader needs, from the files of other stages.

It computes no numbers of its own. They are those of results.json; each says its id, file and stage
(`momos.page.numbers`). What the report cost and where it ran differ from machine to machine: they
are read from files of their own.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2

from momos.files import atomic
from momos.page import dag, numbers, pictures, script, tables
from momos.page.charts import Chart, chart_for, draw_charts
from momos.page.report_folder import ReportFolder

TEMPLATES = Path(__file__).parent / "templates"
SYMBOLS = {
    "SUPPORTED": "✓",
    "PASS": "✓",
    "NOT SUPPORTED": "✗",
    "FAIL": "✗",
    "NOT RUN": "○",
    "NOT COMPARABLE": "≠",
}


def render_page(report: ReportFolder) -> str:
    """The whole page. Raises ValueError naming a file that is missing or damaged."""
    charts = draw_charts(report)
    parts = {
        "cells": report.cells,
        "results": report.results,
        "provenance": report.provenance,
        "script": script.chart_script(),
        "files": report.other_files(),
    }
    parts |= _table_parts(report) | _figure_parts(report, charts) | _pipeline_parts(report)
    return _environment(report).get_template("page.html").render(parts)


def _environment(report: ReportFolder) -> jinja2.Environment:
    """The templates, and the functions that they call."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    rows = numbers.rows_by_id(report.results["cells"])
    known = report.cells
    environment.globals |= {
        "EMPTY": numbers.EMPTY,
        "symbol": SYMBOLS.__getitem__,
        "digits_of": numbers.digits_of,
        "format_number": numbers.format_number,
        "format_setting": numbers.format_setting,
        "class_name": numbers.class_name,
        "row_of": rows.__getitem__,
        "has_any": lambda model, method, measures: any(
            f"packing/{model}/{method}/{measure}" in known for measure in measures
        ),
        "row_attributes": numbers.row_attributes,
        "cell_attributes": numbers.cell_attributes,
    }
    return environment


def _table_parts(report: ReportFolder) -> dict[str, Any]:
    results = report.results
    cells = results["cells"]
    zoo = [cell for cell in cells if cell["table"] == "zoo" and cell["method"] == "all"]
    return {
        "num_seeds": tables.num_seeds(results),
        "tables": tables.paper_tables(results),
        "complexity": tables.methods_by_model(results, "complexity"),
        "complexity_columns": tables.COMPLEXITY,
        "metrics": tables.metrics(results),
        "packing": tables.methods_by_model(results, "packing"),
        "packing_measures": tables.packing_measures(results),
        "capacity": tables.methods_by_model(results, "capacity"),
        "aggregates": tables.methods_by_model(results, "aggregate").get("all", []),
        "zoo": zoo,
        "rac_checks": [cell for cell in cells if cell["table"] == "rac_check"],
        "slt_checkpoints": tables.methods_by_model(results, "slt_checkpoints"),
        "slt_fits": tables.methods_by_model(results, "slt_fits"),
        "slt_images": tables.methods_by_model(results, "slt_images"),
        "slt_measures": {
            name: tables.measures_of(results, name) for name in ("slt_checkpoints", "slt_images")
        },
        "costs": tables.cost_rows(report.costs),
        "devices": sorted(report.costs.device.astype(str).unique()),
        "every_number": list(numbers.by_origin(cells)),
    }


def _figure_parts(report: ReportFolder, charts: dict[str, Chart]) -> dict[str, Any]:
    singular = (report.path / "slt").is_dir()
    return {
        "figures": _figures(report.path, "figures", charts),
        "singular": _figures(report.path, "slt/figures", charts) if singular else [],
        "specs": {name: _json_in_html(chart.spec) for name, chart in charts.items()},
    }


def _pipeline_parts(report: ReportFolder) -> dict[str, Any]:
    waits = dag.edges(report.pipeline)
    return {"waits": waits, "diagram": dag.layout(waits), "box": (dag.WIDTH, dag.HEIGHT)}


def _json_in_html(values: Mapping[str, Any]) -> str:
    """JSON that can't end the script element that holds it."""
    text = json.dumps(values, ensure_ascii=True, separators=(",", ":"))
    return text.replace("<", "\\u003c")


def _figures(reports: Path, place: str, charts: dict[str, Chart]) -> list[dict[str, Any]]:
    """A folder's figures in reading order.

    Each has its name, place, title, caption, the picture as a data URI, and the chart that may
    stand in its place (None without one) with that chart's caption.
    """
    figures, charted = [], set()
    for name, caption in atomic.read_json(reports / place / "captions.json").items():
        caption = caption.replace("`", "")
        chart = chart_for(name, charts)
        chart = None if chart in charted else chart
        charted.add(chart)
        figures.append(
            {
                "name": name,
                "place": place,
                "title": caption.split(". ")[0],
                "caption": caption,
                "uri": pictures.data_uri(reports / place / f"{name}.svg"),
                "chart": chart,
                "chart_caption": charts[chart].caption if chart else None,
            }
        )
    return figures
