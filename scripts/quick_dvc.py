"""DVC that takes one command after the other, and writes dvc.lock in a quicker way.

usage: quick_dvc.py ARGUMENTS OF DVC
       quick_dvc.py --orders        (from standard input: scripts/orders.py)

With hundreds of stages most of DVC's CPU time goes into reading files of which it needs one stage:

- After each stage plain DVC reads all of dvc.lock in a way that keeps comments, and writes it anew.
  Here the lines of that stage are replaced. The file is the same but for YAML's anchors.
- For each target plain DVC reads dvc.yaml and all of dvc.lock. With --orders `repro --single-item`
  reads them once. That is safe while no one else runs the same stages: a stage's own lines in
  dvc.lock are all that DVC needs of them, and dvc.yaml and params.yaml are read again when they
  change.
- For each stage plain DVC parses params.yaml, and for each of its keys it walks through all of it:
  two thirds of `dvc status`. Here it is parsed once, until it changes, and keys are looked up.

Where DVC is not as expected, or did not write the file, its own way is used.
"""

import contextlib
import copy
import inspect
import json
import os
import queue
import re
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dvc import dvcfile
from dvc import lock as dvc_lock
from dvc.cli import main
from dvc.dependency import param
from dvc.exceptions import DvcException
from dvc.repo import Repo
from dvc.repo.stage import StageLoad
from dvc.stage import serialize
from dvc.ui import ui
from dvc.utils.serialize import dumps_yaml
from locks import LOCK_HEAD, join_lock, split_lock, write_at_once
from orders import ENDED, ORDERS, REPRODUCE

# Arguments of DVC's functions in the releases with which this was tried.
EXPECTED = ["self", "stages", "kwargs"]
EXPECTED_READING = ["fs", "path", "key_paths", "flatten", "load_kwargs"]
EXPECTED_LOADING = ["self", "target", "accept_group", "glob"]
EXPECTED_REPRODUCE = {"targets", "single_item", "on_error"}
SOURCES = (dvcfile.PROJECT_FILE, "params.yaml")
PLAIN_KEY = re.compile(r"[A-Za-z_][\w-]*(\.[A-Za-z_][\w-]*)*")  # others may be patterns
LOCK_POLL = 0.05  # seconds between two looks at a lock that another process holds; DVC's are 0.5


# --- dvc.lock


def replace_writing() -> None:
    """Put `by_stage` into DVC, if its own function is as expected."""
    lockfile = getattr(dvcfile, "Lockfile", None)
    own_way = getattr(lockfile, "dump_stages", None)
    if own_way is not None and list(inspect.signature(own_way).parameters) == EXPECTED:
        dvcfile.Lockfile.dump_stages = by_stage(own_way)


def by_stage(own_way: Callable[..., None]) -> Callable[..., None]:
    """A `dump_stages` that replaces the lines of those stages, or else goes DVC's own way."""

    def dump_stages(self: "dvcfile.Lockfile", stages: list, **kwargs: object) -> None:
        path = Path(self.path)
        try:
            entries = split_lock(path.read_text(encoding="utf-8"))
            made = {
                name: entry
                for stage in stages
                for name, entry in entries_of(serialize.to_lockfile(stage, **kwargs)).items()
            }
        except (OSError, ValueError):
            own_way(self, stages, **kwargs)
            return
        if any(entries.get(name) != entry for name, entry in made.items()):
            dvcfile.logger.info("Updating lock file '%s'", self.relpath)
            write_at_once(path, join_lock((entries | made).values()))
            self.repo.scm_context.track_file(self.relpath)

    return dump_stages


def entries_of(data: dict) -> dict[str, str]:
    """What DVC keeps of a stage -> its lines, as DVC would write them in a file of their own."""
    return split_lock(LOCK_HEAD + dumps_yaml({"stages": data}).removeprefix("stages:\n"))


# --- params.yaml


def replace_reading() -> None:
    """Put `KnownParams` into DVC, if its own function is as expected."""
    own_way = getattr(param, "read_param_file", None)
    if own_way is not None and list(inspect.signature(own_way).parameters) == EXPECTED_READING:
        param.read_param_file = KnownParams(own_way).read


