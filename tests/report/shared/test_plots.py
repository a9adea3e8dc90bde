import ast
import os
import subprocess
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
import pytest
from clones import environment, fork
from matplotlib.figure import Figure

from momos.report.shared import figures, plots

ROOT = Path(__file__).parents[3]
CURVE = pd.DataFrame(
    {"epoch": [1, 2, 3], "relative_distortion": [0.3, 0.2, 0.1], "val_loss": [2.0, 1.0, 0.5]}
)
SURVEY = pd.DataFrame(
    {
        "num_weights": [100, 1000, 1000],
        "bdm_1d_ratio": [0.9, 1.1, 0.8],
        "group": ["a", "a", "b"],
        "title": ["s", "l", "l"],
    }
).assign(source="this pipeline")
POINTS = pd.DataFrame(
    {
        "block_size": [2.0, 2.0, 4.0, 4.0],
        "capacity": [0.1, 0.005, 0.005, 0.1],
        "accuracy": [90.0, 88.0, 70.0, 85.0],
    }
)
RAC = pd.DataFrame(
    {
        "title": "MLP",
        "series": ["QAT", "QAT", "Baseline"],
        "rac": [2.0, 8.0, 1.0],
        "accuracy": [90, 80, 91],
        "accuracy_std": [1, 2, np.nan],
    }
)
TRAINING = pd.DataFrame(
    {
        "title": "MLP",
        "label": ["A", "A", "B", "B"],
        "epoch": [1, 2, 1, 2],
        "val_loss": [2.0, 1.0, 3.0, 2.0],
        "val_accuracy": [5.0, 9, 4, 8],
    }
)
MATRIX = pd.DataFrame(np.arange(16.0).reshape(4, 4) - 7)


@pytest.fixture
def ax():
    return Figure().subplots()


def lines(ax) -> dict:
    """Label -> points. seaborn labels an empty line of the same look, for the legend."""
    drawn = {
        (line.get_color(), line.get_marker()): line
        for line in ax.get_lines()
        if len(line.get_xdata())
    }
    found = {
        line.get_label(): line
        if len(line.get_xdata())
        else drawn[line.get_color(), line.get_marker()]
        for line in ax.get_lines()
    }
    return {
        label: (list(line.get_xdata()), list(line.get_ydata())) for label, line in found.items()
    }


def test_ratio_against_size_draws_each_model_where_it_is(ax):
    found = lines(plots.ratio_against_size(SURVEY, ax))
    assert found["a"] == ([100, 1000], [0.9, 1.1]) and found["b"] == ([1000], [0.8])
    assert found["no change"][1] == [1, 1] and ax.get_xscale() == "log"


def test_ratio_by_model_puts_models_in_order_of_size(ax):
    found = lines(plots.ratio_by_model(SURVEY, ax))
    assert [label.get_text() for label in ax.get_xticklabels()] == ["s\n100", "l\n1,000"]
    np.testing.assert_allclose(found["a"][0], [-0.175, 0.825])
    np.testing.assert_allclose(found["b"][0], [1.175])


def test_distortion_and_loss_have_an_axis_each(ax):
    assert plots.distortion_and_loss(CURVE, ax) is ax
    left, right = ax.figure.axes
    assert lines(left)["Distortion (left)"][1] == [0.3, 0.2, 0.1] and lines(right)[
        "Validation loss (right)"
    ][1] == [2.0, 1.0, 0.5]
    assert left.get_ylim()[0] == right.get_ylim()[0] == 0


def test_capacity_lines_run_from_low_to_high_in_percent(ax):
    found = lines(plots.accuracy_against_capacity(POINTS, ax, baseline=91.0))
    np.testing.assert_allclose(found["s = 2"], ([0.5, 10], [88, 90]))
    np.testing.assert_allclose(found["s = 4"], ([0.5, 10], [70, 85]))
    assert found["Baseline"][1] == [91, 91]


def test_no_baseline_no_line(ax):
    assert "Baseline" not in lines(plots.accuracy_against_capacity(POINTS, ax, baseline=None))


@pytest.mark.parametrize("hollow", [True, False])
def test_published_points_are_hollow(ax, hollow):
    plots.accuracy_against_rac(RAC, ax, order=list(dict.fromkeys(RAC.series)), hollow=hollow)
    faces = {container.lines[0].get_markerfacecolor() for container in ax.containers}
    assert (faces == {"white"}) == hollow


def test_series_differ_in_more_than_colour(ax):
    many = pd.concat(
        [TRAINING[TRAINING.label == "A"].assign(label=str(index)) for index in range(8)]
    )
    plots.training(many, ax, column="val_loss")
    drawn = ax.get_lines()
    assert (
        len({line.get_marker() for line in drawn}) == len({line.get_color() for line in drawn}) == 8
    )
    assert len({str(line._unscaled_dash_pattern) for line in drawn}) == 8


