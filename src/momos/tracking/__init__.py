"""MLflow: a view of what the run folders hold, never their source. The only file that imports
mlflow.

Live, `run` hands each epoch to another process (`python -m momos.tracking`), which imports mlflow
(2 s) and talks to the store: training never waits for it, does not die of it, and its seconds and
memory are not counted as the training's. Many short trainings share one such process where
MOMOS_LOGGER names its socket (scripts/repro.py); else each starts its own. What was not recorded,
`rebuild` completes from the run folders.

The store: `mlflow.db` in the working directory, or what MLFLOW_TRACKING_URI says. Each seed is a
child of its configuration's run (profile/model/method). A training's run is known by its key
(profile/model/method/seed) and by the hash of its outputs.
"""

import contextlib
import hashlib
import io
import json
import logging
import os
import re
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from momos import config

SHARED = "MOMOS_LOGGER"  # environment: the socket of a logger that several trainings share
GRACE = 10.0  # seconds that a finished training waits for its logger, at most
LOCK_SECONDS = 60.0  # to wait while other processes set up the store
STAGES = {"main": "train", "ablation": "ablation", "language": "language"}
QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_LOGGING_LEVEL": "ERROR",
    "GIT_PYTHON_REFRESH": "quiet",
}
LIVE_LIMITS = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": "3"}
DIGEST = 36  # characters that MLflow keeps of a dataset's digest
TURN = threading.Lock()  # trainings that share a logger write one after the other
REBUILD_LIMITS = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2", "MLFLOW_HTTP_REQUEST_TIMEOUT": "20"}


def output_hash(folder: Path) -> str:
    """sha256 over the names and bytes of all files in the folder. Raises ValueError for a folder
    that is missing or empty.
    """
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    if not files:
        raise ValueError(f"{folder}: expected a folder with files, found none")
    total = hashlib.sha256()
    for path in files:
        total.update(
            f"{path.relative_to(folder).as_posix()}\0{hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode()
        )
    return total.hexdigest()


