"""The training's end of live tracking: each epoch is handed to a logger in another process.

The logger (`python -m momos.tracking`) imports mlflow, which takes 2 s, and talks to the store. So
training never waits for the store and does not die of it, and what the logger uses is not counted
as the training's. Many short trainings share one logger where MOMOS_LOGGER names its socket
(scripts/repro.py); otherwise each starts its own.
"""

import contextlib
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol, Self

from momos import config
from momos.tracking.record import output_hash
from momos.tracking.sockets import short
from momos.tracking.store import uri

SHARED = "MOMOS_LOGGER"  # environment: the socket of a logger that several trainings share
GRACE = 10.0  # seconds that a finished training waits for its logger, at most
# What a logger says on its pipe: a byte each
SETTING_UP, READY = b"s", b"r"


class Status:
    """What a logger says of itself: that it sets up the store, and that this is done."""

    def __init__(self, pipe: int) -> None:
        self.pipe, self.last = pipe, b""
        os.set_blocking(pipe, False)

    def is_setting_up(self) -> bool:
        """Say whether the logger still makes the database, MLflow's import included."""
        with contextlib.suppress(BlockingIOError):
            while said := os.read(self.pipe, 16):
                self.last = said[-1:]
            self.last = b""  # the pipe is closed: the logger has ended
        return self.last == SETTING_UP

    def close(self) -> None:
        os.close(self.pipe)


class Deadline:
    """So many seconds from now on, or from the end of the store's set-up, if that comes later.

    Setting up may take as long as it takes: whoever is cut off has to begin again.
    """

    def __init__(self, status: Status | None, seconds: float) -> None:
        self.status, self.seconds = status, seconds
        self.end, self.waits = time.monotonic() + seconds, False

    def is_over(self) -> bool:
        """Say whether the time is over; once it is, it stays so."""
        if time.monotonic() < self.end:
            return False
        waited = self.waits
        self.waits = self.status is not None and self.status.is_setting_up()
        if self.waits and not waited:
            print(f"MLflow sets up {uri()}: this happens once", file=sys.stderr, flush=True)
        if self.waits or waited:
            self.end = time.monotonic() + (0.5 if self.waits else self.seconds)
        return not self.waits and not waited

    def wait(self, process: subprocess.Popen[bytes]) -> bool:
        """Wait for the end of a process; return False where it did not come in time."""
        while True:
            try:
                process.wait(timeout=max(self.end - time.monotonic(), 0.1))
                return True
            except subprocess.TimeoutExpired:
                if self.is_over():
                    return False


def start_logger(*arguments: str, **pipes: Any) -> tuple[subprocess.Popen[bytes], Status]:
    """Start a logger that reads its standard input. pipes: as Popen takes them. Raises OSError."""
    said, written = os.pipe()
    try:
        command = [sys.executable, "-m", "momos.tracking", str(written), *arguments]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, pass_fds=[written], **pipes)
    except BaseException:
        os.close(said)
        raise
    finally:
        os.close(written)
    return process, Status(said)


class LogStream(Protocol):
    """A pipe or socket to a logger, which does not block."""

    def write(self, data: bytes, /) -> int | None:
        """Write what fits now -> how many bytes; None if nothing fits."""

    def close(self) -> None:
        """End the connection."""


def run(settings: config.Tracking, about: Mapping[str, Any]) -> "Log":
    """The log of one training: `with run(settings, about) as log:`.

    Call `log(row)` after each epoch and `log.finish(folder)` at the end. Raises nothing.
    """
    return Log(settings, about)


