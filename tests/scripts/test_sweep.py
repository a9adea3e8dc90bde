"""make sweep: local workers on a small DVC repository, interruptions, and the real pipeline.

The longer ones run under `-m stress`.
"""

import contextlib
import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest
import yaml
from dvc.config import Config
from spread import ROOT, Repository, interrupt, micro, report_bytes

from momos import config

sys.path.insert(0, str(ROOT / "scripts"))
import locks  # noqa: E402
import repro  # noqa: E402
import sweep  # noqa: E402
import worker  # noqa: E402

STAGES = ["prepare", "m0", "m1", "measure-m", "report"]  # as the trace names them
ALL = {"prepare", "train@m-0", "train@m-1", "measure@m", "report"}


def test_a_sweep_runs_every_stage_once_and_the_report_is_the_serial_one(small, serial):
    small.import_stand_ins()
    code, out = small.sweep(jobs=2, CUDA_VISIBLE_DEVICES="3,5", MOMOS_WARM="1")
    assert code == 0, out
    forks = {start["stage"] for start in small.starts() if start["warm"]}
    assert forks == {"prepare", "m0", "m1", "measure-m"}, "in workspaces they are forks too"
    assert small.ran() == dict.fromkeys(STAGES, 1), (
        "nothing ran twice: results are restored, not made again"
    )
    assert small.report() == serial and small.locked() == ALL
    assert {start["gpu"] for start in small.starts() if start["stage"] in ("m0", "m1")} == {
        "3",
        "5",
    }
    assert [start["stage"] for start in small.starts() if start["cwd"] == str(small.path)] == [
        "report"
    ]
    assert "4 of 4 stages" in out and "\033" not in out, "plain lines where nobody watches"
    assert (
        list((small.path / worker.WORK).iterdir()) == []
        and list((small.path / worker.LOGS).iterdir()) == []
    )
    code, out = small.sweep()
    assert (
        code == 0
        and out.startswith("All stages are up to date: 0 by workers")
        and small.ran() == dict.fromkeys(STAGES, 1)
    )


@pytest.mark.stress
def test_after_a_failed_stage_and_after_ctrl_c_a_sweep_goes_on(small, serial):
    """Three sweeps of a dozen processes each. `make repro` is stopped in the suite."""
    small.behave("fail:m0")
    code, out = small.sweep(jobs=1)
    assert (
        code == 1
        and "train@m-0 failed; its log: scratch/sweep/logs/train@m-0.log" in out
        and "m0 can't" in out
    )
    assert "Not run, as they need what failed: measure@m\nFailed: train@m-0" in out
    assert "m0 can't" in (small.path / worker.LOGS / "train@m-0.log").read_text()
    assert small.locked() == {"prepare", "train@m-1"}, "the others go on"

    small.behave("sleep:m0")
    process = small.start("sweep", "--jobs", "2")
    small.wait_until(lambda: small.ran()["m0"] == 2, process)
    assert "goes on from here" in interrupt(process) and process.returncode == 130
    small.wait_until(lambda: not small.left_running(), seconds=60)

    small.behave()
    code, out = small.sweep()
    assert code == 0 and small.report() == serial and "Up to 2 stages" in out
    assert small.ran() == dict.fromkeys(STAGES, 1) | {"m0": 3}, "what was finished is not run again"
    assert (
        list((small.path / worker.WORK).iterdir()) == []
        and list((small.path / worker.LOGS).iterdir()) == []
    )


@pytest.mark.stress
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_stopped_sweep_leaves_no_process_and_a_second_one_goes_on(small, serial, number):
    small.behave("sleep:m0")
    process = small.start("sweep", "--jobs", "2")
    small.wait_until(lambda: small.ran()["m0"] and "train@m-1" in small.made(), process)
    interrupt(process, number)
    small.wait_until(lambda: not small.left_running(), seconds=60)
    small.behave()
    assert small.sweep()[0] == 0 and small.report() == serial
    assert small.ran() == dict.fromkeys(STAGES, 1) | {"m0": 2}, "what was finished is not run again"
    assert list((small.path / worker.WORK).iterdir()) == []


@pytest.mark.stress
def test_eight_workers_at_once_in_one_workspace_lose_nothing(tmp_path):
    small = Repository(tmp_path / "small", seeds=4)
    small.run("dvc", "repro", "prepare")
    stages = [f"train@{model}-{seed}" for model in "mn" for seed in range(4)]
    processes = [small.start("worker", str(small.path), stage) for stage in stages]
    for process in processes:
        out, _ = process.communicate(timeout=300)
        assert process.returncode == 0, out
    out = small.run("dvc", "repro")
    assert out.count("is cached - skipping run") == len(stages), out
    assert all(small.ran()[f"{model}{seed}"] == 1 for model in "mn" for seed in range(4))