def flat_numbers(values: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    """Nested mappings -> the numbers in them by names that MLflow takes: {"a": {"b 1%": 2}} ->
    {"a.b 1_": 2.0}.
    """
    found = {}
    for key, value in values.items():
        name = prefix + re.sub(r"[^\w\-. :/]", "_", str(key))
        if isinstance(value, Mapping):
            found |= flat_numbers(value, f"{name}.")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            found[name] = float(value)
    return found


def uri() -> str:
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{Path('mlflow.db').resolve()}"


@dataclass(frozen=True, kw_only=True)
class Record:
    """One run as MLflow is to show it."""

    key: str  # what it is a run of: the same for each repetition
    name: str
    group: str | None  # the configuration whose child it is
    params: dict[str, Any]
    tags: dict[str, str]
    history: list[dict[str, float | None]] = field(
        default_factory=list
    )  # a row per epoch, with a column `epoch`
    output_hash: str | None = None  # None while it runs
    artifacts: tuple[str, ...] = ()  # folders to be copied into the store

    @classmethod
    def of_training(cls, about: Mapping[str, Any], **finished: Any) -> Self:
        """about: the contents of run.json, or its first half while the training goes on."""
        names = [str(about[name]) for name in ("profile", "model", "method", "seed")]
        tags = {name: str(about[name]) for name in ("profile", "model", "method", "seed", "grid")}
        tags["stage"] = STAGES[about["grid"]]
        return cls(
            key="/".join(names),
            name="/".join(names),
            group="/".join(names[:3]),
            params=dict(about),
            tags=tags,
            **finished,
        )


def run(settings: config.Tracking, about: Mapping[str, Any]) -> "Log":
    """`with run(settings, about) as log:`, then `log(row)` after each epoch and
    `log.finish(folder)` at the end. Raises nothing.
    """
    return Log(settings, about)


class Log:
    """The training's end of the live logger. A store that fails costs one warning on stderr."""

    def __init__(self, settings: config.Tracking, about: Mapping[str, Any]) -> None:
        self.settings, self.about = settings, dict(about)
        self.stream: io.RawIOBase | None = None  # to the logger; None without one
        self.process: subprocess.Popen | None = None  # the logger, if it is this training's own
        self.unsent = b""

    def __enter__(self) -> Self:
        if self.settings.enabled:
            try:
                self.stream = shared_logger() or self.own_logger()
                self.send({"experiment": self.settings.experiment, "about": self.about})
            except OSError as error:
                self.give_up(f"its process can't be started: {error}")
        return self

    def own_logger(self) -> io.RawIOBase:
        command = [sys.executable, "-m", "momos.tracking"]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, bufsize=0
        )
        os.set_blocking(self.process.stdin.fileno(), False)
        return self.process.stdin

    def __call__(self, row: Mapping[str, float | None]) -> None:
        """row: one epoch of history.csv."""
        self.send({"row": dict(row)})

    def finish(self, folder: Path) -> None:
        """The run folder is complete."""
        if self.stream is not None:
            from momos.files import atomic, run_folder

            self.send(
                {
                    "about": atomic.read_json(folder / run_folder.RUN),
                    "output_hash": output_hash(folder),
                }
            )

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        deadline = time.monotonic() + GRACE
        while self.unsent and time.monotonic() < deadline and self.stream is not None:
            time.sleep(0.05)
            self.flush()
        if self.stream is not None:
            self.stream.close()
        if self.process is not None:
            self.wait(deadline)

    def send(self, message: dict) -> None:
        if self.stream is not None:
            self.unsent += json.dumps(message).encode() + b"\n"
            self.flush()

    def flush(self) -> None:
        """Writes what the pipe takes now: it is full when the store is slow, and training does not
        wait.
        """
        try:
            while self.unsent and (written := self.stream.write(self.unsent)):
                self.unsent = self.unsent[written:]
        except OSError:
            self.give_up(None)  # the logger has ended, and has said why

    def wait(self, deadline: float) -> None:
        try:
            self.process.wait(timeout=max(deadline - time.monotonic(), 0.1))
        except subprocess.TimeoutExpired:
            self.give_up(f"{uri()} did not answer within {GRACE:g} s after the end")

    def give_up(self, reason: str | None) -> None:
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


def shared_logger() -> io.RawIOBase | None:
    """A connection to the logger that MOMOS_LOGGER names; None without one that listens."""
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


def warn(reason: str) -> None:
    lines = str(reason).strip().splitlines() or ["no reason given"]
    print(
        f"warning: MLflow does not record this run: {lines[0][:300]} (training goes on; `make track` later)",
        file=sys.stderr,
        flush=True,
    )


