"""Where people put the clone: in folders with odd names, without git, without a home of their own,
with temporary folders far down.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import scm
import yaml
from clones import MICRO, merge
from configobj import ConfigObj
from copies import copy_files
from spread import Repository
from staged import ONE_RUN

from momos import config

ROOT = Path(__file__).parents[2]
NAME = "my clone (2) ü"
STRESS = ("docs/", "tests/", "reports/", "benchmarks/")


def odd_environment(folder: Path) -> dict[str, str]:
    """A home below a file, and temporary files in a folder of more than 122 characters."""
    (folder / "file").touch()
    deep = folder / ("long" * 30)
    deep.mkdir()
    return {"HOME": str(folder / "file" / "home"), "TMPDIR": str(deep)}


def run(folder: Path, *command: str, check: bool = True, **env: str) -> str:
    """Run a command there, with this environment's programs -> its output."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    plain = {name: value for name, value in os.environ.items() if not name.startswith("MOMOS_")}
    for name in ("MLFLOW_TRACKING_URI", "MAKEFLAGS", "MAKELEVEL", "MFLAGS"):
        plain.pop(name, None)  # of `make test`, which names the folder it enters
    whole = plain | {"PATH": path, "PYTHONPATH": str(folder / "src")} | env
    how = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    done = subprocess.run(command, cwd=folder, env=whole, **how)
    assert done.returncode == 0 or not check, done.stdout
    return done.stdout


def use_environment(folder: Path) -> None:
    """Make this process's environment the clone's, up to date."""
    (folder / ".venv").symlink_to(sys.prefix)
    for name in ("requirements.txt", "pyproject.toml"):
        os.utime(folder / name, (0, 0))


def files_below(folder: Path) -> set[str]:
    """Without what links lead to."""
    walk = os.walk(folder)
    return {str((Path(at) / name).relative_to(folder)) for at, _, names in walk for name in names}


def test_make_repro_runs_without_git_in_any_folder(tmp_path):
    """All that `make repro` does but the stages' own work: those of this repository are trivial."""
    small = Repository(tmp_path / NAME)
    shutil.rmtree(small.path / ".git")
    small.env |= odd_environment(tmp_path)
    del small.env["DVC_GLOBAL_CONFIG_DIR"]
    left, others = (
        small.path / "scratch/train" / profile / "mlp/qat8/0-1/key/0.taken"
        for profile in ("digits", "cifar10")
    )
    for path in (left, others):
        path.parent.mkdir(parents=True)
        path.touch()
    with small.start("repro", "--jobs", "2") as process:
        out, _ = process.communicate(timeout=300)
    assert process.returncode == 0, out
    assert others.exists() and not left.exists(), "parts of a stack that no stage will take"
    assert scm.MISSING in out and "All stages are up to date" in out
    assert small.report().startswith("report")
    assert "no_scm = true" in (small.path / ".dvc/config.local").read_text()
    run(small.path, "git", "init", "-q")
    assert scm.settle(small.path)
    assert "no_scm" not in (small.path / ".dvc/config.local").read_text()


@pytest.mark.stress  # a dozen processes each; `make repro` runs there in the suite
@pytest.mark.parametrize("script", ["sweep", "exp"])
def test_sweeps_and_experiments_run_without_a_home_in_any_folder(tmp_path, script):
    small = Repository(tmp_path / f"{NAME} #1, b", models="m", seeds=1)
    small.env |= odd_environment(tmp_path)
    del small.env["DVC_GLOBAL_CONFIG_DIR"]
    arguments = []
    if script == "sweep":
        shutil.rmtree(small.path / ".git")
    else:  # an experiment needs git, and git's settings in a home that may be missing
        small.env["HOME"] = str(tmp_path / "nowhere")
        for key in ("user.name", "user.email"):
            small.run("git", "config", "--unset", key)
        arguments = ["train.epochs=3", "--name", "three"]
    with small.start(script, "--jobs", "1", *arguments) as process:
        out, _ = process.communicate(timeout=300)
    assert process.returncode == 0, out
    assert (scm.MISSING in out) == (script == "sweep")
    assert not (tmp_path / "nowhere").exists()
    assert dict(small.ran()) == dict.fromkeys(("prepare", "m0", "measure-m", "report"), 1)


def test_settings_of_ones_own_stay(tmp_path):
    (tmp_path / ".dvc").mkdir()
    local = tmp_path / ".dvc" / "config.local"
    local.write_text("[cache]\n    dir = /elsewhere\n['remote \"mine\"']\n    url = s3://a, b\n")
    before = ConfigObj(str(local), list_values=False).dict()
    assert not scm.settle(tmp_path) and "no_scm = true" in local.read_text()
    assert "dir = /elsewhere" in local.read_text() and "s3://a, b" in local.read_text()
    (tmp_path / ".git").touch()  # of a worktree or a submodule
    assert scm.settle(tmp_path)
    assert ConfigObj(str(local), list_values=False).dict() == before


