"""The accuracy of a .momos file's network on the test images of a prepared data set."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor

    from momos.images.dataset import Dataset

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
    from momos import packing
    from momos.files import run_folder
    from momos.images.dataset import dataset_digest, load_dataset

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
    value = accuracy_with(packing.read_tensors(file), about, dataset)
    as_trained = about.get("data_sha256") == dataset_digest(dataset)
    return Accuracy(value, len(dataset.test), as_trained)


def accuracy_with(
    weights: Mapping[str, "Tensor"], about: Mapping[str, Any], dataset: "Dataset"
) -> float:
    """Test accuracy in [0, 1], on the CPU, of the network that a run.json (`about`) describes.

    Raises ValueError naming the architecture if the weights do not fit.
    """
    import torch

    from momos import models
    from momos.images.inputs import Batches
    from momos.models.evaluate import test_accuracy

    batches = Batches.of_run(about, BATCH_SIZE, torch.device("cpu"))
    return test_accuracy(models.restore(about, weights), dataset, batches)
