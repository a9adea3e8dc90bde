"""Settings: one frozen dataclass per section of params.yaml, checked once, here, before any work
starts.

No setting has a default in code. A missing, unknown, ill-typed or out-of-range key is a ValueError
that names the key, the value and what was expected. Sections of entries by name (`models`,
`methods`, `language_models`) are read one entry at a time: `load(Method, "momos_s2_c10")`.
"""

import itertools
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import yaml

from momos.config.images import (
    Ablation,
    Augment,
    Data,
    Evaluate,
    Grid,
    Method,
    Model,
    Mosaic,
    Pack,
    Quantize,
    Report,
    Survey,
    Train,
)
from momos.config.language import (  # noqa: F401 (Sampling: what Llc and Complexity share)
    Complexity,
    Compressibility,
    Language,
    LanguageModel,
    Llc,
    Sampling,
    Slt,
    Text,
)
from momos.config.running import Sweep, Tracking
from momos.config.settings import Settings, require, suggestion

PARAMS = Path("params.yaml")
SECTIONS: tuple[type[Settings], ...] = (
    Data, Augment, Train, Mosaic, Quantize, Grid, Ablation, Evaluate, Pack, Survey, Report,
    Text, Language, Slt, Compressibility, Llc, Complexity, Sweep, Tracking,
)  # fmt: skip
ENTRIES: tuple[type[Settings], ...] = (Model, Method, LanguageModel)  # sections of entries by name


class Run(NamedTuple):
    """One training that params.yaml asks for."""

    model: str
    method: str
    seed: int
    grid: str  # main (Table 1) | ablation (Figure 4)
    settings: Method

    def folder(self, root: Path) -> Path:
        """Where dvc.yaml has it, below `root`."""
        return root / self.model / self.method / str(self.seed)


def cell_name(block_size: int, capacity: float) -> str:
    """The method name of an ablation run, as dvc.yaml writes it."""
    return f"s{block_size}_c{capacity}"


def cell(block_size: int, capacity: float) -> Method:
    return Method.from_mapping(
        {"bits": 32, "block_size": block_size, "capacity": capacity},
        f"ablation.{cell_name(block_size, capacity)}",
    )


def runs(model: str | None = None, *, path: Path | None = None) -> list[Run]:
    """All trainings that params.yaml asks for, of one model or of all: the grid's, then the
    ablation's.
    """
    grid, ablation = load(Grid, path=path), load(Ablation, path=path)
    methods = {name: load(Method, name, path=path) for name in grid.methods}
    found = [
        Run(*key, "main", methods[key[1]])
        for key in itertools.product(grid.models, grid.methods, grid.seeds)
    ]
    cells = itertools.product(
        ablation.models, ablation.block_sizes, ablation.capacities, ablation.seeds
    )
    found += [
        Run(name, cell_name(size, capacity), seed, "ablation", cell(size, capacity))
        for name, size, capacity, seed in cells
    ]
    return [run for run in found if model in (None, run.model)]


S = TypeVar("S", bound=Settings)


def read(path: Path | None = None) -> dict:
    """All of params.yaml as plain values. Raises ValueError for a file that is missing or is no
    YAML mapping.
    """
    path = path or PARAMS
    try:
        values = yaml.safe_load(path.read_text())
    except FileNotFoundError as error:
        raise ValueError(
            f"{path} is missing: run from the repository's root, after `make use PROFILE=digits`"
        ) from error
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path} must hold a mapping of sections, got {type(values).__name__}")
    return values


def load(kind: type[S], name: str | None = None, *, path: Path | None = None) -> S:
    """One section of params.yaml; of `models` and `methods`, the entry `name`.

    The whole file is checked each time: a mistake in any section is met by the first stage, before
    work is lost.
    """
    values = check(path)
    if name is None:
        return kind.from_mapping(values[kind.section], kind.section)
    entries = values[kind.section]
    if name not in entries:
        raise ValueError(
            f"{kind.section}: unknown entry {name!r}{suggestion(name, entries)}; expected one of {', '.join(entries)}"
        )
    return kind.from_mapping(entries[name], f"{kind.section}.{name}")


def check(path: Path | None = None) -> dict:
    """All of params.yaml, every section valid and every name in the grids known. Raises ValueError
    otherwise.
    """
    path = path or PARAMS
    values = read(path)
    known = {"profile", *(kind.section for kind in SECTIONS + ENTRIES)}
    for section in values:
        if section not in known:
            raise ValueError(
                f"{path}: unknown section {section}{suggestion(section, known)}; expected {', '.join(sorted(known))}"
            )
    for section in sorted(known):
        if section not in values:
            raise ValueError(f"{path}: section {section} is missing")
    loaded = {
        kind.section: kind.from_mapping(values[kind.section], kind.section) for kind in SECTIONS
    }
    for kind in ENTRIES:
        require(
            isinstance(values[kind.section], dict),
            kind.section,
            "a mapping of entries by name",
            values[kind.section],
        )
        for name, entry in values[kind.section].items():
            kind.from_mapping(entry, f"{kind.section}.{name}")
    _check_names(values, loaded)
    _check_stacks(loaded["train"], loaded["grid"])
    threads, cpus = loaded["train"].num_threads, loaded["sweep"].cpus
    require(cpus >= threads, "sweep.cpus", f"train.num_threads ({threads}) or more", cpus)
    return values


def _check_names(values: dict, loaded: dict[str, Any]) -> None:
    grid, ablation, report, complexity = (
        loaded[name] for name in ("grid", "ablation", "report", "complexity")
    )
    require(
        grid.models or report.imported,
        "grid.models",
        "given, unless report.imported names runs from elsewhere",
        [],
    )
    pictured = ([report.picture_model], [report.picture_method]) if grid.models else ([], [])
    for where, names, expected, known in (
        ("grid.models", grid.models, "an entry of models", values["models"]),
        ("grid.methods", grid.methods, "an entry of methods", values["methods"]),
        ("ablation.models", ablation.models, "in grid.models", grid.models),
        ("report.picture_model", pictured[0], "in grid.models", grid.models),
        ("report.picture_method", pictured[1], "in grid.methods", grid.methods),
        (
            "slt.models",
            loaded["slt"].models,
            "an entry of language_models",
            values["language_models"],
        ),
        ("slt.models", loaded["slt"].models, "in llc.lr", loaded["llc"].lr),
        ("complexity.methods", complexity.methods, "an entry of methods", values["methods"]),
    ):
        for name in names:
            message = f"{where} must be {expected} ({', '.join(known)}), got {name!r}{suggestion(name, known)}"
            if name not in known:
                raise ValueError(message)


def _check_stacks(train: Train, grid: Grid) -> None:
    """Seeds that are trained together are trained all: one that nobody asks for is a mistake."""
    for seed in grid.seeds:
        for other in train.together(seed):
            expected = f"whole groups of train.stacked_seeds ({train.stacked_seeds}), so {other} beside {seed}"
            require(other in grid.seeds, "grid.seeds", expected, list(grid.seeds))


def profile(path: Path | None = None) -> str:
    """The name under which this profile's data, runs and reports are kept."""
    value = check(path)["profile"]
    require(
        isinstance(value, str) and value.replace("_", "").replace("-", "").isalnum(),
        "profile",
        "a plain name",
        value,
    )
    return value
