"""The interactive charts: their colours, and what they draw."""

import json

import pandas as pd
import pytest

from momos.page import chart_parts, charts
from momos.page.charts import figure2
from momos.page.report_folder import ReportFolder


def luminance(colour: str) -> float:
    parts = [int(colour[index : index + 2], 16) / 255 for index in (1, 3, 5)]
    linear = [
        part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts
    ]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("colour", chart_parts.COLOURS)
@pytest.mark.parametrize("ground", ["#fdfdfb", "#14171b"])
def test_a_series_is_seen_on_light_and_dark(colour, ground):
    high, low = sorted((luminance(colour), luminance(ground)), reverse=True)
    assert (high + 0.05) / (low + 0.05) >= 3  # WCAG 1.4.11


def test_a_large_zoo_is_drawn_against_the_number_of_weights():
    pairs = pd.DataFrame(
        {
            "name": list("abcdef"),
            "title": list("abcdef"),
            "group": "timm",
            "num_weights": range(1, 7),
            "bdm_1d_ratio": 0.9,
        }
    )
    many = figure2.draw_ratio_against_size(pairs)
    few = figure2.draw_ratio_against_size(pairs.head(3))
    x = [
        next(layer["encoding"]["x"]["field"] for layer in spec["layer"] if "x" in layer["encoding"])
        for spec in (many, few)
    ]
    assert x == ["num_weights", "title"]


@pytest.mark.usefixtures("no_import_stays")
def test_a_file_in_the_folder_is_a_chart(tmp_path, monkeypatch):
    """An interactive figure needs no other file of the page than its own."""
    (tmp_path / "figure9.py").write_text(
        "CAPTION = 'Nine.'\n\n\ndef chart(report):\n    return {'mark': report.path.name}\n"
    )
    (tmp_path / "absent.py").write_text(
        "CAPTION = 'None.'\n\n\ndef chart(report):\n    return None\n"
    )
    monkeypatch.setattr(charts, "__path__", [str(tmp_path)])
    drawn = charts.draw_charts(ReportFolder(tmp_path, {}))
    assert drawn == {"figure9": charts.Chart("Nine.", {"mark": tmp_path.name})}


@pytest.mark.parametrize(
    ("figure", "chart"),
    [
        ("figure4", "figure4"),
        ("figure4_mlp", "figure4"),
        ("figure41", None),
        ("figure_b1_mlp", None),
    ],
)
def test_a_chart_stands_for_the_figures_of_its_name(figure, chart):
    drawn = {name: charts.Chart("", {}) for name in ("figure2", "figure4")}
    assert charts.chart_for(figure, drawn) == chart


def test_figure_2_says_where_a_network_is_from():
    """Source and licence under the pointer; no licence where the report knows of none."""
    rows = pd.DataFrame(
        {
            "name": ["a", "b", "c"],
            "source": ["github:someone/a", "this pipeline", "github:someone/c"],
            "title": ["a", "b", "c"],
            "group": ["x", "x", "y"],
            "num_weights": [10, 20, 30],
            "bdm_1d_ratio": [0.9, 0.8, 0.7],
            "error": [None, None, "damaged"],
            "licence": ["MIT", None, "MIT"],
            "trained_on": ["faces", None, None],
            "notes": None,
        }
    )
    for frame, expected in (
        (rows, {"source", "licence", "trained_on"}),
        (rows.drop(columns="licence").assign(notes="tied"), {"source", "trained_on", "notes"}),
        (rows.drop(columns=["licence", "trained_on"]), {"source"}),
    ):
        pairs = figure2.surveyed_pairs(frame)
        assert list(pairs.name) == ["a", "b"] and not pairs.isna().any().any()
        drawn = json.dumps(figure2.draw_ratio_against_size(pairs))
        names = ("source", "licence", "trained_on", "notes")
        assert {name for name in names if f'"field": "{name}"' in drawn} == expected


def test_checkpoints_of_one_training_are_connected():
    pairs = pd.DataFrame(
        {
            "name": [f"n{place}" for place in range(8)],
            "source": "hub",
            "title": [f"n{place}" for place in range(8)],
            "group": list("aaaabbbb"),
            "num_weights": [10, 10, 10, 20, 30, 40, 50, 60],
            "bdm_1d_ratio": 0.9,
            "error": None,
            "series": ["s", "s", "s", *[None] * 5],
            "step": [1.0, 2.0, 3.0, *[None] * 5],
        }
    )
    many = figure2.draw_ratio_against_size(figure2.surveyed_pairs(pairs))
    (line,) = [one for one in many["layer"] if one["mark"]["type"] == "line"]
    assert [line["encoding"][name]["field"] for name in ("detail", "order")] == ["series", "step"]
    few = figure2.draw_ratio_against_size(figure2.surveyed_pairs(pairs.head(3)))
    assert not [one for one in few["layer"] if one["mark"]["type"] == "line"], "columns of models"


def test_forty_seven_groups_have_forty_seven_looks():
    groups = pd.Series([f"g{place}" for place in range(47)])
    scales = [look(groups).to_dict()["scale"] for look in (chart_parts.colour, chart_parts.shape)]
    assert all(scale["domain"] == list(groups) for scale in scales)
    assert len(set(zip(*(scale["range"] for scale in scales), strict=True))) == 47