def test_two_sweeps_in_one_workspace_are_refused(small):
    from filelock import FileLock

    (small.path / worker.SWEEP).mkdir(parents=True)
    with FileLock(small.path / worker.SWEEP / "lock"):
        code, out = small.sweep()
    assert code == 1 and "Another `make sweep` runs" in out and not small.ran()


@pytest.mark.parametrize(("key", "value", "message"), [
    ("cpus", 0, "sweep.cpus must be 1 or more, got 0"),
    ("gpus", -1, "sweep.gpus must be 0 or more, got -1"),
    ("minutes", 0, "sweep.minutes must be 1 or more, got 0"),
    ("minutes", "12:00", "sweep.minutes must be an integer, got '12:00'"),
    ("memory_gb", 0, "sweep.memory_gb must be positive, got 0"),
    ("attempts", 0, "sweep.attempts must be 1 or more"),
    ("remote", "", "sweep.remote must be a name or null"),
    ("partition", 7, "sweep.partition must be text or null, got 7"),
    ("cores", 7, "sweep.cores: unknown key"),
])  # fmt: skip
def test_wrong_resources_are_named(tmp_path, key, value, message):
    params = config.profile_settings("digits", ROOT / "profiles")
    params["sweep"][key] = value
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
    with pytest.raises(ValueError, match=message):
        config.check(tmp_path / "params.yaml")


def test_a_job_has_a_core_for_each_thread(tmp_path):
    params = config.profile_settings("digits", ROOT / "profiles")
    params["train"]["num_threads"], params["sweep"]["cpus"] = 4, 2
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
    with pytest.raises(
        ValueError, match=r"sweep.cpus must be train.num_threads \(4\) or more, got 2"
    ):
        config.check(tmp_path / "params.yaml")


def test_bad_settings_stop_a_sweep_before_any_work(small):
    params = yaml.safe_load((small.path / "params.yaml").read_text())
    params["sweep"]["gpu"] = 1
    (small.path / "params.yaml").write_text(yaml.safe_dump(params))
    code, out = small.sweep()
    assert code == 1 and "sweep.gpu: unknown key (did you mean gpus?)" in out and not small.ran()


def test_the_reports_stages_are_not_for_workers():
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text())
    assert set(stages["stages"]) - sweep.cached_stages(stages) == {
        "cost",
        "report",
        "provenance",
        "page",
    }


@pytest.mark.parametrize(("visible", "listed", "expected"), [
    ("0,2", "", ["0", "2"]),
    ("GPU-1a", "", ["GPU-1a"]),
    ("", "GPU 0: H200\n", []),
    (None, "GPU 0: H200 (UUID: GPU-1)\nGPU 1: H200 (UUID: GPU-2)\n", ["0", "1"]),
    (None, "", []),
])  # fmt: skip
def test_gpus_are_those_that_are_visible(tmp_path, monkeypatch, visible, listed, expected):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    if listed:
        (tmp_path / "nvidia-smi").write_text(f"#!/bin/sh\nprintf '{listed}'\n")
        (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{'/usr/bin:/bin' if listed else ''}")
    assert sweep.visible_gpus() == expected


def test_several_workers_share_a_gpu_by_turns(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,6")
    board = repro.Board(["a"], {}, jobs=5)
    environments = [
        each.environment()["CUDA_VISIBLE_DEVICES"]
        for each in sweep.local_workers(board, sweep.Watch(board), Path("cache"))
    ]
    assert environments == ["4", "6", "4", "6", "4"]


def test_the_table_counts_by_group():
    board = repro.Board(["t@m-0", "t@m-1", "t@n-0", "u"], {"u": {"t@m-0"}}, jobs=2)
    watch = sweep.Watch(board)
    board.take_ready()
    board.finish("t@m-0", 4.0)
    board.fail(["t@n-0"])
    from rich.console import Console

    console = Console(width=80, record=True, file=open(os.devnull, "w"))
    console.print(watch.table())
    lines = [line.replace("│", " ").split() for line in console.export_text().splitlines()]
    assert ["t@m", "1", "1", "4", "s"] in lines and ["t@n", "1"] in lines and ["u", "1"] in lines
    assert any("1 of 4 stages, 1 failed" in " ".join(line) for line in lines)


def test_take_ready_gives_all_that_nothing_holds_back():
    board = repro.Board(["a", "b", "c"], {"c": {"a"}}, jobs=1)
    assert sorted(board.take_ready()) == ["a", "b"] and board.take_ready() == []
    board.finish("a")
    assert board.take_ready() == ["c"]


def test_after_ctrl_c_it_waits_until_a_cluster_has_cancelled_its_jobs(tmp_path, monkeypatch):
    """A `join` would not do: on Python 3.11 Ctrl-C makes it take the thread for one that ended."""
    cancelled = []

    class Cluster(repro.Hand):
        process = None

        def work(self):
            with board.changed:
                board.changed.wait_for(lambda: board.stopped)
            time.sleep(1)
            cancelled.append("all jobs")

    board = repro.Board(["a"], {}, jobs=1)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sweep, "workers_of", lambda *_: [Cluster()])
    monkeypatch.setattr(repro, "shared_logger", contextlib.nullcontext)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    timer = threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT))
    try:
        timer.start()
        with pytest.raises(KeyboardInterrupt):
            sweep.run_workers(board, "slurm")
    finally:
        signal.signal(signal.SIGINT, before)
    assert cancelled == ["all jobs"]


