"""The models of a survey (Figure 2): which there are, a seeded draw of them, and each one's weights
before and after training.

From timm's pretrained models, from a manifest, or from a folder of weight files; and architectures
that nobody trained, the control.
"""

import contextlib
import csv
import re
import shutil
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from momos.survey import streaming
from momos.survey import weights as zoo_weights
from momos.weights import blocks

SOURCE, LOCAL, CONTROL = "timm", "local file", "untrained"
MANIFEST_COLUMNS = ("arch", "file", "name", "source")
BYTES = 4  # of a weight, as most files have it
PROCESS_BYTES = (
    600_000_000  # memory of a process, its libraries and the compressors, beside the weights
)


class How(NamedTuple):
    """What a row depends on beside the model."""

    init_seeds: tuple[int, ...]
    compressors: tuple[str, ...]
    seed: int  # of the shuffled control
    keep_weights: bool
    folder: Path  # where weights are downloaded to, unless they are kept


@dataclass(frozen=True)
class Candidate:
    """A model that can be surveyed. A row, and what is kept of it after an interruption, belongs to
    all of these.
    """

    name: str  # of the row; no two have the same
    arch: str  # timm's name, with the tag of its pretrained weights where it has one
    # where the trained weights come from: timm, local file, untrained, or what a manifest says
    source: str
    file: str | None = None  # None: timm's pretrained weights, or none
    stamp: tuple[int, int] | None = None  # the file's size and time
    num_parameters: int | None = None
    problem: str | None = None  # why it can't be measured, known beforehand

    @property
    def tag(self) -> str:
        """timm's word for how it was trained: resnet50.a1_in1k -> a1_in1k."""
        return self.arch.partition(".")[2]

    @property
    def is_download(self) -> bool:
        return self.file is None and self.source != CONTROL and not self.problem

    def about(self) -> dict[str, str]:
        return {
            "name": self.name,
            "family": family(self.arch),
            "tags": self.tag,
            "source": self.source,
        }

    def measured(self, how: How) -> dict[str, str | int | float | None]:
        """The measures of `complexity.streaming`, where the weights come from and their hash.
        Raises what keeps it from being measured.
        """
        if self.problem:
            raise ValueError(self.problem)
        if self.source == CONTROL:
            return self._control(how)
        with self._located(how) as path:
            fitted = zoo_weights.fit(self.arch, path)
            initial = _initial(self.arch, how.init_seeds, fitted.num_classes)
            found = streaming.measure_streamed(
                fitted.weights, initial, compressors=how.compressors, seed=how.seed
            )
            where = f"{self.arch} (hub)" if self.file is None else path.name
            return found | {
                "num_classes": fitted.num_classes,
                "weights": where,
                "sha256": zoo_weights.sha256(path),
            }

    def _located(self, how: How) -> AbstractContextManager[Path]:
        if self.file is not None:
            return contextlib.nullcontext(Path(self.file))
        folder = how.folder / re.sub(r"[^\w.-]", "_", self.name)
        return zoo_weights.fetched(self.arch, folder, keep=how.keep_weights)

    def _control(self, how: How) -> dict[str, str | int | float | None]:
        """Another initialisation in the place of trained weights."""
        seed = max(how.init_seeds) + 1
        (other,) = _initial(self.arch, [seed], None)
        found = streaming.measure_streamed(
            other,
            _initial(self.arch, how.init_seeds, None),
            compressors=how.compressors,
            seed=how.seed,
        )
        return found | {"num_classes": None, "weights": f"seed {seed}", "sha256": None}


def _initial(
    arch: str, seeds: Sequence[int], num_classes: int | None
) -> list[Callable[[], streaming.NamedTensors]]:
    def weights(seed: int) -> Callable[[], streaming.NamedTensors]:
        return lambda: blocks.trainable(zoo_weights.build(arch, seed, num_classes)).items()

    return [weights(seed) for seed in seeds]


def family(arch: str) -> str:
    """timm's module of the architecture (resnet, vision_transformer ..); empty for an unknown one."""
    import timm

    bare = arch.partition(".")[0]
    return (
        timm.models.model_entrypoint(bare).__module__.rpartition(".")[2]
        if timm.is_model(bare)
        else ""
    )


# --- lists


def untrained(archs: Sequence[str]) -> list[Candidate]:
    """The control. Raises ValueError for a name that timm does not know."""
    unknown = [arch for arch in archs if not family(arch)]
    if unknown:
        raise ValueError(f"survey.untrained must name timm architectures, got {', '.join(unknown)}")
    return [
        Candidate(
            f"{arch} untrained", arch, CONTROL, num_parameters=zoo_weights.num_parameters(arch)
        )
        for arch in archs
    ]


def pretrained() -> list[Candidate]:
    """Every model that timm has pretrained weights of, by name."""
    import timm

    return [Candidate(name, name, SOURCE) for name in sorted(timm.list_models(pretrained=True))]


def in_folder(folder: Path) -> list[Candidate]:
    """Weight files below it, `<timm name>*.safetensors|pth|pt|bin`, by name. Raises ValueError if
    there is none, or two of a name.
    """
    files = (
        sorted(path for path in folder.rglob("*") if path.suffix in zoo_weights.SUFFIXES)
        if folder.is_dir()
        else []
    )
    if not files:
        raise ValueError(
            f"survey.path: expected a folder with weight files (*{', *'.join(zoo_weights.SUFFIXES)}), found none in {folder}"
        )
    names = _architectures()
    return _distinct(
        [_local(path.stem, _longest(path.stem, names), path, LOCAL) for path in files], folder
    )


