"""Running a survey: failures are rows, an interruption costs nothing twice, processes change
nothing.
"""

import json
import os
import runpy
import signal
import subprocess
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
from momos.survey import candidates as zoo
from momos.survey import run as survey
from momos.survey.candidates import Candidate, How

ROOT = Path(__file__).parents[2]
STAGE = ROOT / "stages" / "survey.py"
ARCHS = """
    test_efficientnet test_efficientnet_gn test_efficientnet_ln mnasnet_small tinynet_e test_nfnet test_mambaout test_byobnet test_convnext
    test_convnext2 test_vit test_vit2 test_resnet lcnet_035 mobilenetv3_small_050 starnet_s050 test_coatnet test_vit_relpos dla46x_c
    mobilevit_xxs
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

    def start(self) -> subprocess.Popen:
        command = [sys.executable, str(STAGE), "zoo.csv", "cost.json", "scratch"]
        environment = os.environ | {
            "PYTHONPATH": str(ROOT / "src"),
            "HF_HUB_OFFLINE": "1",
            "HF_HOME": str(self.path / "hub"),
        }
        return subprocess.Popen(
            command, cwd=self.path, env=environment, stderr=subprocess.PIPE, text=True
        )

    def run(self) -> None:
        """In this process, with everything imported already."""
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(self.path)
            patch.setenv("HF_HUB_OFFLINE", "1")
            runpy.run_path(str(STAGE))["main"](Path("zoo.csv"), Path("cost.json"), Path("scratch"))

    def kill_after(self, num_rows: int, how: int) -> list[dict]:
        """What the scratch file holds when the process was killed."""
        process = self.start()
        while not self.scratch.exists() or len(self.scratch.read_text().splitlines()) < num_rows:
            assert process.poll() is None, process.stderr.read()
            time.sleep(0.02)
        process.send_signal(how)
        process.communicate()
        return [
            json.loads(line)
            for line in self.scratch.read_text().splitlines()
            if line.endswith("}}")
        ]


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    """20 architectures of 13 families; names end differently, two files in torch's format; and one
    that belongs to nothing.
    """
    folder = tmp_path_factory.mktemp("weights")
    torch.set_num_threads(1)
    for place, arch in enumerate(ARCHS):
        state = trained(arch)
        if place % 10 == 9:
            torch.save({"state_dict": state}, folder / f"{arch}-last.pth")
        else:
            save_file(state, folder / f"{arch}.safetensors")
    torch.save({"a": torch.zeros(3)}, folder / "unknown_net.pth")
    return folder


def test_a_killed_survey_goes_on_and_ends_with_the_same_bytes(weights, tmp_path, capsys):
    whole, broken = Project(tmp_path / "whole", weights), Project(tmp_path / "broken", weights)
    whole.run()
    said = capsys.readouterr().err
    assert "22 models, " in said and "M weights; downloads of up to 0.0 GB" in said
    broken.kill_after(4, signal.SIGTERM)
    before = broken.kill_after(10, signal.SIGKILL)
    assert 10 <= len(before) < 22 and not broken.table.exists()
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
    assert list(rows.columns) == survey.columns(["gzip"])
    measured = rows[rows.error.isna() & (rows.source == zoo.LOCAL)]
    assert (
        len(measured) == 20
        and measured.family.nunique() >= 10
        and set(measured.num_classes) == {10}
    )
    assert (
        rows.error[rows.name == "unknown_net"].item()
        == "ValueError: the file's name begins with no timm architecture"
    )
    assert (rows.source == zoo.CONTROL).sum() == 1 and measured.bdm_1d_ratio.between(0.9, 1.1).all()


def few(tmp_path: Path, **changes) -> Project:
    """One file that can be measured, one that can not."""
    folder = tmp_path / "few"
    folder.mkdir()
    save_file(trained("test_efficientnet", 0), folder / "test_efficientnet.safetensors")
    (folder / "test_vit.pth").write_bytes(b"nothing")
    return Project(tmp_path / "project", folder, untrained=[], **changes)


def test_too_few_models_fail_the_stage_and_a_rerun_tries_the_failed_ones(tmp_path):
    project = few(tmp_path, min_models=2)
    with pytest.raises(
        SystemExit,
        match=r"1 models were measured, survey\.min_models asks for 2(?s:.*)test_vit: ValueError: test_vit\.pth can't",
    ):
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
def how(tmp_path) -> How:
    return How(
        init_seeds=(0,), compressors=(), seed=0, keep_weights=False, folder=tmp_path / "downloads"
    )


def local(tmp_path: Path, *archs: str) -> list[Candidate]:
    for arch in archs:
        if not (tmp_path / f"{arch}.safetensors").exists():
            save_file(trained(arch, 0), tmp_path / f"{arch}.safetensors")
    return zoo.in_folder(tmp_path)


def scratch(tmp_path: Path, how: How) -> survey.Scratch:
    return survey.Scratch(tmp_path / "scratch.jsonl", survey.version(how))


@pytest.fixture
def asked(monkeypatch) -> list[str]:
    """Names of the candidates that are measured, in order."""
    names, real = [], survey.measured
    monkeypatch.setattr(
        survey,
        "measured",
        lambda candidate, how: names.append(candidate.name) or real(candidate, how),
    )
    return names


@pytest.mark.parametrize("change", ["settings", "file", "code"])
def test_finished_rows_of_another_survey_are_not_used(change, tmp_path, how, asked, monkeypatch):
    candidates = local(tmp_path, "test_efficientnet")
    survey.run(candidates, how, scratch(tmp_path, how), num_workers=0)
    survey.run(candidates, how, scratch(tmp_path, how), num_workers=0)
    assert len(asked) == 1
    if change == "settings":
        how = how._replace(seed=1)
    elif change == "file":
        os.utime(tmp_path / "test_efficientnet.safetensors", (1, 1))
        candidates = zoo.in_folder(tmp_path)
    else:
        copy = tmp_path / "zoo.py"
        copy.write_text(Path(zoo.__file__).read_text() + "\n# changed\n")
        monkeypatch.setattr(zoo, "__file__", str(copy))
    survey.run(candidates, how, scratch(tmp_path, how), num_workers=0)
    assert len(asked) == 2


def test_all_code_that_a_row_comes_from_counts_as_its_version():
    """What dvc.yaml lists for the stage (which has a test of its own), but for reading and writing
    files and the clock.
    """
    listed = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]["survey"]["deps"]
    files = {
        Path(name).stem
        for name in listed
        if name.startswith("src/") and Path(name).stem != "__init__"
    }
    assert {Path(module.__file__).stem for module in survey.CODE} == files - {
        "survey",
        "checkpoint",
        "cost",
    }


def test_keeping_downloads_or_other_places_for_them_change_no_row(tmp_path, how):
    assert survey.version(how) == survey.version(
        how._replace(keep_weights=True, folder=Path("elsewhere"))
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
def test_any_failure_is_a_row_with_its_reason(error, tmp_path, how, monkeypatch):
    good, bad = local(tmp_path, "test_efficientnet", "test_vit")
    real = Candidate.measured
    monkeypatch.setattr(
        Candidate,
        "measured",
        lambda self, how: (_ for _ in ()).throw(error) if self == bad else real(self, how),
    )
    first, second = survey.run([good, bad], how, scratch(tmp_path, how), num_workers=0)
    assert first.row["error"] is None and second.row["error"].startswith(type(error).__name__)
    assert second.row["name"] == "test_vit" and second.cost["num_weights"] is None


def test_a_download_that_failed_is_tried_again_where_others_succeeded(tmp_path, how, monkeypatch):
    one, two = (Candidate(f"test_vit.{name}", "test_vit", zoo.SOURCE) for name in ("a", "b"))
    calls = []

    def flaky(self, how):
        calls.append(self.name)
        if self == one and calls.count(self.name) == 1:
            raise OSError("connection reset")
        return {"num_weights": 1}

    monkeypatch.setattr(Candidate, "measured", flaky)
    found = survey.run([one, two], how, scratch(tmp_path, how), num_workers=0)
    assert [record.row["error"] for record in found] == [None, None] and calls == [
        one.name,
        two.name,
        one.name,
    ]
    calls.clear()
    monkeypatch.setattr(Candidate, "measured", lambda self, how: calls.append(self.name) or 1 / 0)
    (tmp_path / "scratch.jsonl").unlink()
    found = survey.run([one, two], how, scratch(tmp_path, how), num_workers=0)
    assert all("ZeroDivisionError" in record.row["error"] for record in found) and len(calls) == 2


class Deadly(Candidate):
    """Kills the process that measures it, as the system does where memory ends."""

    def measured(self, how):
        os.kill(os.getpid(), signal.SIGKILL)


def test_a_process_that_is_killed_is_a_row_and_the_others_go_on(tmp_path, how):
    good = local(tmp_path, "test_efficientnet", "test_vit")
    found = survey.run(
        [Deadly("large", "test_vit", zoo.LOCAL, "x"), *good],
        how,
        scratch(tmp_path, how),
        num_workers=1,
    )
    assert "its process died (exit code -9" in found[0].row["error"]
    assert [record.row["name"] for record in found] == ["large", "test_efficientnet", "test_vit"]
    assert [record.row["error"] for record in found[1:]] == [None, None]
