"""Runs split between a report and an import must give the report of all of them together."""

import json
import runpy
import shutil
import sys
from pathlib import Path

import pages
import pandas as pd
import pytest
import yaml
from scripted import script
from spread import Repository
from synthetic import ROOT, TREE_METHODS, TREE_MODELS, Tree

from momos import config
from momos.report.shared import figures, imported

MACHINE = {
    "cpu": "Some CPU",
    "cores": 8,
    "gpus": ["NVIDIA H200"],
    "python": "3.11.7",
    "date": "2026-01-02T03:04:05+00:00",
}
MACHINE |= {"git": {"commit": "0123456789abcdef", "dirty": False}}


class SplitTree:
    """A tree with all runs, seed 1 exported as `gpu`.

    params.yaml then asks for seed 0 and the import.
    """

    def __init__(self, root: Path, patch):
        self.tree, self.root = Tree(root), root
        patch.chdir(root)
        patch.setattr(figures, "write_all", lambda drawings, folder: None)  # the slow part
        self.whole = self.report("whole")
        self.tree.reports.mkdir(parents=True)
        pages._write_costs(self.root)
        (self.tree.reports / "provenance.json").write_text(json.dumps(MACHINE))
        shutil.copy(root / "whole" / "results.json", self.tree.reports)
        for model in TREE_MODELS:
            path = root / "slt" / "digits" / "images" / f"{model}.csv"
            path.parent.mkdir(parents=True, exist_ok=True)
            pd.DataFrame(
                {"model": model, "method": "baseline", "seed": [1], "llc_mean": [2.5]}
            ).to_csv(path, index=False)
        self.ask(seeds=[1], ablation=[])
        script("export").main("gpu", "Trained in an hour.")
        self.ask(seeds=[0], ablation=["mlp"], names=["gpu"])

    def ask(self, *, seeds=(0,), ablation=(), names=(), models=TREE_MODELS):
        self.tree.params["grid"] |= {"models": list(models), "seeds": list(seeds)}
        self.tree.params["ablation"]["models"] = list(ablation)
        self.tree.params["report"]["imported"] = list(names)
        self.tree.write_params()

    def report(self, name: str) -> dict:
        runpy.run_path(str(ROOT / "stages" / "report.py"))["main"](
            *self.tree.arguments[:-1], self.root / name
        )
        return json.loads((self.root / name / "results.json").read_text())


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        yield SplitTree(tmp_path_factory.mktemp("imported"), patch)


@pytest.fixture(scope="module")
def joined(study):
    return study.report("joined")


def test_every_number_and_verdict_is_that_of_all_runs_together(study, joined):
    assert joined["cells"] == study.whole["cells"]
    assert joined["claims"] == study.whole["claims"] and joined["pareto"] == study.whole["pareto"]
    for name in (
        "table1.csv",
        "training.csv",
        "distortion.csv",
        "packing.csv",
        "packing_lossy.csv",
    ):
        one, two = (
            pd.read_csv(study.root / folder / "tables" / name) for folder in ("whole", "joined")
        )
        keys = list(one.columns[:3])
        pd.testing.assert_frame_equal(
            *(frame.sort_values(keys, kind="stable", ignore_index=True) for frame in (one, two))
        )


def test_the_report_says_which_runs_are_imported_and_from_where(study, joined):
    assert study.whole["imported"] == []
    (found,) = joined["imported"]
    assert found["name"] == "gpu" and found["machine"] == MACHINE
    assert sorted(found["runs"]) == sorted(
        [model, method, 1] for model in TREE_MODELS for method in TREE_METHODS
    )
    text = (
        "gpu: 14 runs (mlp, seed 1; resnet20, seed 1), Some CPU, 8 cores, NVIDIA H200,"
        " 2026-01-02, commit 0123456. Trained in an hour."
    )
    assert found["text"] == text and text in (study.root / "joined" / "README.md").read_text()
    rows = pd.read_csv(study.root / "joined" / "tables" / "runs.csv", keep_default_na=False)
    assert set(rows.seed[rows.imported == "gpu"]) == {1} and set(
        rows.seed[rows.imported == ""]
    ) == {0}


