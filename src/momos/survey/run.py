"""Running a survey: a row a model, in the order given, whatever fails or is interrupted.

A row is written to a scratch file as soon as it is there, and an interrupted survey goes on from
that file. A model that can't be measured is a row with the reason.
"""

import hashlib
import importlib.util
import json
import multiprocessing
import os
import sys
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from importlib import metadata
from multiprocessing import connection, context
from pathlib import Path
from typing import Any, NamedTuple

import torch
from tqdm import tqdm

from momos.compute.cost import Meter
from momos.survey.candidates import CONTROL, Candidate, RowSettings
from momos.survey.streaming import further_columns

ABOUT = ("name", "family", "source", "tags", "num_weights", "num_classes")
# what else is known of a model: from where the initial weights are, what of a file is no weight
LEFT_OUT = (
    "series", "step", "task", "trained_on", "licence", "notes",
    "init", "num_buffers", "num_tied", "num_beside",
)  # fmt: skip
LAST = ("sparsity", "weights", "sha256", "error")
LIBRARIES = ("torch", "timm", "numpy", "pybdm", "zstandard")
# The modules that a row's numbers come from, beside the compressors that the settings name.
CODE = (
    "momos.complexity.bdm",
    "momos.complexity.compressors",
    "momos.complexity.planes",
    "momos.survey.candidates",
    "momos.survey.controls",
    "momos.survey.manifest",
    "momos.survey.network",
    "momos.survey.streaming",
    "momos.survey.wheels",
    "momos.survey.weights",
    "momos.weights.blocks",
    "momos.weights.files",
    "momos.weights.initial.drawing",
    "momos.weights.initial.inits",
    "momos.weights.initial.layers",
    "momos.weights.onnx",
)
WIDTH = 300  # characters of a reason


class MeasuredModel(NamedTuple):
    """A row of the table, and what it cost (which differs from run to run)."""

    row: dict[str, Any]
    cost: dict[str, Any]


def table_columns(compressors: Sequence[str]) -> list[str]:
    """The columns of the table, in order."""
    bdm = [
        f"bdm_{n}d{suffix}"
        for n in (1, 2)
        for suffix in ("", "_initial", "_ratio", "_normalized", "_shuffled")
    ]
    signs = (f"{name}_binary" for name in compressors)
    return [*ABOUT, *bdm, *compressors, *signs, *further_columns(), *LEFT_OUT, *LAST]


def measure_candidate(candidate: Candidate, settings: RowSettings) -> MeasuredModel:
    """The candidate's row, with its measures or with the reason why there are none (`error`)."""
    with Meter(torch.device("cpu")) as meter:
        try:
            row = {**candidate.measure_model(settings), "error": None}
        # Whatever is wrong with one model is said in that model's row, and the survey goes on.
        except Exception as error:
            row = {"error": _reason(error)}
    cost = {"name": candidate.name, "num_weights": row.get("num_weights"), **meter.read()}
    return MeasuredModel(candidate.about() | row, cost)


def _reason(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:WIDTH]}" if text else type(error).__name__


def run_survey(
    candidates: Sequence[Candidate],
    settings: RowSettings,
    finished: "FinishedRows",
    *,
    num_workers: int,
) -> list[MeasuredModel]:
    """A row a candidate, in their order.

    finished: the rows of an interrupted run. They are not measured again, failures apart.
    num_workers: processes, one for each model that is measured at a time; 0 measures all in this
    process, which the system kills if a model is too large for the memory.
    Downloads that failed get a second try at the end, if others succeeded.
    """
    with _progress(candidates) as bar:
        kept = {one: model for one in candidates if (model := finished.get(one))}
        bar.update(sum(_size(candidate) for candidate in kept))
        for attempt in (1, 2):
            todo = [one for one in candidates if one not in kept]
            if attempt == 2:
                todo = [one for one in candidates if _may_succeed_now(one, kept)]
            for candidate, model in _measured_models(todo, settings, num_workers):
                kept[candidate] = finished.add(candidate, model)
                bar.update(_size(candidate) if attempt == 1 else 0)
                if model.row["error"]:
                    bar.write(f"{candidate.name}: {model.row['error']}", file=sys.stderr)
    return [kept[candidate] for candidate in candidates]


