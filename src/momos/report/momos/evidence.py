"""What the claims about MoMos are judged by: the measured frames, and selections from them.

A selection raises Missing where it does not hold all that it has to. A claim about all cells of the
paper needs the paper's twelve configurations for every model of the grid. A claim about every
model, or one that names models, needs those models in the grid. Accuracies are those of the last
weights, in percent. "MoMos" and "QAT" cells are those of the one method alone: both together is
beyond the paper.

Cells are means over seeds, and give the verdicts. Samples have a value per initialisation, and say
whether a verdict is decided (`momos.report.shared.decisions`): runs of one model and seed start
from the same weights, and are compared with each other.
"""

import dataclasses
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from momos.methods.method import percent
from momos.report.shared import results
from momos.report.shared.decisions import paired
from momos.report.shared.verdicts import Judgement, Missing

TABLE1_MODELS = ("mlp", "resnet20", "tiny_vit")
SETTINGS = ["family", "bits", "block_size", "capacity"]
RUN = ["model", "method", "seed"]


@dataclass(frozen=True)
class Evidence:
    """What was measured, what was published, and how the training went.

    evaluation, distortion, survey: frames of `results.Results`; published: `published.rac_check`.
    """

    evaluation: pd.DataFrame
    distortion: pd.DataFrame
    survey: pd.DataFrame
    published: pd.DataFrame
    source: str  # of the images
    epochs: int
    departures: tuple[str, ...] = ()  # settings that are not the paper's (`published.departures`)
    checkpoint: str = "last"  # last | best: the weights whose accuracy is judged
    partial: bool = False  # claims that name several models are judged on those that were run
    # Judgements of the second paper's claims by id, as the stage `slt_report` wrote them.
    singular: Mapping[str, Judgement] = field(default_factory=dict)
    # model and family that were found to have all of the paper's configurations: claims ask often
    _complete: set[tuple[str, str]] = field(default_factory=set, init=False, repr=False)

    @property
    def comparable(self) -> bool:
        """Whether absolute values compare with published ones: same data, recipe and budget."""
        return not self.departures

    @cached_property
    def best_weights(self) -> "Evidence":
        """The same, with the accuracy of the weights of the lowest validation loss."""
        return dataclasses.replace(self, checkpoint="best")

    @cached_property
    def remeasured(self) -> "Evidence | None":
        """The same, of the last weights with BatchNorm's statistics measured again.

        Models without such statistics keep theirs. None where no run has any (method A13).
        """
        rows = self.evaluation
        again = rows.get("test_accuracy_last_remeasured")
        if again is None or again.isna().all():
            return None
        accuracy = again.astype(float).fillna(rows.test_accuracy_last)
        return dataclasses.replace(self, evaluation=rows.assign(test_accuracy_last=accuracy))

    @cached_property
    def main_rows(self) -> pd.DataFrame:
        """The main grid's runs, weights as deployed."""
        rows = self.evaluation
        return rows[(rows.grid == "main") & (rows.weights == "deployed")]

    @cached_property
    def momos_rows(self) -> pd.DataFrame:
        """Those of them with motifs and full precision."""
        return self.main_rows[self.main_rows.family == "momos"]

    @cached_property
    def cells(self) -> pd.DataFrame:
        """The main grid's cells, means over seeds, both views."""
        return results.cells(self.evaluation)

    @cached_property
    def deployed(self) -> pd.DataFrame:
        """The cells of the weights as deployed."""
        return self.cells[self.cells.weights == "deployed"]

    @property
    def models(self) -> list[str]:
        """The models of the main grid, in its order."""
        return list(dict.fromkeys(self.deployed.model))

    @cached_property
    def paper_settings(self) -> pd.DataFrame:
        """family, bits, block_size, capacity of the paper's twelve configurations."""
        return self.published.rename(columns={"method": "family"})[SETTINGS].drop_duplicates()

    @cached_property
    def paper_only(self) -> "Evidence":
        """The evidence of the paper's own configurations alone.

        It lacks what the main grid has beyond the paper, and distortion along the ablation's runs.
        """
        known = [settings_key(row) for row in self.paper_settings.itertuples()]

        def paper(frame: pd.DataFrame) -> np.ndarray:
            return np.array([settings_key(row) in known for row in frame.itertuples()], dtype=bool)

        evaluation = self.evaluation[(self.evaluation.grid != "main") | paper(self.evaluation)]
        distortion = self.distortion[(self.distortion.grid == "main") & paper(self.distortion)]
        return dataclasses.replace(self, evaluation=evaluation, distortion=distortion)

    @cached_property
    def of_models_run(self) -> "Evidence":
        """The same, by which claims about several models are judged on those that were run."""
        return dataclasses.replace(self, partial=True)

    def require_models(self, models: Sequence[str]) -> list[str]:
        """Of the models that a claim names, those to judge it on.

        Raises Missing unless the grid has all of them or, if `partial`, some.
        """
        there = [model for model in models if model in self.models]
        missing = [model for model in models if model not in there]
        if missing and not (self.partial and there):
            raise Missing(f"Not in the grid: {', '.join(missing)}.")
        return there

    def every_model(self) -> list[str]:
        """The models of the grid. Raises Missing unless Table 1's are among them."""
        self.require_models(TABLE1_MODELS)
        return self.models

    def family_cells(self, model: str, family: str) -> pd.DataFrame:
        """A model's deployed cells of one family.

        Raises Missing unless the paper's configurations of that family are among them.
        """
        if (model, family) not in self._complete:
            self._require_paper_settings(model, family)
            self._complete.add((model, family))
        return self._of_family(model, family)

    def _require_paper_settings(self, model: str, family: str) -> None:
        cells = self._of_family(model, family)
        there = {settings_key(row) for row in cells.itertuples()}
        wanted = [
            settings_key(row) for row in self.paper_settings.itertuples() if row.family == family
        ]
        missing = [
            f"{bits} bits" if size is None else f"s={size} C={share} %"
            for _, bits, size, share in wanted
            if (family, bits, size, share) not in there
        ]
        if missing:
            raise Missing(f"Not in the grid: {family} of {model} at {', '.join(missing)}.")

    def baseline_accuracy(self, model: str) -> float:
        """The baseline's mean accuracy in percent."""
        return float(self.accuracies(self.family_cells(model, "baseline"))[0])

    def accuracies(self, cells: pd.DataFrame) -> np.ndarray:
        """Test accuracies of cells or runs in percent."""
        return 100 * measured_values(cells, f"test_accuracy_{self.checkpoint}")

    def accuracy_drop(self, model: str, family: str, **settings: float) -> float:
        """The baseline's mean minus that of the cell with these settings, in points."""
        cell = self._cell(model, family, settings)
        return rounded(self.baseline_accuracy(model) - self.accuracies(cell)[0])

    def accuracy_drops(self, model: str, family: str, **settings: float) -> dict[Hashable, float]:
        """The same by seed: each run against the baseline that started from the same weights."""
        cell = self._cell(model, family, settings)
        return self.drops_of(model, cell.method.iloc[0])

    def drops_of(self, model: str, method: str) -> dict[Hashable, float]:
        """The accuracy of the baseline minus that of a method, in points, by seed."""
        baseline = self.family_cells(model, "baseline").method.iloc[0]
        own, others = (self.accuracies_by_seed(model, name) for name in (baseline, method))
        return {seed: rounded(drop) for seed, drop in paired(own, others).items()}

    def accuracies_by_seed(self, model: str, method: str) -> dict[Hashable, float]:
        """The accuracy of each run in percent, by seed."""
        rows = self.main_rows
        mine = rows[(rows.model == model) & (rows.method == method)]
        return dict(zip(map(int, mine.seed), self.accuracies(mine), strict=True))

    def _cell(self, model: str, family: str, settings: Mapping[str, float]) -> pd.DataFrame:
        cells = self._of_family(model, family)
        for name, value in settings.items():
            cells = cells[np.isclose(cells[name], value)]
        if cells.empty:
            raise Missing(f"Not in the grid: {family} of {model} with {_listed(settings)}.")
        return cells

    def momos_epochs(self) -> pd.DataFrame:
        """Epochs of all MoMos runs in order, those of the ablation included.

        Raises Missing unless every model has the paper's configurations and its distortion.
        """
        for model in self.models:
            self.family_cells(model, "momos")
        rows = _without_repeats(self.distortion[self.distortion.family == "momos"])
        if not set(self.models) <= set(rows.model):
            raise Missing("Some model has no distortion measured.")
        return rows.sort_values("epoch", kind="stable")

    def _of_family(self, model: str, family: str) -> pd.DataFrame:
        cells = self.deployed
        return cells[(cells.model == model) & (cells.family == family)]


