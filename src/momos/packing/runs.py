"""One run of the study as files of every kind: bytes, and accuracy once decoded."""

from pathlib import Path
from typing import Any

import torch
from torch import nn

from momos import config, models
from momos.complexity import code_length
from momos.files import run_folder
from momos.images.dataset import Dataset
from momos.images.inputs import Batches
from momos.models.evaluate import loss_and_accuracy, test_accuracy
from momos.packing import levels, lossy


def pack_run(
    folder: Path,
    run: config.Run,
    dataset: Dataset,
    device: torch.device,
    *,
    batch_size: int,
    which: str,
    settings: config.Pack,
    augmentation: config.Augment,
) -> list[dict[str, Any]]:
    """Return a row per coding of the run's deployed weights.

    folder: the run's. which: best or last weights. Raises ValueError naming a file that is missing
    or damaged, and a tensor that does not come back as it was.
    """
    about = run_folder.load_run(folder)
    model = models.restore(about, run_folder.load_weights(folder, which))
    model = run.settings.deployed(model, arch=about["arch"])
    batches = Batches.of_run(about, batch_size, device)
    block_size = about["block_size"] or settings.block_size
    slicing = about["slicing"] or "tensor"

    def reached(model: nn.Module) -> dict[str, float]:
        return accuracies(model, dataset, batches)

    rows = levels.ordinary(model, reached, settings.compressors)
    rows += levels.lossless(model, reached, block_size=block_size, slicing=slicing)
    if run.seed in settings.seeds and run.settings.family == "momos":
        again = lossy.training_batches(
            dataset, batches, augmentation, epochs=settings.refit_epochs, seed=run.seed
        )
        rows += levels.lossy_levels(
            model.to(device), reached, again, settings, block_size=block_size, slicing=slicing
        )
    bound = code_length.stored_bits(run.settings.stored(about)) / 8
    common = {"model": run.model, "method": run.method, "seed": run.seed}
    common |= {"num_weights": about["num_weights"], "bound_bytes": bound}
    return [common | row for row in rows]


def accuracies(model: nn.Module, dataset: Dataset, batches: Batches) -> dict[str, float]:
    """Return val_accuracy and test_accuracy in [0, 1], columns of `levels`.

    The model moves to the inputs' device.
    """
    images, labels = dataset.images[dataset.validation], dataset.labels[dataset.validation]
    _, validation = loss_and_accuracy(model.to(batches.device), images, labels, batches)
    return {"val_accuracy": validation, "test_accuracy": test_accuracy(model, dataset, batches)}
