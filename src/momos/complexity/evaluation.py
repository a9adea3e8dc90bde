"""Accuracy, description length and complexity of one run of the study, as rows of a table."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from momos import config, models
from momos.complexity import code_length, measure
from momos.files import run_folder
from momos.images.dataset import Dataset
from momos.images.inputs import Batches
from momos.methods.method import Method
from momos.models.evaluate import test_accuracy
from momos.weights import blocks

ABOUT = (
    "model", "method", "seed", "grid", "bits", "block_size", "capacity", "num_motifs", "num_blocks",
    "num_weights",
)  # fmt: skip
Row = dict[str, Any]


def evaluate_run(
    folder: Path,
    method: Method,
    dataset: Dataset,
    batches: Batches,
    settings: config.Evaluate,
    block_sizes: Sequence[int],
) -> list[Row]:
    """Return a row for the weights as deployed and, where they differ, one for the latent weights.

    folder: the run's. batches: the run's inputs. block_sizes: at which distinct blocks are counted,
    beside the run's own. Raises ValueError naming a file that is missing or damaged.
    """
    about = run_folder.load_run(folder)
    common = {key: about[key] for key in ABOUT} | _epochs(folder, about)
    common |= code_length.describe_stored(about["num_weights"], method.stored(about))
    latent = {
        which: models.restore(about, run_folder.load_weights(folder, which))
        for which in run_folder.WEIGHTS
    }
    views = {
        "deployed": {
            which: method.deployed(model, arch=about["arch"]) for which, model in latent.items()
        }
    }
    if method.changes_forward:
        views["latent"] = latent
    rows = []
    for name, view in views.items():
        accuracies = {
            f"test_accuracy_{which}": test_accuracy(view[which], dataset, batches)
            for which in ("best", "last")
        }
        model, initial = view[settings.checkpoint], latent["initial"]
        measured = _complexity(model, initial, about, settings, block_sizes)
        rows.append(common | {"weights": name} | accuracies | measured)
    return rows


def _epochs(folder: Path, about: Mapping[str, Any]) -> Row:
    """Number of epochs, the best one, and validation accuracy at the best and the last."""
    history = run_folder.load_history(folder)
    best, last = history[about["best_epoch"] - 1], history[-1]
    return {
        "num_epochs": about["num_epochs"],
        "best_epoch": about["best_epoch"],
        "val_accuracy_best": best["val_accuracy"],
        "val_accuracy_last": last["val_accuracy"],
    }


def _complexity(
    model: nn.Module,
    initial: nn.Module,
    about: Mapping[str, Any],
    settings: config.Evaluate,
    block_sizes: Sequence[int],
) -> Row:
    """All measures, and distinct blocks at block sizes that all methods share."""
    weights, slicing = blocks.trainable(model), about["slicing"] or "tensor"
    row: Row = measure.measure_weights(
        weights,
        blocks.trainable(initial),
        block_size=about["block_size"],
        slicing=slicing,
        compressors=settings.compressors,
        seed=settings.shuffle_seed,
    )
    counts = {
        f"distinct_blocks_s{size}": measure.distinct_blocks(weights, size, slicing)
        for size in block_sizes
    }
    return row | counts
