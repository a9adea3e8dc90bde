"""Running a survey: a row per model, in the order given, whatever fails, is interrupted or runs
side by side.

A row is written to a scratch file as soon as it is there, and an interrupted survey goes on from
it. A model that can't be measured is a row with its reason.
"""

import hashlib
import json
import multiprocessing
import os
import sys
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from importlib import metadata
from multiprocessing import connection
from pathlib import Path
from typing import Any, NamedTuple

import torch
from tqdm import tqdm

from momos.complexity import bdm
from momos.compute.cost import Meter
from momos.survey import candidates as zoo
from momos.survey import streaming
from momos.survey import weights as zoo_weights
from momos.survey.candidates import Candidate, How
from momos.weights import blocks

ABOUT = ("name", "family", "source", "tags", "num_weights", "num_classes")
LAST = ("sparsity", "weights", "sha256", "error")
LIBRARIES = ("torch", "timm", "numpy", "pybdm")
CODE = (blocks, bdm, streaming, zoo, zoo_weights)  # what a row's numbers come from


class Record(NamedTuple):
    """A row, and what it cost (which differs from run to run)."""

    row: dict[str, Any]
    cost: dict[str, Any]


def columns(compressors: Sequence[str]) -> list[str]:
    """Of the table, in order."""
    bdm = [
        f"bdm_{n}d{suffix}"
        for n in (1, 2)
        for suffix in ("", "_initial", "_ratio", "_normalized", "_shuffled")
    ]
    return [*ABOUT, *bdm, *compressors, *(f"{name}_binary" for name in compressors), *LAST]


def measured(candidate: Candidate, how: How) -> Record:
    """The candidate's row, with its measures or with the reason why there are none (`error`)."""
    with Meter(torch.device("cpu")) as meter:
        try:
            row = {**candidate.measured(how), "error": None}
        except (
            Exception
        ) as error:  # whatever is wrong with one model is that model's row, and the survey goes on
            row = {"error": _reason(error)}
    cost = {"name": candidate.name, "num_weights": row.get("num_weights"), **meter.read()}
    return Record(candidate.about() | row, cost)


def _reason(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:300]}" if text else type(error).__name__


def run(
    candidates: Sequence[Candidate], how: How, scratch: "Scratch", *, num_workers: int
) -> list[Record]:
    """A record per candidate, in their order.

    num_workers: processes; 0: all in this one, which is killed itself where a model is too large
    for the memory. What the scratch file has is not measured again, failures apart; and those get a
    second try at the end.
    """
    with _progress(candidates) as bar:
        found = {
            candidate: record for candidate in candidates if (record := scratch.get(candidate))
        }
        bar.update(sum(_size(candidate) for candidate in found))
        for attempt in (1, 2):
            todo = [
                candidate
                for candidate in candidates
                if candidate not in found or (attempt == 2 and _may_pass(candidate, found))
            ]
            for candidate, record in _each(todo, how, num_workers):
                found[candidate] = scratch.add(candidate, record)
                bar.update(_size(candidate) if attempt == 1 else 0)
                if record.row["error"]:
                    bar.write(f"{candidate.name}: {record.row['error']}", file=sys.stderr)
    return [found[candidate] for candidate in candidates]


def _may_pass(candidate: Candidate, found: dict[Candidate, Record]) -> bool:
    """Some downloads fail for a while; all of them where there is no connection, and everything
    else fails again.
    """
    failed = [bool(record.row["error"]) for other, record in found.items() if other.is_download]
    return candidate.is_download and bool(found[candidate].row["error"]) and not all(failed)


def _size(candidate: Candidate) -> int:
    return candidate.num_parameters or 0


def _progress(candidates: Sequence[Candidate]) -> tqdm:
    """Counts weights, so that the time left is an estimate; where nobody watches, a line a minute."""
    every = 0.5 if sys.stderr.isatty() else 60
    return tqdm(
        total=sum(map(_size, candidates)),
        unit=" weights",
        unit_scale=True,
        desc="survey",
        mininterval=every,
    )


# --- the scratch file


