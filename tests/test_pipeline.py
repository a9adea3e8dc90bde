"""The pipeline: what dvc.yaml declares against what the code imports and loads, and a micro profile
run end to end.
"""

import ast
import json
import os
import re
import shutil
import sys
from dataclasses import fields
from pathlib import Path

import pandas as pd
import pytest
import yaml
from clones import Clone, merge, warmed
from source_files import ROOT, imports

from momos import config
from momos.complexity import compressors

# On none of these does any number depend: names handed on, settings (the params of a stage say
# which), the tracker, clocks, what keeps measurements. What they import concerns no stage either.
EXEMPT = (
    "src/momos/__init__.py",
    "src/momos/config/",
    "src/momos/settings.py",
    "src/momos/tracking/",
    "src/momos/compute/cost.py",
    "src/momos/measured.py",
)
# What a file finds by listing a folder: the import statements do not say it.
LISTS = {
    "src/momos/methods/method.py": "src/momos/methods/*.py",
    "src/momos/metrics/__init__.py": "src/momos/metrics/*.py",
    "src/momos/complexity/compressors/__init__.py": "src/momos/complexity/compressors/*.py",
    "src/momos/page/charts/__init__.py": "src/momos/page/charts/*.py",
    "src/momos/page/render.py": "src/momos/page/templates/*",
}
STAGES = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
SURVEYED = ("gzip", "lzma", "zstd")  # compressors of every profile's survey: dvc.yaml names them


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def only_a_docstring(path: Path) -> bool:
    return path.name == "__init__.py" and len(ast.parse(path.read_text()).body) <= 1


def listed_by(path: Path) -> set[Path]:
    pattern = LISTS.get(name_of(path))
    return set(ROOT.glob(pattern)) if pattern else set()


def transitive(script: Path) -> set[str]:
    """What a script imports, directly or over others, and what those read."""
    seen, waiting = set(), [script]
    while waiting:
        path = waiting.pop()
        for file in {*imports(path), *listed_by(path)} if path.suffix == ".py" else ():
            if file not in seen and not name_of(file).startswith(EXEMPT):
                seen.add(file)
                waiting.append(file)
    return {name_of(path) for path in seen if path.suffix != ".py" or not only_a_docstring(path)}


def inside(file: str, dep: str) -> bool:
    return file == dep or file.startswith(dep + "/")


def script_of(stage: dict) -> str:
    return re.search(r"stages/\w+\.py", stage["cmd"]).group()


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_depends_on_exactly_the_files_it_imports(name):
    stage = STAGES[name]
    declared = {dep for dep in stage["deps"] if dep.startswith(("src/", "stages/"))}
    folders = {dep for dep in declared if (ROOT / dep).is_dir()}
    needed = transitive(ROOT / script_of(stage)) | {script_of(stage)}
    if name == "survey":
        folder = "src/momos/complexity/compressors/"
        wanted = {f"{folder}{file}.py" for file in ("__init__", *SURVEYED)}
        needed = {file for file in needed if not file.startswith(folder)} | wanted
    covered = {file for file in needed if any(inside(file, folder) for folder in folders)}
    assert declared - folders == needed - covered
    assert all(any(inside(file, folder) for file in needed) for folder in folders)


def test_the_survey_depends_on_the_compressors_of_every_profile():
    for path in [ROOT / "params.yaml", *(ROOT / "profiles").glob("*.yaml")]:
        assert set(config.load(config.Survey, path=path).compressors) <= set(SURVEYED), path
    assert set(SURVEYED) < set(compressors.names()), "a new compressor re-runs no survey"


REPORTS = {"report", "slt_report"}
TRAININGS = ["train", "more_seeds", "ablation"]


