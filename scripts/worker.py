"""Run stages in a workspace of their own: what every backend of `make sweep` calls.

usage: worker.py ROOT STAGE [STAGE ...] [--cache DIR] [--entries DIR]

The workspace is a copy of ROOT's files under ROOT/scratch/sweep, removed at the end. It shares
ROOT's DVC cache: inputs of a stage come from there, and its outputs go there, with an entry in the
run-cache. `dvc repro` in ROOT then restores them and runs nothing. The workspace itself can't be
shared on a cluster, as DVC's locks know the processes of one machine alone.

DVC reads and writes all of dvc.lock for each stage, which takes seconds with hundreds of stages in
it. So `make sweep` keeps one file per stage (`Entries`). A workspace takes from it what its stages
need, and adds their own entries.

With `sweep.remote` in params.yaml each run is pulled from that remote if it is there, and pushed
otherwise.
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
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import configobj
import yaml
from copies import copy_files
from filelock import FileLock, Timeout
from locks import join_lock, split_lock, write_at_once
from repro import FAILED, FINISHED, STARTED, dvc, environment, output, start_group, stop_group

from momos.config.running import REPOSITORY

SWEEP = Path("scratch/sweep")  # of ROOT
WORK, LOGS = SWEEP / "work", SWEEP / "logs"
INPUTS = ("data/raw", "data/zoo")  # from elsewhere: git has none of them, and they may be large
SHARED = ("scratch",)  # checkpoints: a stage may resume in another workspace than it started in
LEFT_OUT = ("reports/", "tests/", "dvc.lock", *(f"{name}/" for name in INPUTS))


class Entries:
    """A dvc.lock as one file per stage, and which of them each stage needs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @classmethod
    def create(cls, folder: Path, lock: Path, needs: dict[str, Iterable[str]]) -> "Entries":
        """Split a dvc.lock into a new folder. needs: the stages before each one, and itself."""
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        made = cls(folder)
        text = lock.read_text(encoding="utf-8") if lock.is_file() else ""
        for stage, entry in split_lock(text).items():
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
        """The entries of these stages, as far as they are there."""
        return {
            stage: path.read_text(encoding="utf-8")
            for stage in stages
            if (path := self.path(stage)).is_file()
        }

    def lock_for(self, stages: Iterable[str]) -> str | None:
        """A dvc.lock of what they need, as far as it is there; None if nothing is."""
        needs = json.loads((self.folder / "needs.json").read_text())
        entries = self.of(sorted(set[str]().union(*(needs[stage] for stage in stages))))
        return join_lock(entries.values()) if entries else None


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


def write_config(root: Path, folder: Path, cache: Path, core: Mapping[str, str]) -> None:
    """Write DVC's settings of a workspace: ROOT's own (remotes, credentials), its cache, links.

    core: what else the section of that name says.
    """
    local = root / ".dvc" / "config.local"
    settings = configobj.ConfigObj(
        str(local) if local.is_file() else None, list_values=False, encoding="utf-8"
    )
    settings.filename = str(folder / ".dvc" / "config.local")
    settings["core"] = dict(settings.get("core", {})) | {name: f'"{core[name]}"' for name in core}
    settings["cache"] = dict(settings.get("cache", {})) | {
        "dir": f'"{cache}"',  # quoted, as all of these: # and commas have a meaning
        "type": '"reflink,hardlink,symlink,copy"',
    }
    settings.write()


def fill(root: Path, folder: Path, cache: Path, lock: str | None, remote: str | None) -> None:
    """Make a workspace: ROOT's files, this text as dvc.lock, links to inputs, DVC's settings."""
    copy_files(root, folder, LEFT_OUT)
    if lock is not None:
        (folder / "dvc.lock").write_text(lock, encoding="utf-8")
    for name in (*INPUTS, *SHARED):
        if (root / name).is_dir():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).symlink_to(root / name)
    core = {"no_scm": "true", "site_cache_dir": str(folder / ".dvc" / "site")}
    write_config(root, folder, cache, core | ({"remote": remote} if remote else {}))


@contextlib.contextmanager
def workspace(root: Path, cache: Path, lock: str | None, remote: str | None) -> Iterator[Path]:
    """A copy of `root` with this text as its dvc.lock, removed at the end.

    A lock file beside it is held as long as it is in use, so that nobody takes it for a leftover.
    """
    (root / WORK).mkdir(parents=True, exist_ok=True)
    folder = Path(
        tempfile.mkdtemp(prefix=f"{socket.gethostname()}-{os.getpid()}-", dir=root / WORK)
    )
    with FileLock(f"{folder}.lock"):
        try:
            fill(root, folder, cache, lock, remote)
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            Path(f"{folder}.lock").unlink(missing_ok=True)


