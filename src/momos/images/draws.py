"""What chance decides in augmentation: flips, crops, RandAugment's operations and signs, drawn for
many images at once.
"""

from typing import NamedTuple

import torch
from torch import Tensor

MAGNITUDE_BINS = 31  # torchvision's; magnitudes are 0..30


OPERATIONS = (
    "Identity", "ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate", "Brightness", "Color", "Contrast", "Sharpness",
    "Posterize", "Solarize", "AutoContrast", "Equalize",
)  # fmt: skip


class Draws(NamedTuple):
    """What chance decides for a batch of n images; None where the setting is off.

    flipped (n,) bool; offsets (n, 2) int64, row and column of the crop in the padded image,
    0..2*padding; operations (n, num_ops) int64, indices into OPERATIONS; signs (n, num_ops) int64,
    -1 or 1, drawn for every operation.
    """

    flipped: Tensor | None
    offsets: Tensor | None
    operations: Tensor | None
    signs: Tensor | None

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
    """All draws of one batch, independent and uniform, from `generator` alone."""
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