@pytest.mark.parametrize(
    ("file", "stages"),
    [
        ("report/shared/plots.py", REPORTS),
        ("report/shared/tables.py", REPORTS),
        ("report/shared/claims.py", REPORTS),
        ("report/slt/claims.py", {"slt_report"}),
        ("tracking/record.py", set()),
        ("compute/cost.py", set()),
        ("config/images.py", set()),
        ("raw/archives.py", {"prepare"}),
        ("complexity/compressors/zstd.py", {"evaluate", "pack", "rivals", "complexity", "survey"}),
        ("survey/run.py", {"survey"}),
        ("slt/llc/langevin.py", {"llc", "complexity"}),
        ("methods/qat.py", {*TRAININGS, "evaluate", "pack", "complexity", "report"}),
    ],
)
def test_an_edit_re_runs_these_stages(file, stages):
    """And no other: what an edit costs is what people ask first. What reads outputs that then
    change follows.
    """
    edited = f"src/momos/{file}"
    assert (ROOT / edited).is_file()
    deps = {name: [dep.split(" #")[0] for dep in stage["deps"]] for name, stage in STAGES.items()}
    found = {name for name, own in deps.items() if any(inside(edited, dep) for dep in own)}
    assert found == stages


SECTIONS = {
    kind.__name__: kind.section
    for kind in vars(config).values()
    if isinstance(kind, type) and getattr(kind, "section", None)
}
# What names runs reads every setting of their methods; these stages look at the names alone.
NAMES_ALONE = {"cost": {"methods", "mosaic", "quantize"}, "distortion": {"mosaic", "quantize"}}


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_declares_the_settings_it_loads(name):
    """config.load(config.X) in the script, and what runs and methods are made of."""
    source = (ROOT / script_of(STAGES[name])).read_text()
    loaded = {SECTIONS[kind] for kind in re.findall(r"config\.load\(\s*config\.(\w+)", source)}
    if "config.runs(" in source:
        loaded |= {"grid", "ablation", "methods", "mosaic", "quantize"}
    if "config.check(" in source:
        loaded |= {"grid"}  # whose names become arguments of commands
    if "config.load_method(" in source:
        loaded |= {"methods", "mosaic", "quantize"}
    if name == "ablation":
        loaded -= {"methods"}  # its method is the cell that its command names
    loaded -= {"tracking"} | NAMES_ALONE.get(name, set())
    assert {param.split(".")[0] for param in STAGES[name].get("params", [])} == loaded


@pytest.mark.parametrize("name", TRAININGS)
def test_a_training_depends_on_all_of_its_loop_but_how_often_it_is_kept(name):
    """Seeds are stacked in the main grid alone."""
    without = {"train.checkpoint_seconds"} | (
        {"train.stacked_seeds"} if name == "ablation" else set()
    )
    settings = {f"train.{field.name}" for field in fields(config.Train)}
    assert {
        param for param in STAGES[name]["params"] if param.startswith("train")
    } == settings - without


def test_the_readme_shows_the_commands_and_links_to_what_is_there():
    readme = (ROOT / "README.md").read_text()
    assert all(f"make {target}" in readme for target in ("repro", "test", "use", "track", "ui"))
    targets = [
        target for target in re.findall(r"\]\(([^)]+)\)", readme) if not target.startswith("http")
    ]
    assert targets and all((ROOT / target).exists() for target in targets), targets


# --- end to end on a micro profile


@pytest.fixture(scope="module")
def clone(tmp_path_factory, warm):
    """Its stages are forks of one interpreter: what they import at their start would take most of
    the time. Its figures are empty: tests/report draws them, in processes of both kinds.
    """
    clone = Clone(tmp_path_factory.mktemp("micro"))
    clone.env["PATH"] = warm.path
    with clone.without_drawing():
        clone.run("dvc", "repro")
        yield clone


DOWNSTREAM = {
    "distortion@mlp",
    "evaluate@mlp",
    "survey",
    "cost",
    "complexity@mlp",
    "slt_report",
    "report",
    "provenance",
    "page",
}


LAST = {"report", "provenance", "page"}


