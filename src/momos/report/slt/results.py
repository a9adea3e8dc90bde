"""What the stages of the singular-MDL study wrote, read back for its report.

A run is one model and seed.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

import numpy as np
import pandas as pd

from momos import config

RUN = ["model", "seed"]
RunKey: TypeAlias = tuple[str, int]


@dataclass(frozen=True)
class SltResults:
    """Every table of the study, for the runs and schemes that params.yaml lists."""

    llc: pd.DataFrame  # a row per run and step: the LLC, and its rivals where they were measured
    critical: pd.DataFrame  # a row per run, step, scheme and eps
    curve: pd.DataFrame  # a row per run, step, scheme and strength
    history: pd.DataFrame  # a row per run and step of its training; empty without any training
    settings: config.Slt
    sweep: pd.DataFrame = field(default_factory=pd.DataFrame)  # a row per swept step and setting
    plateau: pd.DataFrame = field(default_factory=pd.DataFrame)  # a row per swept step

    @property
    def runs(self) -> list[RunKey]:
        """The runs, each once, in the order of params.yaml."""
        if not len(self.llc):
            return []
        return list(self.llc[RUN].drop_duplicates().itertuples(index=False, name=None))

    def in_range(self, frame: pd.DataFrame) -> pd.DataFrame:
        """The rows from slt.fit_steps[0] to slt.fit_steps[1], both included."""
        first, last = self.settings.fit_steps
        return frame[frame.step.between(first, last)]

    def points(self, scheme: str, eps: float | None = None) -> pd.DataFrame:
        """Critical values beside the LLC: a row per run and step of the whole training.

        eps: slt.main_eps where it is left out. The columns are step, value (NaN where there is no
        critical point), status, and all of `llc`; for quantisation also log2, the value in bits.
        """
        rows = self.critical
        chosen = rows[(rows.scheme == scheme) & (rows.eps == (eps or self.settings.main_eps))]
        chosen = chosen.assign(value=chosen.value.astype(float).where(chosen.status == "found"))
        joined = chosen.merge(
            self.llc, on=[*RUN, "step"], suffixes=("", "_llc"), validate="one_to_one"
        )
        if scheme.startswith("quantization"):
            return joined.assign(log2=np.log2(joined.value))
        return joined

    def values(self, scheme: str, name: str) -> pd.DataFrame:
        """Critical values at slt.main_eps in a column of this name, beside RUN and step."""
        return self.points(scheme)[[*RUN, "step", "value"]].rename(columns={"value": name})


def read_results(folder: Path, settings: config.Slt) -> SltResults:
    """Read exactly the runs and schemes of params.yaml. folder: slt/<profile>.

    Raises ValueError naming a missing file.
    """
    runs = [(model, seed) for model in settings.models for seed in settings.seeds]
    llc = _joined(_llc(folder, run) for run in runs)
    if runs:
        rivals = _joined(_rivals(folder, model) for model in settings.models)
        llc = llc.merge(rivals, on=[*RUN, "step"], how="left", validate="one_to_one")
    return SltResults(
        llc=llc,
        critical=_joined(
            _of_scheme(folder, run, scheme, "critical")
            for run in runs
            for scheme in settings.schemes
        ),
        curve=_joined(
            _of_scheme(folder, run, scheme, "curve") for run in runs for scheme in settings.schemes
        ),
        history=_joined(
            _history(folder, run) for run in runs if _history_path(folder, run).is_file()
        ),
        settings=settings,
        sweep=_swept(folder, runs, "sweep"),
        plateau=_swept(folder, runs, "plateau"),
    )


def read_complexity(folder: Path, models: Sequence[str]) -> pd.DataFrame:
    """Read the measures of image classifiers, a row each. Raises ValueError for a missing file."""
    return _joined(_table(folder / f"{model}.csv", {}) for model in models)


def _llc(folder: Path, run: RunKey) -> pd.DataFrame:
    return _table(folder / "measures" / _place(run) / "llc" / "llc.csv", _key(run))


def _swept(folder: Path, runs: Sequence[RunKey], name: str) -> pd.DataFrame:
    """A table of stage `llc` that only the swept runs have."""
    paths = {run: folder / "measures" / _place(run) / "llc" / f"{name}.csv" for run in runs}
    return _joined(_table(path, _key(run)) for run, path in paths.items() if path.is_file())


def _rivals(folder: Path, model: str) -> pd.DataFrame:
    return _table(folder / "rivals" / f"{model}.csv", {"model": model})


def _of_scheme(folder: Path, run: RunKey, scheme: str, name: str) -> pd.DataFrame:
    path = folder / "measures" / _place(run) / scheme / f"{name}.csv"
    return _table(path, _key(run) | {"scheme": scheme})


def _history(folder: Path, run: RunKey) -> pd.DataFrame:
    return _table(_history_path(folder, run), _key(run))


def _history_path(folder: Path, run: RunKey) -> Path:
    """Where a training's history is; a model that was trained elsewhere (Pythia) has none."""
    return folder / "checkpoints" / _place(run) / "history.csv"


def _place(run: RunKey) -> Path:
    return Path(run[0]) / str(run[1])


def _key(run: RunKey) -> dict[str, str | int]:
    return dict(zip(RUN, run, strict=True))


def _joined(frames: Iterable[pd.DataFrame]) -> pd.DataFrame:
    return pd.concat(list(frames) or [pd.DataFrame()], ignore_index=True)


def _table(path: Path, key: Mapping[str, str | int]) -> pd.DataFrame:
    """A table with the key's columns in front. Raises ValueError if it is missing."""
    if not path.is_file():
        raise ValueError(
            f"{path} is missing: expected a table written by an earlier stage (run `dvc repro`)"
        )
    frame = pd.read_csv(path)
    for place, (name, value) in enumerate(key.items()):
        frame.insert(place, name, value)
    return frame
