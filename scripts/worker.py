"""Runs stages in a workspace of their own: what every backend of `make sweep` calls.

usage: worker.py ROOT STAGE [STAGE ...] [--cache DIR] [--entries DIR]

The workspace is a copy of ROOT's files under ROOT/scratch/sweep, gone at the end, with ROOT's DVC
cache. What comes before a stage is taken from there, and what the stage makes goes there, run-cache
entry included: `dvc repro` in ROOT then restores it and runs nothing. Sharing the workspace itself
would not do on a cluster, as DVC's locks know the processes of one machine alone.

DVC reads and writes dvc.lock whole for each stage: seconds, with hundreds of stages in it. So `make
sweep` keeps it in a file a stage (`Entries`), from which a workspace takes what its stages need,
and to which it adds what they came to.

With `sweep.remote` in params.yaml each run is pulled from there if it has it, and else pushed
there.
"""

import argparse
import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.parse
from collections.abc import Iterable, Iterator
from pathlib import Path

import configobj
import yaml
from filelock import FileLock, Timeout
from locks import join_lock, split_lock, write_at_once
from repro import FAILED, FINISHED, STARTED, dvc, environment, stop_group

SWEEP = Path("scratch/sweep")  # of ROOT
WORK, LOGS = SWEEP / "work", SWEEP / "logs"
INPUTS = ("data/raw", "data/zoo")  # from elsewhere: git has none of them, and they may be large
SHARED = ("scratch",)  # where long stages go on from, whichever workspace they started in
LEFT_OUT = ("reports/", "tests/", *(f"{name}/" for name in INPUTS))


class Entries:
    """A dvc.lock in a file a stage, and which of them each stage needs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @classmethod
    def create(cls, folder: Path, lock: Path, needs: dict[str, Iterable[str]]) -> "Entries":
        """In a new folder. needs: all that come before a stage, and itself."""
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        made = cls(folder)
        for stage, entry in split_lock(
            lock.read_text(encoding="utf-8") if lock.is_file() else ""
        ).items():
            made.put(stage, entry)
        (folder / "needs.json").write_text(
            json.dumps({stage: sorted(names) for stage, names in needs.items()})
        )
        return made

    def path(self, stage: str) -> Path:
        return self.folder / f"{urllib.parse.quote(stage, safe='@')}.yaml"

    def put(self, stage: str, entry: str) -> None:
        write_at_once(self.path(stage), entry)

    def of(self, stages: Iterable[str]) -> dict[str, str]:
        """Those that are there."""
        return {
            stage: path.read_text(encoding="utf-8")
            for stage in stages
            if (path := self.path(stage)).is_file()
        }

    def lock_for(self, stages: Iterable[str]) -> str | None:
        """A dvc.lock of what they need, as far as it is there; None if nothing is."""
        needs = json.loads((self.folder / "needs.json").read_text())
        found = self.of(sorted(set().union(*(needs[stage] for stage in stages))))
        return join_lock(found.values()) if found else None


def files_of(root: Path) -> list[str]:
    """What is under version control or would be, changes that are not committed included. Raises
    RuntimeError outside a repository.
    """
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "-z"],
        cwd=root,
        capture_output=True,
        text=True,
    )
    if listed.returncode:
        raise RuntimeError(f"{root} must be a git repository: {listed.stderr.strip()}")
    names = [name for name in listed.stdout.split("\0") if name and not name.startswith(LEFT_OUT)]
    return [name for name in names if (root / name).is_file()]


def cache_of(root: Path) -> Path:
    """The folder of ROOT's DVC cache."""
    done = subprocess.run(
        dvc("cache", "dir", wait=False),
        cwd=root,
        capture_output=True,
        text=True,
        check=True,
        env=environment(),
    )
    return Path(done.stdout.strip())


