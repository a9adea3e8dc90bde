"""Both papers' measures along an image classifier's training: at the steps of train.keep."""

from functools import partial
from pathlib import Path
from typing import Any

import torch

from momos import config, models
from momos.complexity import checkpoints
from momos.files import run_folder
from momos.images.dataset import Dataset
from momos.images.inputs import Batches
from momos.methods.method import Method
from momos.models.evaluate import loss_and_accuracy
from momos.slt.classifiers import deployed, measure_classifier
from momos.slt.llc.rows import Keep


def measure_along(
    folder: Path,
    method: Method,
    dataset: Dataset,
    settings: config.Complexity,
    search: config.Compressibility,
    rivals: config.Rivals,
    eps: list[float],
    device: torch.device,
    keep: Keep,
) -> list[dict[str, Any]]:
    """Measure the weights that a run has kept: a row per step, rising; none where it kept none.

    A row has step, val_loss and val_accuracy (on validation images), the columns of
    `measure_classifier`, and those of `checkpoints.measure`, all of the weights as deployed.
    Arguments as of `measure_classifier`.
    """
    about, kept = run_folder.load_run(folder), run_folder.kept_steps(folder)
    if not kept:
        return []
    shape = {key: about[key] for key in ("num_classes", "in_channels", "image_size")}
    fresh = partial(models.build, about["arch"], kwargs=about["arch_kwargs"], **shape)
    seeds = checkpoints.untrained_seeds(rivals)
    untrained = checkpoints.of_untrained((fresh(seed=seed) for seed in seeds), rivals.bit_depth)
    inputs = Batches.of_run(about, settings.batch_size, device)
    images, labels = dataset.images[dataset.validation], dataset.labels[dataset.validation]
    rows = []
    for step in kept:
        which = run_folder.step_name(step)
        model = deployed(folder, method, which, device)
        val_loss, val_accuracy = loss_and_accuracy(model, images, labels, inputs)
        row = {"step": step, "val_loss": val_loss, "val_accuracy": val_accuracy}
        row |= measure_classifier(
            folder, method, dataset, settings, search, eps, device, _at(keep, which), which
        )
        rows.append(row | checkpoints.measure(model, untrained, rivals))
    return rows


def _at(keep: Keep, which: str) -> Keep:
    return lambda part, compute: keep(f"{which}-{part}", compute)
