"""The models of a survey (Figure 2): lists of them, a seeded draw, and what one of them needs.

Trained models come from timm's pretrained ones, from a manifest, or from a folder of weight files.
A weight file whose architecture timm does not have is compared with fresh weights of its own names
and shapes (`momos.weights.initial`). Architectures that nobody trained are the control.
"""

import contextlib
import re
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from momos import config
from momos.config.running import repository
from momos.files.droppings import is_dropping
from momos.settings import UNPRINTABLE, advice
from momos.survey import manifest as manifest_table
from momos.survey import weights as weight_files
from momos.survey.network import find_network
from momos.survey.streaming import NamedTensors, measure_against
from momos.survey.wheels import Wheel, fetched
from momos.weights import blocks
from momos.weights.files import (
    ALL_SUFFIXES,
    entries,
    is_hub_folder,
    is_weight_file,
    open_weights,
    some_of,
    stem_of,
)

SOURCE, LOCAL, CONTROL = "timm", "local file", "untrained"
WEIGHTS_FOLDER = "weights"  # beside a manifest
BYTES = 4  # of a weight, as most files have it
# memory of a process beside the weights: its libraries and the compressors
PROCESS_BYTES = 600_000_000
Row = dict[str, str | int | float | None]


class RowSettings(NamedTuple):
    """What a row depends on beside the model."""

    init_seeds: tuple[int, ...]
    compressors: tuple[str, ...]
    seed: int  # of the shuffled control
    keep_weights: bool
    folder: Path  # where weights are downloaded to, unless they are kept


@dataclass(frozen=True)
class Candidate:
    """A model that can be surveyed. All fields together are the key of its finished row."""

    name: str  # of the row; no two candidates have the same
    arch: str  # timm's name, with the tag of its pretrained weights where it has one
    # where the trained weights come from: timm, local file, untrained, or what a manifest says
    source: str
    file: str | None = None  # None: timm's pretrained weights, or none; of a wheel the path in it
    stamp: tuple[int, int] | None = None  # the file's size and time
    num_parameters: int | None = None
    problem: str | None = None  # why it can't be measured, if that is known beforehand
    group: str = ""  # the family of a model that timm does not have
    init: str = "default"  # how fresh weights are made, as `momos.weights.initial.fresh` has it
    kinds: tuple[tuple[str, str], ...] = ()
    series: str = ""  # of which training this is a checkpoint
    step: int | None = None  # when in it
    task: str = ""  # what it was trained for
    trained_on: str = ""
    licence: str = ""
    notes: str = ""  # of the manifest: batch norm folded, tied, transposed ..
    wheel: Wheel | None = None  # in which the file lies

    @property
    def tag(self) -> str:
        """timm's word for how the model was trained: resnet50.a1_in1k -> a1_in1k."""
        return self.arch.partition(".")[2]

    @property
    def is_download(self) -> bool:
        """Whether the weights have to be fetched."""
        is_there = self.file is not None and self.wheel is None
        return not is_there and self.source != CONTROL and not self.problem

    def about(self) -> Row:
        """The columns that are known without measuring."""
        about: Row = {
            "name": self.name,
            "family": family(self.arch) or self.group,
            "tags": self.tag,
            "source": self.source,
        }
        extra: Row = {
            "series": self.series,
            "step": self.step,
            "task": self.task,
            "trained_on": self.trained_on,
            "licence": self.licence,
            "notes": self.notes,
        }
        return about | {name: value for name, value in extra.items() if value not in (None, "")}

    def measure_model(self, settings: RowSettings) -> Row:
        """The measures of `survey.streaming`, with the source of the weights and their hash.

        Raises ValueError, or what a download raises, where the model can't be measured.
        """
        if self.problem:
            raise ValueError(self.problem)
        if self.source == CONTROL:
            return self._measure_control(settings)
        with self._located(settings) as path:
            measures = self._measure_file(path, settings)
            return measures | {
                "weights": f"{self.arch} (hub)" if self.file is None else path.name,
                "sha256": weight_files.sha256(path),
            }

    def _measure_file(self, path: Path, settings: RowSettings) -> Row:
        """Against timm's architecture, or without one against fresh weights of the same layout."""
        about: Row = {"num_classes": None, "init": self.init}
        if self.arch:
            fitted = weight_files.fit(self.arch, path)
            weights: Callable[[], NamedTensors] = fitted.weights
            initial = _initial_weights(self.arch, settings.init_seeds, fitted.num_classes)
            about = {"num_classes": fitted.num_classes, "init": "timm"}
        else:
            stored = open_weights(path, name=path.name)
            network = find_network(stored, init=self.init, kinds=self.kinds)
            weights = network.weights
            initial = network.initialisations(settings.init_seeds)
            about |= network.left_out()
        measures = measure_against(
            weights, initial, compressors=settings.compressors, seed=settings.seed
        )
        return measures | about

    def _located(self, settings: RowSettings) -> AbstractContextManager[Path]:
        """The weight file, fetched if it is not a local one. Those of wheels stay in the folder."""
        if self.wheel is not None and self.file is not None:
            return contextlib.nullcontext(fetched(self.wheel, self.file, settings.folder))
        if self.file is not None:
            return contextlib.nullcontext(Path(self.file))
        folder = settings.folder / re.sub(r"[^\w.-]", "_", self.name)
        return weight_files.fetched(self.arch, folder, keep=settings.keep_weights)

    def _measure_control(self, settings: RowSettings) -> Row:
        """The row of another initialisation in the place of trained weights."""
        seed = max(settings.init_seeds) + 1
        (other,) = _initial_weights(self.arch, [seed], None)
        initial = _initial_weights(self.arch, settings.init_seeds, None)
        measures = measure_against(
            other, initial, compressors=settings.compressors, seed=settings.seed
        )
        about = {"num_classes": None, "init": "timm", "weights": f"seed {seed}", "sha256": None}
        return measures | about