def _listed(settings: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value}" for name, value in settings.items())


def settings_key(row: Any) -> tuple[str, int, int | None, str | None]:
    """family, bits, block size and capacity of a row, so that equal settings are equal.

    NaN becomes None, and a capacity becomes text as it is printed.
    """
    return _key(row.family, row.bits, row.block_size, row.capacity)


def cell_key(model: str, family: str, row: Any) -> tuple:
    """The key of a model's cell, equal for equal settings, whatever its method is called.

    family: given beside the row, because published cells call that column `method`.
    """
    return model, *_key(family, row.bits, row.block_size, row.capacity)


def _key(
    family: str, bits: float, block_size: float, capacity: float
) -> tuple[str, int, int | None, str | None]:
    size = None if pd.isna(block_size) else int(block_size)
    return family, int(bits), size, None if pd.isna(capacity) else percent(capacity)


def _without_repeats(rows: pd.DataFrame) -> pd.DataFrame:
    """Leave out ablation runs with the settings and seed of a run of the main grid.

    They are the same training.
    """
    settings = map(settings_key, rows.itertuples())
    keys = list(zip(rows.model, settings, rows.num_motifs.fillna(-1), rows.seed, strict=True))
    main = {key for key, grid in zip(keys, rows.grid, strict=True) if grid == "main"}
    return rows[
        [grid == "main" or key not in main for key, grid in zip(keys, rows.grid, strict=True)]
    ]


