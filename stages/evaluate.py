"""Stage `evaluate`: accuracy, description length and complexity of one model's runs.

usage: evaluate.py MODEL DATA.safetensors RUNS_DIR OUT.csv
"""

import sys
from pathlib import Path

import pandas as pd
from torch import nn

from momos import blocks, checkpoint, config, data, models, quantize, train
from momos.complexity import code_length
from momos.complexity.measure import measure

ABOUT = ("model", "method", "seed", "grid", "bits", "block_size", "capacity", "num_motifs", "num_blocks", "num_weights")


def main(model: str, data_file: Path, runs_dir: Path, out: Path) -> None:
    settings, images, loop = config.load(config.Evaluate), config.load(config.Data), config.load(config.Train)
    device = train.prepare_device(loop.device, loop.num_threads)
    dataset = data.load(data_file)
    rows = []
    for run in config.runs(model):
        folder = run.folder(runs_dir.parent)
        about = checkpoint.load_run(folder)
        batches = train.Batches(loop.batch_size, about["image_size"], images.mean, images.std, device)
        rows += evaluate(folder, about, dataset, batches, settings)
    checkpoint.write_text(out, pd.DataFrame(rows).to_csv(index=False))


def evaluate(folder: Path, about: dict, dataset: data.Dataset, batches: train.Batches, settings: config.Evaluate) -> list[dict]:
    """A row for the weights as deployed and, of a quantised run, one for the latent weights."""
    names = ["initial", "best", "last"]
    initial, best, last = (models.restore(about, checkpoint.load_weights(folder, name)) for name in names)
    latent = {"best": best, "last": last}[settings.checkpoint]
    views = {"deployed": lambda model: quantize.deployed(model, about["bits"], about["exclude"], about["arch"])}
    if about["bits"] < 32:
        views["latent"] = lambda model: model
    common = {key: about[key] for key in ABOUT} | epochs(folder, about) | description(about)
    return [
        common
        | {"weights": view}
        | {f"test_accuracy_{which}": test_accuracy(of(model), dataset, batches) for which, model in (("best", best), ("last", last))}
        | complexity(of(latent), initial, about["block_size"], settings)
        for view, of in views.items()
    ]


def epochs(folder: Path, about: dict) -> dict:
    history = checkpoint.load_history(folder)
    best, last = history[about["best_epoch"] - 1], history[-1]
    return {
        "num_epochs": about["num_epochs"],
        "best_epoch": about["best_epoch"],
        "val_accuracy_best": best["val_accuracy"],
        "val_accuracy_last": last["val_accuracy"],
    }


def description(about: dict) -> dict:
    """Description length and RAC (method A5); of MoMos with QAT they are those of the latent, 32-bit weights."""
    trivial = code_length.trivial_bits(about["num_weights"])
    if about["block_size"] is None:
        bits = about["num_weights"] * about["bits"]
    else:
        bits = code_length.momos_bits(about["num_blocks"], about["block_size"], about["num_motifs"])
    return {"rac": trivial / bits, "description_bits": bits, "trivial_bits": trivial, "lower_complexity": bits < trivial}


def test_accuracy(model: nn.Module, dataset: data.Dataset, batches: train.Batches) -> float:
    images, labels = dataset.images[dataset.test], dataset.labels[dataset.test]
    return train.evaluate(model.to(batches.device), images, labels, batches)[1]


def complexity(model: nn.Module, initial: nn.Module, block_size: int | None, settings: config.Evaluate) -> dict:
    weights, start = blocks.trainable(model), blocks.trainable(initial)
    return measure(weights, start, block_size=block_size, compressors=settings.compressors, seed=settings.shuffle_seed)


if __name__ == "__main__":
    main(sys.argv[1], *map(Path, sys.argv[2:5]))
