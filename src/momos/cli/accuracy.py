"""The accuracy of a .momos file's network on the test images of a prepared data set."""

from pathlib import Path
from typing import NamedTuple

BATCH_SIZE = 1000


class Accuracy(NamedTuple):
    """What a network answers on test images."""

    value: float  # in [0, 1]
    num_images: int
    as_trained: bool  # whether images and splits are those of the training


def accuracy_of(file: Path, run: Path, images: Path) -> Accuracy:
    """Decode a .momos file, build its network, and test it, on the CPU.

    run: folder whose run.json describes the network and how images become its input. images: a
    prepared data set, as stage `prepare` writes it.
    Raises ValueError naming a file that is missing, damaged or of another network, and images that
    have other channels or classes than the network.
    """
    import torch

    from momos import models, packing
    from momos.files import run_folder
    from momos.images.dataset import dataset_digest, load_dataset
    from momos.images.inputs import Batches
    from momos.models.evaluate import test_accuracy

    if images.exists() and not images.is_file():
        raise ValueError(f"{images} is no file: expected a prepared data set")
    dataset, about = load_dataset(images), run_folder.load_run(run)
    found = {"in_channels": dataset.images.shape[1], "num_classes": len(dataset.classes)}
    for key, number in found.items():
        if about[key] != number:
            raise ValueError(
                f"{images} has {key} {number}: expected {about[key]}, as {run / run_folder.RUN} "
                "says"
            )
    model = models.restore(about, packing.read_tensors(file))
    batches = Batches.of_run(about, BATCH_SIZE, torch.device("cpu"))
    value = test_accuracy(model, dataset, batches)
    as_trained = about.get("data_sha256") == dataset_digest(dataset)
    return Accuracy(value, len(dataset.test), as_trained)