class Store:
    """MLflow's client with one experiment. Several processes may set up the same store at once:
    they take turns.
    """

    def __init__(self, experiment: str, limits: Mapping[str, str]) -> None:
        for name, value in {**QUIET, **limits}.items():
            os.environ.setdefault(name, value)
        for name in ("mlflow", "alembic"):
            logging.getLogger(name).setLevel(logging.ERROR)
        import mlflow

        self.entities = mlflow.entities
        with self.lock():
            self.client = mlflow.MlflowClient(uri(), uri())
            found = self.client.get_experiment_by_name(experiment)
            self.experiment = (
                found.experiment_id if found else self.client.create_experiment(experiment)
            )

    @staticmethod
    def lock() -> contextlib.AbstractContextManager:
        from filelock import FileLock

        database = (
            uri().removeprefix("sqlite:///") if uri().startswith("sqlite:///") else "mlflow.db"
        )
        return FileLock(
            f"{database}.lock", timeout=LOCK_SECONDS
        )  # beside it: workers of a sweep have folders of their own

    def runs(self, condition: str = "") -> Iterator[Any]:
        token = None
        while page := self.client.search_runs(
            [self.experiment], condition, max_results=1000, page_token=token
        ):
            yield from page
            token = page.token
            if not token:
                return

    def parent(self, group: str) -> str:
        """The id of a configuration's run, made if there is none."""
        with self.lock():
            for found in self.runs(f"tags.configuration = '{group}'"):
                return found.info.run_id
            made = self.client.create_run(
                self.experiment, run_name=group, tags={"configuration": group}
            )
            self.client.set_terminated(made.info.run_id, "FINISHED")
            return made.info.run_id

    def start(self, record: Record) -> str:
        """The id of a new run, RUNNING."""
        tags = record.tags | {"key": record.key} | git_commit()
        if record.group:
            tags["mlflow.parentRunId"] = self.parent(record.group)
        run_id = self.client.create_run(
            self.experiment, run_name=record.name, tags=tags
        ).info.run_id
        self.log_params(run_id, record.params)
        self.log_data(run_id, record.params)
        return run_id

    def log_data(self, run_id: str, params: Mapping[str, Any]) -> None:
        """Which images a training saw: the hash of images, labels and splits, so that runs of the
        same data find each other.
        """
        if "data_sha256" not in params:
            return
        profile, digest = params["profile"], params["data_sha256"][:DIGEST]
        source = json.dumps(
            {"uri": f"data/prepared/{profile}.safetensors", "sha256": params["data_sha256"]}
        )
        dataset = self.entities.Dataset(
            name=profile, digest=digest, source_type="local", source=source
        )
        context = self.entities.InputTag("mlflow.data.context", "training")
        self.client.log_inputs(run_id, datasets=[self.entities.DatasetInput(dataset, [context])])

    def log_params(self, run_id: str, params: Mapping[str, Any]) -> None:
        texts = [
            self.entities.Param(name, value if isinstance(value, str) else json.dumps(value))
            for name, value in params.items()
        ]
        for start in range(0, len(texts), 100):
            self.client.log_batch(run_id, params=texts[start : start + 100])

    def log_rows(self, run_id: str, rows: Iterable[Mapping[str, float | None]]) -> None:
        """NaN is stored as such; None is left out."""
        now = int(time.time() * 1000)
        metrics = [
            self.entities.Metric(name, float(value), now, int(row["epoch"]))
            for row in rows
            for name, value in row.items()
            if value is not None and name != "epoch"
        ]
        for start in range(0, len(metrics), 500):
            self.client.log_batch(run_id, metrics=metrics[start : start + 500])

    def finish(self, run_id: str, digest: str) -> None:
        self.client.set_tag(run_id, "output_hash", digest)
        self.client.set_terminated(run_id, "FINISHED")

    def add(self, record: Record) -> None:
        run_id = self.start(record)
        self.log_rows(run_id, record.history)
        for folder in record.artifacts:
            self.client.log_artifacts(run_id, folder, artifact_path=Path(folder).name)
        self.finish(run_id, record.output_hash)


def git_commit() -> dict[str, str]:
    try:
        done = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True)
    except FileNotFoundError:  # a machine without git
        return {}
    return {"mlflow.source.git.commit": done.stdout.strip()} if done.returncode == 0 else {}


def rebuild(settings: config.Tracking, records: Iterable[Record]) -> dict[str, int]:
    """Every finished run that MLflow does not show, added; runs of the same key that were cut off,
    replaced.

    Returns the counts `kept`, `created`, `replaced` (among the created) and `removed` (cut-off
    runs). A second call creates none. Raises RuntimeError naming the store if it can't be reached
    or read.
    """
    try:
        return _rebuild(Store(settings.experiment, REBUILD_LIMITS), records)
    # mlflow, sqlalchemy, requests and filelock raise their own kinds: the store is the cause of all
    except Exception as error:
        raise RuntimeError(
            f"MLflow store {uri()} can't be used (set MLFLOW_TRACKING_URI for another): {error}"
        ) from error


