import json
import re
import runpy
import subprocess

import matplotlib
import numpy as np
import pandas as pd
import pytest
from clones import environment, fork
from synthetic import CAPACITIES, COMPRESSORS, PAPER, ROOT, SIZES, TREE_METHODS, TREE_MODELS, Tree
from synthetic import survey as synthetic_survey

from momos import config
from momos.report.momos import pictures, points
from momos.report.shared import figures, results
from momos.report.shared.claims import read_claims

STAGE = ROOT / "stages" / "report.py"


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    return Tree(tmp_path_factory.mktemp("study"))


@pytest.fixture(scope="module")
def built(tree):
    """The stage, run once as DVC runs it."""
    before = dict(matplotlib.rcParams)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tree.root)
        runpy.run_path(str(STAGE))["main"](*tree.arguments)
    assert dict(matplotlib.rcParams) == before
    return tree.reports


def run_stage(tree, monkeypatch, *, reports):
    monkeypatch.chdir(tree.root)
    runpy.run_path(str(STAGE))["main"](*tree.arguments[:-1], reports)


PLAIN = (
    "claims.csv", "runs.csv", "training.csv", "distortion.csv", "survey.csv", "packing_runs.csv",
    "distortion_runs.csv", "singular.csv",
)  # fmt: skip


def test_every_output_is_there(built):
    stems = {
        "table1",
        "complexity",
        "compressors",
        "rac_check",
        "comparison",
        "capacity",
        "zoo",
        "zoo_agreement",
        "zoo_networks",
    }
    stems |= {"packing", "packing_lossy"}
    expected = {f"{stem}.{kind}" for stem in stems for kind in ("md", "html", "tex", "csv")} | set(
        PLAIN
    )
    assert {path.name for path in (built / "tables").iterdir()} == expected
    drawn = [
        "figure1",
        "figure2",
        "figure3",
        "figure4_mlp",
        "accuracy_rac",
        "accuracy_bytes",
        "training",
    ]
    drawn += [f"figure_b1_{model}" for model in TREE_MODELS]
    assert {path.name for path in (built / "figures").iterdir()} == {
        "captions.json", *(f"{name}.{kind}" for name in drawn for kind in ("png", "svg", "pdf"))
    }  # fmt: skip
    assert {path.name for path in built.iterdir()} == {
        "tables",
        "figures",
        "claims.md",
        "metrics.json",
        "results.json",
        "README.md",
    }


def test_links_and_pictures_of_the_page_exist(built):
    for page in ("README.md", "claims.md"):
        for target in re.findall(r"\]\(([^)]+)\)", (built / page).read_text()):
            assert (built / target).is_file(), target


def test_claims_page_prints_what_was_added_after_the_first_measurement(built):
    added = (built / "claims.md").read_text().partition("## Added after the first measurement")[2]
    for claim in read_claims(PAPER):
        for addition in claim.also:
            counted = "yes" if addition.counted else "no"
            cells = (claim.id, counted, addition.what, addition.reason)
            row = " | ".join(str(cell).replace("|", "\\|") for cell in cells)
            assert f"| {row} |" in added


def test_the_page_shows_every_figure(built):
    shown = set(
        re.findall(r"!\[[^]]*\]\(figures/([^)]+)\.png\)", (built / "README.md").read_text())
    )
    assert shown == {path.stem for path in (built / "figures").glob("*.png")}


def test_metrics_are_means_over_a_familys_runs(built):
    metrics = json.loads((built / "metrics.json").read_text())
    assert metrics["models"]["mlp"]["baseline"]["accuracy"] == pytest.approx(80.5)
    runs = pd.read_csv(built / "tables" / "runs.csv")
    momos = runs[
        (runs.model == "resnet20")
        & runs.method.str.fullmatch(r"momos_s\d_c[\d_]+")
        & (runs.grid == "main")
    ]
    assert metrics["models"]["resnet20"]["momos"]["accuracy"] == pytest.approx(
        100 * momos.test_accuracy_last.mean(), abs=1e-4
    )
    assert metrics["models"]["resnet20"]["momos"]["bdm_ratio"] == pytest.approx(
        momos.bdm_1d_ratio.mean(), abs=1e-4
    )
    counted = sum(metrics["claims"].values()) + sum(metrics["claims_apart"].values())
    assert counted == len(read_claims(PAPER))
    assert metrics["claims_apart"] == {"by_construction": 1, "audit": 1}
    assert set(metrics["claims_decided"]) == {"supported", "not_supported"}
    assert metrics["rac_check"] == {"agree": 31, "cells": 48}
    assert set(metrics["models"]) == set(TREE_MODELS) and set(metrics["models"]["mlp"]) == {
        "baseline",
        "qat",
        "momos",
        "momos+qat",
    }