class Log:
    """One training's connection to a logger. A store that fails costs one warning on stderr."""

    def __init__(self, settings: config.Tracking, about: Mapping[str, Any]) -> None:
        self.settings, self.about = settings, dict(about)
        self.stream: LogStream | None = None  # to the logger; None without one
        # The logger, if it is this training's own.
        self.process: subprocess.Popen[bytes] | None = None
        self.status: Status | None = None  # of that process
        self.unsent = b""

    def __enter__(self) -> Self:
        if self.settings.enabled:
            try:
                self.stream = shared_logger() or self.own_logger()
                self.send({"experiment": self.settings.experiment, "about": self.about})
            except OSError as error:
                self.give_up(f"its process can't be started: {error}")
        return self

    def own_logger(self) -> LogStream:
        """Start a logger for this training alone."""
        process, self.status = start_logger(stdout=subprocess.DEVNULL, bufsize=0)
        self.process = process
        if process.stdin is None:
            raise OSError("it has no pipe")
        os.set_blocking(process.stdin.fileno(), False)
        return process.stdin

    def __call__(self, row: Mapping[str, float | None]) -> None:
        """Hand over one epoch. row: of history.csv."""
        self.send({"row": dict(row)})

    def finish(self, folder: Path) -> None:
        """Say that the run folder is complete."""
        if self.stream is not None:
            from momos.files import atomic, run_folder  # torch: more than this module needs

            about = atomic.read_json(folder / run_folder.RUN)
            self.send({"about": about, "output_hash": output_hash(folder)})

    def __exit__(self, kind: type[BaseException] | None, *about: object) -> None:
        deadline = Deadline(self.status, GRACE)
        while self.unsent and self.stream is not None and not deadline.is_over():
            time.sleep(0.05)
            self.flush()
        if self.stream is not None:
            self.stream.close()
        if self.process is not None:
            self.wait(self.process, deadline)
        if self.status is not None:
            self.status.close()

    def send(self, message: dict) -> None:
        if self.stream is not None:
            self.unsent += json.dumps(message).encode() + b"\n"
            self.flush()

    def flush(self) -> None:
        """Write what the pipe takes now.

        The pipe is full when the store is slow, and training does not wait.
        """
        if self.stream is None:
            return
        try:
            while self.unsent and (written := self.stream.write(self.unsent)):
                self.unsent = self.unsent[written:]
        except OSError:
            self.give_up(None)  # the logger has ended, and has said why

    def wait(self, process: subprocess.Popen[bytes], deadline: "Deadline") -> None:
        """Wait for the logger's end until the deadline, then do without."""
        if not deadline.wait(process):
            self.give_up(f"{uri()} did not answer within {GRACE:g} s after the end")

    def give_up(self, reason: str | None) -> None:
        """Leave the logger. reason: what the user is told; None: the logger has said it."""
        stream, process = self.stream, self.process
        self.stream, self.process, self.unsent = None, None, b""
        if process is not None and reason:
            process.kill()
        if stream is not None:
            with contextlib.suppress(OSError):
                stream.close()
        if process is not None:
            process.wait()
        if reason:
            warn(reason)


def shared_logger() -> LogStream | None:
    """A connection to the logger that MOMOS_LOGGER names; None if no such logger listens."""
    path = os.environ.get(SHARED)
    if not path:
        return None
    connection = socket.socket(socket.AF_UNIX)
    try:
        connection.connect(path)
        connection.setblocking(False)
        return connection.makefile("wb", buffering=0)
    except OSError:  # it has ended: a training then starts its own
        return None
    finally:
        connection.close()  # the file keeps the connection


@contextlib.contextmanager
def shared(settings: config.Tracking) -> Iterator[None]:
    """Give the trainings that this process starts one logger, while the context lasts.

    Importing mlflow takes as long as a small training.
    """
    if not settings.enabled:
        yield
        return
    with contextlib.ExitStack() as stack:
        try:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="momos-", dir=short()))
            path = str(Path(folder) / "logger")
            logger, status = start_logger(path, start_new_session=True)
        except OSError as error:
            print(f"warning: each training starts a logger of its own: {error}", file=sys.stderr)
            yield
            return
        stack.callback(status.close)
        stack.enter_context(logger)
        os.environ[SHARED] = path
        try:
            yield
        finally:
            del os.environ[SHARED]
            if logger.stdin is not None:
                logger.stdin.close()
            Deadline(status, 3 * GRACE).wait(logger)
            logger.kill()


def warn(reason: str) -> None:
    """Tell the user, in one line on stderr, that the run is not recorded."""
    lines = str(reason).strip().splitlines() or ["no reason given"]
    meant = f"{lines[0][:300]} (training goes on; `make track` later)"
    print(f"warning: MLflow does not record this run: {meant}", file=sys.stderr, flush=True)
