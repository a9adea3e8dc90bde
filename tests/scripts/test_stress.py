"""Stages killed for real: what they end with is what an undisturbed run ends with. `make stress`
does it at length, at random moments.
"""

import importlib
import json
import operator
import runpy
import shutil
import signal
import subprocess
from pathlib import Path

import pytest
import torch
import yaml
from clones import environment, fork
from scripted import script

from momos import config
from momos.files import atomic
from momos.slt.compressibility import schemes

ROOT = Path(__file__).parents[2]
stress = script("stress")
MOMENTS = {moment.name: moment for moment in [*stress.KILLS, *stress.TERMS.values()]}


@pytest.mark.parametrize("moment", MOMENTS.values(), ids=lambda moment: moment.name)
def test_every_moment_names_a_function(moment):
    module, _, path = moment.function.partition(":")
    assert callable(operator.attrgetter(path)(importlib.import_module(module)))


# scripts/stress.py, from a folder without a file of which a fork has the module already.
VICTIM = f"""
import runpy, sys
sys.path[0] = {str(ROOT / "scripts")!r}
runpy.run_path({str(ROOT / "scripts" / "stress.py")!r}, run_name="__main__")
"""


class Project:
    """A folder with settings and data in which stages run, without DVC."""

    def __init__(self, path: Path, python: Path | str):
        """python: for stages, also those that are killed: a signal to it reaches its fork."""
        self.path, self.python = path, str(python)
        params = stress.merged(config.profile_settings("digits", ROOT / "profiles"), stress.CHANGES)
        (path / "params.yaml").write_text(yaml.safe_dump(params))
        (path / "victim.py").write_text(VICTIM)
        self.run_here("prepare", Path("data.safetensors"), Path("data.json"))
        tokens = torch.randint(
            0, 256, (5000,), generator=torch.Generator().manual_seed(0), dtype=torch.int32
        )
        atomic.save_tensors(
            path / "text.safetensors", {"train": tokens[:4000], "held_out": tokens[4000:]}
        )
        atomic.write_json(path / "text.json", {"vocabulary": 256})
        self.env = environment() | {"PYTHONPATH": str(ROOT / "src")}

    def run(self, stage: str, *arguments: str) -> None:
        command = [self.python, str(ROOT / "stages" / f"{stage}.py"), *arguments]
        done = subprocess.run(
            command, cwd=self.path, env=self.env, stderr=subprocess.PIPE, text=True
        )
        assert done.returncode == 0, done.stderr

    def run_here(self, stage: str, *arguments) -> None:
        """In this process, with everything imported already."""
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(self.path)
            runpy.run_path(str(ROOT / "stages" / f"{stage}.py"))["main"](*arguments)

    def kill(self, moment: str, number: int, how: int, stage: str, *arguments: str) -> None:
        """The signal comes right at that call, not some random time later: what is on the disk then
        is known.
        """
        command = [
            self.python,
            str(self.path / "victim.py"),
            "--victim",
            str(ROOT / "stages" / f"{stage}.py"),
            *arguments,
        ]
        stress.interrupt(
            command, MOMENTS[moment].function, number, None, how, cwd=self.path, env=self.env
        )

    def contents(self, folder: str) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in sorted((self.path / folder).iterdir())}

    def kept(self) -> list[str]:
        return sorted(
            path.name for path in (self.path / "scratch").rglob("[!.]*") if path.is_file()
        )


@pytest.fixture(scope="module")
def project(tmp_path_factory, warm):
    return Project(tmp_path_factory.mktemp("stress"), fork(warm))


def test_a_training_killed_three_times_ends_with_the_same_bytes(project):
    key = ["mlp", "momos_s4_c10", "0", "data.safetensors"]
    project.run("train", *key, "whole", "whole.json")
    moments = [
        ("projection", 2, [1]),
        ("checkpoint write", 2, [1, 2]),
        ("final save", 2, [stress.EPOCHS - 1, stress.EPOCHS]),
    ]
    for moment, number, epochs in moments:
        shutil.rmtree(
            project.path / "broken", ignore_errors=True
        )  # DVC does so before a stage runs
        project.kill(moment, number, signal.SIGKILL, "train", *key, "broken", "broken.json")
        assert project.kept() == [f"{epoch:09d}.safetensors" for epoch in epochs], moment
    shutil.rmtree(project.path / "broken")
    (newest,) = (project.path / "scratch").rglob(project.kept()[-1])
    spent = json.loads(atomic.load_tensors(newest)["values"].numpy().tobytes())["spent"]
    project.run("train", *key, "broken", "broken.json")
    assert (
        project.contents("broken") == project.contents("whole")
        and len(project.contents("whole")) == 6
    )
    assert project.kept() == []
    cost = atomic.read_json(project.path / "broken.json")
    assert all(cost[name] >= spent[name] > 0 for name in ("seconds", "cpu_seconds")), (
        "what was spent before the interruptions counts"
    )


def test_language_model_and_llc_end_with_the_same_bytes_after_sigterm(project):
    key, text = ["neox", "1", "text.safetensors"], ["text.json"]
    project.run_here("language", "neox", 1, *map(Path, ("text.safetensors", "text.json", "lm")))
    project.kill("language model", 5, signal.SIGTERM, "language", *key, *text, "lm_broken")
    assert project.kept(), "what the first steps came to"
    project.run("language", *key, *text, "lm_broken")
    assert (
        project.contents("lm_broken") == project.contents("lm") and len(project.contents("lm")) == 6
    )
    project.run_here("llc", "neox", 1, *map(Path, ("text.safetensors", "lm", "llc")))
    project.kill("llc", 3, signal.SIGTERM, "llc", *key, "lm", "llc_broken")
    assert project.kept() and not (project.path / "llc_broken").exists()
    project.run("llc", *key, "lm", "llc_broken")
    assert (
        project.contents("llc_broken") == project.contents("llc")
        and len(project.contents("llc")) == 2
    )
    assert project.kept() == []


class Killed(BaseException):
    pass


@pytest.mark.parametrize(
    "scheme", ["quantization_max", pytest.param("noise_absolute", marks=pytest.mark.stress)]
)
def test_compressibility_ends_with_the_same_bytes_after_an_interruption(
    project, monkeypatch, scheme
):
    text, key = Path("text.safetensors"), ("neox", 1)
    if not (project.path / "lm" / "run.json").exists():
        project.run_here("language", *key, text, Path("text.json"), Path("lm"))
    project.run_here("compressibility", *key, scheme, text, Path("lm"), Path(f"{scheme}/whole"))
    real, measured = schemes.rows, []

    def counted(points):
        if len(measured) == 2:
            raise Killed
        measured.append(1)
        return real(points)

    with monkeypatch.context() as patched, pytest.raises(Killed):
        patched.setattr(schemes, "rows", counted)
        project.run_here(
            "compressibility", *key, scheme, text, Path("lm"), Path(f"{scheme}/broken")
        )
    assert (
        project.kept() == ["3.json", "6.json"] and not (project.path / scheme / "broken").exists()
    )
    project.run_here("compressibility", *key, scheme, text, Path("lm"), Path(f"{scheme}/broken"))
    assert project.contents(f"{scheme}/broken") == project.contents(f"{scheme}/whole")
    assert project.kept() == []