def version(how: How) -> str:
    """A hash of what rows depend on beside the candidate: settings, this code and the libraries
    that build and measure.
    """
    code = {
        module.__name__: hashlib.sha256(Path(module.__file__).read_bytes()).hexdigest()
        for module in CODE
    }
    settings = {"init_seeds": how.init_seeds, "compressors": how.compressors, "seed": how.seed}
    return _hash([settings, code, {name: metadata.version(name) for name in LIBRARIES}])


class Scratch:
    """Finished rows as lines of JSON, each under a hash of its candidate and `version`: what
    belongs to another survey is not found.
    """

    def __init__(self, path: Path, version: str):
        self.path, self.version = path, version
        path.parent.mkdir(parents=True, exist_ok=True)
        self._lines = dict(_read_lines(path))
        if path.exists() and not path.read_bytes().endswith(b"\n"):
            path.write_bytes(
                path.read_bytes().rpartition(b"\n")[0] + b"\n"
            )  # a line that was cut off while it was written

    def get(self, candidate: Candidate) -> Record | None:
        """Its finished row; None for a failure, which is tried again."""
        record = self._lines.get(self._key(candidate))
        return record if record and not record.row["error"] else None

    def add(self, candidate: Candidate, record: Record) -> Record:
        """The record as it will be read back. It is on the disk when this returns."""
        line = json.dumps(
            {"key": self._key(candidate), "row": record.row, "cost": record.cost}, allow_nan=False
        )
        with self.path.open("a") as file:
            file.write(line + "\n")
            file.flush()
            os.fsync(file.fileno())
        return _record(json.loads(line))

    def remove(self) -> None:
        self.path.unlink(missing_ok=True)

    def _key(self, candidate: Candidate) -> str:
        return _hash([self.version, repr(candidate)])


def _read_lines(path: Path) -> Iterator[tuple[str, Record]]:
    for line in path.read_text(errors="replace").splitlines() if path.exists() else []:
        try:
            values = json.loads(line)
        except ValueError:  # cut off: its model is measured again
            continue
        yield values["key"], _record(values)


def _record(values: dict) -> Record:
    return Record(values["row"], values["cost"])


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


# --- processes


def _each(
    todo: Sequence[Candidate], how: How, num_workers: int
) -> Iterator[tuple[Candidate, Record]]:
    """As they are finished."""
    if not num_workers:
        return ((candidate, measured(candidate, how)) for candidate in todo)
    return _side_by_side(todo, how, min(num_workers, len(todo)))


class Worker:
    """A process of its own that measures one candidate after the other."""

    def __init__(self, how: How):
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, how), daemon=True)
        self.process.start()
        theirs.close()

    def start(self, candidate: Candidate) -> None:
        self.candidate, self.began = candidate, time.perf_counter()
        self.pipe.send(candidate)

    def finish(self) -> tuple[Record, bool]:
        """The record, and whether the process is still there."""
        try:
            return self.pipe.recv(), True
        except EOFError:
            self.process.join()
            reason = f"its process died (exit code {self.process.exitcode}; -9: killed, for lack of memory as a rule)"
            cost = {
                "name": self.candidate.name,
                "num_weights": None,
                "seconds": round(time.perf_counter() - self.began, 3),
            }
            return Record({**self.candidate.about(), "error": reason}, cost), False

    def stop(self) -> None:
        self.pipe.close()
        self.process.terminate()
        self.process.join()


def _serve(pipe: connection.Connection, how: How) -> None:
    torch.set_num_threads(1)
    try:
        while True:
            pipe.send(measured(pipe.recv(), how))
    except (EOFError, BrokenPipeError):  # the survey is over, or was killed
        return


def _side_by_side(
    todo: Iterable[Candidate], how: How, num_workers: int
) -> Iterator[tuple[Candidate, Record]]:
    waiting, busy = deque(todo), {}
    idle = [Worker(how) for _ in range(num_workers)]
    try:
        while waiting or busy:
            while waiting and idle:
                worker = idle.pop()
                worker.start(waiting.popleft())
                busy[worker.pipe] = worker
            for pipe in connection.wait(list(busy)):
                worker = busy.pop(pipe)
                record, lives = worker.finish()
                idle.append(worker if lives else Worker(how))
                yield worker.candidate, record
    finally:
        for worker in [*idle, *busy.values()]:
            worker.stop()
