"""What the figures draw: curves over epochs and points, as frames."""

import pandas as pd

from momos.report.momos.study import Study
from momos.report.shared import published

CELL = ["model", "title", "block_size", "capacity"]  # of the ablation
MOST_LABELS = 8  # lines of a figure, before some methods stand for all


def curves(rows: pd.DataFrame, columns: list[str]) -> pd.DataFrame:
    """Average over seeds by epoch, up to the last epoch that every seed of a method reached.

    rows: a row per run and epoch. Returns the settings, epoch, the columns and num_seeds.
    """
    keys = ["model", "title", "method", "label", "family", "grid", "block_size", "capacity"]
    last = rows.groupby(["model", "method", "seed"]).epoch.transform("max")
    shared = last.groupby([rows.model, rows.method]).transform("min")
    groups = rows[rows.epoch <= shared].groupby([*keys, "epoch"], sort=False, dropna=False)
    means = groups[columns].mean().assign(num_seeds=groups.seed.nunique()).reset_index()
    return means.astype({"epoch": int})


def distortion_curves(study: Study) -> pd.DataFrame:
    """Relative distortion and validation loss of the main grid by epoch."""
    rows = study.results.distortion
    return curves(rows[rows.grid == "main"], ["relative_distortion", "val_loss"])


def distortion_at_ends(rows: pd.DataFrame) -> pd.DataFrame:
    """Each run's first, best and last epoch that has a relative distortion, of which cells are."""
    known = rows[rows.relative_distortion.notna()].sort_values("epoch", kind="stable")
    epochs = known.groupby(["model", "method", "seed", "grid"], sort=False).epoch
    first, last = epochs.transform("min"), epochs.transform("max")
    is_best = known.best.astype(str) == "True"
    kept = known[(known.epoch == first) | is_best | (known.epoch == last)]
    columns = ["model", "method", "seed", "grid", "epoch", "best", "relative_distortion"]
    return kept.sort_index()[columns]


def training_curves(study: Study) -> pd.DataFrame:
    """Validation loss, and validation accuracy in percent, by epoch.

    Where there are many methods, these stand for all: the baseline, QAT at the most and the fewest
    bits, and MoMos at the largest and the smallest capacity of each block size.
    """
    rows = curves(study.results.history, ["val_loss", "val_accuracy"])
    momos = extreme_capacities(rows[rows.family == "momos"])
    qat = list(dict.fromkeys(rows.label[rows.family == "qat"]))
    kept = {*momos.label, *rows.label[rows.family == "baseline"], *qat[:1], *qat[-1:]}
    chosen = rows if rows.label.nunique() <= MOST_LABELS else rows[rows.label.isin(kept)]
    return chosen.assign(val_accuracy=100 * chosen.val_accuracy)


def extreme_capacities(rows: pd.DataFrame) -> pd.DataFrame:
    """The methods of the largest and of the smallest capacity, of each block size.

    Methods that state their number of motifs are all kept.
    """
    sizes = rows.groupby("block_size").capacity
    edge = (
        rows.capacity.eq(sizes.transform("max"))
        | rows.capacity.eq(sizes.transform("min"))
        | rows.capacity.isna()
    )
    return rows[edge]


def capacity_points(evaluation: pd.DataFrame) -> pd.DataFrame:
    """Figure 4: the ablation's validation accuracy, means over its seeds.

    Accuracy is that of the last weights in percent, by model, title, block_size and capacity.
    """
    groups = evaluation[evaluation.grid == "ablation"].groupby(CELL, sort=False)
    return groups.val_accuracy_last.mean().mul(100).rename("accuracy").reset_index()


def ablation_seeds(evaluation: pd.DataFrame, model: str) -> list[int]:
    """The seeds of a model's ablation in order."""
    return sorted(
        set(evaluation.seed[(evaluation.grid == "ablation") & (evaluation.model == model)])
    )


def baseline_level(evaluation: pd.DataFrame, model: str) -> float | None:
    """The main grid's baseline on the ablation's seeds, in percent; None without such runs."""
    rows = evaluation[
        (evaluation.family == "baseline")
        & (evaluation.model == model)
        & evaluation.seed.isin(ablation_seeds(evaluation, model))
        & (evaluation.weights == "deployed")
    ]
    return 100 * float(rows.val_accuracy_last.mean()) if len(rows) else None


def measured_points(study: Study) -> pd.DataFrame:
    """Accuracy (percent) against RAC of every cell; `series` is the group of its method."""
    deployed = study.cells[study.cells.weights == "deployed"]
    return deployed.assign(
        accuracy=100 * deployed.test_accuracy_last,
        accuracy_std=100 * deployed.test_accuracy_last_std,
        series=[study.results.methods[name].group for name in deployed.method],
    )


def published_points(study: Study) -> pd.DataFrame:
    """The same of the published cells, for the models that were trained here."""
    rows = study.check[study.check.title.isin(study.results.evaluation.title)]
    groups = [published.method_of(row).group for row in rows.itertuples()]
    return rows.assign(accuracy=rows.accuracy_mean, series=groups)
