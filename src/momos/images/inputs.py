"""Images as a network's input: batches that are resized, normalised and on the device."""

from collections.abc import Mapping
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor

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
