"""Settings: params.yaml as frozen dataclasses, one per section, checked before any work starts.

No setting has a default in code. A missing, unknown, ill-typed or out-of-range key is a ValueError
that names the key, the value and what was expected. Sections of entries by name (`models`,
`language_models`) are read one entry at a time, `load(Model, "mlp")`; so are `methods`, by
`load_method`.
"""

import copy
import functools
import itertools
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from momos.config.images import (
    Ablation,
    Augment,
    Data,
    Evaluate,
    Grid,
    Model,
    Mosaic,
    Pack,
    Quantize,
    Report,
    Survey,
    Train,
)
from momos.config.language import (
    CRITICAL,
    Complexity,
    Compressibility,
    Language,
    LanguageModel,
    Llc,
    Rivals,
    Sampling,
    Slt,
    Text,
)
from momos.config.names import check_names, check_profile
from momos.config.overlays import complete_text, parse_settings, profile_settings
from momos.config.running import Sweep, Tracking
from momos.methods.method import Method, parse
from momos.settings import Settings, require, suggestion

__all__ = [
    "CRITICAL", "Ablation", "Augment", "Complexity", "Compressibility", "Data", "Evaluate", "Grid",
    "Language", "LanguageModel", "Llc", "Method", "Model", "Mosaic", "Pack", "Quantize", "Report",
    "Rivals", "Run", "Sampling", "Settings", "Slt", "Survey", "Sweep", "Text", "Tracking",
    "Train", "cell", "cell_name", "check", "load", "load_method", "profile", "profile_settings",
    "read_params", "runs",
]  # fmt: skip

PARAMS = Path("params.yaml")
METHODS = "methods"
SECTIONS: tuple[type[Settings], ...] = (
    Data, Augment, Train, Mosaic, Quantize, Grid, Ablation, Evaluate, Pack, Survey, Report,
    Text, Language, Slt, Compressibility, Llc, Rivals, Complexity, Sweep, Tracking,
)  # fmt: skip
ENTRIES: tuple[type[Settings], ...] = (Model, LanguageModel)  # sections of entries by name


class Run(NamedTuple):
    """One training that params.yaml asks for."""

    model: str
    method: str  # its name in params.yaml, or that of a cell of the ablation
    seed: int
    grid: str  # main (Table 1) | ablation (Figure 4)
    settings: Method

    def folder(self, root: Path) -> Path:
        """Return where dvc.yaml has the run, below `root`."""
        return root / self.model / self.method / str(self.seed)


def cell_name(block_size: int, capacity: float) -> str:
    """Name an ablation run's method as dvc.yaml does."""
    return f"s{block_size}_c{capacity}"


def cell(block_size: int, capacity: float, *, path: Path | None = None) -> Method:
    """Return the method of an ablation run: MoMos in full precision."""
    return _cell(block_size, capacity, shared_settings(check(path)))


def _cell(block_size: int, capacity: float, shared: Mapping[str, Mapping[str, Any]]) -> Method:
    entry = {"bits": 32, "block_size": block_size, "capacity": capacity}
    return parse(entry, f"ablation.{cell_name(block_size, capacity)}", shared)


def runs(model: str | None = None, *, path: Path | None = None) -> list[Run]:
    """List all trainings that params.yaml asks for: the grid's, then the ablation's.

    model: those of this model alone; None: of all.
    """
    grid, ablation = load(Grid, path=path), load(Ablation, path=path)
    methods = {name: load_method(name, path=path) for name in grid.methods}
    listed = [
        Run(name, method, seed, "main", methods[method])
        for name in grid.models
        for method, seed in itertools.product(grid.methods, grid.seeds_of(name))
    ]
    shared = shared_settings(check(path))
    cells = itertools.product(
        ablation.models, ablation.block_sizes, ablation.capacities, ablation.seeds
    )
    listed += [
        Run(name, cell_name(size, share), seed, "ablation", _cell(size, share, shared))
        for name, size, share, seed in cells
    ]
    return [run for run in listed if model in (None, run.model)]


