"""SLURM for `make sweep`: ready stages go into the queue as one job array, through submitit.

A job that is preempted or reaches its time limit is put back into the queue, and its stage resumes
from its last checkpoint. A job that ends without a result (cancelled, its node lost) is submitted
again, `sweep.attempts` times in all. Jobs are watched by `squeue`, which needs no accounting
database.
"""

import getpass
import hashlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import cloudpickle
import repro
import submitit
import worker
from submitit.helpers import Checkpointable, DelayedSubmission
from watch import tell_failures

from momos import config

POLL = 2.0  # seconds
MISSED = 2  # polls in a row without a job or its result: shared folders show files late
GRACE = 20.0  # seconds for a worker to stop


class Task(Checkpointable):
    """What a job runs: one worker, whose exit code is the job's result."""

    def __init__(self, command: list[str]) -> None:
        self.command, self.told_to_end = command, False

    def __call__(self, stage: str) -> int:
        before = signal.signal(signal.SIGTERM, self.note)
        process = subprocess.Popen([*self.command, stage])
        try:
            code = process.wait()
        finally:  # submitit leaves by SystemExit when it has put the job back into the queue
            process.terminate()
            process.wait(timeout=GRACE)
            signal.signal(signal.SIGTERM, before)
        if self.told_to_end:
            os._exit(143)  # SLURM ends this job and may start it again: no result
        return code

    def note(self, number: int, frame: object) -> None:
        self.told_to_end = True

    def checkpoint(self, stage: str) -> DelayedSubmission:
        """What submitit puts back into the queue when the job has to make room."""
        return DelayedSubmission(self, stage)


def job_name(root: Path) -> str:
    """One name for all jobs of a workspace."""
    return f"momos-{hashlib.sha256(str(root).encode()).hexdigest()[:8]}"


def executor(root: Path, settings: config.Sweep, jobs: int) -> submitit.SlurmExecutor:
    """What submits jobs, each with the resources of `sweep`; at most `jobs` of them run at a time.

    Raises RuntimeError where there is no SLURM.
    """
    made = submitit.SlurmExecutor(
        root / worker.SWEEP / "slurm", max_num_timeout=settings.attempts - 1
    )
    resources: dict[str, str | int] = {
        "cpus_per_task": settings.cpus,
        "mem": f"{round(settings.memory_gb * 1024)}MB",
        "time": settings.minutes,
    }
    if settings.gpus:
        resources["gpus_per_node"] = settings.gpus
    if settings.partition is not None:
        resources["partition"] = settings.partition
    made.update_parameters(
        **resources,
        job_name=job_name(root),
        array_parallelism=jobs,
        stderr_to_stdout=True,
        additional_parameters={"requeue": True},
    )
    return made


def output_of(*command: str) -> str:
    """What the command prints. Raises RuntimeError with what it says if it fails."""
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        said = done.stderr.strip() or done.stdout.strip() or f"exit status {done.returncode}"
        raise RuntimeError(f"{' '.join(command)}: {said}")
    return done.stdout


def queued(name: str) -> set[str]:
    """Ids of this workspace's jobs that wait or run: `7` or, of an array, `7_0`."""
    whose = (f"--user={getpass.getuser()}", f"--name={name}")
    return set(output_of("squeue", "--noheader", "--array", "--format=%i", *whose).split())


def cancel(name: str, seconds: float = 60.0) -> None:
    """Cancel all jobs of this workspace, and wait until they have ended.

    Raises RuntimeError if they do not end within so many seconds.
    """
    output_of("scancel", f"--user={getpass.getuser()}", f"--name={name}")
    deadline = time.monotonic() + seconds
    while left := queued(name):
        if time.monotonic() > deadline:
            raise RuntimeError(
                f"jobs {', '.join(sorted(left))} do not end {seconds:g} s after scancel"
            )
        time.sleep(POLL)


class Slurm(repro.Hand):
    """One worker to `repro.run_stages`: hands stages to the cluster and watches their jobs."""

    def __init__(self, board: repro.Board, progress: repro.Progress, command: list[str]) -> None:
        super().__init__()
        self.board, self.progress, self.command, self.root = board, progress, command, Path.cwd()
        self.settings = config.load(config.Sweep)
        self.name = job_name(self.root)
        self.executor = executor(self.root, self.settings, board.jobs)
        self.jobs: dict[str, submitit.Job] = {}  # by stage
        self.attempts: dict[str, int] = {}
        self.missed: dict[str, int] = {}
        self.started: dict[str, float] = {}
        cloudpickle.register_pickle_by_value(sys.modules[__name__])
        cancel(self.name)  # of a `make sweep` that was killed

    def work(self) -> None:
        try:
            while not self.board.stopped and (self.submit(self.board.take_ready()) or self.jobs):
                time.sleep(POLL)
                self.look()
        except (
            RuntimeError,
            OSError,
            submitit.core.utils.FailedJobError,
        ) as error:  # sbatch refuses, say
            self.progress.tell(f"SLURM: {error}")
            self.board.fail([*self.board.running, *self.board.waiting])
        finally:
            cancel(self.name)

    def submit(self, stages: list[str]) -> bool:
        """Submit the stages as one job array. Returns whether there were any."""
        if stages:
            task = Task(self.command)
            for stage, job in zip(stages, self.executor.map_array(task, stages), strict=True):
                self.jobs[stage], self.missed[stage], self.started[stage] = job, 0, time.monotonic()
                self.attempts[stage] = self.attempts.get(stage, 0) + 1
        return bool(stages)

    def look(self) -> None:
        """Find out which jobs have ended."""
        try:
            alive = queued(self.name)
        except RuntimeError as error:  # the controller may be restarting: jobs go on meanwhile
            self.progress.tell(f"warning: {error}")
            return
        lost = []
        for stage, job in list(self.jobs.items()):
            if job.paths.result_pickle.exists() and job.job_id not in alive:
                self.end(stage, job)
            elif job.job_id not in alive:
                self.missed[stage] += 1
                if self.missed[stage] >= MISSED:
                    lost.append(stage)
            else:
                self.missed[stage] = 0
        self.again(lost)
        self.progress.show()

    def end(self, stage: str, job: submitit.Job) -> None:
        error = job.exception()
        del self.jobs[stage]
        if error is None and job.result() == 0:
            self.board.finish(stage, time.monotonic() - self.started[stage])
        else:
            self.fail(stage, job, "" if error is None else self.reason(error))

    def reason(self, error: Exception) -> str:
        """Why a job ended, in terms of the settings that a user can change."""
        if "timed-out too many times" in str(error):  # submitit's words
            limit = f"(sweep.minutes: {self.settings.minutes}, sweep.attempts)"
            return f"its job reached its limit {self.settings.attempts} times {limit}"
        return str(error)

    def fail(self, stage: str, job: submitit.Job, reason: str) -> None:
        self.board.fail([stage])
        tell_failures(self.progress, [stage], (job.stdout() or "").splitlines())
        if reason:
            self.progress.tell(f"{stage}: {reason}")

    def again(self, lost: list[str]) -> None:
        """Submit once more the stages whose jobs ended without a result."""
        for stage in lost:
            job = self.jobs.pop(stage)
            if self.attempts[stage] >= self.settings.attempts:
                attempt = f"attempt {self.attempts[stage]} of sweep.attempts"
                self.fail(stage, job, f"job {job.job_id} ended without a result, {attempt}")
            else:
                self.progress.tell(
                    f"{stage}: job {job.job_id} ended without a result; submitted again"
                )
        self.submit([stage for stage in lost if stage not in self.board.failed])