def _initial_weights(
    arch: str, seeds: Sequence[int], num_classes: int | None
) -> Sequence[Callable[[], NamedTensors]]:
    """A function a seed, which builds the architecture and returns its fresh weights."""

    def builder(seed: int) -> Callable[[], NamedTensors]:
        return lambda: blocks.trainable(weight_files.build(arch, seed, num_classes)).items()

    return [builder(seed) for seed in seeds]


def family(arch: str) -> str:
    """timm's module of the architecture (resnet, vision_transformer ..); "" for an unknown one."""
    import timm

    bare = arch.partition(".")[0]
    if not timm.is_model(bare):
        return ""
    return timm.models.model_entrypoint(bare).__module__.rpartition(".")[2]


# --- lists


def chosen(settings: config.Survey) -> list[Candidate]:
    """The models of a survey: the control, then the draw. Raises ValueError as the lists do."""
    lists: dict[str, Callable[[Path], list[Candidate]]] = {
        "timm": lambda _: pretrained(),
        "folder": in_folder,
        "manifest": in_manifest,
        "none": lambda _: [],
    }
    drawn = draw(
        with_tasks(lists[settings.source](_place(settings.path or ".")), settings.tasks),
        settings.num_models,
        max_parameters=settings.max_parameters,
        seed=settings.seed,
    )
    return [*untrained(settings.untrained), *drawn]


def with_tasks(
    candidates: Sequence[Candidate], tasks: Mapping[str, Sequence[str]]
) -> list[Candidate]:
    """The candidates with their tasks. What a manifest says of one comes first.

    tasks: task -> names, of a series that of all its checkpoints. Raises ValueError for a name that
    no candidate has.
    """
    by_name = {name: task for task, names in tasks.items() for name in names}
    unknown = sorted(by_name.keys() - {one.series or one.name for one in candidates})
    if unknown:
        raise ValueError(
            f"survey.tasks must name networks of the survey's source, got {some_of(unknown)}"
        )
    return [
        replace(one, task=one.task or by_name.get(one.series or one.name, "")) for one in candidates
    ]