def test_a_report_may_have_imported_runs_alone(study):
    """Those of seeds 0 and 1, the ablation among them, without a file of runs: the numbers of all
    runs together.
    """
    study.ask(seeds=[0], ablation=["mlp"])
    (study.root / "trained.json").write_text(json.dumps(MACHINE | {"cpu": "Another CPU"}))
    script("export").main("rest", "", study.root / "trained.json")
    try:
        study.ask(models=[], names=["rest", "gpu"])
        found = study.report("imports_alone")
        assert [each["machine"]["cpu"] for each in found["imported"]] == ["Another CPU", "Some CPU"]
        by_id = [
            {cell["id"]: cell for cell in document["cells"]} for document in (study.whole, found)
        ]
        assert by_id[0] == by_id[1]
        assert {each["id"]: each for each in study.whole["claims"]} == {
            each["id"]: each for each in found["claims"]
        }
        assert "figure1" not in (study.root / "imports_alone" / "README.md").read_text()
    finally:
        shutil.rmtree(study.root / "data" / "imported" / "rest")
        study.ask(seeds=[0], ablation=["mlp"], names=["gpu"])


def test_a_report_without_any_runs_is_refused(study):
    study.ask(models=[], names=[])
    with pytest.raises(
        ValueError,
        match=r"grid.models must be given, unless report.imported names runs from elsewhere,"
        r" got \[\]",
    ):
        config.check()
    study.ask(seeds=[0], ablation=["mlp"], names=["gpu"])


def test_costs_and_the_second_papers_measures_come_along(study):
    (found,) = imported.load(study.root / "data" / "imported", ["gpu"], config.runs())
    costs = imported.costs([found])
    assert (
        len(costs) == 14 and set(costs.seed) == {1} and set(costs.device) == {"cpu", "NVIDIA H200"}
    )
    assert list(imported.complexity([found]).llc_mean) == [2.5, 2.5]
    assert imported.costs([]).empty and imported.complexity([]).empty


def test_the_cost_stage_sums_over_imported_runs_too(study):
    for run in config.runs():
        path = run.folder(study.root / "costs") / "cost.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        cost = {
            "seconds": 60.0,
            "cpu_seconds": 50.0,
            "peak_memory_bytes": 2**30,
            "device": "cpu",
            "num_epochs": 5,
        }
        path.write_text(json.dumps(cost | {"peak_device_memory_bytes": None}))
    (study.root / "costs" / "survey").mkdir()
    (study.root / "costs" / "survey" / "cost.json").write_text(json.dumps({"models": []}))
    out = study.root / "cost"
    runpy.run_path(str(ROOT / "stages" / "cost.py"))["main"](
        study.root / "costs", study.root / "data" / "imported", out
    )
    costs = pd.read_csv(out / "cost.csv")
    assert len(costs) == len(config.runs()) + 14
    assert (
        sorted(costs.seconds.unique()) == [36.0, 60.0]
        and "NVIDIA H200, cpu" in (out / "cost.md").read_text()
    )


def about(study, change):
    """about.json of a second import, `other`, after a change."""
    folder = study.root / "data" / "imported" / "other"
    shutil.copytree(folder.parent / "gpu", folder)
    values = json.loads((folder / "about.json").read_text())
    change(values)
    (folder / "about.json").write_text(json.dumps(values))


@pytest.fixture
def other(study):
    yield lambda change: about(study, change)
    shutil.rmtree(study.root / "data" / "imported" / "other", ignore_errors=True)
    study.ask(seeds=[0], ablation=["mlp"], names=["gpu"])