def test_everything_is_there_and_a_second_repro_runs_nothing(clone):
    assert clone.stale() == set()
    reports = clone.path / "reports" / "micro"
    metrics = json.loads((reports / "metrics.json").read_text())
    assert "mlp" in json.dumps(metrics)
    claims = (reports / "claims.md").read_text()
    ids = [f"M{i}" for i in range(1, 18)] + [f"S{i}" for i in range(1, 9)]
    assert all(re.search(rf"\b{claim}\b", claims) for claim in ids)
    figures = {path.suffix for path in (reports / "figures").iterdir()}
    assert figures == {".png", ".svg", ".pdf", ".json"}
    evaluation = pd.read_csv(clone.path / "results" / "micro" / "mlp" / "evaluation.csv")
    assert len(evaluation) == 2 * (1 + 2 + 1) + 1
    packing = pd.read_csv(clone.path / "results" / "micro" / "mlp" / "packing.csv")
    assert packing.groupby("coding").size().to_dict() == dict.fromkeys(
        ["safetensors", "lzma", "zstd", "fixed", "entropy"], 3 * 2) | dict.fromkeys(
        ["motifs16", "motifs8", "motifs4", "pruned", "refitted", "combined"], 1)  # fmt: skip
    run = clone.path / "runs" / "micro" / "mlp" / "momos_s4_c10" / "0"
    expected = {
        "history.csv",
        "initial.safetensors",
        "best.safetensors",
        "last.safetensors",
        "motif_usage.safetensors",
        "run.json",
    }
    assert {path.name for path in run.iterdir()} == expected
    assert (clone.path / "costs" / "micro" / "mlp" / "momos_s4_c10" / "0" / "cost.json").is_file()


def test_the_second_papers_report_is_there_and_the_first_shows_its_verdicts(clone):
    reports = clone.path / "reports" / "micro"
    claims = (reports / "slt" / "claims.md").read_text()
    assert all(re.search(rf"\| S{number} \| NOT RUN \|", claims) for number in range(1, 9)), (
        "one run is too few for any verdict"
    )
    assert "neox 1: " in claims, "and what was measured is shown all the same"
    main = (reports / "claims.md").read_text()
    assert "Scheme quantization was not run" in main and "neox 1: " in main
    complexity = pd.read_csv(reports / "slt" / "complexity.csv")
    assert (
        list(complexity.method) == ["baseline"]
        and list(complexity.seed) == [0]
        and complexity.llc_mean.notna().all()
    )
    measures = clone.path / "slt" / "micro" / "measures" / "neox" / "1"
    assert list(pd.read_csv(measures / "llc" / "llc.csv").step) == [2, 4, 6, 8]
    assert len(pd.read_csv(measures / "llc" / "traces.csv")) == 4 * 2 * (1 + 4)
    assert list(pd.read_csv(measures / "llc" / "sweep.csv").localization) == [3000.0, 1000.0]
    assert list(pd.read_csv(measures / "llc" / "plateau.csv").step) == [8]
    assert set(pd.read_csv(measures / "pruning" / "critical.csv").step) == {8}
    assert not (clone.path / "scratch").exists() or not list(
        (clone.path / "scratch").rglob("*.json")
    )


def test_mlflow_shows_the_language_models(clone):
    params = clone.params()
    clone.write_params(merge(params, {"tracking": {"enabled": True}}))
    out = clone.run("python", "stages/track.py")
    clone.write_params(params)
    assert "no results yet" not in out
    import sqlite3

    with sqlite3.connect(clone.path / "mlflow.db") as store:
        (run_id,) = store.execute(
            "select run_uuid from tags where key = 'key' and value = 'micro/neox/language/1'"
        ).fetchone()
        steps = store.execute(
            "select step from metrics where run_uuid = ? and key = 'val_loss' order by step",
            [run_id],
        ).fetchall()
    assert steps == [(2,), (4,), (6,), (8,)]


