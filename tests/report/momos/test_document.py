"""results.json against the tables that it came from, with scipy and brute force as a check."""

import json
import math
import runpy

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from synthetic import CAPACITIES, PAPER, ROOT, SIZES, TREE_METHODS, TREE_MODELS, Tree

from momos.report import regression
from momos.report.momos import cell_list, cells, document
from momos.report.shared import figures, verdicts
from momos.report.shared.claims import read_claims


class Built:
    """results.json of a synthetic study, whose seeds lie apart in a known way, and its tables."""

    def __init__(self, root):
        self.tree = Tree(root)
        self.tree.params["grid"]["seeds"] = [0, 1]
        for model in TREE_MODELS:
            path = self.tree.results / model / "evaluation.csv"
            frame = pd.read_csv(path)
            noise = np.random.default_rng(len(model)).normal(0, 0.01, size=(len(frame), 2))
            frame = frame.assign(
                test_accuracy_last=frame.test_accuracy_last + noise[:, 0],
                bdm_1d=frame.bdm_1d * (1 + noise[:, 1]),
            )
            frame.to_csv(path, index=False)
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(root)
            patch.setattr(figures, "write_all", lambda drawings, folder: None)  # the slow part
            runpy.run_path(str(ROOT / "stages" / "report.py"))["main"](*self.tree.arguments)
        self.text = (self.tree.reports / "results.json").read_text()
        self.document = json.loads(self.text)
        self.cells = document.by_id(self.document)


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    return Built(tmp_path_factory.mktemp("numbers"))


def seeds_of(built, model, method, column, weights="deployed"):
    frame = pd.read_csv(built.tree.results / model / "evaluation.csv")
    rows = frame[(frame.method == method) & (frame.grid == "main") & (frame.weights == weights)]
    return rows.sort_values("seed")[column].to_numpy()


@pytest.mark.parametrize("model", TREE_MODELS)
@pytest.mark.parametrize("method", TREE_METHODS)
@pytest.mark.parametrize(
    ("measure", "column", "scale"),
    [
        ("test_accuracy_last", "test_accuracy_last", 100),
        ("rac", "rac", 1),
        ("bdm_1d", "bdm_1d", 1),
        ("sparsity", "sparsity", 100),
    ],
)
def test_a_cell_is_what_its_source_says(built, model, method, measure, column, scale):
    table = "table1" if measure in ("test_accuracy_last", "rac") else "complexity"
    cell = built.cells[f"{table}/{model}/{method}/{measure}"]
    values = scale * seeds_of(built, model, method, column)
    assert (
        cell["values"] == pytest.approx(values, rel=1e-11)
        and cell["seeds"] == [0, 1]
        and cell["num_seeds"] == 2
    )
    assert cell["value"] == pytest.approx(math.fsum(values) / 2, rel=1e-11)
    assert cell["std"] == pytest.approx(np.std(values, ddof=1), rel=1e-9, abs=1e-12)
    if values[0] != values[1]:
        scipys = stats.ttest_1samp(values, 0).confidence_interval(0.95)
        assert cell["interval"] == pytest.approx([scipys.low, scipys.high], rel=1e-9)
    assert cell["interval_method"] == "t"
    assert (cell["source"], cell["stage"]) == (
        f"{built.tree.results}/{model}/evaluation.csv",
        f"evaluate@{model}",
    )


def test_ratios_to_the_shuffled_control_are_means_of_each_seeds_own(built):
    ratios = seeds_of(built, "mlp", "qat4", "bdm_1d", "latent") / seeds_of(
        built, "mlp", "qat4", "bdm_1d_shuffled", "latent"
    )
    assert built.cells["complexity/mlp/qat4/bdm_1d_against_shuffled_latent"][
        "value"
    ] == pytest.approx(ratios.mean())


def test_every_published_cell_is_there_once_in_accuracy_rac_and_bdm(built):
    published = pd.concat([pd.read_csv(PAPER / name) for name in ("table1.csv", "table2.csv")])
    paper = [
        cell
        for cell in built.document["cells"]
        if cell["table"] in ("table1", "table2") and "published" in cell
    ]
    assert len(paper) == 3 * len(published) == 144
    for column, measure in {
        "accuracy_mean": "test_accuracy_last",
        "rac": "rac",
        "bdm_ratio": "bdm_1d_ratio",
    }.items():
        printed = sorted(
            cell["published"]
            for cell in paper
            if cell["measure"].removesuffix("_latent") == measure
        )
        assert printed == sorted(published[column])
    accuracy = built.cells["table1/mlp/qat4/test_accuracy_last"]
    assert (accuracy["published"], accuracy["published_std"], accuracy["status"]) == (
        44.35,
        1.05,
        "NOT COMPARABLE",
    )
    assert accuracy["difference"] == pytest.approx(accuracy["value"] - 44.35)
    assert "data.source is 'digits'" in accuracy["reason"] and "resnet20" not in accuracy["reason"]
    absent = built.cells["table2/mobilevit/momos_s2_c0_5/rac"]
    assert (absent["value"], absent["interval"], absent["values"], absent["status"]) == (
        None,
        None,
        [],
        "NOT RUN",
    )
    assert absent["source"].endswith("table2.csv")