def put(section, key, value):
    return lambda values: values["settings"][section].__setitem__(key, value)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (put("train", "epochs", 7), ["other", "train.epochs", "7"]),
        (
            put("train", "precision", "bf16"),
            ["other has mlp with train.precision", "'bf16'", "'float32'", "this profile"],
        ),
        (put("augment", "flip", "no"), ["augment.flip", "'no'"]),
        (put("data", "mean", [0.1]), ["data.mean", "[0.1]"]),
        (put("evaluate", "checkpoint", "best"), ["evaluate.checkpoint", "'best'", "'last'"]),
        (put("models", "mlp", None), ["models.mlp", "None"]),
        (put("methods", "qat4", {"bits": 3}), ["methods.qat4", "3"]),
        (
            lambda values: values["data"].__setitem__("sha256", "f" * 64),
            ["data.sha256", "f" * 64, "0" * 64],
        ),
        (lambda values: values.pop("provenance"), ["about.json", "provenance"]),
        (lambda values: values["settings"].pop("augment"), ["about.json", "settings.augment"]),
    ],
)
def test_runs_of_other_images_or_settings_are_refused(study, other, change, words):
    other(change)
    study.ask(seeds=[0], ablation=["mlp"], names=["other"])
    with pytest.raises(ValueError) as caught:
        study.report("refused")
    assert all(word in str(caught.value) for word in words), caught.value
    assert not (study.root / "refused").exists()


def test_runs_of_one_model_have_one_precision_but_two_models_may_differ(study, other):
    other(put("train", "precision", "bf16"))
    folder = study.root / "data" / "imported"
    shutil.rmtree(folder / "other" / "mlp")
    shutil.copytree(folder / "gpu", folder / "third")
    shutil.rmtree(folder / "third" / "resnet20")
    try:
        study.ask(models=[], names=["third", "other"])
        found = study.report("two_precisions")
    finally:
        shutil.rmtree(folder / "third")
    assert found["imported"][1]["text"].startswith(
        "other: 7 runs (resnet20, seed 1), in bf16, Some CPU"
    )
    accuracy = [
        cell
        for cell in found["cells"]
        if cell.get("published") and cell["kind"] == "accuracy" and cell["value"] is not None
    ]
    for model, mixed in (("mlp", False), ("resnet20", True)):
        reasons = {cell["reason"] for cell in accuracy if cell["model"] == model}
        assert reasons and all(
            ("models.resnet20.precision in other is 'bf16', not 'float32'" in reason) == mixed
            for reason in reasons
        )


def test_where_it_ran_does_not_matter(study, other):
    elsewhere = dict.fromkeys(
        ["device", "num_threads", "compile", "cuda_graphs", "checkpoint_seconds"], "elsewhere"
    )
    other(lambda values: values["settings"]["train"].update(elsewhere))
    study.ask(seeds=[0], ablation=["mlp"], names=["other"])
    assert study.report("elsewhere")["imported"][0]["name"] == "other"


def test_a_run_that_is_there_twice_is_refused(study, other):
    other(lambda values: None)
    study.ask(seeds=[0], ablation=["mlp"], names=["gpu", "other"])
    with pytest.raises(
        ValueError, match=r"model mlp, method baseline, seed 1 is in other and in gpu"
    ):
        study.report("refused")
    study.ask(seeds=[0, 1], ablation=["mlp"], names=["gpu"])
    with pytest.raises(ValueError, match=r"seed 1 is in gpu and in the grids of params.yaml"):
        study.report("refused")


def unlink(name):
    return lambda folder: (folder / name).unlink()


def write(name, text):
    return lambda folder: (folder / name).write_text(text)


def rename(name, old, new):
    return lambda folder: _rename(folder / name, old, new)


def remove_models(folder):
    for model in TREE_MODELS:
        shutil.rmtree(folder / model)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (unlink("about.json"), ["report.imported", "'other'", "gpu"]),
        (unlink("mlp/history.csv"), ["history.csv", "missing"]),
        (write("mlp/evaluation.csv", "model,method\n"), ["evaluation.csv", "seed"]),
        (write("resnet20/packing.csv", ""), ["packing.csv", "damaged"]),
        (remove_models, ["other", "evaluation.csv"]),
        (
            rename("mlp/evaluation.csv", "qat8", "qat7"),
            ["evaluation.csv", "qat7", "did you mean"],
        ),
        (
            rename("mlp/distortion.csv", "momos_s4_c1,1", "momos_s4_c1,9"),
            ["distortion.csv", "momos_s4_c1"],
        ),
    ],
)
def test_a_damaged_import_is_named(study, other, damage, words):
    other(lambda values: None)
    damage(study.root / "data" / "imported" / "other")
    study.ask(seeds=[0], ablation=["mlp"], names=["other"])
    with pytest.raises(ValueError) as caught:
        study.report("refused")
    assert all(word in str(caught.value) for word in words), caught.value


