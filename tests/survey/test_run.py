"""Running a survey: failures are rows, an interruption costs nothing twice, processes change
nothing.
"""

import importlib
import importlib.util
import json
import multiprocessing
import os
import runpy
import signal
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
import timm
import torch
import yaml
from safetensors.torch import save_file

from momos import config
from momos.survey import candidates, run
from momos.survey.candidates import CONTROL, LOCAL, SOURCE, Candidate, RowSettings, in_folder

ROOT = Path(__file__).parents[2]
STAGE = ROOT / "stages" / "survey.py"
ARCHS = """
    test_efficientnet test_efficientnet_gn test_efficientnet_ln mnasnet_small tinynet_e test_nfnet
    test_mambaout test_byobnet test_convnext test_convnext2 test_vit test_vit2 test_resnet lcnet_035
    mobilenetv3_small_050 starnet_s050 test_coatnet test_vit_relpos dla46x_c mobilevit_xxs
""".split()


def trained(arch: str, steps: int = 2) -> dict[str, torch.Tensor]:
    """A state dict after a few steps on noise."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model = timm.create_model(arch, num_classes=10)
        size = (
            model.pretrained_cfg["input_size"][-1]
            if model.pretrained_cfg.get("fixed_input_size")
            else 64
        )
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for _ in range(steps):
            loss = torch.nn.functional.cross_entropy(
                model(torch.randn(2, 3, size, size)), torch.tensor([0, 1])
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return {name: tensor.contiguous() for name, tensor in model.state_dict().items()}


class Project:
    """A folder with params.yaml in which the stage runs."""

    def __init__(self, path: Path, weights: Path, **changes):
        self.path = path
        (path / "data").mkdir(parents=True)
        (path / "data" / "zoo").symlink_to(weights)
        self.params = config.profile_settings("digits", ROOT / "profiles")
        self.params["survey"] |= {
            "untrained": ["test_vit"],
            "source": "folder",
            "path": "data/zoo",
            "num_models": None,
            "init_seeds": [0],
        }
        self.change(compressors=["gzip"], **changes)

    def change(self, **changes) -> None:
        self.params["survey"] |= changes
        (self.path / "params.yaml").write_text(yaml.safe_dump(self.params))

    @property
    def table(self) -> Path:
        return self.path / "zoo.csv"

    @property
    def scratch(self) -> Path:
        return self.path / "scratch" / "survey.jsonl"

    def start(self) -> multiprocessing.process.BaseProcess:
        """A fork of this process: importing everything takes longer than the rows."""
        process = multiprocessing.get_context("fork").Process(target=self.run)
        process.start()
        return process

    def run(self) -> None:
        """In this process, with everything imported already."""
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(self.path)
            patch.setenv("HF_HUB_OFFLINE", "1")
            patch.setenv("HF_HOME", str(self.path / "hub"))
            runpy.run_path(str(STAGE))["main"](Path("zoo.csv"), Path("cost.json"), Path("scratch"))

    def kill_after(self, num_rows: int, signal_number: int) -> list[dict]:
        """What the scratch file holds when the process was killed."""
        process = self.start()
        while not self.scratch.exists() or len(self.scratch.read_text().splitlines()) < num_rows:
            assert process.is_alive()
            time.sleep(0.02)
        os.kill(process.pid, signal_number)
        process.join()
        assert process.exitcode == -signal_number
        return [
            json.loads(line)
            for line in self.scratch.read_text().splitlines()
            if line.endswith("}}")
        ]


@pytest.fixture(scope="module", params=[8, pytest.param(20, marks=pytest.mark.stress)])
def weights(request, tmp_path_factory) -> Path:
    """Weights of so many architectures, 20 of 13 families; names end differently, some files are in
    torch's format; and one that belongs to nothing.
    """
    folder = tmp_path_factory.mktemp("weights")
    torch.set_num_threads(1)
    for place, arch in enumerate(ARCHS[: request.param]):
        state = trained(arch)
        if place % 5 == 4:
            torch.save({"state_dict": state}, folder / f"{arch}-last.pth")
        else:
            save_file(state, folder / f"{arch}.safetensors")
    torch.save({"a": torch.zeros(3)}, folder / "unknown_net.pth")
    return folder


def test_a_killed_survey_goes_on_and_ends_with_the_same_bytes(weights, tmp_path, capsys):
    whole, broken = Project(tmp_path / "whole", weights), Project(tmp_path / "broken", weights)
    whole.run()
    said = capsys.readouterr().err
    num_archs = len(list(weights.iterdir())) - 1
    assert num_archs in (8, 20)
    num_models = num_archs + 2  # with the one of nothing and the one that nobody trained
    assert f"{num_models} models, " in said and "M weights; downloads of up to 0.0 GB" in said
    broken.kill_after(num_archs // 5, signal.SIGTERM)
    before = broken.kill_after(num_archs // 2, signal.SIGKILL)
    assert num_archs // 2 <= len(before) < num_models and not broken.table.exists()
    with broken.scratch.open("a") as file:
        file.write('{"key": "abc", "row": {"na')  # killed while it wrote
    broken.change(num_workers=2)  # the rest side by side
    broken.run()
    assert broken.table.read_bytes() == whole.table.read_bytes()
    costs = json.loads((broken.path / "cost.json").read_text())["models"]
    assert all(line["cost"] in costs for line in before if not line["row"]["error"]), (
        "nothing is measured twice"
    )
    assert not broken.scratch.exists()

    rows = pd.read_csv(whole.table)
    assert list(rows.columns) == run.table_columns(["gzip"])
    measured = rows[rows.error.isna() & (rows.source == LOCAL)]
    assert (
        len(measured) == num_archs
        and measured.family.nunique() >= num_archs // 2
        and set(measured.num_classes) == {10}
    )
    unknown = rows.error[rows.name == "unknown_net"].item()
    assert unknown.startswith("ValueError: unknown_net.pth: tensor a of shape (3,): name and shape")
    assert (rows.source == CONTROL).sum() == 1 and measured.bdm_1d_ratio.between(0.9, 1.1).all()


def few(tmp_path: Path, **changes) -> Project:
    """One file that can be measured, one that can not."""
    folder = tmp_path / "few"
    folder.mkdir()
    save_file(trained("test_efficientnet", 0), folder / "test_efficientnet.safetensors")
    (folder / "test_vit.pth").write_bytes(b"nothing")
    return Project(tmp_path / "project", folder, untrained=[], **changes)


def test_too_few_models_fail_the_stage_and_a_rerun_tries_the_failed_ones(tmp_path):
    project = few(tmp_path, min_models=2)
    few_models = r"1 models were measured, survey\.min_models asks for 2"
    reason = r"test_vit: ValueError: test_vit\.pth can't"
    with pytest.raises(SystemExit, match=rf"{few_models}(?s:.*){reason}"):
        project.run()
    assert not project.table.exists()
    (first,) = [
        json.loads(line)["cost"]
        for line in project.scratch.read_text().splitlines()
        if '"error": null' in line
    ]
    save_file(trained("test_vit", 0), project.path / "data" / "zoo" / "test_vit.safetensors")
    (project.path / "data" / "zoo" / "test_vit.pth").unlink()
    project.run()
    assert pd.read_csv(project.table).error.isna().all()
    assert first in json.loads((project.path / "cost.json").read_text())["models"]


# --- in this process


@pytest.fixture
def settings(tmp_path) -> RowSettings:
    return RowSettings(
        init_seeds=(0,), compressors=(), seed=0, keep_weights=False, folder=tmp_path / "downloads"
    )


def local(tmp_path: Path, *archs: str) -> list[Candidate]:
    for arch in archs:
        if not (tmp_path / f"{arch}.safetensors").exists():
            save_file(trained(arch, 0), tmp_path / f"{arch}.safetensors")
    return in_folder(tmp_path)


def scratch(tmp_path: Path, settings: RowSettings) -> run.FinishedRows:
    return run.FinishedRows(tmp_path / "scratch.jsonl", run.rows_version(settings))


@pytest.fixture
def asked(monkeypatch) -> list[str]:
    """Names of the candidates that are measured, in order."""
    names, real = [], run.measure_candidate
    monkeypatch.setattr(
        run,
        "measure_candidate",
        lambda candidate, settings: names.append(candidate.name) or real(candidate, settings),
    )
    return names


@pytest.mark.parametrize("change", ["settings", "file", "code"])
def test_finished_rows_of_another_survey_are_not_used(
    change, tmp_path, settings, asked, monkeypatch
):
    models = local(tmp_path, "test_efficientnet")
    run.run_survey(models, settings, scratch(tmp_path, settings), num_workers=0)
    run.run_survey(models, settings, scratch(tmp_path, settings), num_workers=0)
    assert len(asked) == 1
    if change == "settings":
        settings = settings._replace(seed=1)
    elif change == "file":
        os.utime(tmp_path / "test_efficientnet.safetensors", (1, 1))
        models = in_folder(tmp_path)
    else:
        copy = tmp_path / "candidates.py"
        copy.write_text(Path(candidates.__file__).read_text() + "\n# changed\n")
        monkeypatch.setattr(candidates.__spec__, "origin", str(copy))
    run.run_survey(models, settings, scratch(tmp_path, settings), num_workers=0)
    assert len(asked) == 2


# What changes no number of a row: settings, files, the clock; and the compressors, of which those
# count that the settings name.
NO_ROW = ("config", "settings", "methods", "files", "compute.cost", "survey.run", "complexity.comp")


def test_all_code_that_a_row_comes_from_counts_as_its_version():
    """What dvc.yaml lists for the stage (which has a test of its own), but for NO_ROW."""
    listed = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]["survey"]["deps"]
    paths = [ROOT / name for name in listed if name.startswith("src/")]
    files = {file for path in paths for file in (path.rglob("*.py") if path.is_dir() else [path])}
    modules = {
        ".".join(file.relative_to(ROOT / "src").with_suffix("").parts)
        for file in files
        if file.name != "__init__.py"
    }
    exempt = tuple(f"momos.{name}" for name in NO_ROW)
    counted = {name for name in run.CODE if not name.startswith(exempt)}
    assert counted == {name for name in modules if not name.startswith(exempt)}
    assert "momos.complexity.compressors" in run.CODE


def test_a_compressor_counts_where_the_settings_name_it(settings, tmp_path, monkeypatch):
    spec = importlib.util.find_spec("momos.complexity.compressors.bz2")
    with_gzip = settings._replace(compressors=("gzip",))
    with_both = settings._replace(compressors=("gzip", "bz2"))
    before = [run.rows_version(one) for one in (with_gzip, with_both)]
    copy = tmp_path / "bz2.py"
    copy.write_text(Path(spec.origin).read_text() + "\n# changed\n")
    importlib.import_module(spec.name)
    monkeypatch.setattr(sys.modules[spec.name].__spec__, "origin", str(copy))
    after = [run.rows_version(one) for one in (with_gzip, with_both)]
    assert before[0] == after[0] and before[1] != after[1]


def test_keeping_downloads_or_other_places_for_them_change_no_row(tmp_path, settings):
    assert run.rows_version(settings) == run.rows_version(
        settings._replace(keep_weights=True, folder=Path("elsewhere"))
    )


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("[enforce fail] not enough memory"),
        OSError("hub away"),
        KeyError("x"),
    ],
)
def test_any_failure_is_a_row_with_its_reason(error, tmp_path, settings, monkeypatch):
    good, bad = local(tmp_path, "test_efficientnet", "test_vit")
    real = Candidate.measure_model
    monkeypatch.setattr(
        Candidate,
        "measure_model",
        lambda self, settings: (
            (_ for _ in ()).throw(error) if self == bad else real(self, settings)
        ),
    )
    first, second = run.run_survey(
        [good, bad], settings, scratch(tmp_path, settings), num_workers=0
    )
    assert first.row["error"] is None and second.row["error"].startswith(type(error).__name__)
    assert second.row["name"] == "test_vit" and second.cost["num_weights"] is None


def test_a_download_that_failed_is_tried_again_where_others_succeeded(
    tmp_path, settings, monkeypatch
):
    one, two = (Candidate(f"test_vit.{name}", "test_vit", SOURCE) for name in ("a", "b"))
    calls = []

    def flaky(self, settings):
        calls.append(self.name)
        if self == one and calls.count(self.name) == 1:
            raise OSError("connection reset")
        return {"num_weights": 1}

    monkeypatch.setattr(Candidate, "measure_model", flaky)
    found = run.run_survey([one, two], settings, scratch(tmp_path, settings), num_workers=0)
    assert [record.row["error"] for record in found] == [None, None] and calls == [
        one.name,
        two.name,
        one.name,
    ]
    calls.clear()
    monkeypatch.setattr(
        Candidate, "measure_model", lambda self, settings: calls.append(self.name) or 1 / 0
    )
    (tmp_path / "scratch.jsonl").unlink()
    found = run.run_survey([one, two], settings, scratch(tmp_path, settings), num_workers=0)
    assert all("ZeroDivisionError" in record.row["error"] for record in found) and len(calls) == 2


class Deadly(Candidate):
    """Kills the process that measures it, as the system does where memory ends."""

    def measure_model(self, settings):
        os.kill(os.getpid(), signal.SIGKILL)


def test_a_process_that_is_killed_is_a_row_and_the_others_go_on(tmp_path, settings):
    good = local(tmp_path, "test_efficientnet", "test_vit")
    found = run.run_survey(
        [Deadly("large", "test_vit", LOCAL, "x"), *good],
        settings,
        scratch(tmp_path, settings),
        num_workers=1,
    )
    assert "its process died (exit code -9" in found[0].row["error"]
    assert [record.row["name"] for record in found] == ["large", "test_efficientnet", "test_vit"]
    assert [record.row["error"] for record in found[1:]] == [None, None]