# --- dvc.lock in a file a stage


def test_a_worker_is_given_what_its_stages_need_and_no_more(tmp_path):
    names = ["prepare", "train@m-0", "train@m-1", "a/b@m"]
    (tmp_path / "dvc.lock").write_text(
        locks.join_lock(f"  {name}:\n    cmd: {name}\n" for name in names)
    )
    parents = {
        "train@m-0": {"prepare"},
        "train@m-1": {"prepare"},
        "a/b@m": {"train@m-0"},
        "new": {"a/b@m"},
    }
    needs = {stage: repro.with_ancestors(stage, parents) for stage in parents}
    entries = worker.Entries.create(tmp_path / "entries", tmp_path / "dvc.lock", needs)
    assert set(locks.split_lock(entries.lock_for(["new"]))) == {"a/b@m", "train@m-0", "prepare"}
    assert set(locks.split_lock(entries.lock_for(["train@m-0", "train@m-1"]))) == {
        "train@m-0",
        "train@m-1",
        "prepare",
    }
    entries.put("new", "  new:\n    cmd: new\n")
    assert yaml.safe_load(entries.lock_for(["new"]))["stages"]["new"] == {"cmd": "new"}
    empty = worker.Entries.create(tmp_path / "entries", tmp_path / "none.lock", needs)
    assert empty.lock_for(["new"]) is None, "nothing is left of an earlier sweep"


NAMES = ["re po", "a, b", "a #b", "it's", 'a "b"', "ü; $x"]


@pytest.mark.parametrize("name", NAMES)
def test_a_workspaces_settings_are_read_as_they_are_meant_in_any_folder(tmp_path, name):
    """In DVC's settings # begins a comment, and commas part a list. `make exp` writes them too."""
    root, folder = tmp_path / name, tmp_path / name / "scratch" / "work"
    for place in (root, folder):
        (place / ".dvc").mkdir(parents=True)
    own = "[core]\n    remote = mine\n['remote \"mine\"']\n    url = s3://ü\n"
    own += "[cache]\n    shared = group\n"
    (root / ".dvc" / "config.local").write_text(own, encoding="utf-8")
    core = {"no_scm": "true", "site_cache_dir": str(folder / "site")}
    worker.write_config(root, folder, root / "cache", core)
    got = Config.load_file(str(folder / ".dvc" / "config.local"))
    assert got["core"] == core | {"remote": "mine"} and got["remote"]["mine"]["url"] == "s3://ü"
    assert got["cache"].pop("type") == "reflink,hardlink,symlink,copy"
    assert got["cache"] == {"dir": str(root / "cache"), "shared": "group"}


# --- the real pipeline, 18 stages (minutes): `make stress`


@pytest.mark.stress
def test_a_micro_profile_swept_is_the_serial_one(tmp_path, micro_serial, capsys):
    serial, seconds = micro_serial
    clone = micro(tmp_path)
    start = time.monotonic()
    clone.run(sys.executable, "scripts/sweep.py", "--jobs", "2")
    swept = time.monotonic() - start
    with capsys.disabled():
        ratio = f"ratio {swept / seconds:.2f}"
        print(f"\nsweep JOBS=2: {swept:.0f} s, dvc repro: {seconds:.0f} s, {ratio}")
    assert (
        report_bytes(clone.path) == report_bytes(serial.path) and len(report_bytes(clone.path)) > 50
    )
    assert clone.hashes() == serial.hashes() and clone.stale() <= {"cost", "page"}