def write_config(root: Path, folder: Path, cache: Path, remote: str | None) -> None:
    """ROOT's own settings (remotes, credentials), its cache, links instead of copies, and no git."""
    local = root / ".dvc" / "config.local"
    config = configobj.ConfigObj(str(local) if local.is_file() else None, list_values=False)
    config.filename = str(folder / ".dvc" / "config.local")
    config["core"] = dict(config.get("core", {})) | {
        "no_scm": "true",
        "site_cache_dir": str(folder / ".dvc" / "site"),
    }
    if remote:
        config["core"]["remote"] = remote
    config["cache"] = dict(config.get("cache", {})) | {
        "dir": str(cache),
        "type": '"reflink,hardlink,symlink,copy"',
    }
    config.write()


def fill(root: Path, folder: Path, cache: Path, lock: str | None, remote: str | None) -> None:
    for name in set(files_of(root)) - {"dvc.lock"}:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(root / name, folder / name)
    if lock is not None:
        (folder / "dvc.lock").write_text(lock, encoding="utf-8")
    for name in (*INPUTS, *SHARED):
        if (root / name).is_dir():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).symlink_to(root / name)
    write_config(root, folder, cache, remote)


@contextlib.contextmanager
def workspace(root: Path, cache: Path, lock: str | None, remote: str | None) -> Iterator[Path]:
    """A copy of `root` with this text as its dvc.lock, removed at the end. Its lock file is held as
    long as it is in use.
    """
    (root / WORK).mkdir(parents=True, exist_ok=True)
    folder = Path(
        tempfile.mkdtemp(prefix=f"{socket.gethostname()}-{os.getpid()}-", dir=root / WORK)
    )
    with FileLock(f"{folder}.lock"):  # not to be taken for a leftover
        try:
            fill(root, folder, cache, lock, remote)
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            Path(f"{folder}.lock").unlink(missing_ok=True)


def remove_leftovers(root: Path) -> None:
    """Workspaces whose worker was killed."""
    for lock in (root / WORK).glob("*.lock"):
        with contextlib.suppress(Timeout), FileLock(lock, timeout=0):
            shutil.rmtree(lock.with_suffix(""), ignore_errors=True)
            lock.unlink(missing_ok=True)


def stage_environment(root: Path, folder: Path) -> dict[str, str]:
    """The copy's own code, and one MLflow store for all workspaces."""
    store = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{root / 'mlflow.db'}"
    return environment() | {"PYTHONPATH": str(folder / "src"), "MLFLOW_TRACKING_URI": store}


class Logs:
    """One file a stage, with all that it printed; those of stages that succeed are removed."""

    def __init__(self, root: Path) -> None:
        self.folder = root / LOGS
        self.folder.mkdir(parents=True, exist_ok=True)

    def path(self, stage: str) -> Path:
        return self.folder / f"{stage.replace('/', '_')}.log"

    def start(self, stages: Iterable[str]) -> None:
        for stage in stages:
            self.path(stage).write_text("")

    def add(self, stage: str, line: str) -> None:
        with self.path(stage).open("a") as file:
            file.write(line)

    def remove(self, stages: Iterable[str]) -> None:
        for stage in stages:
            self.path(stage).unlink(missing_ok=True)