def test_a_diverging_sampler_fails_the_stage_and_writes_nothing(clone):
    params = clone.params()
    clone.write_params(merge(params, {"llc": {"lr": {"neox": 1e4}}}))
    folder = "slt/micro/checkpoints/neox/1"
    out = clone.run(
        "python",
        "stages/llc.py",
        "neox",
        "1",
        "data/text/micro.safetensors",
        folder,
        "z/llc",
        check=False,
    )
    clone.write_params(params)
    assert "Diverged" in out and "lower lr" in out and "chain 0" in out
    assert not (clone.path / "z").exists()


def test_the_samplers_settings_retrain_no_language_model(clone):
    params = clone.params()
    clone.write_params(merge(params, {"llc": {"nbeta": 100.0}}))
    assert clone.stale() - LAST == {"llc@neox-1", "slt_report"}
    clone.write_params(merge(params, {"slt": {"eps": [0.1, 0.3]}}))
    assert {stage.split("@")[0] for stage in clone.stale()} - LAST == {
        "compressibility",
        "complexity",
        "slt_report",
    }
    clone.write_params(params)


def measured(clone) -> dict[str, set[str]]:
    """What is kept of measurements: the names of entries by stage."""
    folder = clone.path / "scratch" / "measured"
    return {stage.name: {path.name for path in stage.iterdir()} for stage in folder.iterdir()}


def test_the_same_params_give_the_same_bytes(clone, monkeypatch):
    before, kept = clone.hashes(), measured(clone)
    assert {stage: len(names) for stage, names in kept.items()} == {
        "evaluate": 7, "pack": 6, "complexity": 4
    }, "an entry for each run; of complexity last, kept, and two baselines"  # fmt: skip
    shutil.rmtree(clone.path / "scratch" / "measured")
    with warmed(hash_seed=2) as other, monkeypatch.context() as patch:
        patch.setitem(clone.env, "PATH", other.path)  # with another order of every set of strings
        clone.run(
            "dvc", "repro", "-f", "-s", "--no-run-cache",
            "train@mlp-momos_s4_c10-0", "train@mlp-qat4-1", "evaluate@mlp", "complexity@mlp",
            "pack@mlp", "language@neox-1", "compressibility@neox-1-pruning", "slt_report",
        )  # fmt: skip
    assert clone.hashes() == before and len(before) > 10
    assert measured(clone) == kept, "all of it was measured again, and depends on the same"
    assert clone.stale() <= {"cost", "page"}, "new costs may not touch results"
    clone.run("dvc", "repro", "-s", "cost", "page")


def test_interpreters_of_their_own_give_the_bytes_that_forks_give(clone, monkeypatch):
    """With yet another order of sets, of a stage of each paper.

    All stages: `make stress` (tests/scripts/test_warm.py).
    """
    before = clone.hashes()
    cold = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    stages = ["train@mlp-momos_s4_c10-1", "llc@neox-1"]
    with monkeypatch.context() as patch:
        patch.setitem(clone.env, "PATH", cold)
        patch.setitem(clone.env, "PYTHONHASHSEED", "3")
        out = clone.run("dvc", "repro", "-f", "-s", "--no-run-cache", *stages)
    assert out.count("Running stage") == len(stages) and clone.hashes() == before
    clone.run("dvc", "repro", "-s", "cost", "page")


def test_changing_a_plot_or_the_tracker_retrains_nothing(clone):
    edited = ("report/shared/plots.py", "tracking/record.py", "compute/cost.py")
    before = {name: (clone.path / "src" / "momos" / name).read_text() for name in edited}
    for name, text in before.items():
        (clone.path / "src" / "momos" / name).write_text(text + "\n# another word\n")
    assert clone.stale() - {"provenance", "page"} == {"report", "slt_report"}
    for name, text in before.items():
        (clone.path / "src" / "momos" / name).write_text(text)


def test_changing_one_method_retrains_that_method_alone(clone):
    params = clone.params()
    clone.write_params(merge(params, {"methods": {"qat4": {"bits": 5}}}))
    trained = {
        stage for stage in clone.stale() if stage.startswith(("train", "ablation", "prepare"))
    }
    assert trained == {"train@mlp-qat4-0", "train@mlp-qat4-1"}
    clone.write_params(merge(params, {"tracking": {"experiment": "other"}}))
    assert clone.stale() == set()
    clone.write_params(merge(params, {"train": {"checkpoint_seconds": 1}}))
    assert clone.stale() <= LAST
    clone.write_params(params)


