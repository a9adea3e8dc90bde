"""`make sweep`: every stage that is not up to date, spread over processes or a SLURM cluster.

usage: sweep.py [--jobs N] [--backend local|slurm]

Workers (scripts/worker.py, the same for each backend) run stages in workspaces of their own and
leave the results in DVC's cache and run-cache. At the end, or when it is stopped, this process
takes all that is finished into dvc.lock here and has `dvc checkout` fetch it; then a plain `dvc
repro` has the last word: it makes the report's files, which no cache holds, and says whether
everything is there.
"""

import argparse
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import repro
import worker
import yaml
from filelock import FileLock, Timeout
from locks import join_lock, split_lock, write_at_once
from repro import clock, dvc, environment, group
from rich.console import Console
from rich.live import Live
from rich.table import Table

ENTRIES = worker.SWEEP / "entries"
SHOWN = 20  # last lines of a failed stage's log


def cached_stages(pipeline: dict) -> set[str]:
    """Names in dvc.yaml (without a matrix cell) of stages that have an output in the cache: the
    others are the report's.
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
    """The same for each backend."""
    return [
        sys.executable,
        worker.__file__,
        str(Path.cwd()),
        "--cache",
        str(cache),
        "--entries",
        str(ENTRIES.resolve()),
        *stages,
    ]


class Local(repro.Worker):
    """One of several processes on this machine, with a GPU where there are any."""

    def __init__(self, board: repro.Board, progress: "Watch", cache: Path, gpu: str | None) -> None:
        super().__init__(board, progress)
        self.cache, self.gpu = cache, gpu

    def command(self, stages: list[str]) -> list[str]:
        return worker_command(self.cache, *stages)

    def environment(self) -> dict[str, str]:
        return environment() | ({} if self.gpu is None else {"CUDA_VISIBLE_DEVICES": self.gpu})

    def tell_failure(self, lines: list[str], failed: list[str]) -> None:
        tell_failures(self.progress, failed, lines)


def tell_failures(progress: "Watch", failed: Iterable[str], lines: list[str]) -> None:
    """The end of each stage's log, or of what the worker said where it did not come to the stage."""
    for stage in failed:
        path = worker.Logs(Path.cwd()).path(stage)
        own = path.read_text(errors="replace").splitlines() if path.is_file() else []
        if not own:
            path.write_text("\n".join(lines))
        progress.tell(
            "\n".join(
                [
                    f"\n{stage} failed; its log: {path.relative_to(Path.cwd())}",
                    *(own or lines)[-SHOWN:],
                    "",
                ]
            )
        )


def local_workers(board: repro.Board, progress: "Watch", cache: Path) -> list[Local]:
    """As many as there are jobs; GPUs by turns."""
    gpus = visible_gpus()
    return [
        Local(board, progress, cache, gpus[index % len(gpus)] if gpus else None)
        for index in range(board.jobs)
    ]


class Watch(repro.Progress):
    """A table on a terminal; elsewhere a line every few stages."""

    def __init__(self, board: repro.Board) -> None:
        super().__init__(board)
        self.live = (
            Live(console=Console(), get_renderable=self.table, refresh_per_second=1)
            if self.watched
            else None
        )

    def __enter__(self) -> "Watch":
        if self.live:
            self.live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.live:
            self.live.stop()

    def table(self) -> Table:
        """A row for each group of stages that take about as long."""
        with self.board.changed:
            states = {
                "waiting": self.board.waiting,
                "running": self.board.running,
                "done": self.board.done,
                "failed": self.board.failed,
            }
            counts = {name: Counter(map(group, stages)) for name, stages in states.items()}
            seconds = {name: sum(each) / len(each) for name, each in self.board.seconds.items()}
        table = Table("stages", *states, "each", caption=self.line())
        for name in sorted(set().union(*counts.values())):
            numbers = [str(count[name] or "") for count in counts.values()]
            table.add_row(name, *numbers, clock(seconds[name]) if name in seconds else "")
        return table

    def show(self) -> None:
        if not self.live:
            super().show()

    def tell(self, text: str) -> None:
        if self.live:
            self.live.console.print(text, markup=False, highlight=False)
        else:
            super().tell(text)