def _may_succeed_now(candidate: Candidate, models: Mapping[Candidate, MeasuredModel]) -> bool:
    """Whether a failed model is worth a second try.

    Some downloads fail for a while. Without a connection all of them fail, and again so; every
    other failure would repeat itself.
    """
    failed = [bool(model.row["error"]) for other, model in models.items() if other.is_download]
    return candidate.is_download and bool(models[candidate].row["error"]) and not all(failed)


def require_enough(rows: Sequence[Mapping[str, Any]], min_models: int) -> None:
    """Raises SystemExit, with every reason, if the control failed or too few models were measured.

    What was measured stays in the scratch file.
    """
    failed = [row for row in rows if row["error"]]
    reasons = "".join(f"\n  {row['name']}: {row['error']}" for row in failed)
    if any(row["source"] == CONTROL for row in failed):
        raise SystemExit(f"survey: the untrained control failed:{reasons}")
    num_measured = sum(not row["error"] and row["source"] != CONTROL for row in rows)
    if num_measured < min_models:
        raise SystemExit(
            f"survey: {num_measured} models were measured, "
            f"survey.min_models asks for {min_models}. "
            f"Run it again to try the rest once more.{reasons}"
        )


def _size(candidate: Candidate) -> int:
    return candidate.num_parameters or 0


def _progress(candidates: Sequence[Candidate]) -> tqdm:
    """A bar that counts weights, so that the time left is an estimate.

    Where nobody watches, a line a minute.
    """
    return tqdm(
        total=sum(map(_size, candidates)),
        unit=" weights",
        unit_scale=True,
        desc="survey",
        mininterval=0.5 if sys.stderr.isatty() else 60,
    )


# --- the scratch file


def rows_version(settings: RowSettings) -> str:
    """A hash of what rows depend on beside the candidate.

    These are the settings, the code, the compressors named in the settings, and the libraries that
    build and measure.
    """
    compressors = (f"momos.complexity.compressors.{name}" for name in settings.compressors)
    code = {name: _source_hash(name) for name in (*CODE, *compressors)}
    values = {
        "init_seeds": settings.init_seeds,
        "compressors": settings.compressors,
        "seed": settings.seed,
    }
    return _hash([values, code, {name: metadata.version(name) for name in LIBRARIES}])


def _source_hash(module: str) -> str:
    """A hash of a module's file. Raises ValueError for a module that is not there."""
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        raise ValueError(f"there is no module {module}")
    return hashlib.sha256(Path(spec.origin).read_bytes()).hexdigest()


class FinishedRows:
    """Rows as lines of JSON, each under a hash of its candidate and of `rows_version`.

    Rows of another survey in the same file are not found.
    """

    def __init__(self, path: Path, version: str):
        self.path, self.version = path, version
        path.parent.mkdir(parents=True, exist_ok=True)
        self._lines = dict(_read_lines(path))
        if path.exists() and not path.read_bytes().endswith(b"\n"):
            # the last line was cut off while it was written
            path.write_bytes(path.read_bytes().rpartition(b"\n")[0] + b"\n")

    def get(self, candidate: Candidate) -> MeasuredModel | None:
        """The candidate's finished row; None without one, and for a failure, which is repeated."""
        model = self._lines.get(self._key(candidate))
        return model if model and not model.row["error"] else None

    def add(self, candidate: Candidate, model: MeasuredModel) -> MeasuredModel:
        """Write a row, and return it as it will be read back. It is on the disk by then."""
        values = {"key": self._key(candidate), "row": model.row, "cost": model.cost}
        line = json.dumps(values, allow_nan=False)
        with self.path.open("a") as file:
            file.write(line + "\n")
            file.flush()
            os.fsync(file.fileno())
        return _from_json(json.loads(line))

    def remove(self) -> None:
        self.path.unlink(missing_ok=True)

    def _key(self, candidate: Candidate) -> str:
        return _hash([self.version, repr(candidate)])


