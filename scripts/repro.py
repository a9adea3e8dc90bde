"""`make repro`: run every stage that is not up to date, several side by side.

usage: repro.py [--jobs N]

DVC runs one stage at a time. Several `dvc --wait-for-lock repro -s STAGE` in one workspace are safe
all the same: DVC locks its own files, and releases the lock while a stage's command runs. So a few
processes take stages from one queue. A stage enters it when all that it depends on is done. A
`dvc repro` of all stages at the end has the last word.
"""

import argparse
import contextlib
import functools
import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Self

import scm
from filelock import FileLock, Timeout
from jobs import add_jobs
from orders import END, ORDERS, REPRODUCE
from warm import Warm, search_path

from momos import config, tracking
from momos.resume.taken import drop_taken

CHUNK = 8  # stages that a hand takes at once, at most: starting a worker of a sweep takes seconds
QUICK_DVC = str(Path(__file__).with_name("quick_dvc.py"))
FEWEST_FOR_WARM = 3  # stages: the warm interpreter imports for as long as two of them
REPORT_EVERY = 10  # stages, where nobody watches
LEAST_SPACE = 32 << 20  # bytes: with less, a stage that failed failed for want of space
MOST_NAMED = 10  # stages that a message names
FINISHED = re.compile(r"^Stage '(.+)' (?:didn't change, skipping|is cached - skipping run)")
STARTED = re.compile(r"^Running stage '(.+)':$")
FAILED = re.compile(r"^ERROR: failed to reproduce (.+)$")
EDGE = re.compile(r'^"(.+)" -> "(.+)";$')


def dvc(*arguments: str, wait: bool = True) -> list[str]:
    """The command line of the DVC that is installed beside this Python."""
    return [
        str(Path(sys.executable).parent / "dvc"),
        *(["--wait-for-lock"] if wait else []),
        *arguments,
    ]


def environment() -> dict[str, str]:
    """An environment in which `python`, with which stage commands begin, is this one.

    While there is a warm interpreter (scripts/warm.py), it is a fork of that.
    """
    return {**os.environ, "PATH": search_path()}


class Dvc:
    """A DVC in a process that takes one command after the other, until the context ends.

    Starting DVC and reading its files is done once. `code` is how the last command ended.
    """

    def __init__(self) -> None:
        self.process: subprocess.Popen[str] | None = None
        self.code = 0

    def order(self, *arguments: str) -> subprocess.Popen[str]:
        """Have the process run a command; it is started if it does not run. Raises OSError."""
        if self.process is None or self.process.poll() is not None:
            command = [sys.executable, QUICK_DVC, ORDERS]
            self.process = start_group(command, environment(), stdin=subprocess.PIPE)
        if self.process.stdin is None:
            raise OSError(f"{self.process.args!r}: expected a process whose input is a pipe")
        self.process.stdin.write(json.dumps([environment(), arguments]) + "\n")
        self.process.stdin.flush()
        return self.process

    def said(self, process: subprocess.Popen[str]) -> Iterator[str]:
        """What it prints of the command, errors included."""
        for line in output(process):
            if ended := END.match(line):
                self.code = int(ended[1])
                return
            yield line
        self.code = process.wait() or 1  # it was killed

    def ask(self, *arguments: str) -> list[str]:
        """Run a command -> what it prints. A KeyboardInterrupt ends the process."""
        process = self.order("--wait-for-lock", *arguments)
        try:
            return list(self.said(process))
        except KeyboardInterrupt:
            stop_group(process)
            raise

    def answer(self, *arguments: str) -> list[str]:
        """The same for a command that should not fail. Raises SystemExit with DVC's own error."""
        lines = self.ask(*arguments)
        if self.code:
            raise SystemExit(f"dvc {' '.join(arguments)} failed:\n{''.join(lines)}".rstrip())
        return lines

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *about: object) -> None:
        if self.process is not None and self.process.stdin is not None:
            self.process.stdin.close()  # its orders end
            self.process.wait()


def changed_stages(asked: Dvc) -> set[str]:
    """Stages whose code, data, settings, command or outputs are not what dvc.lock says."""
    return set(json.loads(asked.answer("status", "--json")[-1]))


