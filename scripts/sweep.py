"""`make sweep`: run every stage that is not up to date, spread over processes or a SLURM cluster.

usage: sweep.py [--jobs N] [--backend local|slurm]

Workers (scripts/worker.py, the same for each backend) run stages in workspaces of their own and
leave the results in DVC's cache and run-cache. At the end, or when it is stopped, this process
takes all that is finished into dvc.lock here and has `dvc checkout` fetch it. Then a plain `dvc
repro` has the last word: it makes the report's files, which no cache holds, and says whether
everything is there.
"""

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from pathlib import Path

import repro
import scm
import worker
import yaml
from jobs import add_jobs
from locks import join_lock, split_lock, write_at_once
from repro import clock, dvc, environment
from watch import Watch, tell_failures

ENTRIES = worker.SWEEP / "entries"


def cached_stages(pipeline: dict) -> set[str]:
    """Names in dvc.yaml (without a matrix cell) of stages that have an output in the cache.

    The other stages are the report's.
    """
    return {
        name
        for name, stage in pipeline["stages"].items()
        if any(is_cached(out) for out in stage.get("outs", []))
    }


def is_cached(out: str | dict) -> bool:
    return isinstance(out, str) or all(
        (settings or {}).get("cache", True) for settings in out.values()
    )


def visible_gpus() -> list[str]:
    """What CUDA_VISIBLE_DEVICES says, else all that the driver lists; empty without any."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [gpu for gpu in named.split(",") if gpu]
    try:
        listed = subprocess.run(["nvidia-smi", "--list-gpus"], capture_output=True, text=True)
    except FileNotFoundError:
        return []
    lines = listed.stdout.splitlines() if listed.returncode == 0 else []
    return [str(index) for index, line in enumerate(lines) if line.startswith("GPU ")]


def worker_command(cache: Path, *stages: str) -> list[str]:
    """The command line of one worker, the same for each backend."""
    options = ["--cache", str(cache), "--entries", str(ENTRIES.resolve())]
    return [sys.executable, worker.__file__, str(Path.cwd()), *options, *stages]


class Local(repro.LocalHand):
    """One of several processes on this machine, with a GPU where there are any."""

    def __init__(
        self, board: repro.Board, progress: repro.Progress, cache: Path, gpu: str | None
    ) -> None:
        super().__init__(board, progress)
        self.cache, self.gpu = cache, gpu

    def command(self, stages: list[str]) -> list[str]:
        return worker_command(self.cache, *stages)

    def environment(self) -> dict[str, str]:
        return environment() | ({} if self.gpu is None else {"CUDA_VISIBLE_DEVICES": self.gpu})

    def tell_failure(self, lines: list[str], failed: list[str]) -> None:
        tell_failures(self.progress, failed, lines)


def local_workers(board: repro.Board, progress: repro.Progress, cache: Path) -> list[Local]:
    """As many workers as there are jobs; they take the GPUs by turns."""
    gpus = visible_gpus()
    return [
        Local(board, progress, cache, gpus[index % len(gpus)] if gpus else None)
        for index in range(board.jobs)
    ]


def restore(stages: Iterable[str], entries: worker.Entries) -> None:
    """Take what workers have made into this workspace. Raises SystemExit with DVC's error."""
    made = entries.of(sorted(stages))
    if not made:
        return
    lock = split_lock(worker.lock_of(Path.cwd()) or "")
    write_at_once(Path("dvc.lock"), join_lock((lock | made).values()))
    done = subprocess.run(
        dvc("checkout", "--quiet", "--force", *made),
        env=environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    if done.returncode:
        raise SystemExit(f"dvc checkout failed:\n{done.stdout}")


def board_of(jobs: int, asked: repro.Dvc) -> repro.Board | None:
    """The stages for workers; None where there are none.

    Writes to ENTRIES what is known of the stages before them.
    """
    changed, parents = repro.changed_stages(asked), repro.graph(asked)
    cached = cached_stages(yaml.safe_load(Path("dvc.yaml").read_text()))
    stages = [
        stage for stage in repro.with_descendants(changed, parents) if stage.split("@")[0] in cached
    ]
    if not stages:
        return None
    worker.Entries.create(
        ENTRIES, Path("dvc.lock"), {stage: repro.with_ancestors(stage, parents) for stage in stages}
    )
    return repro.Board(stages, parents, jobs)


def run_workers(board: repro.Board, backend: str) -> None:
    """Run workers until no stage is left that can run, and restore here all that ran.

    Raises KeyboardInterrupt, with no worker left.
    """
    try:
        with Watch(board) as watch, repro.shared_logger():
            watch.tell(f"Up to {board.total} stages to run, {board.jobs} at a time ({backend}).")
            # A cluster's jobs run elsewhere.
            warm = repro.warm_interpreter(board, watch) if backend == "local" else nullcontext()
            with warm:
                workers = workers_of(backend, board, watch)
                try:
                    repro.run_stages(board, watch, workers)
                finally:
                    for hand in workers:
                        hand.wait()  # jobs of a cluster have to be cancelled
    finally:
        restore(board.done, worker.Entries(ENTRIES))


def workers_of(backend: str, board: repro.Board, progress: repro.Progress) -> Sequence[repro.Hand]:
    cache = worker.cache_of(Path.cwd())
    if backend == "local":
        return local_workers(board, progress, cache)
    from cluster import Slurm  # needs submitit, which is optional

    return [Slurm(board, progress, worker_command(cache))]


def push() -> int:
    """Push what no worker has pushed to the remote of params.yaml, if it names one.

    Returns the exit code.
    """
    remote = worker.remote_of(Path.cwd())
    if not remote:
        return 0
    command = dvc("push", "--run-cache", "--remote", remote)
    return subprocess.run(command, env=environment()).returncode


def sweep(jobs: int, backend: str) -> int:
    """Run what is not up to date. Returns the exit code: 0 if all is up to date at the end."""
    worker.remove_leftovers(Path.cwd())
    with repro.Dvc() as asked:
        return sweep_by(jobs, backend, asked)


def sweep_by(jobs: int, backend: str, asked: repro.Dvc) -> int:
    """The same; asked: for what is done here."""
    start = time.monotonic()
    board = board_of(jobs, asked)
    if board is not None:
        run_workers(board, backend)
        if board.failed:
            if board.skipped:
                print(repro.not_run(board))
            print(f"Failed: {', '.join(board.failed)}; logs in {worker.LOGS}")
            return 1
    code = repro.last_word(asked) or push()
    took = f"{len(board.done) if board else 0} by workers, {clock(time.monotonic() - start)}"
    print(f"All stages are up to date: {took}." if code == 0 else "Failed (see above).")
    return code


def main() -> int:
    parser = argparse.ArgumentParser(
        description="Run every stage that is not up to date, spread over processes or a cluster."
    )
    add_jobs(parser)
    parser.add_argument("--backend", choices=["local", "slurm"], default="local")
    arguments = parser.parse_args()
    repro.check_params()
    scm.prepare(Path.cwd())
    lock = worker.SWEEP / "lock"
    return repro.alone("sweep", lock, lambda: sweep(arguments.jobs, arguments.backend))


if __name__ == "__main__":
    sys.exit(main())