def _read_lines(path: Path) -> Iterator[tuple[str, MeasuredModel]]:
    for line in path.read_text(errors="replace").splitlines() if path.exists() else []:
        try:
            values = json.loads(line)
        except ValueError:  # the line was cut off: its model is measured again
            continue
        yield values["key"], _from_json(values)


def _from_json(values: Mapping[str, Any]) -> MeasuredModel:
    return MeasuredModel(values["row"], values["cost"])


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


# --- processes


def _measured_models(
    todo: Sequence[Candidate], settings: RowSettings, num_workers: int
) -> Iterator[tuple[Candidate, MeasuredModel]]:
    """Each candidate and its row, as soon as it is measured."""
    if not num_workers:
        return ((candidate, measure_candidate(candidate, settings)) for candidate in todo)
    return _measured_side_by_side(todo, settings, min(num_workers, len(todo)))


class SurveyWorker:
    """A process of its own that measures one candidate after the other."""

    def __init__(self, settings: RowSettings):
        processes = _processes()
        self.pipe, theirs = processes.Pipe()
        self.process = processes.Process(target=_serve, args=(theirs, settings), daemon=True)
        self.process.start()
        theirs.close()

    def start(self, candidate: Candidate) -> None:
        """Hand over a candidate."""
        self.candidate, self.began = candidate, time.perf_counter()
        self.pipe.send(candidate)

    def finish(self) -> tuple[MeasuredModel, bool]:
        """The candidate's row, and whether the process is still there."""
        try:
            return self.pipe.recv(), True
        except EOFError:
            self.process.join()
            code = f"exit code {self.process.exitcode}; -9: killed, for lack of memory as a rule"
            cost = {
                "name": self.candidate.name,
                "num_weights": None,
                "seconds": round(time.perf_counter() - self.began, 3),
            }
            row = {**self.candidate.about(), "error": f"its process died ({code})"}
            return MeasuredModel(row, cost), False

    def stop(self) -> None:
        self.pipe.close()
        self.process.terminate()
        self.process.join()


def _processes() -> context.ForkServerContext | context.SpawnContext:
    """How workers start: as forks of one process that has imported what each of them needs.

    Where there can be no such process, they import it themselves.
    """
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    forks = multiprocessing.get_context("forkserver")
    forks.set_forkserver_preload([__name__, "timm", "scipy.special"])
    return forks


def _serve(pipe: connection.Connection, settings: RowSettings) -> None:
    """Measure what arrives, until the survey is over or was killed."""
    torch.set_num_threads(1)
    try:
        while True:
            pipe.send(measure_candidate(pipe.recv(), settings))
    except (EOFError, BrokenPipeError):
        return


def _measured_side_by_side(
    todo: Sequence[Candidate], settings: RowSettings, num_workers: int
) -> Iterator[tuple[Candidate, MeasuredModel]]:
    waiting = deque(todo)
    busy: dict[connection.Connection, SurveyWorker] = {}
    idle = [SurveyWorker(settings) for _ in range(num_workers)]
    try:
        while waiting or busy:
            while waiting and idle:
                worker = idle.pop()
                worker.start(waiting.popleft())
                busy[worker.pipe] = worker
            for pipe in connection.wait(list(busy)):
                worker = busy.pop(pipe)  # type: ignore[call-overload]  # it is one of busy's keys
                model, lives = worker.finish()
                idle.append(worker if lives else SurveyWorker(settings))
                yield worker.candidate, model
    finally:
        for worker in [*idle, *busy.values()]:
            worker.stop()
