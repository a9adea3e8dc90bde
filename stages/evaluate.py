"""Stage `evaluate`: accuracy, description length and complexity of one model's runs.

usage: evaluate.py MODEL DATA.safetensors RUNS_DIR OUT.csv
"""

import sys
from pathlib import Path

import pandas as pd
from torch import nn

from momos import config, models
from momos.complexity import code_length, measure
from momos.compute.device import prepare_device
from momos.files import atomic, run_folder
from momos.images.dataset import Dataset, load_dataset
from momos.images.inputs import Batches
from momos.methods import quantize
from momos.models.evaluate import loss_and_accuracy
from momos.weights import blocks

ABOUT = (
    "model",
    "method",
    "seed",
    "grid",
    "bits",
    "block_size",
    "capacity",
    "num_motifs",
    "num_blocks",
    "num_weights",
)
LENGTH = ("bits", "block_size", "num_blocks", "num_motifs")
CHECKPOINTS = ("initial", "best", "last")


def main(model: str, data_file: Path, runs_dir: Path, out: Path) -> None:
    settings, loop = config.load(config.Evaluate), config.load(config.Train)
    device = prepare_device(loop.device, loop.num_threads)
    dataset, runs = load_dataset(data_file), config.runs(model)
    sizes = sorted(
        {run.settings.block_size for run in runs if run.grid == "main" and run.settings.is_momos}
    )
    rows = []
    for run in runs:
        folder = run.folder(runs_dir.parent)
        about = run_folder.load_run(folder)
        batches = Batches(
            loop.batch_size, about["image_size"], tuple(about["mean"]), tuple(about["std"]), device
        )
        common = {key: about[key] for key in ABOUT} | epochs(folder, about)
        common |= code_length.describe(about["num_weights"], **{key: about[key] for key in LENGTH})
        rows += [common | view for view in views(folder, about, dataset, batches, settings, sizes)]
    atomic.write_text(out, pd.DataFrame(rows).to_csv(index=False))


def epochs(folder: Path, about: dict) -> dict:
    history = run_folder.load_history(folder)
    best, last = history[about["best_epoch"] - 1], history[-1]
    accuracy = {
        "val_accuracy_best": best["val_accuracy"],
        "val_accuracy_last": last["val_accuracy"],
    }
    return {"num_epochs": about["num_epochs"], "best_epoch": about["best_epoch"]} | accuracy


def views(
    folder: Path,
    about: dict,
    dataset: Dataset,
    batches: Batches,
    settings: config.Evaluate,
    sizes: list[int],
) -> list[dict]:
    """A row for the weights as deployed and, of a quantised run, one for the latent weights."""
    latent = {
        which: models.restore(about, run_folder.load_weights(folder, which))
        for which in CHECKPOINTS
    }
    how = (about["bits"], about["exclude"], about["arch"])
    found = {"deployed": {which: quantize.deployed(model, *how) for which, model in latent.items()}}
    if about["bits"] < 32:
        found["latent"] = latent
    return [
        {"weights": name}
        | {
            f"test_accuracy_{which}": accuracy(view[which], dataset, batches)
            for which in ("best", "last")
        }
        | complexity(view[settings.checkpoint], latent["initial"], about, settings, sizes)
        for name, view in found.items()
    ]


def accuracy(model: nn.Module, dataset: Dataset, batches: Batches) -> float:
    images, labels = dataset.images[dataset.test], dataset.labels[dataset.test]
    return loss_and_accuracy(model.to(batches.device), images, labels, batches)[1]


def complexity(
    model: nn.Module, initial: nn.Module, about: dict, settings: config.Evaluate, sizes: list[int]
) -> dict:
    """All measures; distinct blocks at the run's own block size and, so that all methods compare,
    at those of the grid.
    """
    weights, slicing = blocks.trainable(model), about["slicing"] or "tensor"
    options = {
        "block_size": about["block_size"],
        "slicing": slicing,
        "compressors": settings.compressors,
        "seed": settings.shuffle_seed,
    }
    found = measure.measure(weights, blocks.trainable(initial), **options)
    return found | {
        f"distinct_blocks_s{size}": measure.distinct_blocks(weights, size, slicing)
        for size in sizes
    }


if __name__ == "__main__":
    main(sys.argv[1], *map(Path, sys.argv[2:5]))