def test_training_curves_are_means_over_seeds(built):
    curves = pd.read_csv(built / "tables" / "training.csv")
    assert list(curves.columns) == [
        "model",
        "method",
        "epoch",
        "num_seeds",
        "val_loss",
        "val_accuracy",
    ]
    assert len(curves) == len(TREE_MODELS) * len(TREE_METHODS) * 5 and set(curves.num_seeds) == {2}
    assert curves.val_accuracy.max() == pytest.approx(0.9)


def test_table1_has_a_row_per_method_and_a_group_per_model(built):
    lines = (built / "tables" / "table1.md").read_text().splitlines()
    rows = [line for line in lines if line.startswith("|")]
    assert len(rows) == 2 + len(TREE_METHODS)
    assert rows[2].startswith("| Baseline | 80.50 ± 0.71 | 81.00 ± 0.71 | 1.0 | 5.0 | 0.94 |")
    assert "s2_c" not in "".join(lines)  # ablation cells are no rows of Table 1


def test_the_capacity_table_holds_ablation_cells_alone(built):
    numbers = pd.read_csv(built / "tables" / "capacity.csv")
    assert len(numbers) == len(SIZES) * len(CAPACITIES) and set(numbers.model) == {"mlp"}


def test_no_date_and_no_machine_in_any_text(built):
    for path in built.rglob("*"):
        if path.suffix in (".md", ".json", ".csv", ".html", ".tex", ".svg"):
            text = path.read_text()
            assert str(built) not in text and not re.search(r"20[2-9]\d-\d\d-\d\d", text), path


