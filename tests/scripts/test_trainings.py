"""scripts/trainings.py: the grid without DVC has the files that stages/train.py writes, in pieces
or at once.
"""

import contextlib
import json
import os
import shlex
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from clones import environment, fork, merge

from momos import config
from momos.training import loop

ROOT = Path(__file__).parents[2]
FEWER = {
    "train": {"epochs": 3, "checkpoint_seconds": 0},
    # a small rate: a rounding that a larger one turns into another answer would count
    "models": {
        "mlp": {
            "kwargs": {"hidden_layers": 2, "width": 64},
            "epochs": None,
            "lr": 3.0e-4,
            "weight_decay": 1.0e-2,
        }
    },
    "grid": {
        "models": ["mlp"],
        "methods": ["baseline", "momos_s4_c1"],
        "seeds": [0, 1],
        "more_seeds_of": [],
    },
    "ablation": {"models": []},
    "complexity": {"methods": ["baseline"], "seeds": [0]},
    "report": {
        "picture_model": "mlp",
        "picture_method": "momos_s4_c1",
        "picture_tensor": "hidden.1.weight",
    },
    "tracking": {"enabled": False},
}
RUNS = [
    f"mlp/{method}/{seed}" for method in FEWER["grid"]["methods"] for seed in FEWER["grid"]["seeds"]
]


# The script with another Python for its trainings.
WITH = """
import os, runpy, sys
sys.executable, *sys.argv = sys.argv[1:]
sys.path[0] = os.path.dirname(sys.argv[0])
runpy.run_path(sys.argv[0], run_name="__main__")
"""
# That Python: without what libraries have set in the process of the script, none would be a fork.
WITHOUT = """#!/bin/sh
unset KMP_DUPLICATE_LIB_OK KMP_INIT_AT_FORK TORCHINDUCTOR_CACHE_DIR
exec {fork} "$@"
"""


