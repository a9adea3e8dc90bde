"""MLflow's store: the only module that imports mlflow, and only when a store is opened.

The store is `mlflow.db` in the working directory, or what MLFLOW_TRACKING_URI says. Each seed is a
child of its configuration's run (profile/model/method). A training's run is known by its key
(profile/model/method/seed) and by the hash of its outputs.
"""

import contextlib
import json
import logging
import os
import shlex
import subprocess
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any  # MLflow's objects, whose module is imported late

from momos import config
from momos.tracking.record import Record

LOCK_SECONDS = 60.0  # to wait while other processes change the store
QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_LOGGING_LEVEL": "CRITICAL",  # what fails is raised, and told by `live.warn`
    "GIT_PYTHON_REFRESH": "quiet",
}
LIVE_LIMITS = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": "3"}
REBUILD_LIMITS = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2", "MLFLOW_HTTP_REQUEST_TIMEOUT": "20"}
SERVERS = ("http://", "https://")  # what addresses of servers begin with
DIGEST = 36  # characters that MLflow keeps of a dataset's digest


def uri() -> str:
    """Where the store is."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{Path('mlflow.db').resolve()}"


def local_database() -> Path | None:
    """The store's file; None for a server."""
    is_local = uri().startswith("sqlite:///")
    return Path(uri().removeprefix("sqlite:///")) if is_local else None


def advice() -> str:
    """What to do about a store that can't be used."""
    database = local_database()
    if database is None or not database.exists():
        return "set MLFLOW_TRACKING_URI for another"
    move = shlex.join(["mv", str(database), f"{database}.broken"])
    return (
        f"`{move}` and then `make track` make it anew from the run "
        "folders; or set MLFLOW_TRACKING_URI for another"
    )


def missing_database() -> Path | None:
    """The local store's file if it has to be made first; None if it is there, and for a server.

    An empty file is none yet: whoever opens a database leaves one.
    """
    database = local_database()
    if database is None or (database.exists() and database.stat().st_size):
        return None
    return database


def needs_set_up() -> bool:
    """Whether the local database has to be made first, and its folder can be written to."""
    database = missing_database()
    return database is not None and os.access(database.parent, os.W_OK)


def set_up(limits: Mapping[str, str]) -> None:
    """Import mlflow, and make the local database where there is none yet.

    This takes some seconds, on a slow machine a minute: nothing is a training's yet. Of several
    processes one makes the database; the others wait. limits: LIVE_LIMITS or REBUILD_LIMITS.
    Raises ValueError for a folder from which MLflow would write elsewhere. A server writes its own.
    """
    places = "" if uri().startswith(SERVERS) else f"{local_database() or ''}{os.getcwd()}"
    if any(character in places for character in "%?"):
        raise ValueError("MLflow takes % and ? in a folder's name for something else")
    for name, value in {**QUIET, **limits}.items():
        os.environ.setdefault(name, value)
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    import mlflow  # noqa: F401 (what takes long)

    if missing_database() is not None:
        with store_lock(timeout=-1):
            if (database := missing_database()) is not None:
                _make(database)


def _make(database: Path) -> None:
    """Make an empty store under another name, then rename it: it is there whole, or not at all.

    A store whose making was cut off can never be completed: MLflow finds some tables, and fails.
    """
    from mlflow.store.tracking import DEFAULT_LOCAL_FILE_AND_ARTIFACT_PATH
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    for cut_off in database.parent.glob(f"{database.name}.*.new*"):
        cut_off.unlink()
    new = database.with_name(f"{database.name}.{os.getpid()}.new")
    made = SqlAlchemyStore(f"sqlite:///{new}", DEFAULT_LOCAL_FILE_AND_ARTIFACT_PATH)
    made.engine.dispose()
    new.rename(database)


def store_lock(timeout: float) -> contextlib.AbstractContextManager[Any]:
    """A lock file beside the database: workers of a sweep have folders of their own."""
    from filelock import FileLock

    return FileLock(f"{local_database() or 'mlflow.db'}.lock", timeout=timeout)