class Stages:
    """One worker's stages, in one workspace. `stop` may be called by a signal at any time."""

    def __init__(
        self,
        stages: list[str],
        folder: Path,
        root: Path,
        remote: str | None,
        entries: Entries | None,
    ) -> None:
        self.stages, self.folder, self.remote, self.logs, self.entries = (
            stages,
            folder,
            remote,
            Logs(root),
            entries,
        )
        self.environment = stage_environment(root, folder)
        self.process: subprocess.Popen | None = None
        self.failed: set[str] = set()

    def start(self, *arguments: str) -> subprocess.Popen:
        pipes = {
            "stdout": subprocess.PIPE,
            "stderr": subprocess.STDOUT,
            "stdin": subprocess.DEVNULL,
        }
        how = {
            "text": True,
            "errors": "replace",
            "env": self.environment,
            "start_new_session": True,
        }
        self.process = subprocess.Popen(dvc(*arguments), cwd=self.folder, **pipes, **how)
        return self.process

    def run(self) -> int:
        """DVC's exit code; what it prints is printed and kept."""
        self.logs.start(self.stages)
        if (
            self.folder / "dvc.lock"
        ).is_file():  # what is not in the run-cache but on record, as after `dvc pull`
            self.start(
                "checkout", "--quiet", "--allow-missing", "--with-deps", *self.stages
            ).communicate()
        code = self.follow(
            "repro", "--keep-going", *(["--pull"] if self.remote else []), *self.stages
        )
        done = [stage for stage in self.stages if stage not in self.failed]
        if code and not self.failed:
            done = []  # DVC itself failed
        if self.remote and done:
            code = (
                self.follow("push", "--run-cache", "--with-deps", "--remote", self.remote, *done)
                or code
            )
        self.logs.remove(done if code == 0 or self.failed else [])
        return code

    def follow(self, *arguments: str) -> int:
        current = self.stages[0]
        for line in self.start(*arguments).stdout:
            print(line, end="", flush=True)
            if started := STARTED.match(line) or FINISHED.match(line):
                if current in self.stages:
                    self.publish()
                current = started[1]
            if error := FAILED.match(line):
                self.failed |= {stage for stage in self.stages if f"'{stage}'" in error[1]}
            self.logs.add(current if current in self.stages else self.stages[0], line)
        code = self.process.wait()
        if code >= 0:  # else DVC was killed, perhaps while it wrote its dvc.lock
            self.publish()
        return code

    def publish(self) -> None:
        """What DVC has written of our stages, for those that need them."""
        lock = self.folder / "dvc.lock"
        if self.entries is not None and lock.is_file():
            for stage, entry in split_lock(lock.read_text(encoding="utf-8")).items():
                if stage in self.stages and stage not in self.failed:
                    self.entries.put(stage, entry)

    def stop(self) -> None:
        if self.process is not None:
            stop_group(self.process)


def end_with_parent(seconds: float = 1.0) -> None:
    """A worker whose head was killed stops as if it had been told to."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(seconds)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()


def interrupt(number: int, frame: object) -> None:
    for each in (signal.SIGTERM, signal.SIGINT):
        signal.signal(each, signal.SIG_IGN)  # once is enough: what follows cleans up
    raise SystemExit(128 + number)


def remote_of(root: Path) -> str | None:
    return yaml.safe_load((root / "params.yaml").read_text())["sweep"]["remote"]


def lock_of(root: Path) -> str | None:
    path = root / "dvc.lock"
    return path.read_text(encoding="utf-8") if path.is_file() else None


def run(root: Path, stages: list[str], cache: Path, entries: Entries | None) -> int:
    remote, lock = remote_of(root), entries.lock_for(stages) if entries else lock_of(root)
    with workspace(root, cache, lock, remote) as folder:
        work = Stages(stages, folder, root, remote, entries)
        try:
            return work.run()
        finally:
            work.stop()


def main() -> int:
    parser = argparse.ArgumentParser(
        description="Run stages in a workspace of their own, with ROOT's cache."
    )
    parser.add_argument("root", type=Path)
    parser.add_argument("stages", nargs="+", metavar="STAGE")
    parser.add_argument("--cache", type=Path, help="ROOT's DVC cache, for a quicker start")
    parser.add_argument(
        "--entries",
        type=Path,
        help="ROOT/dvc.lock in a file a stage, to which this worker adds its own",
    )
    arguments = parser.parse_args()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, interrupt)
    end_with_parent()
    root = arguments.root.resolve()
    entries = Entries(arguments.entries) if arguments.entries else None
    return run(root, arguments.stages, arguments.cache or cache_of(root), entries)


if __name__ == "__main__":
    sys.exit(main())