def _place(path: str) -> Path:
    """Where survey.path leads to. What lies beside the project does so for its workspaces too."""
    is_beside = Path(path).parts[:1] == ("..",)
    return repository() / path if is_beside else Path(path)


def untrained(archs: Sequence[str]) -> list[Candidate]:
    """The control. Raises ValueError for a name that timm does not know."""
    unknown = [arch for arch in archs if not family(arch)]
    if unknown:
        raise ValueError(f"survey.untrained must name timm architectures, got {', '.join(unknown)}")
    sizes = {arch: weight_files.num_parameters(arch) for arch in archs}
    return [
        Candidate(f"{arch} untrained", arch, CONTROL, num_parameters=sizes[arch]) for arch in archs
    ]


def pretrained() -> list[Candidate]:
    """Every model that timm has pretrained weights of, by name."""
    import timm

    return [Candidate(name, name, SOURCE) for name in sorted(timm.list_models(pretrained=True))]


def in_folder(folder: Path) -> list[Candidate]:
    """The weight files and Hugging Face folders below a folder, by name.

    A name that begins with one of timm's architectures says that the weights are of it. What is no
    weight file is counted and named on stderr. Raises ValueError if there is none, or if two have
    the same name.
    """
    files, skipped = _weight_files(folder) if folder.is_dir() else ([], [])
    if not files:
        endings = ", ".join(f"*{suffix}" for suffix in ALL_SUFFIXES)
        raise ValueError(
            f"survey.path: expected a folder with weight files ({endings}), found none in {folder}"
            f"{advice(folder)}"
        )
    if skipped:
        listed = some_of([str(path.relative_to(folder)) for path in skipped])
        print(f"{folder}: {len(skipped)} files are no weight files: {listed}", file=sys.stderr)
    names = _known_names()
    candidates = [_local(name, _longest(name, names), path, LOCAL) for name, path in files]
    return _distinct(candidates, folder)


def _weight_files(folder: Path) -> tuple[list[tuple[str, Path]], list[Path]]:
    """(name, path) of every weight file or folder of the hub, and what is neither.

    Droppings are neither, and are not worth a word.
    """
    found: list[tuple[str, Path]] = []
    skipped: list[Path] = []
    inside: list[Path] = []  # folders that are read as a whole
    for path in sorted(folder.rglob("*")):
        is_read = any(whole in path.parents for whole in inside)
        if is_read or is_dropping(path.relative_to(folder).as_posix()):
            continue
        if path.is_dir():
            if is_hub_folder(path):
                inside.append(path)
                found.append((_hub_name(path), path))
        elif is_weight_file(path):
            found.append((stem_of(path), path))
        elif not any(part.startswith(".") for part in path.relative_to(folder).parts):
            skipped.append(path)
    return _told_apart(found), skipped


def _hub_name(path: Path) -> str:
    """The model's name: of the cache's folder models--owner--name, else the folder's own."""
    if path.parent.name == "snapshots":
        return path.parent.parent.name.rpartition("--")[2]
    return path.name


def _told_apart(found: list[tuple[str, Path]]) -> list[tuple[str, Path]]:
    """Snapshots of one model get the beginning of their hashes."""
    names = [name for name, _ in found]
    return [
        (f"{name}@{path.name[:8]}", path)
        if names.count(name) > 1 and path.parent.name == "snapshots"
        else (name, path)
        for name, path in found
    ]