def in_manifest(manifest: Path) -> list[Candidate]:
    """A CSV with a column arch (timm's name); file (relative to the manifest; empty: timm's own
    weights), name and source may be there.

    Raises ValueError for a missing file, another column and a name that is there twice.
    """
    if not manifest.is_file():
        raise ValueError(
            f"survey.path: expected a manifest (CSV with a column arch), found no file {manifest}"
        )
    with manifest.open(newline="") as file:
        reader = csv.DictReader(file, strict=True)
        columns = reader.fieldnames or []
        rows = list(reader)
    if "arch" not in columns or not set(columns) <= set(MANIFEST_COLUMNS):
        raise ValueError(
            f"{manifest} must have the columns arch and at most {', '.join(MANIFEST_COLUMNS[1:])}, got {', '.join(columns)}"
        )
    return _distinct([_listed(row, manifest.parent) for row in rows], manifest)


def _listed(row: dict[str, str], folder: Path) -> Candidate:
    arch, file = row["arch"].strip(), (row.get("file") or "").strip()
    if not file:
        return _known(Candidate(row.get("name") or arch, arch, row.get("source") or SOURCE))
    return _local(
        row.get("name") or Path(file).stem, arch, folder / file, row.get("source") or LOCAL
    )


def _local(name: str, arch: str, path: Path, source: str) -> Candidate:
    if not path.is_file():
        return Candidate(name, arch, source, str(path), problem=f"no such file: {path.name}")
    about = path.stat()
    return _known(Candidate(name, arch, source, str(path), (about.st_size, about.st_mtime_ns)))


def _known(candidate: Candidate) -> Candidate:
    known = bool(family(candidate.arch))
    named = (
        f"timm has no architecture {candidate.arch!r}"
        if candidate.arch
        else "the file's name begins with no timm architecture"
    )
    return candidate if known else replace(candidate, problem=named)


def _architectures() -> set[str]:
    import timm

    return {*timm.list_models(), *timm.list_models(pretrained=True)}


def _longest(stem: str, names: set[str]) -> str:
    """The longest known name that the file's begins with, up to a separator; empty where there is
    none.
    """
    ends = [len(stem), *(match.start() for match in re.finditer(r"[^A-Za-z0-9]", stem))]
    return next((stem[:end] for end in sorted(ends, reverse=True) if stem[:end] in names), "")


def _distinct(candidates: list[Candidate], where: Path) -> list[Candidate]:
    names = [candidate.name for candidate in candidates]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"{where}: names of models must differ, found twice: {', '.join(twice)}")
    return candidates


# --- the draw


def draw(
    candidates: Sequence[Candidate], num_models: int | None, *, max_parameters: int, seed: int
) -> list[Candidate]:
    """num_models of the candidates (None: all) in random order, larger ones passed over; each with
    its number of parameters.

    What can't be built is drawn too: its row says why.
    """
    order = np.random.default_rng(seed).permutation(len(candidates))
    chosen: list[Candidate] = []
    for place in order:
        if num_models is not None and len(chosen) >= num_models:
            break
        candidate = _sized(candidates[place])
        if (candidate.num_parameters or 0) <= max_parameters:
            chosen.append(candidate)
    return chosen


def _sized(candidate: Candidate) -> Candidate:
    if candidate.problem:
        return candidate
    try:
        return replace(candidate, num_parameters=zoo_weights.num_parameters(candidate.arch))
    except (
        Exception
    ) as error:  # timm's architectures ask for optional packages, for instance; the row says so
        return replace(
            candidate, problem=f"{candidate.arch} can't be built: {type(error).__name__}: {error}"
        )


class Need(NamedTuple):
    """What a survey takes before it starts: numbers of weights, and bytes at 4 a weight."""

    num_weights: int
    download: int
    disk: int  # at a time
    memory: int  # at a time

    def __str__(self) -> str:
        return (
            f"{self.num_weights / 1e6:,.1f} M weights; downloads of up to {self.download / 1e9:,.1f} GB, "
            f"up to {self.disk / 1e9:,.1f} GB of disk and about {self.memory / 1e9:,.1f} GB of memory at a time"
        )


def need(candidates: Sequence[Candidate], *, keep_weights: bool, num_workers: int) -> Need:
    """An upper bound: weights that are in a cache already are counted."""
    sizes = [candidate.num_parameters or 0 for candidate in candidates]
    hub = [candidate.num_parameters or 0 for candidate in candidates if candidate.is_download]
    at_once = max(num_workers, 1)
    most = sum(sorted(hub, reverse=True)[: len(hub) if keep_weights else at_once])
    memory = 2 * BYTES * sum(sorted(sizes, reverse=True)[:at_once]) + at_once * PROCESS_BYTES
    return Need(sum(sizes), BYTES * sum(hub), BYTES * most, memory)


def require_disk(needed: Need, folder: Path) -> None:
    """Raises OSError where the disk behind `folder` has not room for what is needed at a time."""
    existing = next(
        path for path in [folder.absolute(), *folder.absolute().parents] if path.exists()
    )
    free = shutil.disk_usage(existing).free
    if free < needed.disk:
        raise OSError(
            f"{folder}: the survey needs {needed.disk / 1e9:.1f} GB of disk at a time, {free / 1e9:.1f} GB are free"
        )