class Store:
    """MLflow's client with one experiment.

    Several processes may set up the same store at once: they take turns.
    """

    def __init__(self, experiment: str, limits: Mapping[str, str]) -> None:
        """Open the store. limits: LIVE_LIMITS or REBUILD_LIMITS. Raises what MLflow raises."""
        set_up(limits)
        import mlflow

        self.entities = mlflow.entities
        with self.lock():
            self.client = mlflow.MlflowClient(uri(), uri())
            known = self.client.get_experiment_by_name(experiment)
            self.experiment = (
                known.experiment_id if known else self.client.create_experiment(experiment)
            )

    @staticmethod
    def lock() -> contextlib.AbstractContextManager[Any]:
        """The store's lock, for as long as a change of it may take."""
        return store_lock(LOCK_SECONDS)

    def runs(self, condition: str = "") -> Iterator[Any]:
        """All runs of the experiment that meet a condition in MLflow's language."""
        token = None
        while page := self.client.search_runs(
            [self.experiment], condition, max_results=1000, page_token=token
        ):
            yield from page
            token = page.token
            if not token:
                return

    def parent(self, group: str) -> str:
        """The id of a configuration's run, which is made if there is none."""
        with self.lock():
            for run in self.runs(f"tags.configuration = '{group}'"):
                return str(run.info.run_id)
            made = self.client.create_run(
                self.experiment, run_name=group, tags={"configuration": group}
            )
            self.client.set_terminated(made.info.run_id, "FINISHED")
            return str(made.info.run_id)

    def start(self, record: Record) -> str:
        """Make a run that is RUNNING -> its id."""
        tags = {**record.tags, "key": record.key, **git_commit()}
        if record.group:
            tags["mlflow.parentRunId"] = self.parent(record.group)
        made = self.client.create_run(self.experiment, run_name=record.name, tags=tags)
        run_id = str(made.info.run_id)
        self.log_params(run_id, record.params)
        self.log_data(run_id, record.params)
        return run_id

    def log_data(self, run_id: str, params: Mapping[str, Any]) -> None:
        """Say which images a training saw, so that runs of the same data find each other.

        They are known by the hash of images, labels and splits.
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
        with self.lock():  # MLflow adds data that it does not know yet, and would add it twice
            inputs = [self.entities.DatasetInput(dataset, [context])]
            self.client.log_inputs(run_id, datasets=inputs)

    def log_params(self, run_id: str, params: Mapping[str, Any]) -> None:
        texts = [
            self.entities.Param(name, value if isinstance(value, str) else json.dumps(value))
            for name, value in params.items()
        ]
        for start in range(0, len(texts), 100):
            self.client.log_batch(run_id, params=texts[start : start + 100])

    def log_rows(self, run_id: str, rows: Iterable[Mapping[str, float | None]]) -> None:
        """Add rows of a history. NaN is stored as such; None is left out."""
        now = int(time.time() * 1000)
        metrics = [
            self.entities.Metric(name, float(value), now, _epoch(row))
            for row in rows
            for name, value in row.items()
            if value is not None and name != "epoch"
        ]
        for start in range(0, len(metrics), 500):
            self.client.log_batch(run_id, metrics=metrics[start : start + 500])

    def finish(self, run_id: str, digest: str) -> None:
        """Mark a run as complete. digest: the hash of its outputs."""
        self.client.set_tag(run_id, "output_hash", digest)
        self.client.set_terminated(run_id, "FINISHED")

    def fail(self, run_id: str) -> None:
        """Mark a run as one whose training ended unfinished."""
        self.client.set_terminated(run_id, "FAILED")

    def add(self, record: Record) -> None:
        """Add a finished run. Raises ValueError for one that has no hash of its outputs."""
        if record.output_hash is None:
            raise ValueError(f"{record.key}: expected a finished run, got one without output_hash")
        run_id = self.start(record)
        self.log_rows(run_id, record.history)
        for folder in record.artifacts:
            self.client.log_artifacts(run_id, folder, artifact_path=Path(folder).name)
        self.finish(run_id, record.output_hash)


def _epoch(row: Mapping[str, float | None]) -> int:
    epoch = row["epoch"]
    if epoch is None:
        raise ValueError(f"epoch must be given in each row of a history, got {row!r}")
    return int(epoch)


def git_commit() -> dict[str, str]:
    """The tag that names the commit; empty without git or outside a repository."""
    try:
        done = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True)
    except FileNotFoundError:
        return {}
    return {"mlflow.source.git.commit": done.stdout.strip()} if done.returncode == 0 else {}


def rebuild(settings: config.Tracking, records: Iterable[Record]) -> dict[str, int]:
    """Add every finished run that MLflow does not show, and replace cut-off runs of the same key.

    Returns the counts `kept`, `created`, `replaced` (among the created) and `removed` (cut-off
    runs). A second call creates none. Raises RuntimeError naming the store if it can't be reached
    or read.
    """
    try:
        return _rebuild(Store(settings.experiment, REBUILD_LIMITS), records)
    # mlflow, sqlalchemy, requests and filelock raise their own kinds: the store is the cause of all
    except Exception as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
        raise RuntimeError(f"MLflow store {uri()} can't be used: {reason}\n({advice()})") from error


def _rebuild(store: Store, records: Iterable[Record]) -> dict[str, int]:
    shown, cut_off = _runs_by_key(store)
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


def _runs_by_key(store: Store) -> tuple[set[tuple[str | None, str]], dict[str, list[str]]]:
    """Key and hash of each finished run, and the ids of cut-off runs by key."""
    shown: set[tuple[str | None, str]] = set()
    cut_off: dict[str, list[str]] = {}
    for run in store.runs():
        tags = run.data.tags
        if run.info.status == "FINISHED" and "output_hash" in tags:
            shown.add((tags.get("key"), tags["output_hash"]))
        elif "key" in tags:
            cut_off.setdefault(tags["key"], []).append(run.info.run_id)
    return shown, cut_off