def test_the_published_bdm_ratio_of_quantised_models_is_held_against_the_latent_weights(built):
    assert "published" in built.cells["table1/mlp/qat4/bdm_1d_ratio_latent"]
    assert "published" not in built.cells["table1/mlp/qat4/bdm_1d_ratio"]
    assert "published" in built.cells["table1/mlp/momos_s2_c10/bdm_1d_ratio"]


def test_rac_passes_by_the_printed_digit_where_the_number_of_weights_is_the_published_one(built):
    momos = built.cells["table1/mlp/momos_s2_c10/rac"]
    assert (
        momos["status"] == "NOT COMPARABLE"
        and "1,052,426 in the published model" in momos["reason"]
    )
    assert built.cells["table1/mlp/qat4/rac"]["tolerance"] == 0.05
    assert built.cells["table1/mlp/qat4/rac"]["status"] == "FAIL", (
        "the synthetic study gives every cell a RAC of 1"
    )
    assert built.cells["table1/mlp/baseline/rac"]["status"] == "PASS"
    check = [cell for cell in built.document["cells"] if cell["table"] == "rac_check"]
    assert len(check) == 48 and sum(cell["status"] == "PASS" for cell in check) == 31
    assert built.cells["rac_check/resnet20/momos_s4_c1/rac_expected"]["status"] == "PASS"


def comparable(verdict: str, value: float, std: float | None = 0.1):
    """How an accuracy and a BDM ratio compare in a study without departures from the paper."""
    published = {"accuracy_mean": 50.0, "accuracy_std": 0.5, "bdm_ratio": 0.94}
    judged = {"difference": value - 50, "allowed": 1.0, "verdict": verdict}
    printed = pd.DataFrame([{"model": "mlp", "method": "qat"} | published | judged])
    row = next(printed.itertuples())
    rows = pd.DataFrame({"num_weights": [5]})
    accuracy = {"value": value, "std": std, "num_seeds": 4}
    bdm = accuracy | {"value": value / 50}
    return (
        cell_list.compare("test_accuracy_last", accuracy, row, rows, ()),
        cell_list.compare("bdm_1d_ratio", bdm, row, rows, ()),
    )


def test_status_at_the_papers_setting():
    accuracy, _ = comparable(verdicts.SUPPORTED, 50.5)
    assert (accuracy["status"], accuracy["difference"], accuracy["reason"]) == ("PASS", 0.5, "")
    assert comparable(verdicts.NOT_SUPPORTED, 60.0)[0]["status"] == "FAIL"
    _, bdm = comparable(verdicts.SUPPORTED, 47.0)
    assert bdm["status"] == "PASS" and bdm["tolerance"] == pytest.approx(0.005 + 2 * 0.1 / 2)
    _, bdm = comparable(verdicts.SUPPORTED, 47.5, std=None)
    assert bdm["status"] == "FAIL" and bdm["tolerance"] == pytest.approx(0.005)
    assert comparable(verdicts.SUPPORTED, 47.25, std=None)[1]["status"] == "PASS", (
        "half of the last digit agrees"
    )


def test_the_ablation_and_distortion_are_there(built):
    capacity = [cell for cell in built.document["cells"] if cell["table"] == "capacity"]
    assert len(capacity) == len(SIZES) * len(CAPACITIES) and {
        cell["interval"] for cell in capacity
    } == {None}
    cell = built.cells["distortion/mlp/momos_s2_c10/relative_distortion_last"]
    assert (
        cell["value"] == pytest.approx(0.02)
        and cell["source"].endswith("mlp/distortion.csv")
        and cell["stage"] == "distortion@mlp"
    )
    assert built.cells["distortion/mlp/momos_s2_c10/relative_distortion_first"][
        "value"
    ] == pytest.approx(0.3)


def test_the_zoos_share_has_an_exact_interval_over_initialisations(built):
    """Two models of two seeds: four initialisations, whatever was trained from them."""
    cell = built.cells["zoo/this_pipeline/all/share_below_1"]
    n = len(TREE_MODELS) * 2
    scipys = stats.binomtest(n, n).proportion_ci(0.95, method="exact")
    assert cell["interval_method"] == "clopper-pearson"
    assert cell["value"] == 100 and cell["interval"] == pytest.approx(
        [100 * scipys.low, 100 * scipys.high]
    )
    assert built.cells["zoo/this_pipeline/all/num_pairs"]["value"] == n