def in_manifest(manifest: Path) -> list[Candidate]:
    """The models of a CSV file with a column arch (timm's name) or file, and others.

    file: relative to the manifest, or to the folder weights beside it; empty for timm's own
    weights. name, source, family, task, trained_on, licence, notes: of the row. init, kinds: how
    fresh weights are made, the latter as JSON. parameters: number of weights. wheel, sha256_wheel:
    of a package registry, pinned as name==version; file is then the path inside it. Rows of one
    name are checkpoints of one training, in the order of the file's.
    Raises ValueError naming the manifest, and the line and column, for a missing file, another
    encoding or column, a row that is too short, and for a name that is there twice.
    """
    if not manifest.is_file():
        raise ValueError(
            f"survey.path: expected a manifest (CSV with a column arch or file), "
            f"found no file {manifest}{advice(manifest)}"
        )
    rows = manifest_table.read_rows(manifest)
    names = [
        manifest_table.text(row, "name") or stem_of(Path(manifest_table.text(row, "file")))
        for _, row in rows
    ]
    candidates: list[Candidate] = []
    for (line, row), name in zip(rows, names, strict=True):
        is_series = bool(manifest_table.text(row, "file")) and names.count(name) > 1
        steps = [one for one in names[: len(candidates) + 1] if one == name]
        candidates.append(_listed(row, manifest, line, len(steps) if is_series else None))
    return _distinct(candidates, manifest)


def _listed(row: dict[str, str], manifest: Path, line: int, place: int | None) -> Candidate:
    """The candidate of a row. place: among the checkpoints of a series, from 1."""
    arch, file, name = (
        manifest_table.text(row, "arch"),
        manifest_table.text(row, "file"),
        manifest_table.text(row, "name"),
    )
    source = manifest_table.text(row, "source")
    about = {"task": manifest_table.text(row, "task"), **manifest_table.shown_notes(row)}
    if not file:
        return _known(Candidate(name or arch, arch, source or SOURCE, **about))  # type: ignore[arg-type]
    path = manifest.parent / file
    if not path.exists() and (manifest.parent / WEIGHTS_FOLDER / file).exists():
        path = manifest.parent / WEIGHTS_FOLDER / file
    stem = stem_of(Path(file))
    series = name if place is not None else ""
    shown = f"{name}/{stem}" if series else name or stem
    wheel = manifest_table.wheel(row, manifest, line)
    if wheel is None:
        candidate = _local(shown, arch, path, source or LOCAL)
    else:
        candidate = Candidate(shown, arch, source or f"PyPI: {wheel.pin}", file, wheel=wheel)
        candidate = _known(candidate) if arch else candidate
    numbers = re.findall(r"\d+", stem)
    return replace(
        candidate,
        group=manifest_table.text(row, "family"),
        init=manifest_table.text(row, "init") or "default",
        kinds=manifest_table.kinds(row, manifest, line),
        num_parameters=manifest_table.number(row, "parameters", manifest, line),
        series=series,
        step=int(numbers[-1]) if series and numbers else place,
        **about,  # type: ignore[arg-type]
    )


def _local(name: str, arch: str, path: Path, source: str) -> Candidate:
    if not path.exists():
        return Candidate(name, arch, source, str(path), problem=f"no such file: {path.name}")
    about = path.stat()
    candidate = Candidate(name, arch, source, str(path), (about.st_size, about.st_mtime_ns))
    return _known(candidate) if arch else candidate


def _known(candidate: Candidate) -> Candidate:
    """The candidate, with a problem if timm does not know its architecture."""
    if family(candidate.arch):
        return candidate
    if candidate.arch:
        return replace(candidate, problem=f"timm has no architecture {candidate.arch!r}")
    return replace(candidate, problem="the row names neither an architecture of timm nor a file")


def _known_names() -> set[str]:
    """timm's names of architectures, with and without the tags of pretrained weights."""
    import timm

    return {*timm.list_models(), *timm.list_models(pretrained=True)}


def _longest(stem: str, names: set[str]) -> str:
    """The longest of the names with which the stem begins, up to a separator; "" without one."""
    ends = [len(stem), *(match.start() for match in re.finditer(r"[^A-Za-z0-9]", stem))]
    return next((stem[:end] for end in sorted(ends, reverse=True) if stem[:end] in names), "")