def graph(asked: Dvc) -> dict[str, set[str]]:
    """The stages that each stage needs."""
    return parents_of("".join(asked.answer("dag", "--dot")))


def parents_of(graph: str) -> dict[str, set[str]]:
    """The text of `dvc dag --dot` -> the stages that each stage needs."""
    parents: dict[str, set[str]] = defaultdict(set)
    for line in graph.splitlines():
        if edge := EDGE.match(line):
            parents[edge[2]].add(edge[1])
    return parents


def with_descendants(stages: Iterable[str], parents: dict[str, set[str]]) -> set[str]:
    """The stages and all that depend on them."""
    affected = set(stages)
    while more := {stage for stage, needed in parents.items() if needed & affected} - affected:
        affected |= more
    return affected


def with_ancestors(stage: str, parents: dict[str, set[str]]) -> set[str]:
    """The stage and all that it depends on."""
    needed: set[str] = set()
    new = {stage}
    while new:
        needed |= new
        new = set[str]().union(*(parents.get(name, set()) for name in new)) - needed
    return needed


def group(stage: str) -> str:
    """A name for stages that take about as long: train@mlp-qat8-0 -> train@mlp."""
    return stage.split("-")[0]


def interleaved(stages: Iterable[str]) -> list[str]:
    """Stages in turn from each group: the first of each, the second of each, and so on."""
    ordered = sorted(stages, key=lambda stage: (group(stage), stage))
    groups = [list(members) for _, members in itertools.groupby(ordered, key=group)]
    return [stage for turn in itertools.zip_longest(*groups) for stage in turn if stage is not None]


def most_behind_first(stages: Sequence[str], parents: Mapping[str, set[str]]) -> list[str]:
    """Stages in order of the longest chain that waits for each, so that no core idles at the end.

    A stage in a chain weighs as much as it has parents: one that measures 135 runs takes long.
    """
    children: dict[str, set[str]] = defaultdict(set)
    for stage, needed in parents.items():
        for parent in needed:
            children[parent].add(stage)

    @functools.cache
    def behind(stage: str) -> int:
        return max((behind(child) + len(parents[child]) for child in children[stage]), default=0)

    return sorted(stages, key=behind, reverse=True)