def test_changing_one_method_measures_that_method_alone(clone):
    params, kept = clone.params(), measured(clone)
    results = clone.path / "results" / "micro" / "mlp"
    rows = pd.read_csv(results / "evaluation.csv")
    clone.write_params(merge(params, {"methods": {"momos_s4_c10": {"capacity": 0.2}}}))
    clone.run("dvc", "repro", "evaluate@mlp", "pack@mlp")
    new = {stage: len(names - kept[stage]) for stage, names in measured(clone).items()}
    assert new == {"evaluate": 2, "pack": 2, "complexity": 0}
    tables = {name: (results / name).read_bytes() for name in ("evaluation.csv", "packing.csv")}
    changed = pd.read_csv(results / "evaluation.csv")
    of_others = rows.method != "momos_s4_c10"
    pd.testing.assert_frame_equal(changed[of_others], rows[of_others], check_exact=True)
    assert set(changed[~of_others].capacity) == {0.2} and not changed.equals(rows)
    shutil.rmtree(clone.path / "scratch" / "measured")
    for stage, name in (("evaluate", "evaluation.csv"), ("pack", "packing.csv")):
        inputs = ["mlp", "data/prepared/micro.safetensors", "runs/micro/mlp"]
        clone.run("python", f"stages/{stage}.py", *inputs, f"z/{name}")
        assert (clone.path / "z" / name).read_bytes() == tables[name], "the same bytes without"
    shutil.rmtree(clone.path / "z")
    clone.write_params(params)
    clone.run("dvc", "repro")


@pytest.mark.stress
def test_an_experiment_retrains_what_changed_and_reports_only_what_is_listed(clone):
    params = clone.params()
    before = json.loads((clone.path / "reports" / "micro" / "metrics.json").read_text())
    out = clone.run("dvc", "exp", "run", "-S", "grid.seeds=[0]")
    assert not re.search(r"Running stage '(train|ablation|prepare)", out), (
        "fewer seeds train nothing"
    )
    assert (
        len(pd.read_csv(clone.path / "results" / "micro" / "mlp" / "evaluation.csv"))
        == (1 + 2 + 1) + 1
    )
    clone.write_params(params)
    clone.run("dvc", "repro")  # back to both seeds
    # Then the same by hand: the run that is no longer listed stays in its folder.
    clone.write_params(merge(params, {"grid": {"seeds": [0]}}))
    clone.run("dvc", "repro")
    assert (clone.path / "runs" / "micro" / "mlp" / "baseline" / "1").is_dir()
    assert (
        len(pd.read_csv(clone.path / "results" / "micro" / "mlp" / "evaluation.csv"))
        == (1 + 2 + 1) + 1
    )
    assert json.loads((clone.path / "reports" / "micro" / "metrics.json").read_text()) != before
    clone.write_params(params)
    ran = re.findall(r"Running stage '([^'@]+)", clone.run("dvc", "repro"))
    assert not {"prepare", "train", "ablation"} & set(ran), (
        "trainings are restored from the run-cache"
    )


@pytest.mark.stress
def test_a_report_shows_what_is_listed_and_nothing_else(clone):
    params = clone.params()
    mine = [
        "-S",
        "+methods.mine={bits: 32, block_size: 4, num_motifs: 9}",
        "-S",
        "report.picture_method=mine",
    ]
    clone.run(
        "dvc", "exp", "run", "-S", "train.epochs=1", "-S", "grid.methods=[baseline,mine]", *mine
    )
    history = (
        (clone.path / "runs" / "micro" / "mlp" / "mine" / "0" / "history.csv")
        .read_text()
        .splitlines()
    )
    assert len(history) == 2
    table = (clone.path / "reports" / "micro" / "tables" / "table1.md").read_text()
    assert "k=9" in table and "QAT" not in table
    clone.run(
        "dvc",
        "exp",
        "run",
        "-S",
        "grid.methods=[baseline]",
        "-S",
        "report.picture_method=baseline",
        "-S",
        "ablation.models=[]",
    )
    assert "MoMos" not in (clone.path / "reports" / "micro" / "tables" / "table1.md").read_text()
    clone.write_params(params)
    clone.run("dvc", "repro")