def test_a_series_looks_the_same_in_both_rows_and_stands_in_the_legend_once():
    """QAT and MoMos published, MoMos alone measured."""
    rows = RAC.assign(title="MLP", accuracy_std=0.0)
    names = list(dict.fromkeys(rows.series))
    with figures.style():
        figure = figures.compression(rows[rows.series == names[-1]], rows)
    assert sorted(text.get_text() for text in figure.legends[0].get_texts()) == sorted(names)
    looks = [{c.get_label(): c.lines[0].get_color() for c in ax.containers} for ax in figure.axes]
    assert looks[0][names[-1]] == looks[1][names[-1]] and len(set(looks[1].values())) == len(names)


def test_pictures_show_the_matrix_on_a_symmetric_scale(ax):
    plots.values(MATRIX, ax, limit=7)
    image = ax.get_images()[0]
    np.testing.assert_array_equal(image.get_array(), MATRIX)
    assert image.get_clim() == (-7, 7)


def test_signs_are_what_bdm_sees(ax):
    plots.signs(MATRIX, ax)
    np.testing.assert_array_equal(ax.get_images()[0].get_array(), MATRIX > 0)


@pytest.mark.parametrize("name", plots.MAPS.values())
def test_colour_maps_are_monotone_in_lightness(name):
    red, green, blue, _ = matplotlib.colormaps[name](np.linspace(0, 1, 64)).T
    steps = np.diff(0.2126 * red + 0.7152 * green + 0.0722 * blue)
    assert (steps > -0.01).all() or (steps < 0.01).all()


DRAWN = {
    "weights": lambda: figures.weights(
        {"a": MATRIX, "b": -MATRIX}, {"a": MATRIX * 0 + 1, "b": MATRIX * 0 + 3}
    ),
    "survey": lambda: figures.survey(SURVEY),
    "distortion": lambda: figures.distortion(
        pd.concat([CURVE.assign(label=name) for name in "abc"]), columns=2
    ),
    "capacity": lambda: figures.capacity(POINTS, 91.0, "MLP"),
    "compression": lambda: figures.compression(RAC, RAC.iloc[:0]),
    "compression_published": lambda: figures.compression(RAC, RAC),
    "training": lambda: figures.training(TRAINING),
}


@pytest.mark.parametrize("name", DRAWN)
def test_figures_have_labels_legends_and_legible_type(name):
    with figures.style():
        figure = DRAWN[name]()
        figure.draw_without_rendering()
        texts = [
            text
            for text in figure.findobj(matplotlib.text.Text)
            if text.get_text() and text.get_visible()
        ]
    assert min(text.get_fontsize() for text in texts) >= 8
    if name != "weights":
        visible = [ax for ax in figure.axes if ax.axison]
        assert any(ax.get_xlabel() for ax in visible) and any(ax.get_ylabel() for ax in visible)
        assert figure.legends or figure.axes[0].get_legend()


def test_the_survey_figure_says_the_share_below_one():
    assert figures.survey(SURVEY).axes[0].get_title() == "2 of 3 trained models below 1 (67 %)"


def test_the_survey_figure_has_a_panel_for_models_from_elsewhere():
    control = SURVEY.assign(source="untrained", group="untrained")
    many = pd.concat([SURVEY.assign(source="timm", group=f"family {index}") for index in range(9)])
    own, others = figures.survey(pd.concat([SURVEY, control, many])).axes
    assert (
        own.get_title() == "2 of 3 trained models below 1 (67 %)" and own.get_xscale() == "linear"
    )
    assert (
        others.get_title() == "18 of 27 trained models below 1 (67 %)"
        and others.get_xscale() == "log"
    )
    assert set(lines(others)) == {"untrained", "timm", "no change"}, "more families than markers"
    assert len(lines(others)["timm"][0]) == 27
    assert figures.survey(control).axes[0].get_title() == "models that nobody trained"


def test_the_survey_figure_has_bit_planes_and_trainings_where_there_are_any():
    ratios = {f"plane_{plane}_ratio": [0.1 * plane, 0.2 * plane, 0.9] for plane in range(8)}
    steps = {"series": ["a", "a", None], "step": [500.0, 250.0, np.nan]}
    rows = SURVEY.head(3).assign(source="hub", group=["x", "x", "y"], **ratios, **steps)
    _, planes, training = (ax for ax in figures.survey(rows).axes if ax.axison)
    assert lines(planes)["x"][1] == pytest.approx(0.15 * np.arange(7, -1, -1)), "medians"
    assert [text.get_text() for text in planes.get_xticklabels()] == list("76543210")
    x, y = lines(training)["a"]
    assert list(x) == [50, 100] and list(y) == list(rows.bdm_1d_ratio[[1, 0]]), "by step"