ANOTHER_BACKEND = """
import runpy, sys
import matplotlib
matplotlib.use("svg")
del sys.argv[0]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def test_two_processes_write_the_same_bytes(tree, built, tmp_path, warm):
    """This one, and one with another order of every set of strings, and a backend of its own."""
    again, code = tmp_path / "digits", tmp_path / "code.py"
    code.write_text(ANOTHER_BACKEND)
    command = [fork(warm), code, STAGE, *tree.arguments[:-1], again]
    env = environment() | {"PYTHONPATH": str(ROOT / "src")}
    subprocess.run(command, cwd=tree.root, check=True, env=env)
    first, second = (
        {path.relative_to(root): path.read_bytes() for path in root.rglob("*") if path.is_file()}
        for root in (built, again)
    )
    assert first.keys() == second.keys()
    assert [path for path in first if first[path] != second[path]] == []


def test_models_of_many_families_are_grouped_by_task_where_tasks_are_named():
    zoo = synthetic_survey([0.9] * 10).assign(source=["hub"] * 9 + [results.CONTROL])
    zoo = zoo.assign(family=[f"f{place}" for place in range(10)], task=["a"] * 6 + [None] * 4)
    for frame, expected in (
        (zoo, ["a"] * 6 + ["no task named"] * 4),
        (zoo[1:], list(zoo.family[1:])),
        (zoo.assign(task=np.nan), list(zoo.family)),
        (zoo.drop(columns="task"), list(zoo.family)),
    ):
        assert list(results._told_apart(frame)) == expected


def test_the_survey_has_own_runs_the_control_and_models_from_elsewhere(built):
    rows = pd.read_csv(built / "tables" / "survey.csv")
    main = len(TREE_MODELS) * len(TREE_METHODS) * 2
    assert rows.source.value_counts().to_dict() == {
        "this pipeline": main,
        "timm": 3,
        "untrained": 1,
    }
    assert rows[rows.error.notna()].name.tolist() == ["m3"] and rows.name[0] == "mlp baseline 0"
    assert "1 surveyed models could not be measured" in (built / "README.md").read_text()
    zoo = pd.read_csv(built / "tables" / "zoo.csv").set_index(["source", "by", "group"])
    assert (
        zoo.num_models["this pipeline", "all", "all"] == len(TREE_MODELS) * 2
        and zoo.num_models["timm", "all", "all"] == 2
    )
    assert zoo.ratio_1d["timm", "recipe", "others"] == pytest.approx(0.85)
    claims = pd.read_csv(built / "tables" / "claims.csv").set_index("id")
    pairs = len(TREE_MODELS) * 2 + 2
    assert f" of {pairs} other pairs" in claims.note["M1"], "what nobody trained does not count"


def edited(tree, tmp_path, name, edit):
    """A copy of the tree with one results file changed."""
    changed = Tree(tmp_path)
    path = changed.results / name
    edit(pd.read_csv(path)).to_csv(path, index=False)
    return changed


@pytest.mark.parametrize(
    ("name", "lost", "message"),
    [
        (
            "mlp/evaluation.csv",
            {"method": "qat4"},
            r"mlp.evaluation\.csv.*for model mlp, method qat4, seed 0, weights deployed.*found 0",
        ),
        ("mlp/evaluation.csv", {"method": "s8_c0.1"}, r"evaluation\.csv.*method s8_c0\.1"),
        (
            "resnet20/distortion.csv",
            {"method": "momos_s4_c1", "seed": 1},
            r"resnet20.distortion\.csv.*method momos_s4_c1, seed 1",
        ),
    ],
)
def test_a_missing_run_is_an_error_that_names_it(tree, tmp_path, monkeypatch, name, lost, message):
    def drop(frame):
        return frame[~np.logical_and.reduce([frame[key] == value for key, value in lost.items()])]

    with pytest.raises(ValueError, match=message):
        run_stage(edited(tree, tmp_path, name, drop), monkeypatch, reports=tmp_path / "out")


def test_a_run_that_is_there_twice_is_an_error(tree, tmp_path, monkeypatch):
    twice = edited(
        tree, tmp_path, "mlp/evaluation.csv", lambda frame: pd.concat([frame, frame.iloc[[0]]])
    )
    with pytest.raises(ValueError, match="found 2"):
        run_stage(twice, monkeypatch, reports=tmp_path / "out")


def test_runs_no_longer_listed_are_not_shown(tree, tmp_path, monkeypatch):
    small = Tree(tmp_path)
    small.params["grid"] |= {
        "models": ["mlp"],
        "methods": ["baseline", "momos_s4_c1"],
        "seeds": [0],
    }
    small.params["ablation"] |= {"block_sizes": [2], "capacities": [0.1]}
    small.write_params()
    monkeypatch.setattr(figures, "FORMATS", ("png",))  # drawn as usual, and written once
    run_stage(small, monkeypatch, reports=small.reports)
    shown = json.loads((small.reports / "results.json").read_text())["cells"]
    measured = {(cell["model"], cell["method"]) for cell in shown if cell["table"] == "complexity"}
    assert measured == {("mlp", "baseline"), ("mlp", "momos_s4_c1")}
    assert set(pd.read_csv(small.reports / "tables" / "training.csv").method) == {
        "baseline",
        "momos_s4_c1",
    }
    assert "ResNet20" not in (small.reports / "tables" / "table1.md").read_text()
    assert "80.00 |" in (small.reports / "tables" / "table1.md").read_text()  # one seed: no spread


def test_an_unknown_picture_tensor_is_an_error(tree, tmp_path, monkeypatch):
    changed = Tree(tmp_path)
    changed.params["report"]["picture_tensor"] = "no.such.weight"
    changed.write_params()
    with pytest.raises(
        ValueError, match=r"report\.picture_tensor.*hidden\.1\.weight.*no\.such\.weight"
    ):
        run_stage(changed, monkeypatch, reports=tmp_path / "out")


def test_repeats_counts_equal_blocks():
    matrix = np.array([[1.0, 2, 1, 2], [3, 4, 0, 0], [1, 2, 0, 0]])
    np.testing.assert_array_equal(
        pictures.count_repeats(matrix, 2), [[3, 3, 3, 3], [1, 1, 2, 2], [3, 3, 2, 2]]
    )


def test_repeats_pads_the_last_block_with_zeros():
    np.testing.assert_array_equal(
        pictures.count_repeats(np.array([[5.0, 0, 0, 5]]), 3), [[2, 2, 2, 2]]
    )


def test_curves_end_where_the_first_seed_stopped():
    names = {
        "model": "mlp",
        "title": "MLP",
        "method": "m",
        "label": "M",
        "family": "momos",
        "grid": "main",
    }
    common = names | {"block_size": 2.0, "capacity": 0.1}
    rows = [common | {"seed": 0, "epoch": epoch, "loss": 1.0} for epoch in (1, 2, 3)] + [
        common | {"seed": 1, "epoch": 1, "loss": 3.0}
    ]
    found = points.curves(pd.DataFrame(rows), ["loss"])
    assert found[["epoch", "loss", "num_seeds"]].to_numpy().tolist() == [[1, 2, 2]]


def test_the_compressors_that_were_not_asked_for_are_not_shown(built):
    table = (built / "tables" / "compressors.md").read_text()
    asked = config.load(config.Evaluate).compressors
    assert {name for name in COMPRESSORS if name in table} == {*asked} < {*COMPRESSORS}