@pytest.mark.parametrize(
    "setting",
    [
        "grid.seeds=[]",
        "grid.models=[mpl]",
        "methods.qat4.bits=1",
        "train.epohcs=1",
        "models.mlp.lr=fast",
    ],
)
def test_bad_settings_stop_before_any_work(clone, setting):
    params = clone.params()
    before = clone.hashes()
    key, _, value = setting.partition("=")
    section, _, rest = key.partition(".")
    changed = dict(params)
    target = changed[section] = json.loads(json.dumps(params[section]))
    *parents, last = rest.split(".")
    for parent in parents:
        target = target[parent]
    target[last] = yaml.safe_load(value)
    clone.write_params(changed)
    out = clone.run("python", "scripts/repro.py", check=False)
    clone.write_params(params)
    assert key in out and "must be" in out or "unknown key" in out
    assert clone.hashes() == before


def test_a_missing_or_damaged_run_file_fails_the_stage(clone):
    for name, content in (("last.safetensors", None), ("run.json", "{")):
        path = clone.path / "runs" / "micro" / "mlp" / "baseline" / "0" / name
        whole = path.read_bytes()
        path.unlink()
        if content is not None:
            path.write_text(content)
        command = [
            "python",
            "stages/evaluate.py",
            "mlp",
            "data/prepared/micro.safetensors",
            "runs/micro/mlp",
            "out.csv",
        ]
        out = clone.run(*command, check=False)
        assert f"baseline/0/{name} is" in out and not (clone.path / "out.csv").exists()
        path.unlink(missing_ok=True)
        path.write_bytes(whole)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (
            {"methods": {"momos_s4_c10": {"block_size": 10**8}}},
            ["momos_s4_c10 on models.mlp: block_size must be in 1..", "got 100000000"],
        ),
        (
            {"models": {"mlp": {"arch": "mpl"}}},
            ["unknown architecture 'mpl'", "expected mlp"],
        ),
        ({"models": {"mlp": {"kwargs": {"depth": 3}}}}, ["models.mlp.kwargs", "'depth'"]),
        (
            {"data": {"mean": [0.1, 0.2], "std": [1.0, 1.0]}},
            ["data.mean has 2 entries", "expected 1"],
        ),
    ],
)
def test_what_only_the_library_knows_stops_a_training_at_its_start(clone, change, expected):
    params = clone.params()
    clone.write_params(merge(params, change))
    command = [
        "python",
        "stages/train.py",
        "mlp",
        "momos_s4_c10",
        "0",
        "data/prepared/micro.safetensors",
        "y/run",
        "y/cost.json",
    ]
    out = clone.run(*command, check=False)
    clone.write_params(params)
    assert all(part in out for part in expected), out
    assert not (clone.path / "y" / "run" / "last.safetensors").exists()


def test_divergence_fails_the_stage_and_keeps_the_history(clone):
    params = clone.params()
    clone.write_params(merge(params, {"models": {"mlp": {"optimizer": "sgd", "lr": 1e30}}}))
    command = [
        "python",
        "stages/train.py",
        "mlp",
        "baseline",
        "0",
        "data/prepared/micro.safetensors",
        "x/run",
        "x/cost.json",
    ]
    out = clone.run(*command, check=False)
    clone.write_params(params)
    assert "training diverged" in out and "epoch 1" in out
    assert (clone.path / "x" / "run" / "history.csv").read_text().startswith("epoch,lr,train_loss")
    assert not (clone.path / "x" / "run" / "last.safetensors").exists()