def remove_leftovers(root: Path) -> None:
    """Remove workspaces whose worker was killed."""
    for lock in (root / WORK).glob("*.lock"):
        with contextlib.suppress(Timeout), FileLock(lock, timeout=0):
            shutil.rmtree(lock.with_suffix(""), ignore_errors=True)
            lock.unlink(missing_ok=True)


def stage_environment(root: Path, folder: Path) -> dict[str, str]:
    """An environment with the copy's own code, and what all workspaces share: ROOT, MLflow."""
    return environment() | {
        "PYTHONPATH": str(folder / "src"),
        "MLFLOW_TRACKING_URI": os.environ.get("MLFLOW_TRACKING_URI")
        or f"sqlite:///{root / 'mlflow.db'}",
        REPOSITORY: str(root),
    }


class Logs:
    """One file per stage, with all that it printed; removed if the stage succeeds."""

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
        self.stages, self.folder = stages, folder
        self.remote, self.entries = remote, entries
        self.logs, self.environment = Logs(root), stage_environment(root, folder)
        self.process: subprocess.Popen[str] | None = None
        self.failed: set[str] = set()

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        self.process = start_group(dvc(*arguments), self.environment, self.folder)
        return self.process

    def run(self) -> int:
        """Run the stages; what DVC prints is printed and kept. Returns its exit code."""
        self.logs.start(self.stages)
        self.check_out()
        pull = ["--pull"] if self.remote else []
        code = self.follow("repro", "--keep-going", *pull, *self.stages)
        done = [stage for stage in self.stages if stage not in self.failed]
        if code and not self.failed:
            done = []  # DVC itself failed
        if self.remote and done:
            push = ["push", "--run-cache", "--with-deps", "--remote", self.remote]
            code = self.follow(*push, *done) or code
        self.logs.remove(done if code == 0 or self.failed else [])
        return code

    def check_out(self) -> None:
        """Fetch outputs that dvc.lock names and the run-cache lacks, as after `dvc pull`."""
        if (self.folder / "dvc.lock").is_file():
            options = ["--quiet", "--allow-missing", "--with-deps"]
            self.start("checkout", *options, *self.stages).communicate()

    def follow(self, *arguments: str) -> int:
        """Run one DVC command, publish each stage as it ends. Returns the exit code."""
        current = self.stages[0]
        process = self.start(*arguments)
        for line in output(process):
            print(line, end="", flush=True)
            if started := STARTED.match(line) or FINISHED.match(line):
                if current in self.stages:
                    self.publish()
                current = started[1]
            if error := FAILED.match(line):
                self.failed |= {stage for stage in self.stages if f"'{stage}'" in error[1]}
            self.logs.add(current if current in self.stages else self.stages[0], line)
        code = process.wait()
        if code >= 0:  # else DVC was killed, perhaps while it wrote its dvc.lock
            self.publish()
        return code

    def publish(self) -> None:
        """Give other workers the entries that DVC has written of these stages."""
        lock = self.folder / "dvc.lock"
        if self.entries is not None and lock.is_file():
            for stage, entry in split_lock(lock.read_text(encoding="utf-8")).items():
                if stage in self.stages and stage not in self.failed:
                    self.entries.put(stage, entry)

    def stop(self) -> None:
        if self.process is not None:
            stop_group(self.process)


def end_with_parent(seconds: float = 1.0) -> None:
    """Stop as on SIGTERM when the process that started this worker has ended."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(seconds)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()


def interrupt(number: int, frame: object) -> None:
    """Leave by SystemExit, which cleans up; further signals are ignored meanwhile."""
    for name in (signal.SIGTERM, signal.SIGINT):
        signal.signal(name, signal.SIG_IGN)
    raise SystemExit(128 + number)


def remote_of(root: Path) -> str | None:
    return yaml.safe_load((root / "params.yaml").read_text())["sweep"]["remote"]


def lock_of(root: Path) -> str | None:
    path = root / "dvc.lock"
    return path.read_text(encoding="utf-8") if path.is_file() else None


def run(root: Path, stages: list[str], cache: Path, entries: Entries | None) -> int:
    """Run the stages in a workspace of their own. Returns DVC's exit code."""
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
        help="ROOT/dvc.lock as one file per stage, to which this worker adds its own",
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