def test_the_aggregate_pairs_each_seed_with_its_own_baseline(built):
    columns = [(model, method) for model in TREE_MODELS for method in ("momos_s2_c10", "baseline")]
    seeds = {key: 100 * seeds_of(built, *key, "test_accuracy_last") for key in columns}
    differences = np.concatenate(
        [seeds[model, "momos_s2_c10"] - seeds[model, "baseline"] for model in TREE_MODELS]
    )
    cell = built.cells["aggregate/all/momos_s2_c10/accuracy_difference_mean"]
    assert cell["values"] == pytest.approx(differences) and cell["value"] == pytest.approx(
        differences.mean()
    )
    assert (
        cell["interval"][0] <= cell["value"] <= cell["interval"][1]
        and cell["interval_method"] == "bootstrap"
    )
    iqm = built.cells["aggregate/all/momos_s2_c10/accuracy_difference_iqm"]["value"]
    assert iqm == pytest.approx(stats.trim_mean(differences, 0.25))
    assert "aggregate/all/baseline/accuracy_difference_mean" not in built.cells


def test_claims_and_counts(built):
    ids = [claim["id"] for claim in built.document["claims"]]
    assert ids == [claim.id for claim in read_claims(PAPER)] and ids[:2] == ["M1", "M2"]
    counted = built.document["counts"]["claims"]
    apart = built.document["counts"]["apart"]
    assert apart == {"by construction": 1, "audit": 1}, "M14 and M12; M13 and M15 are not run"
    tested = [claim for claim in built.document["claims"] if claim["decided"] not in apart]
    assert counted == {
        name: sum(claim["verdict"] == name for claim in tested) for name in verdicts.VERDICTS
    }
    assert len(tested) == len(built.document["claims"]) - 2
    assert built.document["counts"]["decided"] == {
        name: sum(claim["verdict"] == name and claim["decided"] == "yes" for claim in tested)
        for name in (verdicts.SUPPORTED, verdicts.NOT_SUPPORTED)
    }
    assert len(built.document["findings"]) == 5
    assert built.document["counts"]["rac_check"] == {"agree": 31, "cells": 48}
    assert (built.document["schema"], built.document["profile"]) == (1, "digits")


def test_a_line_per_cell_no_nan_and_twelve_digits(built):
    assert sum(line.startswith('{"id"') for line in built.text.splitlines()) == len(
        built.document["cells"]
    ) + len(built.document["claims"])
    assert "NaN" not in built.text and "Infinity" not in built.text
    for cell in built.document["cells"]:
        for value in (cell["value"], cell["std"], *cell["values"], *(cell["interval"] or ())):
            assert value is None or value == float(f"{value:.12g}")
        assert {"kind", "unit", "source", "stage", "table"} <= cell.keys() and cell[
            "kind"
        ] in regression.TOLERANCES


def test_two_cells_of_one_name_are_an_error(monkeypatch):
    monkeypatch.setattr(document.CellList, "__init__", lambda self, *arguments: None)
    monkeypatch.setattr(
        document.CellList, "__iter__", lambda self: iter([{"id": "a"}, {"id": "a"}])
    )
    with pytest.raises(ValueError, match="its own id, got twice: a"):
        document.document(None, paper_dir="", results_dir="")


def test_the_front_of_the_report(built):
    front = built.document["pareto"]["mlp"]
    points = {}
    for cell in built.document["cells"]:
        if cell["model"] == "mlp" and cell["table"] == "table1" and cell["value"] is not None:
            points.setdefault(cell["method"], {})[cell["measure"]] = cell["value"]
    rac, accuracy = (
        {name: values[measure] for name, values in points.items()}
        for measure in ("rac", "test_accuracy_last")
    )
    beaten = {
        a
        for a in points
        for b in points
        if a != b and rac[b] >= rac[a] and accuracy[b] > accuracy[a]
    }
    assert set(front["measured"]) == set(points) - beaten


def test_an_aggregate_may_have_models_of_unequal_seeds():
    """Five seeds of one model and two of another: seven pairs; a lost value is never left out."""
    gaps = pd.DataFrame(
        [[1.0, 2.0, 3.0, 4.0, 5.0], [10.0, 20.0, np.nan, np.nan, np.nan]],
        index=["mlp", "vit"],
        columns=range(5),
    )
    mean = cells.bootstrapped(gaps, lambda scores: scores.mean(axis=-1))
    assert mean["value"] == pytest.approx(45 / 7) and mean["num_seeds"] == 5
    assert mean["values"] == [1, 2, 3, 4, 5, 10, 20] and mean["models"] == ["mlp", "vit"]
    low, high = mean["interval"]
    assert low < 45 / 7 < high
    lost = cells.bootstrapped(gaps.replace(2.0, np.inf), lambda scores: scores.mean(axis=-1))
    assert (lost["value"], lost["interval"]) == (None, None) and None in lost["values"]
    without = gaps.copy()
    without.loc["vit"] = np.nan
    assert cells.bootstrapped(without, lambda scores: scores.mean(axis=-1))["value"] is None