S = TypeVar("S", bound=Settings)


def read_params(path: Path | None = None) -> dict:
    """Return all of params.yaml as plain values.

    Raises ValueError for a file that is missing or is no YAML mapping.
    """
    path = path or PARAMS
    return parse_settings(_text(path), path)


def _text(path: Path) -> str:
    """The text of a file of settings, with its base's. Raises ValueError if it is missing."""
    try:
        return complete_text(path)
    except FileNotFoundError as error:
        raise ValueError(
            f"{path} is missing: run from the repository's root, after `make use PROFILE=digits`"
        ) from error


def load(kind: type[S], name: str | None = None, *, path: Path | None = None) -> S:
    """Return one section of params.yaml; of `models` and `language_models`, the entry `name`.

    The whole file is checked each time: a mistake in any section is met by the first stage, before
    work is lost. Raises ValueError naming key, value and what was expected.
    """
    values = check(path)
    if name is None:
        return kind.from_mapping(values[kind.section], kind.section)
    return kind.from_mapping(_entry(values, kind.section, name), f"{kind.section}.{name}")


def load_method(name: str, *, path: Path | None = None) -> Method:
    """Return the entry `name` of `methods`, with the settings that all methods share.

    Raises ValueError as `load` does.
    """
    values = check(path)
    return parse(_entry(values, METHODS, name), f"{METHODS}.{name}", shared_settings(values))