def test_the_survey_figure_names_the_lowest_and_counts_a_training_once():
    ratios = [0.5, 1.1, 0.7, 0.9, 0.8, 0.95, 0.6]
    rows = pd.DataFrame(
        {"num_weights": range(1000, 8000, 1000), "bdm_1d_ratio": ratios, "group": "x"}
        | {"title": list("abcdefg"), "source": "hub", "series": [*"ss", *[None] * 5], "step": 1.0}
    )
    against_size, _ = (ax for ax in figures.survey(rows).axes if ax.axison)
    assert against_size.get_title() == "6 of 6 trained models below 1 (100 %)", "0.5 and 1.1: 0.8"
    assert [text.get_text() for text in against_size.texts] == ["a", "g", "c", "e"]


def test_ten_groups_are_told_apart_by_bit_plane_and_eleven_are_not():
    ratios = {f"plane_{plane}_ratio": 0.5 for plane in range(8)}
    for count, expected in ((10, [*"abcdefghij", "no change"]), (11, ["hub", "no change"])):
        many = [SURVEY.head(1).assign(source="hub", group=name) for name in "abcdefghijk"[:count]]
        _, planes = (ax for ax in figures.survey(pd.concat(many).assign(**ratios)).axes)
        assert list(lines(planes)) == expected


def test_a_group_of_other_people_looks_the_same_in_both_panels():
    ratios = {f"plane_{plane}_ratio": 0.5 for plane in range(8)}
    others = [SURVEY.head(1).assign(source="hub", group=name) for name in "xyz"]
    rows = pd.concat([SURVEY, *others], ignore_index=True).assign(**ratios)
    _, by_size, planes = (ax for ax in figures.survey(rows).axes if ax.axison)
    looks = [
        {line.get_label(): (line.get_color(), line.get_marker()) for line in ax.get_lines()}
        for ax in (by_size, planes)
    ]
    assert [looks[0][name] for name in "xyz"] == [looks[1][name] for name in "xyz"]


def test_many_series_have_looks_of_their_own():
    looks = [plots._points(place) for place in range(47)]
    assert len({(look["color"], look["marker"]) for look in looks}) == 47


def test_nothing_of_matplotlib_is_changed():
    before = dict(matplotlib.rcParams)
    with figures.style():
        assert dict(matplotlib.rcParams) != before
        figures.training(TRAINING)
    assert dict(matplotlib.rcParams) == before


def test_a_figure_is_laid_out_once_and_drawn_once_a_format(tmp_path, monkeypatch):
    drawn, draw = [], Figure.draw
    monkeypatch.setattr(
        Figure,
        "draw",
        lambda self, renderer: (
            drawn.append(self.get_layout_engine() is not None),
            draw(self, renderer),
        ),
    )
    with figures.style():
        figure, laid_out = figures.training(TRAINING), []
        engine = figure.get_layout_engine()
        execute = engine.execute
        monkeypatch.setattr(
            engine, "execute", lambda figure: (laid_out.append(len(drawn)), execute(figure))
        )
        figures.save(figure, tmp_path, "figure")
    assert laid_out == [0], "before any drawing"
    assert drawn == [False, False, False] and len(list(tmp_path.iterdir())) == len(figures.FORMATS)


def test_a_readers_matplotlibrc_changes_no_figure():
    with matplotlib.rc_context({"lines.linewidth": 9, "axes.facecolor": "red"}), figures.style():
        assert (
            matplotlib.rcParams["lines.linewidth"] == matplotlib.rcParamsDefault["lines.linewidth"]
        )
        assert matplotlib.rcParams["axes.facecolor"] == "white"


SCRIPT = """
import sys; from pathlib import Path
sys.path[:0] = sys.argv[1:3]
from test_plots import DRAWN
from momos.report.shared import figures
with figures.style():
    figures.save(DRAWN["distortion"](), Path(sys.argv[3]), "distortion")
"""


@pytest.mark.stress  # in the suite tests/report/momos/test_study.py has a whole report of two
def test_two_processes_draw_the_same_bytes(tmp_path, warm):
    """This one, and another with another order of every set of strings."""
    with figures.style():
        figures.save(DRAWN["distortion"](), tmp_path / "a", "distortion")
    (tmp_path / "code.py").write_text(SCRIPT)
    folders = (Path(__file__).parent, ROOT / "scripts")
    command = [fork(warm), tmp_path / "code.py", *folders, tmp_path / "b"]
    path = f"{ROOT / 'src'}{os.pathsep}{ROOT / 'tests'}"
    subprocess.run(command, check=True, env=environment() | {"PYTHONPATH": path})
    first, second = (
        {path.name: path.read_bytes() for path in (tmp_path / run).iterdir()} for run in "ab"
    )
    assert len(first) == 3 and first == second
    for name, content in first.items():
        assert (
            b"Matplotlib v" not in content
            and b"CreationDate" not in content
            and b"<dc:date>" not in content
        ), name


def test_plots_and_tables_are_leaves():
    for leaf in ("plots", "tables"):
        tree = ast.parse((ROOT / "src/momos/report/shared" / f"{leaf}.py").read_text())
        imported = [
            node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)
        ]
        assert not any(name.startswith("momos") for name in imported)