def restore(stages: Iterable[str], entries: worker.Entries) -> None:
    """Takes what workers have made into this workspace. Raises SystemExit with DVC's error."""
    made = entries.of(sorted(stages))
    if not made:
        return
    lock = split_lock(worker.lock_of(Path.cwd()) or "")
    write_at_once(Path("dvc.lock"), join_lock((lock | made).values()))
    how = {
        "stdin": subprocess.DEVNULL,
        "stdout": subprocess.PIPE,
        "stderr": subprocess.STDOUT,
        "text": True,
        "start_new_session": True,
    }
    done = subprocess.run(dvc("checkout", "--quiet", "--force", *made), env=environment(), **how)
    if done.returncode:
        raise SystemExit(f"dvc checkout failed:\n{done.stdout}")


def board_of(jobs: int) -> repro.Board | None:
    """The stages for workers, and in ENTRIES what is known of those before them; None where there
    are none.
    """
    changed = repro.changed_stages()
    parents = repro.parents_of(repro.output_of(dvc("dag", "--dot")))
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
    """Returns when no stage is left that can run, and all that ran are restored here. Raises
    KeyboardInterrupt, with no worker left.
    """
    try:
        with Watch(board) as watch, repro.shared_logger():
            watch.tell(f"Up to {board.total} stages to run, {board.jobs} at a time ({backend}).")
            workers = workers_of(backend, board, watch)
            try:
                repro.run_stages(board, watch, workers)
            finally:
                for each in workers:
                    each.wait()  # jobs of a cluster have to be cancelled
    finally:
        restore(board.done, worker.Entries(ENTRIES))


def workers_of(backend: str, board: repro.Board, watch: Watch) -> list[repro.Hand]:
    cache = worker.cache_of(Path.cwd())
    if backend == "local":
        return local_workers(board, watch, cache)
    from cluster import Slurm

    return [Slurm(board, watch, worker_command(cache))]


def push() -> int:
    """To the remote of params.yaml, if it names one: what no worker has pushed, or could not. The
    exit code.
    """
    remote = worker.remote_of(Path.cwd())
    return (
        subprocess.run(dvc("push", "--run-cache", "--remote", remote), env=environment()).returncode
        if remote
        else 0
    )


def sweep(jobs: int, backend: str) -> int:
    """The exit code: 0 if every stage is up to date at the end."""
    worker.remove_leftovers(Path.cwd())
    start = time.monotonic()
    board = board_of(jobs)
    if board is not None:
        run_workers(board, backend)
        if board.failed:
            if board.skipped:
                print(f"Not run, as they need what failed: {', '.join(board.skipped)}")
            print(f"Failed: {', '.join(board.failed)}; logs in {worker.LOGS}")
            return 1
    code = repro.last_word() or push()
    took = f"{len(board.done) if board else 0} by workers, {clock(time.monotonic() - start)}"
    print(f"All stages are up to date: {took}." if code == 0 else "Failed (see above).")
    return code


def main() -> int:
    parser = argparse.ArgumentParser(
        description="Run every stage that is not up to date, spread over processes or a cluster."
    )
    parser.add_argument(
        "--jobs", type=repro.num_jobs, default="2", help="stages side by side (default: 2)"
    )
    parser.add_argument("--backend", choices=["local", "slurm"], default="local")
    arguments = parser.parse_args()
    repro.check_params()
    worker.SWEEP.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(worker.SWEEP / "lock", timeout=0):
            return sweep(arguments.jobs, arguments.backend)
    except Timeout:
        print(f"Another `make sweep` runs in {Path.cwd()}.", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Stopped. Finished stages are kept; `make sweep` goes on from here.", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
