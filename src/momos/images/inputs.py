"""Images as a network's input: batches that are resized, normalised and on the device."""

from collections.abc import Mapping
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor

from momos.compute.seeds import generator_for
from momos.images.dataset import Dataset
from momos.images.resize import normalize, resize


class Batches(NamedTuple):
    """How images become the network's input: resized, normalised, on the device, batch by batch."""

    size: int  # images per batch
    image_size: int  # pixels
    mean: tuple[float, ...]
    std: tuple[float, ...]
    device: torch.device

    @classmethod
    def of_run(cls, about: Mapping[str, Any], size: int, device: torch.device) -> Self:
        """Return the inputs that a run was trained on. about: its run.json."""
        return cls(size, about["image_size"], tuple(about["mean"]), tuple(about["std"]), device)

    def to_input(
        self, images: Tensor, layout: torch.memory_format = torch.contiguous_format
    ) -> Tensor:
        """Return (n, C, image_size, image_size) float32 on the device for (n, C, H, W) uint8."""
        resized = resize(images.to(self.device), self.image_size)
        return normalize(resized.contiguous(memory_format=layout), self.mean, self.std)


def with_random_labels(dataset: Dataset) -> Dataset:
    """The same images, the training images' labels shuffled among them: every time alike.

    Classes keep their sizes, and labels say nothing about images (Zhang et al. 2017). Validation
    and test images keep theirs.
    """
    generator = generator_for("random labels", 0)
    order = dataset.train[torch.randperm(len(dataset.train), generator=generator)]
    labels = dataset.labels.clone()
    labels[dataset.train] = dataset.labels[order]
    return dataset._replace(labels=labels)
