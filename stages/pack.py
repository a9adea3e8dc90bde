"""Stage `pack`: one model's runs of the grid as ordinary files and as .momos files of each level:
bytes, and accuracy once decoded.

usage: pack.py MODEL DATA.safetensors RUNS_DIR OUT.csv
"""

import sys
from pathlib import Path

import pandas as pd
from torch import nn

from momos import config, models
from momos.complexity import code_length
from momos.compute.device import prepare_device
from momos.files import atomic, run_folder
from momos.images.dataset import load_dataset
from momos.images.inputs import Batches
from momos.methods import quantize
from momos.models.evaluate import loss_and_accuracy
from momos.packing import levels as packed
from momos.packing import lossy

LENGTH = ("bits", "block_size", "num_blocks", "num_motifs")


def main(name: str, data_file: Path, runs_dir: Path, out: Path) -> None:
    settings, evaluate, augmentation = (
        config.load(config.Pack),
        config.load(config.Evaluate),
        config.load(config.Augment),
    )
    loop, dataset, rows = config.load(config.Train), load_dataset(data_file), []
    device = prepare_device(loop.device, loop.num_threads)
    for run in config.runs(name):
        if run.grid != "main":
            continue
        folder = run.folder(runs_dir.parent)
        about = run_folder.load_run(folder)
        model = models.restore(about, run_folder.load_weights(folder, evaluate.checkpoint))
        model = quantize.deployed(model, about["bits"], about["exclude"], about["arch"])
        batches = Batches(
            loop.batch_size, about["image_size"], tuple(about["mean"]), tuple(about["std"]), device
        )
        how = {
            "block_size": about["block_size"] or settings.block_size,
            "slicing": about["slicing"] or "tensor",
        }
        bound = (
            code_length.describe(about["num_weights"], **{key: about[key] for key in LENGTH})[
                "description_bits"
            ]
            / 8
        )
        common = {
            "model": run.model,
            "method": run.method,
            "seed": run.seed,
            "num_weights": about["num_weights"],
            "bound_bytes": bound,
        }

        def measured(model: nn.Module, batches=batches) -> float:
            return loss_and_accuracy(
                model.to(device),
                dataset.images[dataset.test],
                dataset.labels[dataset.test],
                batches,
            )[1]

        found = packed.ordinary(model, measured, settings.compressors)
        found += packed.lossless(model, measured, **how)
        if run.seed in settings.seeds and about["block_size"] and about["bits"] == 32:
            again = lossy.training_batches(
                dataset, batches, augmentation, epochs=settings.refit_epochs, seed=run.seed
            )
            found += packed.lossy_levels(model.to(device), measured, again, settings, **how)
        rows += [common | row for row in found]
    atomic.write_text(out, pd.DataFrame(rows).to_csv(index=False))


if __name__ == "__main__":
    main(sys.argv[1], *map(Path, sys.argv[2:5]))