def own_environment():
    return environment() | {"PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}


def python(folder, *command, interpreter=sys.executable):
    return subprocess.run(
        [str(interpreter), *map(str, command)],
        cwd=folder,
        env=own_environment(),
        capture_output=True,
        text=True,
    )


def trainings(folder, out, *arguments, warm, data="data.safetensors"):
    """warm: the interpreter of which script and trainings are forks, where it could be started."""
    command = [ROOT / "scripts" / "trainings.py", data, out, *arguments]
    if warm.folder is None:
        return python(folder, *command)
    (folder / "with.py").write_text(WITH)
    without = folder / "without"
    without.write_text(WITHOUT.format(fork=shlex.quote(str(fork(warm)))))
    without.chmod(0o700)
    before = warm.refused.copy()  # of other tests
    done = python(folder, "with.py", without, *command, interpreter=fork(warm))
    assert warm.refused == before, "each training is a fork"
    return done


@pytest.fixture(scope="module")
def workspace(tmp_path_factory, warm):
    folder = tmp_path_factory.mktemp("trainings")
    params = merge(config.profile_settings("digits", ROOT / "profiles"), FEWER)
    (folder / "params.yaml").write_text(yaml.safe_dump(params))
    prepare = [ROOT / "stages" / "prepare.py", "data.safetensors", "data.json"]
    done = python(folder, *prepare, interpreter=fork(warm))
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def whole(workspace, warm):
    done = trainings(workspace, "whole", "--jobs", "2", warm=warm)
    assert done.returncode == 0, done.stderr
    assert "4 of 4 trainings are finished" in done.stdout
    return workspace / "whole"


def contents(folder):
    return {
        path.relative_to(folder): path.read_bytes()
        for path in sorted((folder / "runs").rglob("*"))
        if path.is_file()
    }


def test_the_files_are_those_of_the_stage(workspace, whole):
    """A stage in an interpreter of its own; those of the script are forks."""
    arguments = [
        *RUNS[2].split("/"),
        "data.safetensors",
        f"alone/runs/{RUNS[2]}",
        "alone/cost.json",
    ]
    done = python(workspace, ROOT / "stages" / "train.py", *arguments)
    assert done.returncode == 0, done.stderr
    found = contents(workspace / "alone")
    assert found and found.items() <= contents(whole).items()
    assert {
        path.parent.relative_to(whole / "costs").as_posix()
        for path in (whole / "costs").rglob("cost.json")
    } == set(RUNS)


@contextlib.contextmanager
def stacks(workspace):
    """params.yaml with stacks of two seeds."""
    path, before = workspace / "params.yaml", (workspace / "params.yaml").read_text()
    path.write_text(before.replace("stacked_seeds: 1", "stacked_seeds: 2"))
    assert path.read_text() != before
    try:
        yield
    finally:
        path.write_text(before)


@pytest.fixture(scope="module")
def stacked(workspace, warm):
    with stacks(workspace):
        done = trainings(workspace, "stacked", "--jobs", "2", warm=warm)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("s, its part of 2 seeds trained together\n") == 4
    assert "4 of 4 trainings are finished\n" in done.stdout and "waiting" not in done.stderr, (
        "no job waits where another could run"
    )
    assert not [path for path in (workspace / "scratch").rglob("*") if path.is_file()]
    return workspace / "stacked"


def numbers(text):
    return [
        float(value)
        for value in text.replace("\n", ",").split(",")[len(loop.HISTORY_COLUMNS) :]
        if value
    ]


def test_stacked_seeds_have_the_runs_that_they_would_have_alone(whole, stacked):
    found, expected = contents(stacked), contents(whole)
    assert found.keys() == expected.keys()
    for path in found:
        if path.name == "run.json":
            mine, other = json.loads(found[path]), json.loads(expected[path])
            assert (mine.pop("stacked_seeds"), other.pop("stacked_seeds")) == (2, 1)
            assert mine.pop("best_val_loss") == pytest.approx(other.pop("best_val_loss"), rel=1e-4)
            assert mine == other
        elif path.suffix == ".csv":
            assert numbers(found[path].decode()) == pytest.approx(
                numbers(expected[path].decode()), rel=1e-3
            )
    for method in FEWER["grid"]["methods"]:
        costs = [
            json.loads((stacked / "costs" / "mlp" / method / seed / "cost.json").read_text())
            for seed in "01"
        ]
        assert costs[0] == costs[1] and costs[0]["num_epochs"] == 3, (
            "one training, whose cost both share"
        )


def test_an_interrupted_stack_of_the_stage_goes_on(workspace, stacked, warm):
    """Killed when the first checkpoint is there: the other seed's stage ends with the bytes of an
    uninterrupted one.
    """
    arguments = [ROOT / "stages" / "train.py", "mlp", "momos_s4_c1"]
    command = [
        sys.executable,
        *map(str, arguments),
        "0",
        "data.safetensors",
        "killed/runs/0",
        "killed/cost/0.json",
    ]
    with stacks(workspace):
        process = subprocess.Popen(
            command, cwd=workspace, env=own_environment(), stderr=subprocess.DEVNULL
        )
        while (
            not list((workspace / "scratch").rglob("[0-9]*.safetensors")) and process.poll() is None
        ):
            time.sleep(0.005)
        process.kill()
        assert process.wait() != 0, "it had ended before"
        for seed in ("1", "0"):
            done = python(
                workspace,
                *arguments,
                seed,
                "data.safetensors",
                f"killed/runs/{seed}",
                f"killed/cost/{seed}.json",
                interpreter=fork(warm),
            )
            assert done.returncode == 0, done.stderr
            for path in (workspace / "killed" / "runs" / seed).iterdir():
                assert (
                    path.read_bytes()
                    == (stacked / "runs" / "mlp" / "momos_s4_c1" / seed / path.name).read_bytes()
                ), path


def test_minutes_that_are_too_few_cost_nothing_but_time(workspace, whole, warm):
    """The first calls are cut off, wherever they may be; the last one finishes. Together: the bytes
    of one call.
    """
    for minutes in ("0", "0.015", "0.03"):
        done = trainings(workspace, "pieces", "--jobs", "2", "--minutes", minutes, warm=warm)
        assert done.returncode == 0, done.stderr
        if minutes == "0":
            assert f"0 of 4 trainings are finished; not finished: {', '.join(RUNS)}" in done.stdout
    done = trainings(workspace, "pieces", warm=warm)
    assert done.returncode == 0 and "4 of 4 trainings are finished\n" in done.stdout
    assert contents(workspace / "pieces") == contents(whole)


def test_what_is_finished_is_passed_over(workspace, whole, warm):
    before = {
        path: path.stat().st_mtime_ns
        for path in whole.rglob("*")
        if path.is_file() and path.name != "provenance.json"
    }
    done = trainings(workspace, "whole", warm=warm)
    assert "4 of 4 trainings are finished" in done.stdout
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_provenance_tells_the_machine(whole):
    found = json.loads((whole / "provenance.json").read_text())
    assert found["rounding"] and found["packages"]["torch"] and found["cores"] == os.cpu_count()


def test_a_failed_training_is_named_and_the_others_run(workspace, warm):
    (workspace / "failing" / "runs" / "mlp" / "baseline").mkdir(parents=True)
    (workspace / "failing" / "runs" / "mlp" / "baseline" / "0").write_text(
        "a file where a folder should be"
    )
    done = trainings(workspace, "failing", warm=warm)
    assert done.returncode == 1
    assert (
        "mlp/baseline/0: failed with status 1" in done.stdout
        and "3 of 4 trainings are finished; failed: mlp/baseline/0" in done.stdout
    )


def test_missing_input_is_named(workspace, tmp_path, warm):
    done = trainings(workspace, tmp_path, warm=warm, data="absent.safetensors")
    assert done.returncode == 1 and "absent.safetensors is missing" in done.stderr
    (workspace / "params.yaml").rename(workspace / "kept.yaml")
    try:
        (workspace / "params.yaml").write_text(
            (workspace / "kept.yaml").read_text().replace("epochs: 3", "epochs: -3")
        )
        done = trainings(workspace, tmp_path, warm=warm)
    finally:
        (workspace / "kept.yaml").rename(workspace / "params.yaml")
    assert (
        done.returncode == 1
        and "train.epochs" in done.stderr
        and "-3" in done.stderr
        and "Traceback" not in done.stderr
    )
