"""The live logger and the rebuilt record, on SQLite stores of their own."""

import contextlib
import hashlib
import json
import math
import os
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
from filelock import FileLock
from forks import Fork

from momos import config, tracking
from momos.files import atomic
from momos.files.run_folder import RUN
from momos.tracking import live, store

SETTINGS = config.Tracking(enabled=True, experiment="test")
HISTORY = [{"epoch": epoch, "val_loss": 1 / epoch, "distortion": None} for epoch in (1.0, 2.0, 3.0)]


@pytest.fixture(autouse=True)
def workplace(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    for name in {**store.QUIET, **store.LIVE_LIMITS}:
        monkeypatch.setenv(name, {**store.QUIET, **store.LIVE_LIMITS}[name])
    return tmp_path


def about(seed=0, **more):
    key = {
        "profile": "digits",
        "model": "mlp",
        "method": "qat8",
        "seed": seed,
        "grid": "main",
        "data_sha256": "0123456789" * 6 + "abcd",
    }
    return key | {"arch_kwargs": {"width": 8}, "block_size": None} | more


def make_run_folder(seed=0):
    folder = Path("runs") / str(seed)
    folder.mkdir(parents=True)
    atomic.write_json(folder / RUN, about(seed, best_epoch=2))
    (folder / "last.safetensors").write_bytes(bytes([seed]) * 10)
    return folder


def record(seed=0, digest="abc"):
    return tracking.Record.of_training(
        about(seed, best_epoch=2), history=HISTORY, output_hash=digest
    )


def train(seed=0):
    folder = make_run_folder(seed)
    with tracking.run(SETTINGS, about(seed)) as log:
        for row in HISTORY:
            log(row)
        log.finish(folder)
    return folder


def client():
    import mlflow

    return mlflow.MlflowClient(tracking.uri(), tracking.uri())


def shown():
    """Run name -> run."""
    experiment = client().get_experiment_by_name("test")
    return {run.info.run_name: run for run in client().search_runs([experiment.experiment_id])}


def test_live_run_is_recorded_whole_as_child_of_its_configuration(capfd, monkeypatch):
    # Importing mlflow takes long where many processes share a core.
    monkeypatch.setattr(live, "GRACE", 60.0)
    folder = train()
    runs = shown()
    run, parent = runs["digits/mlp/qat8/0"], runs["digits/mlp/qat8"]
    assert run.info.status == "FINISHED" and set(runs) == {"digits/mlp/qat8/0", "digits/mlp/qat8"}
    assert run.data.tags["mlflow.parentRunId"] == parent.info.run_id
    wanted = {
        "stage": "train",
        "profile": "digits",
        "model": "mlp",
        "method": "qat8",
        "seed": "0",
        "grid": "main",
    }
    assert wanted.items() <= run.data.tags.items()
    assert run.data.tags["output_hash"] == tracking.output_hash(folder)
    assert run.data.params["arch_kwargs"] == '{"width": 8}' and run.data.params["best_epoch"] == "2"
    points = client().get_metric_history(run.info.run_id, "val_loss")
    assert [(point.step, point.value) for point in points] == [(1, 1.0), (2, 0.5), (3, 1 / 3)]
    assert "distortion" not in run.data.metrics and "epoch" not in run.data.metrics
    (data,) = run.inputs.dataset_inputs
    assert (data.dataset.name, data.dataset.digest, data.tags[0].value) == (
        "digits",
        about()["data_sha256"][:36],
        "training",
    )
    assert json.loads(data.dataset.source) == {
        "uri": "data/prepared/digits.safetensors",
        "sha256": about()["data_sha256"],
    }
    assert capfd.readouterr().err == ""

    # what was logged live is what the rebuilt record would be
    records = [
        tracking.Record.of_training(
            about(0, best_epoch=2), history=HISTORY, output_hash=tracking.output_hash(folder)
        )
    ]
    assert tracking.rebuild(SETTINGS, records) == {
        "kept": 1,
        "created": 0,
        "replaced": 0,
        "removed": 0,
    }


def test_training_that_raises_leaves_a_failed_run_which_rebuild_replaces(forked, monkeypatch):
    monkeypatch.setattr(live, "GRACE", 60.0)
    with pytest.raises(KeyError), tracking.run(SETTINGS, about()) as log:
        log({"epoch": 1, "val_loss": math.nan})
        raise KeyError("training")
    failed = shown()["digits/mlp/qat8/0"]
    assert failed.info.status == "FAILED" and "output_hash" not in failed.data.tags
    assert tracking.rebuild(SETTINGS, [record()]) == {
        "kept": 0,
        "created": 1,
        "replaced": 1,
        "removed": 1,
    }
    assert shown()["digits/mlp/qat8/0"].info.status == "FINISHED"
    assert shown()["digits/mlp/qat8/0"].info.run_id != failed.info.run_id


def test_rebuild_adds_what_is_missing_once():
    records = [record(0), record(1)]
    assert tracking.rebuild(SETTINGS, records)["created"] == 2
    before = {name: run.info.run_id for name, run in shown().items()}
    assert len(before) == 3
    assert tracking.rebuild(SETTINGS, records) == {
        "kept": 2,
        "created": 0,
        "replaced": 0,
        "removed": 0,
    }
    assert {name: run.info.run_id for name, run in shown().items()} == before
    assert tracking.rebuild(SETTINGS, [record(0, "other outputs")])["created"] == 1
    run = shown()["digits/mlp/qat8/1"]
    assert [point.value for point in client().get_metric_history(run.info.run_id, "val_loss")] == [
        1.0,
        0.5,
        1 / 3,
    ]


def test_artifacts_and_numbers_of_the_report(workplace):
    Path("tables").mkdir()
    Path("tables/table1.md").write_text("| a |")
    row = {
        "epoch": 0,
        **tracking.flat_numbers({"mlp": {"C=10 %": 0.5, "name": "x", "ok": True}, "n": 3}),
    }
    whole = {
        "key": "digits/report",
        "name": "digits/report",
        "group": None,
        "params": {},
        "tags": {},
    }
    tracking.rebuild(
        SETTINGS,
        [tracking.Record(**whole, history=[row], output_hash="abc", artifacts=("tables",))],
    )
    run = shown()["digits/report"]
    assert run.data.metrics == {"mlp.C_10 _": 0.5, "n": 3.0}
    assert [found.path for found in client().list_artifacts(run.info.run_id, "tables")] == [
        "tables/table1.md"
    ]


@pytest.mark.parametrize("address", ["http://127.0.0.1:9", "sqlite:////proc/none/mlflow.db"])
def test_store_that_fails_warns_once_and_training_ends_soon(address, forked, monkeypatch, capfd):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    start = time.monotonic()
    train()
    assert time.monotonic() - start < live.GRACE + 5
    lines = [line for line in capfd.readouterr().err.splitlines() if line]
    assert len(lines) == 1 and address in lines[0] and "does not record this run" in lines[0]
    with pytest.raises(RuntimeError, match="can't be used"):
        tracking.rebuild(SETTINGS, [record()])
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert tracking.rebuild(SETTINGS, [record()])["created"] == 1, (
        "another store, or the same when it is back, has it later"
    )


def test_store_that_never_answers_is_left_after_the_grace(monkeypatch, capfd):
    """A logger that reads nothing: the pipe fills up, and training neither waits nor fails."""
    monkeypatch.setattr(live, "GRACE", 0.5)
    popen = subprocess.Popen
    monkeypatch.setattr(
        subprocess,
        "Popen",
        lambda _, **pipes: popen([sys.executable, "-c", "import time; time.sleep(60)"], **pipes),
    )
    start = time.monotonic()
    with tracking.run(SETTINGS, about()) as log:
        process = log.process
        for epoch in range(2000):
            log({"epoch": epoch, "padding": "x" * 200})
        assert time.monotonic() - start < 5
    assert time.monotonic() - start < 8 and process.poll() is not None
    assert "did not answer" in capfd.readouterr().err or log.unsent == b""


def test_trainings_share_a_logger_and_do_without_one_that_is_gone(monkeypatch):
    monkeypatch.setattr(live, "GRACE", 60.0)
    with contextlib.ExitStack() as stack:
        with monkeypatch.context() as patched:
            patched.setattr(subprocess, "Popen", Fork)
            stack.enter_context(tracking.shared(SETTINGS))
        socket = Path(os.environ[live.SHARED])
        while not socket.exists():
            time.sleep(0.01)
        with monkeypatch.context() as patched:
            patched.setattr(subprocess, "Popen", None)  # no process of its own
            folders = [train(seed) for seed in range(3)]
    assert live.SHARED not in os.environ and not socket.exists()
    runs = shown()
    assert set(runs) == {"digits/mlp/qat8", *(f"digits/mlp/qat8/{seed}" for seed in range(3))}
    for seed, folder in enumerate(folders):
        run = runs[f"digits/mlp/qat8/{seed}"]
        assert run.info.status == "FINISHED" and run.data.tags[
            "output_hash"
        ] == tracking.output_hash(folder)
    monkeypatch.setenv(live.SHARED, str(socket))
    train(7)
    assert shown()["digits/mlp/qat8/7"].info.status == "FINISHED"


def test_a_shared_logger_warns_once_of_a_store_that_fails(forked, monkeypatch, capfd):
    monkeypatch.setattr(live, "GRACE", 60.0)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    with tracking.shared(SETTINGS):
        while not Path(os.environ[live.SHARED]).exists():
            time.sleep(0.01)
        for seed in range(3):
            train(seed)
    lines = [line for line in capfd.readouterr().err.splitlines() if line]
    assert len(lines) == 1 and "does not record this run" in lines[0]


def test_a_disk_that_fills_up_costs_one_warning_that_says_so(forked, capfd):
    """The database takes no epoch: a trigger says what SQLite says of a full disk."""
    full = "database or disk is full"
    with sqlite3.connect("mlflow.db") as database:
        database.execute(
            f"create trigger full before insert on metrics begin select raise(abort, '{full}'); end"
        )
    train()
    lines = [line for line in capfd.readouterr().err.splitlines() if line]
    assert len(lines) == 1, "MLflow's own log stays quiet"
    assert "does not record this run: sqlite:///" in lines[0] and f"mlflow.db: {full} (" in lines[0]


def warnings_in(capfd):
    return [line for line in capfd.readouterr().err.splitlines() if "warning: " in line]


@contextmanager
def server(port=0):
    """MLflow's own server on server.db; the port it listens on."""
    from mlflow.server import app, handlers
    from werkzeug.serving import make_server

    for name in ("_tracking_store", "_model_registry_store", "_job_store"):
        setattr(handlers, name, None)  # those of an earlier server in this process
    handlers.initialize_backend_stores(
        f"sqlite:///{Path('server.db').resolve()}", default_artifact_root="artifacts"
    )
    serving = make_server("127.0.0.1", port, app, threaded=True)
    thread = threading.Thread(target=serving.serve_forever)
    thread.start()
    try:
        yield serving.port
    finally:
        serving.shutdown()
        serving.server_close()
        thread.join()


def wait_for(condition, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.1)


def num_points(path):
    """Epochs that the store has so far; 0 before there is one."""
    try:
        with sqlite3.connect(path) as database:
            query = "select count(*) from metrics where key = 'val_loss'"
            return database.execute(query).fetchone()[0]
    except sqlite3.OperationalError:
        return 0


def test_a_server_that_dies_in_the_middle_costs_one_warning_and_is_completed_later(
    forked, monkeypatch, capfd
):
    folder, logged = make_run_folder(), []
    with server() as port:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{port}")
        log = tracking.run(SETTINGS, about()).__enter__()
        log(HISTORY[0])
        wait_for(lambda: num_points("server.db") == 1)
    start = time.monotonic()
    for row in HISTORY[1:]:  # the server is gone
        log(row)
        logged.append(time.monotonic() - start)
    log.finish(folder)
    log.__exit__(None, None, None)
    assert logged[-1] < 1 and time.monotonic() - start < live.GRACE + 5
    (line,) = warnings_in(capfd)
    assert f"http://127.0.0.1:{port}" in line and "does not record this run" in line
    with server(port):
        complete = [
            tracking.Record.of_training(
                about(0, best_epoch=2), history=HISTORY, output_hash=tracking.output_hash(folder)
            )
        ]
        assert tracking.rebuild(SETTINGS, complete) == {
            "kept": 0,
            "created": 1,
            "replaced": 1,
            "removed": 1,
        }
        run = shown()["digits/mlp/qat8/0"]
        assert run.info.status == "FINISHED" and run.data.tags[
            "output_hash"
        ] == tracking.output_hash(folder)
        assert [
            point.value for point in client().get_metric_history(run.info.run_id, "val_loss")
        ] == [1.0, 0.5, 1 / 3]


def test_a_database_locked_by_others_costs_at_most_one_warning_and_is_completed_later(
    forked, monkeypatch, capfd
):
    """Another process holds the store's write lock from the first epoch on, longer than a training
    waits.
    """
    monkeypatch.setattr(live, "GRACE", 3.0)
    folder = make_run_folder()
    with tracking.run(SETTINGS, about()) as log:
        log(HISTORY[0])
        wait_for(lambda: num_points("mlflow.db") == 1)
        other = sqlite3.connect("mlflow.db", isolation_level=None)
        other.execute("begin immediate")
        start = time.monotonic()
        for row in HISTORY[1:]:
            log(row)
        log.finish(folder)
        assert time.monotonic() - start < 1
    assert time.monotonic() - start < live.GRACE + 5
    (line,) = warnings_in(capfd)
    assert "does not record this run" in line
    other.execute("rollback")
    complete = [
        tracking.Record.of_training(
            about(0, best_epoch=2), history=HISTORY, output_hash=tracking.output_hash(folder)
        )
    ]
    assert tracking.rebuild(SETTINGS, complete) == {
        "kept": 0,
        "created": 1,
        "replaced": 1,
        "removed": 1,
    }
    assert shown()["digits/mlp/qat8/0"].info.status == "FINISHED"


def test_trainings_that_write_to_one_database_at_once_are_all_recorded_in_the_end(
    forked, monkeypatch, capfd
):
    """Each with a logger of its own; what one of them may lose to the others, the rebuilt record
    has.
    """
    monkeypatch.setattr(live, "GRACE", 60.0)
    folders = {seed: make_run_folder(seed) for seed in range(3)}
    logs = {seed: tracking.run(SETTINGS, about(seed)).__enter__() for seed in folders}
    for epoch in range(200):
        for log in logs.values():
            log({"epoch": float(epoch), "val_loss": 1.0})
    for seed, log in logs.items():
        log.finish(folders[seed])
    for log in logs.values():
        log.__exit__(None, None, None)
    assert len(warnings_in(capfd)) <= len(folders)
    rows = [{"epoch": float(epoch), "val_loss": 1.0} for epoch in range(200)]
    complete = [
        tracking.Record.of_training(
            about(seed, best_epoch=2), history=rows, output_hash=tracking.output_hash(folder)
        )
        for seed, folder in folders.items()
    ]
    tracking.rebuild(SETTINGS, complete)
    for seed in folders:
        run = shown()[f"digits/mlp/qat8/{seed}"]
        assert run.info.status == "FINISHED"
        assert len(client().get_metric_history(run.info.run_id, "val_loss")) == 200


def rebuilding(seed=0) -> subprocess.Popen:
    """A process that makes the store, if there is none, and adds a run."""
    code = (
        "import json, sys; from momos import config, tracking as t;"
        "s = config.Tracking(enabled=True, experiment='test');"
        "r = t.Record.of_training(json.loads(sys.argv[1]), output_hash='abc');"
        "t.rebuild(s, [r])"
    )
    return subprocess.Popen([sys.executable, "-c", code, json.dumps(about(seed))])


@pytest.mark.parametrize("later", [0.0, 0.4])
def test_a_process_killed_while_it_makes_the_store_breaks_nothing(later, forked):
    """MLflow finds some tables of a store half made, and can't complete it."""
    killed = rebuilding()
    wait_for(lambda: any(path.stat().st_size for path in Path().glob("mlflow.db*")))
    time.sleep(later)
    killed.kill()
    killed.wait()
    assert tracking.rebuild(SETTINGS, [record(1)])["created"] == 1
    assert "digits/mlp/qat8/1" in shown()
    assert not list(Path().glob("mlflow.db*new*")), "nothing is left of the first attempt"


SLOW = """
import os, sys, time
os.write(int(sys.argv[1]), b"s")
time.sleep(9 * float(sys.argv[2]))
os.write(int(sys.argv[1]), b"r")
time.sleep(float(sys.argv[2]))
"""


@pytest.mark.parametrize("pace", [0.5, pytest.param(1.0, marks=pytest.mark.stress)])
def test_the_stores_set_up_may_take_longer_than_a_call(monkeypatch, capfd, pace):
    """A logger that makes the database for longer than a finished training waits for an answer."""
    monkeypatch.setattr(live, "GRACE", 4 * pace)
    popen = subprocess.Popen

    def start(command, **pipes):
        return popen([sys.executable, "-c", SLOW, command[3], str(pace)], **pipes)

    with monkeypatch.context() as patched:
        patched.setattr(subprocess, "Popen", start)
        begin = time.monotonic()
        with tracking.run(SETTINGS, about()) as log:
            process = log.process
    assert process.returncode == 0 and time.monotonic() - begin > 9 * pace, "it was not killed"
    told = capfd.readouterr().err
    assert "MLflow sets up sqlite" in told and "does not record" not in told


def test_a_deadline_that_is_over_stays_over():
    """Else a finished training waits for its logger twice as long as it says."""
    deadline = live.Deadline(None, 60.0)
    assert not deadline.is_over()
    deadline.end = time.monotonic()
    assert [deadline.is_over(), deadline.is_over()] == [True, True]


def test_a_database_that_others_make_is_waited_for(forked):
    """Of several processes one makes the store, however long that takes."""
    lock = FileLock("mlflow.db.lock", thread_local=False)
    lock.acquire()
    waiting = rebuilding()
    wait_for(lambda: not Path("mlflow.db").exists() and waiting.poll() is None)
    time.sleep(4)
    assert not list(Path().glob("mlflow.db*new")) and waiting.poll() is None
    lock.release()
    assert waiting.wait() == 0 and Path("mlflow.db").is_file()


def test_an_empty_file_is_no_store_yet():
    """Made in its place, it would be broken for good by a process that is killed meanwhile."""
    Path("mlflow.db").touch()
    assert store.needs_set_up()


def test_a_store_that_cant_be_opened_is_told_with_the_way_out(workplace, monkeypatch):
    """As it was left by a process that was killed while it made the store in its place."""
    (workplace / "my clone (2)").mkdir()
    monkeypatch.chdir(workplace / "my clone (2)")
    with sqlite3.connect("mlflow.db") as database:
        database.execute("create table experiments (name text)")
    with pytest.raises(RuntimeError) as error:
        tracking.rebuild(SETTINGS, [record()])
    text = str(error.value)
    assert "MLflow store sqlite:///" in text and "can't be used" in text and "make track" in text
    move = text.partition("`")[2].partition("`")[0]
    subprocess.run(move, shell=True, check=True)
    assert rebuilding().wait() == 0 and Path("mlflow.db.broken").is_file()


def kept_report() -> tracking.Record:
    Path("tables").mkdir()
    Path("tables/table1.md").write_text("| a |")
    whole = {"key": "r", "name": "r", "group": None, "params": {}, "tags": {}}
    return tracking.Record(**whole, output_hash="abc", artifacts=("tables",))


def test_the_store_lies_in_any_folder_and_nothing_outside(workplace, monkeypatch):
    folder = workplace / "my clone (2) & #ü; $x 'y'"
    folder.mkdir()
    monkeypatch.chdir(folder)
    assert tracking.rebuild(SETTINGS, [kept_report()])["created"] == 1
    assert client().list_artifacts(shown()["r"].info.run_id, "tables")
    assert (folder / "mlflow.db").is_file() and list(workplace.iterdir()) == [folder]


@pytest.mark.parametrize("name", ["my%20clone", "clone?"])
def test_where_mlflow_would_write_elsewhere_it_is_told_at_once(workplace, monkeypatch, name):
    """In an address `%20` is a space and `?` ends the path: the store came to lie elsewhere."""
    (workplace / "place" / name).mkdir(parents=True)
    monkeypatch.chdir(workplace / "place" / name)
    with pytest.raises(RuntimeError, match="can't be used: MLflow takes % and [?] .*\n.*MLFLOW_TR"):
        tracking.rebuild(SETTINGS, [kept_report()])
    assert [path.name for path in (workplace / "place").iterdir()] == [name]
    assert [path.name for path in Path().iterdir()] == ["tables"]


def test_a_server_is_used_from_any_folder(workplace, monkeypatch):
    """It writes where it lies itself."""
    folder = workplace / "my%20clone?"
    folder.mkdir()
    with server() as port:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{port}")
        monkeypatch.chdir(folder)
        assert tracking.rebuild(SETTINGS, [record()])["created"] == 1
        assert shown()["digits/mlp/qat8/0"].info.status == "FINISHED"
    assert [path.name for path in folder.iterdir()] == ["mlflow.db.lock"]


def test_a_long_temporary_folder_is_no_matter(forked, tmp_path, monkeypatch):
    """The address of a socket has 107 characters at most."""
    folder = tmp_path / ("long" * 30)
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr(live.tempfile, "tempdir", None)
    monkeypatch.setattr(live, "GRACE", 60.0)
    with tracking.shared(SETTINGS):
        wait_for(Path(os.environ[live.SHARED]).exists)
        with monkeypatch.context() as patched:
            patched.setattr(subprocess, "Popen", None)  # no process of its own
            train()
    assert shown()["digits/mlp/qat8/0"].info.status == "FINISHED"


def test_disabled_starts_nothing(monkeypatch):
    monkeypatch.setattr(subprocess, "Popen", None)
    with tracking.run(config.Tracking(enabled=False, experiment="test"), about()) as log:
        log(HISTORY[0])
        log.finish(Path("nowhere"))
    assert not Path("mlflow.db").exists()


def test_importing_the_module_does_not_import_mlflow():
    code = (
        "import sys; from momos import tracking; assert not {'mlflow', 'torch'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_processes_that_set_up_one_store_at_once_all_succeed(forked):
    code = (
        "import json, sys; from momos import config, tracking as t;"
        "s = config.Tracking(enabled=True, experiment='test');"
        "r = t.Record.of_training(json.loads(sys.argv[1]), output_hash='abc');"
        "assert t.rebuild(s, [r])['created'] == 1"
    )
    started = [
        subprocess.Popen([sys.executable, "-c", code, json.dumps(about(seed))]) for seed in range(2)
    ]
    assert [process.wait() for process in started] == [0, 0]
    assert set(shown()) == {"digits/mlp/qat8", "digits/mlp/qat8/0", "digits/mlp/qat8/1"}


def test_output_hash_is_sha256_of_names_and_contents(tmp_path):
    (tmp_path / "out" / "b").mkdir(parents=True)
    (tmp_path / "out" / "a.txt").write_text("A")
    (tmp_path / "out" / "b" / "c").write_text("C")
    lines = f"a.txt\0{hashlib.sha256(b'A').hexdigest()}\nb/c\0{hashlib.sha256(b'C').hexdigest()}\n"
    assert tracking.output_hash(tmp_path / "out") == hashlib.sha256(lines.encode()).hexdigest()
    (tmp_path / "out" / ".DS_Store").write_text("left by who looked into the folder")
    assert tracking.output_hash(tmp_path / "out") == hashlib.sha256(lines.encode()).hexdigest()
    with pytest.raises(ValueError, match="nowhere"):
        tracking.output_hash(tmp_path / "nowhere")