def _distinct(candidates: list[Candidate], where: Path) -> list[Candidate]:
    names = [candidate.name for candidate in candidates]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"{where}: names of models must differ, found twice: {', '.join(twice)}")
    odd = [name for name in names if UNPRINTABLE.search(name)]
    if odd:
        raise ValueError(f"{where}: names of models must be printable text, got {odd[0]!r}")
    return candidates


# --- the draw


def draw(
    candidates: Sequence[Candidate], num_models: int | None, *, max_parameters: int, seed: int
) -> list[Candidate]:
    """num_models of the candidates (None: all) in random order, each with its number of weights.

    Models of more than max_parameters weights are passed over. A model that can't be built is
    drawn too: its row says why.
    """
    order = np.random.default_rng(seed).permutation(len(candidates))
    drawn: list[Candidate] = []
    for place in order:
        if num_models is not None and len(drawn) >= num_models:
            break
        candidate = _sized(candidates[place])
        if (candidate.num_parameters or 0) <= max_parameters:
            drawn.append(candidate)
    return drawn


def _sized(candidate: Candidate) -> Candidate:
    """The candidate with its number of weights, or with the reason why it can't be built."""
    if candidate.problem or candidate.num_parameters is not None:
        return candidate
    if not candidate.arch:
        return replace(candidate, num_parameters=_num_stored(candidate))
    try:
        return replace(candidate, num_parameters=weight_files.num_parameters(candidate.arch))
    # An architecture of timm can ask for an optional package, for instance. Its row says so.
    except Exception as error:
        reason = f"{candidate.arch} can't be built: {type(error).__name__}: {error}"
        return replace(candidate, problem=reason)


def _num_stored(candidate: Candidate) -> int:
    """About how many numbers a file holds: only its size is looked at."""
    path = Path(candidate.file or "")
    files = [one for one in entries(path) if one.is_file()] if path.is_dir() else [path]
    return sum(one.stat().st_size for one in files) // BYTES


class Need(NamedTuple):
    """What a survey takes before it starts: numbers of weights, and bytes at 4 a weight."""

    num_weights: int
    download: int
    disk: int  # at a time
    memory: int  # at a time

    def __str__(self) -> str:
        return (
            f"{self.num_weights / 1e6:,.1f} M weights; "
            f"downloads of up to {self.download / 1e9:,.1f} GB, "
            f"up to {self.disk / 1e9:,.1f} GB of disk and "
            f"about {self.memory / 1e9:,.1f} GB of memory at a time"
        )


def need(candidates: Sequence[Candidate], *, keep_weights: bool, num_workers: int) -> Need:
    """An upper bound of what a survey takes: weights in a cache are counted as downloads."""
    sizes = [candidate.num_parameters or 0 for candidate in candidates]
    hub = [candidate.num_parameters or 0 for candidate in candidates if candidate.is_download]
    at_once = max(num_workers, 1)
    most = sum(sorted(hub, reverse=True)[: len(hub) if keep_weights else at_once])
    memory = 2 * BYTES * sum(sorted(sizes, reverse=True)[:at_once]) + at_once * PROCESS_BYTES
    return Need(sum(sizes), BYTES * sum(hub), BYTES * most, memory)


def require_disk(needed: Need, folder: Path) -> None:
    """Raises OSError where the disk behind `folder` has not the room that is needed at a time."""
    existing = next(
        path for path in [folder.absolute(), *folder.absolute().parents] if path.exists()
    )
    free = shutil.disk_usage(existing).free
    if free < needed.disk:
        gigabytes = f"{needed.disk / 1e9:.1f} GB of disk at a time, {free / 1e9:.1f} GB are free"
        raise OSError(f"{folder}: the survey needs {gigabytes}")
