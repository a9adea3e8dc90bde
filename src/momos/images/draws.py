"""Random draws of augmentation, for many images at once: flips, crops, RandAugment's operations."""

from typing import NamedTuple

import torch
from torch import Tensor

MAGNITUDE_BINS = 31  # torchvision's; magnitudes are 0..30
OPERATIONS = (
    "Identity",
    "ShearX",
    "ShearY",
    "TranslateX",
    "TranslateY",
    "Rotate",
    "Brightness",
    "Color",
    "Contrast",
    "Sharpness",
    "Posterize",
    "Solarize",
    "AutoContrast",
    "Equalize",
)


class Draws(NamedTuple):
    """Draws for n images; a field is None where its setting is off."""

    flipped: Tensor | None  # (n,) bool: mirrored left to right
    offsets: Tensor | None  # (n, 2) int64 in 0..2*padding: row and column of the crop when padded
    operations: Tensor | None  # (n, num_ops) int64: indices into OPERATIONS
    signs: Tensor | None  # (n, num_ops) int64, -1 or 1: drawn for every operation

    def at(self, chosen: slice | Tensor) -> "Draws":
        """The draws of some of the images."""
        return Draws(*(None if field is None else field[chosen] for field in self))


def draw(
    num_images: int,
    *,
    generator: torch.Generator,
    flip: bool,
    crop_padding: int,
    rand_augment_ops: int,
) -> Draws:
    """Independent, uniform draws for num_images images, from `generator` alone.

    crop_padding: zeros on each side, in pixels (0: no crop). rand_augment_ops: operations per image
    (0: none).
    """
    flipped = offsets = operations = signs = None
    if flip:
        flipped = torch.randint(2, (num_images,), generator=generator).bool()
    if crop_padding:
        offsets = torch.randint(2 * crop_padding + 1, (num_images, 2), generator=generator)
    if rand_augment_ops:
        operations = torch.randint(
            len(OPERATIONS), (num_images, rand_augment_ops), generator=generator
        )
        signs = torch.randint(2, (num_images, rand_augment_ops), generator=generator) * 2 - 1
    return Draws(flipped, offsets, operations, signs)
