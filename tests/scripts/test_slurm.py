"""make sweep BACKEND=slurm on a real SLURM of one node, `-m stress`: jobs cancelled, preempted,
lost with their node, out of time.
"""

import subprocess
import sys
import time

import pytest
from slurm_cluster import idle, node, slurm, wait_for, why_not
from spread import Repository, interrupt, micro, report_bytes

pytestmark = pytest.mark.stress


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    reason = why_not()
    if reason is None:
        try:
            with slurm(tmp_path_factory.mktemp("slurm")):
                yield
            return
        except RuntimeError as error:
            reason = str(error)
    pytest.skip(f"SLURM can't be started: {reason}")


def running() -> list[str]:
    """Ids of the jobs that run, `7_0` of an array."""
    command = ["squeue", "--noheader", "--array", "--format=%i", "--states=RUNNING"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()


def job_of(repository, stage) -> str:
    """The one that started this stage last."""
    return {start["stage"]: start["job"] for start in repository.starts()}[stage]


def call(*command: str) -> None:
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def preempt(job: str) -> None:
    """A job that needs the whole node, in a partition that goes before."""
    call(
        "sbatch",
        "--wait",
        "--partition=urgent",
        "--cpus-per-task=2",
        "--output=/dev/null",
        "--wrap=true",
    )


def lose_node(job: str) -> None:
    """Declared lost, as the controller does with a node that is silent for too long; here slurmd
    lives on. It comes back later.
    """
    call("scontrol", "update", f"NodeName={node()}", "State=DOWN", "Reason=lost")
    call("scontrol", "update", f"NodeName={node()}", "State=RESUME")
    wait_for(idle, "the node")


@pytest.mark.parametrize(("stop", "said"), [
    (lambda job: call("scancel", job), "ended without a result; submitted again"),
    (lambda job: call("scontrol", "requeue", job), ""),
    (lambda job: call("scancel", "--signal=USR2", job), ""),
    (preempt, ""),
    (lose_node, ""),
], ids=["cancelled", "requeued", "told to go", "preempted", "node lost"])  # fmt: skip
def test_a_job_that_is_stopped_is_run_again(cluster, tmp_path, stop, said):
    small = Repository(tmp_path / "small", models="m")
    small.behave("sleep:m0")
    with small.start("sweep", "--jobs", "2", "--backend", "slurm") as process:
        small.wait_until(lambda: small.ran()["m0"] and "train@m-1" in small.made(), process)
        small.behave()
        stop(job_of(small, "m0"))
        out, _ = process.communicate(timeout=300)
    assert process.returncode == 0 and said in out, out
    assert ("submitted again" in out) == bool(said), "else it is SLURM that starts it again"
    assert small.ran() == {"prepare": 1, "m0": 2, "m1": 1, "measure-m": 1, "report": 1}
    assert "measure-m" in small.report() and "m0" in small.report()
    assert not small.left_running() and not running()


@pytest.mark.parametrize("attempts", [1, 2])
def test_a_job_that_reaches_its_time_limit_is_run_again_as_often_as_the_settings_say(
    cluster, tmp_path, attempts
):
    small = Repository(
        tmp_path / "small", models="m", minutes=3, attempts=attempts
    )  # SLURM warns up to a minute early
    small.behave("sleep:m0")  # 5 minutes
    with small.start("sweep", "--jobs", "2", "--backend", "slurm") as process:
        small.wait_until(lambda: small.ran()["m0"], process)
        small.behave()
        out, _ = process.communicate(timeout=300)
    assert process.returncode == (0 if attempts == 2 else 1) and "submitted again" not in out, out
    assert small.ran()["m0"] == attempts and small.ran()["m1"] == 1
    assert ("train@m-0: its job reached its limit 1 times (sweep.minutes: 3" in out) == (
        attempts == 1
    ), out
    assert not small.left_running() and not running()


def test_a_failed_stage_and_one_that_is_cancelled_too_often(cluster, tmp_path):
    small = Repository(tmp_path / "small", models="m", attempts=1)
    small.behave("fail:m1", "sleep:m0")
    with small.start("sweep", "--jobs", "2", "--backend", "slurm") as process:
        small.wait_until(lambda: small.ran()["m0"], process)
        subprocess.run(["scancel", job_of(small, "m0")], check=True)
        out, _ = process.communicate(timeout=300)
    assert (
        process.returncode == 1
        and "m1 can't" in out
        and "ended without a result, attempt 1 of sweep.attempts" in out
    )
    assert "m1 can't" in (small.path / "scratch/sweep/logs/train@m-1.log").read_text()
    assert (
        "Failed: " in out
        and "train@m-0" in out.split("Failed: ")[1]
        and "train@m-1" in out.split("Failed: ")[1]
    )


def test_a_partition_that_is_not_there_is_named(cluster, tmp_path):
    small = Repository(tmp_path / "small", models="m", partition="gpus")
    code, out = small.sweep(backend="slurm")
    assert code == 1 and "invalid partition specified: gpus" in out and not small.ran()


def test_ctrl_c_cancels_all_jobs_and_a_second_sweep_goes_on(cluster, tmp_path):
    small = Repository(tmp_path / "small", models="m")
    small.behave("sleep:m0")
    process = small.start("sweep", "--jobs", "2", "--backend", "slurm")
    small.wait_until(lambda: small.ran()["m0"] and "train@m-1" in small.made(), process)
    assert "goes on from here" in interrupt(process) and process.returncode == 130
    assert not running()
    small.wait_until(lambda: not small.left_running(), seconds=15)
    small.behave()
    assert (
        small.sweep(backend="slurm")[0] == 0 and small.ran()["m1"] == 1 and small.ran()["m0"] == 2
    )


def test_the_micro_profile_on_slurm_is_the_serial_one(cluster, tmp_path, micro_serial):
    """One training's job is cancelled and another preempted while they run."""
    clone = micro(tmp_path)
    command = [sys.executable, "scripts/sweep.py", "--jobs", "2", "--backend", "slurm"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    with subprocess.Popen(command, cwd=clone.path, env=clone.env, **pipes) as process:
        disturb(clone, process)
        out, _ = process.communicate(timeout=1800)
    assert process.returncode == 0 and "ended without a result; submitted again" in out, out
    assert report_bytes(clone.path) == report_bytes(micro_serial[0].path)
    assert clone.hashes() == micro_serial[0].hashes()


def disturb(clone, process) -> None:
    """Cancels one job of the trainings' array and has another preempted, both while they run."""
    for stop in (lambda job: call("scancel", job), preempt):
        while not (jobs := [job for job in running() if "_" in job and training(clone)]):
            assert process.poll() is None
            time.sleep(0.3)
        stop(jobs[-1])
        while jobs[-1] in running():
            time.sleep(0.3)


def training(clone) -> bool:
    """Some worker is in the middle of a training: its run folder is there, its weights are not."""
    runs = (clone.path / "scratch" / "sweep" / "work").glob("*/runs/micro/mlp/*/*/run.json")
    return any(not (run.parent / "last.safetensors").exists() for run in runs)