def _rebuild(store: Store, records: Iterable[Record]) -> dict[str, int]:
    shown, cut_off = set(), {}
    for found in store.runs():
        tags = found.data.tags
        if found.info.status == "FINISHED" and "output_hash" in tags:
            shown.add((tags.get("key"), tags["output_hash"]))
        elif "key" in tags:
            cut_off.setdefault(tags["key"], []).append(found.info.run_id)
    counts = dict.fromkeys(("kept", "created", "replaced", "removed"), 0)
    for record in records:
        leftovers = cut_off.pop(record.key, [])
        new = (record.key, record.output_hash) not in shown
        if new:
            store.add(record)
        for run_id in leftovers:
            store.client.delete_run(run_id)
        changes = {
            "kept": not new,
            "created": new,
            "replaced": new and bool(leftovers),
            "removed": len(leftovers),
        }
        counts = {name: counts[name] + int(change) for name, change in changes.items()}
    return counts


def messages(stream: int) -> Iterator[list[dict]]:
    """What the training has sent since the last look, as lists, until it closes the pipe."""
    rest = b""
    while chunk := os.read(stream, 1 << 16):
        *lines, rest = (rest + chunk).split(b"\n")
        if lines:
            yield [json.loads(line) for line in lines]


def serve(stream: int) -> None:
    """One training's messages into the store, to their end. A training that ends unfinished leaves
    a FAILED run.
    """
    store, run_id, known, digest = None, None, {}, None
    for some in messages(stream):
        with TURN:
            if store is None:
                store = Store(some[0]["experiment"], LIVE_LIMITS)
                known = some[0]["about"]
                run_id = store.start(Record.of_training(known))
            store.log_rows(run_id, [message["row"] for message in some if "row" in message])
            for message in some:
                if "output_hash" in message:
                    digest = message["output_hash"]
                    store.log_params(
                        run_id,
                        {
                            name: value
                            for name, value in message["about"].items()
                            if name not in known
                        },
                    )
    if run_id is not None:
        with TURN:
            if digest is not None:
                store.finish(run_id, digest)
            else:
                store.client.set_terminated(run_id, "FAILED")


def serve_or_warn(stream: int, warned: threading.Event) -> None:
    """A training must not end of what a store may raise: its user is told, once."""
    try:
        serve(stream)
    except Exception as error:  # mlflow, sqlalchemy, requests, filelock: each has its own kinds
        if not warned.is_set():
            warned.set()
            warn(f"{uri()}: {error}")


def share(path: str) -> None:
    """A logger for all trainings that connect to the socket `path`, until standard input ends and
    they are done.
    """
    listener, threads, warned = socket.socket(socket.AF_UNIX), [], threading.Event()
    listener.bind(f"{path}.new")
    listener.listen()
    os.rename(f"{path}.new", path)  # it appears when it can be connected to

    def handle(connection: socket.socket) -> None:
        with connection:
            serve_or_warn(connection.fileno(), warned)

    while True:
        ready, _, _ = select.select([listener, sys.stdin], [], [])
        if listener not in ready:  # the end, and nobody is waiting at the door
            break
        threads.append(threading.Thread(target=handle, args=(listener.accept()[0],), daemon=True))
        threads[-1].start()
    for thread in threads:
        thread.join()


@contextlib.contextmanager
def shared(settings: config.Tracking) -> Iterator[None]:
    """While it lasts, trainings started by this process share one logger: importing mlflow takes as
    long as a small training.
    """
    if not settings.enabled:
        yield
        return
    with tempfile.TemporaryDirectory(prefix="momos-") as folder:
        path = str(Path(folder) / "logger")
        with subprocess.Popen(
            [sys.executable, "-m", "momos.tracking", path],
            stdin=subprocess.PIPE,
            start_new_session=True,
        ) as logger:
            os.environ[SHARED] = path
            try:
                yield
            finally:
                del os.environ[SHARED]
                logger.stdin.close()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    logger.wait(timeout=3 * GRACE)
                logger.kill()


def main() -> int:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C ends the training, which closes the pipe
    warned = threading.Event()
    if len(sys.argv) > 1:
        share(sys.argv[1])
    else:
        serve_or_warn(sys.stdin.fileno(), warned)
    return int(warned.is_set())


if __name__ == "__main__":
    sys.exit(main())