def with_capacity(cells: pd.DataFrame) -> pd.DataFrame:
    """Leave out methods that state their number of motifs instead of a capacity."""
    return cells[cells.capacity.notna()]


def measured_values(cells: pd.DataFrame, column: str) -> np.ndarray:
    """A column as floats. Raises Missing unless all of it was measured."""
    if column not in cells:
        raise Missing(f"{column} was not measured.")
    values = cells[column].to_numpy(float)
    if np.isnan(values).any():
        num_missing = int(np.isnan(values).sum())
        raise Missing(f"{column} is missing for {num_missing} of {len(values)} rows.")
    return values


def by_initialization(
    rows: pd.DataFrame, statistic: Callable[[pd.DataFrame], Any]
) -> dict[Hashable, Any]:
    """A statistic of the runs that started from the same weights: (model, seed) -> value."""
    groups = rows.groupby(["model", "seed"], sort=False)
    return {key: statistic(part) for key, part in groups}


def rounded(points: float) -> float:
    """A difference of means of the same few counts, without the last digits of floating point."""
    return round(float(points), 9)


def count_text(met: Sequence[bool] | np.ndarray | pd.Series) -> str:
    """How many are true: 7 of 8."""
    values = np.asarray(met, dtype=bool)
    return f"{int(values.sum())} of {len(values)}"


def points_text(drops: Mapping[str, float]) -> str:
    """Accuracy drops for readers. drops: model -> points."""
    return "; ".join(f"{model} {drop:+.2f} points" for model, drop in drops.items())