class Board:
    """The state of all stages (waiting, running, done, failed), shared by all workers."""

    def __init__(self, stages: Iterable[str], parents: dict[str, set[str]], jobs: int) -> None:
        known = set(stages)
        self.parents = {stage: parents.get(stage, set()) & known for stage in known}
        ordered = interleaved(known)
        firsts = len({group(stage) for stage in ordered})  # estimates need a stage of each group
        later = most_behind_first(ordered[firsts:], self.parents)
        self.waiting = ordered[:firsts] + later
        self.total, self.jobs = len(self.waiting), jobs
        self.running: set[str] = set()
        self.done: set[str] = set()
        self.failed: list[str] = []
        self.skipped: list[str] = []
        self.seconds: dict[str, list[float]] = defaultdict(list)
        self.changed = threading.Condition()
        self.stopped = False

    def take(self) -> list[str]:
        """The next few stages that nothing holds back.

        Waits until there are some. Returns none when no more will come.
        """
        with self.changed:
            while not self.stopped and self.waiting:
                ready = [stage for stage in self.waiting if self.parents[stage] <= self.done]
                if ready:
                    chosen = ready[: max(1, min(CHUNK, len(ready) // (4 * self.jobs)))]
                    self.waiting = [stage for stage in self.waiting if stage not in chosen]
                    self.running |= set(chosen)
                    return chosen
                self.changed.wait()
            return []

    def take_ready(self) -> list[str]:
        """All stages that nothing holds back now."""
        with self.changed:
            ready = [stage for stage in self.waiting if self.parents[stage] <= self.done]
            self.waiting = [stage for stage in self.waiting if stage not in ready]
            self.running |= set(ready)
            return ready

    def finish(self, stage: str, seconds: float = 0.0) -> None:
        with self.changed:
            if stage in self.running:
                self.running.remove(stage)
                self.done.add(stage)
                self.seconds[group(stage)].append(seconds)
                self.changed.notify_all()

    def fail(self, stages: Iterable[str]) -> None:
        """Record that these stages failed: what depends on them will not run."""
        with self.changed:
            self.failed += sorted(stages)
            self.running -= set(stages)
            held_back = with_descendants(stages, self.parents)
            self.skipped += [stage for stage in self.waiting if stage in held_back]
            self.waiting = [stage for stage in self.waiting if stage not in held_back]
            self.changed.notify_all()

    def stop(self) -> None:
        with self.changed:
            self.stopped = True
            self.changed.notify_all()

    def seconds_left(self) -> float | None:
        """An estimate from each group's mean so far; None before a stage has ended."""
        with self.changed:
            known = [second for seconds in self.seconds.values() for second in seconds]
            if not known:
                return None
            means = {name: sum(seconds) / len(seconds) for name, seconds in self.seconds.items()}
            left = sum(
                means.get(group(stage), sum(known) / len(known))
                for stage in self.waiting + list(self.running)
            )
            return left / self.jobs


class Progress:
    """The state in one line: rewritten on a terminal, elsewhere printed every few stages."""

    def __init__(self, board: Board) -> None:
        self.board, self.start, self.reported = board, time.monotonic(), 0
        self.watched = sys.stdout.isatty()
        self.lock = threading.Lock()

    def line(self) -> str:
        board, left = self.board, self.board.seconds_left()
        failed = f", {len(board.failed)} failed" if board.failed else ""
        about = f", about {clock(left)} left" if left else ""
        took = clock(time.monotonic() - self.start)
        return f"{len(board.done)} of {board.total} stages{failed}, {took}{about}"

    def show(self) -> None:
        done = len(self.board.done) + len(self.board.failed)
        with self.lock:
            if self.watched:
                print(f"\r\033[K{self.line()}", end="", flush=True)
            elif done >= self.reported + REPORT_EVERY or (
                done == self.board.total and done > self.reported
            ):
                self.reported = done
                print(self.line(), flush=True)

    def tell(self, text: str) -> None:
        """Print a message above the line."""
        with self.lock:
            print("\r\033[K" + text if self.watched else text, flush=True)


def clock(seconds: float) -> str:
    """A duration for readers: 3 min 05 s."""
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes} min {seconds:02d} s" if minutes else f"{seconds} s"


def little_space() -> str:
    """What is free where the study stands, for a message; "" where it is enough to go on."""
    free = shutil.disk_usage(Path.cwd()).free
    return f"{free / 2**20:.0f} MB free in {Path.cwd()}" if free < LEAST_SPACE else ""


def not_run(board: Board) -> str:
    """The line that says which stages did not run because of others, the first few by name."""
    more = len(board.skipped) - MOST_NAMED
    others = f" and {more} more" if more > 0 else ""
    return f"Not run, as they need what failed: {', '.join(board.skipped[:MOST_NAMED])}{others}"


class Hand(threading.Thread):
    """A thread with a `wait` for its end.

    `join` will not do: on Python 3.11, one that Ctrl-C interrupts takes a running thread for one
    that has ended.
    """

    process: subprocess.Popen[str] | None = None  # what has to be stopped with it

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.ended = threading.Event()

    def run(self) -> None:
        try:
            self.work()
        finally:
            self.ended.set()

    def work(self) -> None:
        raise NotImplementedError

    def wait(self) -> None:
        """Wait for the end of `work`; returns at once if the thread was never started."""
        if self.ident is not None:
            self.ended.wait()


class LocalHand(Hand):
    """Takes stages from the board and has processes of this machine run them."""

    code = 0  # exit code of the last stages

    def __init__(self, board: Board, progress: Progress) -> None:
        super().__init__()
        self.board, self.progress = board, progress

    def work(self) -> None:
        while stages := self.board.take():
            try:
                self.reproduce(stages)
            except OSError as error:  # DVC itself can't be started
                self.progress.tell(f"dvc can't be run: {error}")
                self.board.fail(stages)

    def begin(self, stages: list[str]) -> subprocess.Popen[str]:
        """Have a process run the stages."""
        return start_group(self.command(stages), self.environment())

    def command(self, stages: list[str]) -> list[str]:
        """The command line of that process."""
        raise NotImplementedError

    def environment(self) -> dict[str, str]:
        return environment()

    def said(self, process: subprocess.Popen[str]) -> Iterator[str]:
        """What it prints of these stages; afterwards `code` is how they ended."""
        yield from output(process)
        self.code = process.wait()

    def reproduce(self, stages: list[str]) -> None:
        """Run the stages; their own output is shown only if one of them fails."""
        process = self.process = self.begin(stages)
        if self.board.stopped:
            stop_group(process)
        lines, failed = self.follow(process, stages)
        if self.code == 0:
            for stage in stages:
                self.board.finish(stage)
        elif not self.board.stopped:
            failed = failed or [stage for stage in stages if stage not in self.board.done]
            self.tell_failure(lines, failed)
            self.board.fail(failed)
            for stage in set(stages) - set(failed):
                self.board.finish(stage)
            if free := little_space():
                self.progress.tell(f"No further stage is started: the disk is full ({free}).")
                self.board.stop()
        self.progress.show()

    def tell_failure(self, lines: list[str], failed: list[str]) -> None:
        self.progress.tell("\n".join(["", *lines, ""]))

    def follow(
        self, process: subprocess.Popen[str], stages: list[str]
    ) -> tuple[list[str], list[str]]:
        """Read what DVC prints until it is done -> all lines, and the stages that failed."""
        current, start = None, time.monotonic()
        lines: list[str] = []
        failed: list[str] = []
        for line in map(str.rstrip, self.said(process)):
            lines.append(line)
            if error := FAILED.match(line):
                failed = [stage for stage in re.findall(r"'([^']+)'", error[1]) if stage in stages]
            if skipped := FINISHED.match(line):
                self.board.finish(skipped[1])
            elif line.startswith("Updating lock file") and current:
                self.board.finish(current, time.monotonic() - start)
                self.progress.show()
            elif started := STARTED.match(line):
                current, start = started[1], time.monotonic()
        return lines, failed


class DvcHand(LocalHand):
    """One DVC process for all stages that it takes."""

    def __init__(self, board: Board, progress: Progress, asked: Dvc) -> None:
        super().__init__(board, progress)
        self.asked = asked

    def begin(self, stages: list[str]) -> subprocess.Popen[str]:
        return self.asked.order(*REPRODUCE, *stages)

    def said(self, process: subprocess.Popen[str]) -> Iterator[str]:
        yield from self.asked.said(process)
        self.code = self.asked.code


def start_group(
    command: list[str],
    env: dict[str, str],
    cwd: Path | None = None,
    stdin: int = subprocess.DEVNULL,
    stderr: int | None = subprocess.STDOUT,
) -> subprocess.Popen[str]:
    """A process in a group of its own, so that `stop_group` reaches its children.

    Its output is a pipe, its errors come with it or, with None, where this process's go.
    """
    return subprocess.Popen(
        command,
        cwd=cwd,
        env=env,
        stdin=stdin,
        stdout=subprocess.PIPE,
        stderr=stderr,
        text=True,
        errors="replace",
        start_new_session=True,
    )


def output(process: subprocess.Popen[str]) -> Iterable[str]:
    """The lines that a process prints. Raises ValueError if nobody asked for them."""
    if process.stdout is None:
        raise ValueError(f"{process.args!r}: expected a process whose output is a pipe")
    return process.stdout


def stop_group(process: subprocess.Popen[str]) -> None:
    """Stop DVC and the stage's command: SIGTERM first, SIGKILL after five seconds."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=5)


def run_stages(board: Board, progress: Progress, workers: Sequence[Hand]) -> None:
    """Run workers until no stage is left that can run. A KeyboardInterrupt stops all of them."""
    try:
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.wait()
    except KeyboardInterrupt:
        board.stop()
        for worker in workers:
            if worker.process is not None:
                stop_group(worker.process)
        raise
    finally:
        if progress.watched:
            print()


def last_word(asked: Dvc) -> int:
    """Run what is left, usually nothing, by a `dvc repro` of all. Returns its exit code.

    A KeyboardInterrupt stops it.
    """
    try:
        shown = [line for line in asked.ask("repro") if line.strip() and not FINISHED.match(line)]
    except KeyboardInterrupt:
        scm.drop_torn_lock(Path.cwd())
        raise
    if asked.code or any(STARTED.match(line) for line in shown):
        print("".join(shown), end="")
    return asked.code


def reproduce(jobs: int) -> int:
    """Run what is not up to date in the current folder, `jobs` stages at a time.

    Returns the exit code: 0 if all is up to date at the end. Call `check_params` first: it makes
    the folder of runs, and says what is wrong in params.yaml. After a KeyboardInterrupt, which
    `until_stopped` makes of SIGTERM too, no stage is left running.
    """
    with processes_of_dvc(jobs) as processes:
        return reproduce_by(processes, helpers_of)


@contextlib.contextmanager
def processes_of_dvc(jobs: int) -> Iterator[Sequence[Dvc]]:
    """So many, none of which is started yet."""
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(Dvc()) for _ in range(jobs)]


Helpers = Callable[["Board", "Progress"], contextlib.AbstractContextManager[object]]


def reproduce_by(processes: Sequence[Dvc], helpers: Helpers) -> int:
    """The same, by these processes; the first does what one has to do.

    helpers: what lasts while stages run.
    """
    changed = changed_stages(processes[0])
    if not changed:
        print("All stages are up to date.")
        return 0
    parents = graph(processes[0])
    board = Board(with_descendants(changed, parents), parents, len(processes))
    progress = Progress(board)
    progress.tell(f"Up to {board.total} stages to run, {len(processes)} at a time.")
    try:
        with helpers(board, progress):
            run_stages(board, progress, [DvcHand(board, progress, dvc) for dvc in processes])
    except KeyboardInterrupt:
        scm.drop_torn_lock(Path.cwd())
        raise
    if board.failed:
        if board.skipped:
            print(not_run(board))
        print(f"Failed: {', '.join(board.failed)}")
        return 1
    code = last_word(processes[0])
    took = clock(time.monotonic() - progress.start)
    print(
        f"All stages are up to date: {len(board.done)} run or checked in {took}."
        if code == 0
        else "Failed: dvc repro (see above)"
    )
    return code


def check_params() -> None:
    """Make the runs' folder. Raises SystemExit naming a wrong setting, before any work starts.

    The report depends on the folder, and where all runs are imported no stage makes it.
    """
    try:
        Path("runs", config.profile()).mkdir(parents=True, exist_ok=True)
    except ValueError as error:
        raise SystemExit(f"params.yaml: {error}") from error


def warm_interpreter(board: Board, progress: Progress) -> contextlib.AbstractContextManager[object]:
    """What stages are forks of, while it lasts. Too few stages are not worth its imports."""
    enough = board.total >= FEWEST_FOR_WARM
    return Warm(progress.tell) if enough else contextlib.nullcontext()


@contextlib.contextmanager
def helpers_of(board: Board, progress: Progress) -> Iterator[None]:
    """The logger and the warm interpreter of these stages."""
    with shared_logger(), warm_interpreter(board, progress):
        yield


def shared_logger() -> contextlib.AbstractContextManager[None]:
    """One MLflow process for the trainings of all stages, while it lasts."""
    return tracking.shared(config.load(config.Tracking))


def until_stopped(target: str, work: Callable[[], int]) -> int:
    """The exit code of `work`; 130 if Ctrl-C or SIGTERM stops it. target: of make, for the user.

    SIGTERM too is a KeyboardInterrupt within. Call it from the main thread.
    """
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        return work()
    except KeyboardInterrupt:
        again = f"`make {target}` goes on from here."
        print(f"Stopped. Finished stages are kept; {again}", file=sys.stderr)
        return 130
    finally:
        signal.signal(signal.SIGTERM, before)


def alone(target: str, lock: Path, work: Callable[[], int]) -> int:
    """The same, while no other process holds the lock; 1 at once if one does."""
    lock.parent.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(lock, timeout=0):
            return until_stopped(target, work)
    except Timeout:
        print(f"Another `make {target}` runs in {Path.cwd()}.", file=sys.stderr)
        return 1


def main() -> int:
    parser = argparse.ArgumentParser(
        description="Run every stage that is not up to date, several side by side."
    )
    add_jobs(parser)
    arguments = parser.parse_args()
    check_params()
    scm.prepare(Path.cwd())
    code = until_stopped("repro", lambda: reproduce(arguments.jobs))
    if code == 0:
        drop_taken(Path("scratch", "train", config.profile()))
    return code


if __name__ == "__main__":
    sys.exit(main())