def shared_settings(values: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the sections that methods take settings from. values: as `check` gives them."""
    return {kind.section: values[kind.section] for kind in (Mosaic, Quantize)}


def check(path: Path | None = None) -> dict:
    """Return all of params.yaml, every section valid, every name plain and those in grids known.

    Raises ValueError naming key, value and what was expected.
    """
    path = path or PARAMS
    return copy.deepcopy(_checked(_text(path), path))


@functools.lru_cache(maxsize=8)
def _checked(text: str, path: Path) -> dict:
    """The values of a text, checked once: a stage loads several sections. Errors as in `check`."""
    values = parse_settings(text, path)
    _check_sections(values, path)
    if values["profile"] is not None:  # as in profiles/base.yaml, which is none by itself
        check_profile(values["profile"])
    _check_entry_names(values)
    loaded: dict[str, Any] = {
        kind.section: kind.from_mapping(values[kind.section], kind.section) for kind in SECTIONS
    }
    for kind in ENTRIES:
        for name, entry in values[kind.section].items():
            kind.from_mapping(entry, f"{kind.section}.{name}")
    for name, entry in values[METHODS].items():
        parse(entry, f"{METHODS}.{name}", shared_settings(values))
    _check_names(values, loaded)
    _check_cells(loaded["grid"], loaded["ablation"])
    _check_layers(values["language_models"], loaded["slt"])
    _check_stacks(loaded["train"], loaded["grid"])
    threads, cpus = loaded["train"].num_threads, loaded["sweep"].cpus
    require(cpus >= threads, "sweep.cpus", f"train.num_threads ({threads}) or more", cpus)
    return values


def profile(path: Path | None = None) -> str:
    """Return the name under which this profile's data, runs and reports are kept.

    Raises ValueError as `check` does.
    """
    return check_profile(check(path)["profile"])


def _entry(values: Mapping[str, Any], section: str, name: str) -> Any:
    entries = values[section]
    if name not in entries:
        meant = f"{suggestion(name, entries)}; expected one of {', '.join(entries)}"
        raise ValueError(f"{section}: unknown entry {name!r}{meant}")
    return entries[name]


def _check_sections(values: Mapping[str, Any], path: Path) -> None:
    """Raises ValueError for a section that is unknown or missing."""
    known = sorted({"profile", METHODS, *(kind.section for kind in SECTIONS + ENTRIES)})
    for section in values:
        if section not in known:
            close, expected = suggestion(section, known), f"expected {', '.join(known)}"
            raise ValueError(f"{path}: unknown section {section}{close}; {expected}")
    for section in known:
        if section not in values:
            raise ValueError(f"{path}: section {section} is missing")


def _check_entry_names(values: Mapping[str, Any]) -> None:
    """Raises ValueError for an entry that can't be called so, and for a list that names one."""
    for section in (*(kind.section for kind in ENTRIES), METHODS):
        entries = values[section]
        require(isinstance(entries, dict), section, "a mapping of entries by name", entries)
        check_names(entries, section)
    for section, key in (("grid", "models"), ("grid", METHODS), ("slt", "models")):
        listed = values[section].get(key) if isinstance(values[section], dict) else None
        texts = [name for name in listed if isinstance(name, str)] if listed else []
        check_names(dict.fromkeys(texts), f"{section}.{key}")


def _check_cells(grid: Grid, ablation: Ablation) -> None:
    """Raises ValueError for a method whose runs would share a folder with those of a cell."""
    cells = itertools.product(ablation.block_sizes, ablation.capacities)
    for name in (cell_name(size, share) for size, share in cells):
        free = not ablation.models or name not in grid.methods
        require(free, "grid.methods", f"without {name!r}, the name of a cell of the ablation", name)


def _check_names(values: Mapping[str, Any], loaded: Mapping[str, Any]) -> None:
    """Raises ValueError for a name that no other section has."""
    grid, ablation, report = (loaded[name] for name in ("grid", "ablation", "report"))
    slt, methods = loaded["slt"], loaded["complexity"].methods
    expected = "given, unless report.imported names runs from elsewhere"
    require(grid.models or report.imported, "grid.models", expected, [])
    pictured = ([report.picture_model], [report.picture_method]) if grid.models else ([], [])
    language_models = values["language_models"]
    _check_known("grid.models", grid.models, "an entry of models", values["models"])
    _check_known("grid.more_seeds_of", grid.more_seeds_of, "in grid.models", grid.models)
    _check_known("grid.methods", grid.methods, "an entry of methods", values[METHODS])
    _check_known("ablation.models", ablation.models, "in grid.models", grid.models)
    _check_known("report.picture_model", pictured[0], "in grid.models", grid.models)
    _check_known("report.picture_method", pictured[1], "in grid.methods", grid.methods)
    _check_known("slt.models", slt.models, "an entry of language_models", language_models)
    _check_known("slt.models", slt.models, "in llc.lr", loaded["llc"].lr)
    _check_known("complexity.methods", methods, "an entry of methods", values[METHODS])


def _check_known(where: str, names: Iterable[str], expected: str, known: Iterable[str]) -> None:
    known = list(known)
    for name in names:
        if name not in known:
            choices = f"{expected} ({', '.join(known)})"
            raise ValueError(f"{where} must be {choices}, got {name!r}{suggestion(name, known)}")


def _check_layers(models: Mapping[str, Mapping[str, Any]], slt: Slt) -> None:
    """Raises ValueError for a model that is too shallow for a scheme, before it is trained."""
    needed = 3 if "factorization" in slt.schemes else 1  # first and last are not factorised
    for name in slt.models:
        layers = (models[name].get("kwargs") or {}).get("num_hidden_layers", needed)
        enough = isinstance(layers, int) and layers >= needed
        expected = f"{needed} or more for slt.schemes {list(slt.schemes)}"
        require(enough, f"language_models.{name}.kwargs.num_hidden_layers", expected, layers)


def _check_stacks(train: Train, grid: Grid) -> None:
    """Raises ValueError for a seed that is trained together with one that nobody asks for."""
    groups = f"whole groups of train.stacked_seeds ({train.stacked_seeds})"
    for seeds in dict.fromkeys(map(grid.seeds_of, grid.models)):
        for seed in seeds:
            for other in train.together(seed):
                expected = f"{groups}, so {other} beside {seed}"
                require(other in seeds, "grid.seeds", expected, list(seeds))