class KnownParams:
    """A `read_param_file` that parses each version of a file once, or else goes DVC's own way."""

    def __init__(self, own_way: Callable[..., Any]) -> None:
        self.own_way = own_way
        self.known: dict[str, tuple[tuple[int, int] | None, Any]] = {}  # version, what is in it

    def read(
        self,
        fs: Any,
        path: str,
        key_paths: list[str] | None = None,
        flatten: bool = False,
        **load_kwargs: Any,
    ) -> Any:
        """The values of dotted keys in a file, without those that it lacks."""
        is_plain = bool(key_paths) and flatten and not load_kwargs and fs.protocol == "local"
        if not is_plain or not all(map(PLAIN_KEY.fullmatch, key_paths or [])):
            return self.own_way(fs, path, key_paths, flatten, **load_kwargs)
        version = version_of(Path(path))
        if version is None or self.known.get(path, (None,))[0] != version:
            self.known[path] = version, self.own_way(fs, path)
        try:
            return {key: value_of(self.known[path][1], key) for key in key_paths or []}
        except KeyError:
            return self.own_way(fs, path, key_paths, flatten)


def value_of(content: Any, key: str) -> Any:
    """A copy of the value of a dotted key. Raises KeyError where there is none."""
    for name in key.split("."):
        if not isinstance(content, dict):
            raise KeyError(key)
        content = content[name]
    return copy.deepcopy(content)


# --- one process for many commands


class Stages:
    """Stages of dvc.yaml, which is read once, and again when it or params.yaml has changed."""

    def __init__(self) -> None:
        self.repo = Repo(_wait_for_lock=True)
        self.versions: list[tuple[int, int] | None] = []
        self.loader: Any = {}  # stages by name
        self.repo.stage.from_target = self.from_target

    def from_target(self, target: str, accept_group: bool = True, glob: bool = False) -> list[Any]:
        """The stage of that name, in place of DVC's own function."""
        now = [version_of(Path(name)) for name in SOURCES]
        if now != self.versions:
            self.loader = dvcfile.load_file(self.repo, dvcfile.PROJECT_FILE).stages
            self.versions = now
        return [self.loader[target]]

    def reproduce(self, names: list[str]) -> int:
        """Do what `dvc repro --keep-going --single-item NAMES` does. Returns the exit code."""
        try:
            self.repo.reproduce(targets=names, single_item=True, on_error="keep-going")
        except DvcException:
            dvcfile.logger.exception("")
            return 255
        except Exception:  # of any other kind: DVC too tells it as this
            dvcfile.logger.exception("unexpected error")
            return 255
        return 0


def version_of(path: Path) -> tuple[int, int] | None:
    """What changes when the file does; None if there is none."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_mtime_ns, found.st_size


def stages_here() -> Stages | None:
    """The stages of this folder; None where DVC is not as expected, or has to say what is wrong."""
    loading = getattr(StageLoad, "from_target", None)
    with contextlib.suppress(DvcException, OSError):
        if (
            loading is not None
            and list(inspect.signature(loading).parameters) == EXPECTED_LOADING
            and EXPECTED_REPRODUCE <= set(inspect.signature(Repo.reproduce).parameters)
        ):
            return Stages()
    return None


def follow_orders() -> None:
    """Run one command after the other, until standard input ends."""
    orders = read_orders()
    if hasattr(dvc_lock, "DEFAULT_TIMEOUT"):
        dvc_lock.DEFAULT_TIMEOUT = 6 * LOCK_POLL  # DVC looks six times before it gives up, or waits
    stages: Stages | None = None
    while (received := orders.get()) is not None:
        environment, order = received
        os.environ.clear()
        os.environ.update(environment)
        if order[: len(REPRODUCE)] == REPRODUCE and (stages := stages or stages_here()):
            ui.enable()
            code = stages.reproduce(order[len(REPRODUCE) :])
        else:
            code = main(order)
        print(f"{ENDED}{code}", flush=True)
        orders.task_done()


def read_orders() -> "queue.Queue[tuple[dict[str, str], list[str]] | None]":
    """The orders, read by a thread. What DVC starts gets an empty standard input.

    If the input ends before an order is done, whoever gave it was killed: this process and all that
    it has started are killed too.
    """
    orders: queue.Queue[tuple[dict[str, str], list[str]] | None] = queue.Queue()
    source = os.fdopen(os.dup(0), encoding="utf-8")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)

    def read() -> None:
        for line in source:
            orders.put(json.loads(line))
        if orders.unfinished_tasks and os.getpgrp() == os.getpid():
            os.killpg(0, signal.SIGKILL)
        orders.put(None)

    threading.Thread(target=read, daemon=True).start()
    return orders


if __name__ == "__main__":
    replace_writing()
    replace_reading()
    if sys.argv[1:] == [ORDERS]:
        follow_orders()
    else:
        sys.exit(main(sys.argv[1:]))