def test_make_works_in_a_folder_with_spaces_and_writes_nothing_beside_it(tmp_path):
    """The environment is one that is there: what `make setup` looks at is its stamp."""
    folder = tmp_path / NAME
    for name in ("Makefile", "requirements.txt", "pyproject.toml", "scripts/scm.py"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    (folder / ".dvc").mkdir()
    use_environment(folder)
    before = files_below(tmp_path)
    run(folder, "make", "setup")
    assert files_below(tmp_path) - before == {f"{NAME}/.dvc/config.local"}
    shown = run(folder, "make", "-n", "-W", "requirements.txt", "setup", "repro", "ui")
    assert str(folder) not in shown, "commands name paths relative to the clone"


def test_a_folder_in_which_dvc_fails_is_told_at_once(tmp_path):
    """Of braces DVC says "ERROR: failed to reproduce 'prepare': 'y'", after the first stage."""
    folder = tmp_path / "{y}"
    folder.mkdir()
    expected = f"{folder}: DVC fails where a folder's name has {{ or }}; expected another name"
    said = run(folder, sys.executable, str(ROOT / "scripts/scm.py"), check=False)
    assert said == f"{expected}\n"
    with pytest.raises(SystemExit) as error:
        scm.prepare(folder)
    assert str(error.value) == expected
    assert not list(folder.iterdir())


ODD = "a \"b\" `touch x` $(touch x) $HOME 5 $ ; 'c' ü"


def test_any_characters_may_stand_in_what_make_hands_on(tmp_path):
    """Python is a script here that shows its arguments, one a line."""
    for name in ("Makefile", "requirements.txt", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path / name)
        os.utime(tmp_path / name, (0, 0))
    (tmp_path / ".venv/bin").mkdir(parents=True)
    (tmp_path / ".venv/.stamp").touch()
    python = tmp_path / ".venv/bin/python"
    python.write_text('#!/bin/sh\nfor one in "$@"; do echo "<$one>"; done\n')
    python.chmod(0o755)
    before = files_below(tmp_path)
    for command, script, arguments in (
        (["export", f"NAME={ODD}", f"NOTE={ODD}", f"TRAINED={ODD}"], "export.py",
         [ODD, "--note", ODD, "--trained", ODD]),
        (["exp", f"SET={ODD}", f"NAME={ODD}"], "exp.py", [ODD, "--name", ODD, "--jobs", "2"]),
        (["use", f"PROFILE={ODD}"], "use.py", [ODD]),
    ):  # fmt: skip
        shown = run(tmp_path, "make", *command).splitlines()
        start = shown.index(f"<scripts/{script}>")
        assert shown[start + 1 :] == [f"<{argument}>" for argument in arguments]
    assert files_below(tmp_path) == before


@pytest.mark.stress
def test_a_training_is_recorded_from_any_folder(tmp_path):
    """The real stages, and MLflow's store beside them: three interpreters that import all."""
    folder = tmp_path / NAME
    folder.mkdir()
    digits = config.profile_settings("digits", ROOT / "profiles")
    params = merge(merge(merge(digits, MICRO), ONE_RUN), {"tracking": {"enabled": True}})
    (folder / "params.yaml").write_text(yaml.safe_dump(params))
    odd = odd_environment(tmp_path) | {"PYTHONPATH": str(ROOT / "src")}
    stages = ROOT / "stages"
    run(folder, "python", f"{stages}/prepare.py", "data.safetensors", "data.json", **odd)
    run_dir = "runs/micro/mlp/baseline/0"
    command = ("mlp", "baseline", "0", "data.safetensors", run_dir, "cost.json")
    out = run(folder, "python", f"{stages}/train.py", *command, **odd)
    assert "does not record" not in out, out
    out = run(folder, "python", f"{stages}/track.py", **odd)
    assert "1 already there" in out
    assert {path.name for path in tmp_path.iterdir()} == {NAME, "file", "long" * 30}


@pytest.mark.stress
def test_make_quick_to_its_page_without_git_home_or_short_paths(tmp_path):
    """All of `make quick`, with the environment that is there in place of a new one."""
    folder = tmp_path / NAME
    copy_files(ROOT, folder, STRESS)
    use_environment(folder)
    before = {path.name for path in tmp_path.iterdir()}
    odd = odd_environment(tmp_path)
    out = run(folder, "make", "quick", **odd)
    page = folder / "scratch/quick/reports/quick/index.html"
    assert page.is_file() and "scratch/quick/reports/quick/index.html" in out
    assert "</html>" in page.read_text()[-200:]
    assert {path.name for path in tmp_path.iterdir()} - before == {"file", "long" * 30}