def _rename(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_an_export_never_overwrites_another(study):
    with pytest.raises(ValueError, match="gpu is there already"):
        script("export").main("gpu", "")


def test_an_export_says_how_its_runs_were_trained_not_how_they_were_measured(study):
    """A GPU's runs, measured where there is none, with another `train.device`."""
    study.ask(seeds=[0])
    paths = sorted(study.tree.runs.glob("*/*/0/run.json"))
    before = paths[0].read_text()
    gpu = json.loads(before) | {"device": "cuda", "precision": "bf16", "cuda_graphs": True}
    try:
        paths[-1].write_text(json.dumps(gpu))
        last = paths[-1].relative_to(study.root)
        named = f"{last} has device 'cuda', expected 'cpu' as in runs/digits/mlp/"
        with pytest.raises(ValueError, match=named):
            script("export").main("mixed", "")
        for path in paths:
            path.write_text(json.dumps(gpu))
        script("export").main("h200", "")
        (found,) = imported.load(study.root / "data" / "imported", ["h200"])
        whole = json.loads((study.root / "whole" / "results.json").read_text())
        on_gpu = {"device": "cuda", "precision": "bf16", "cuda_graphs": True}
        assert found.about["settings"]["train"] == whole["settings"]["train"] | on_gpu
        assert {text.split(" in ")[0] for text in imported.departures([found])} == {
            "models.mlp.precision",
            "models.resnet20.precision",
        }
    finally:
        for path in paths:
            path.write_text(before)
        shutil.rmtree(study.root / "data" / "imported" / "h200", ignore_errors=True)
        study.ask(seeds=[0], ablation=["mlp"], names=["gpu"])


def test_numbers_that_are_not_of_the_settings_are_not_exported(tmp_path):
    repository = Repository(tmp_path / "small", models="m", seeds=1)
    out = repository.run(
        sys.executable, "scripts/export.py", "mine", check=False, PYTHONPATH=str(ROOT / "src")
    )
    assert (
        "the report is not up to date, `make repro` first: measure@m, prepare, report, train@m-0"
        in out
    )


@pytest.mark.parametrize("name", ["cifar10_mlp", "cifar10_mlp_seed2", "cifar10_resnet20"])
def test_older_imports_go_with_settings_that_are_newer(tmp_path, monkeypatch, name):
    """A setting that they do not have was left out then, or had but one value."""
    params = config.profile_settings("cifar10", ROOT / "profiles")
    params["grid"]["models"], params["ablation"]["models"] = [], []
    params["report"]["imported"] = [name]
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
    monkeypatch.chdir(tmp_path)
    sources = imported.load(ROOT / "data" / "imported", [name])
    settings = runpy.run_path(str(ROOT / "stages" / "report.py"))["read_settings"](sources)
    models, methods = settings["models"], settings["methods"]
    sha256 = sources[0].about["data"]["sha256"]
    imported.check(sources, sha256, settings, models, methods)
    for section, key, value in (
        ("quantize", "rounding", "in_place_epoch"),
        ("quantize", "tensors", "all"),
        ("mosaic", "codebook", "tensor"),
    ):
        other = settings | {section: settings[section] | {key: value}}
        with pytest.raises(ValueError, match=rf"{section}.{key}"):
            imported.check(sources, sha256, other, models, methods)
    first = next(iter(methods))
    other = methods | {first: methods[first] | {"batchnorm": "remeasured"}}
    with pytest.raises(ValueError, match=rf"methods.{first}.*remeasured"):
        imported.check(sources, sha256, settings, models, other)
