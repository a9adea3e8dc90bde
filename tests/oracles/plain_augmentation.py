"""Augmentation as it is usually written: PIL and torchvision, one image at a time, for draws that
are given.
"""

from torch import Tensor
from torchvision.transforms import InterpolationMode, RandAugment, autoaugment
from torchvision.transforms import functional as F

from momos.images.draws import OPERATIONS, Draws


def operation(image: Tensor, name: str, magnitude: int, sign: int) -> Tensor:
    """What torchvision.transforms.RandAugment does to one image (C, H, W) uint8 for one drawn
    operation and sign.
    """
    policy = RandAugment(num_ops=1, magnitude=magnitude)
    magnitudes, signed = policy._augmentation_space(
        policy.num_magnitude_bins, tuple(image.shape[-2:])
    )[name]
    level = float(magnitudes[magnitude].item()) if magnitudes.ndim > 0 else 0.0
    level *= sign if signed else 1
    pil = autoaugment._apply_op(
        F.to_pil_image(image), name, level, interpolation=InterpolationMode.NEAREST, fill=None
    )
    return F.pil_to_tensor(pil)


def plain(
    image: Tensor,
    draws: Draws,
    position: int,
    *,
    crop_padding: int,
    image_size: int,
    magnitude: int,
) -> Tensor:
    """(C, H, W) uint8 with the draws of one position -> (C, image_size, image_size) uint8"""
    pil = F.to_pil_image(image)
    if draws.flipped is not None and draws.flipped[position]:
        pil = F.hflip(pil)
    if draws.offsets is not None:
        row, column = draws.offsets[position].tolist()
        pil = F.crop(F.pad(pil, crop_padding, fill=0), row, column, pil.height, pil.width)
    if pil.size != (image_size, image_size):
        pil = F.resize(pil, [image_size, image_size])
    image = F.pil_to_tensor(pil)
    if draws.operations is not None:
        for index, sign in zip(
            draws.operations[position].tolist(), draws.signs[position].tolist(), strict=True
        ):
            image = operation(image, OPERATIONS[index], magnitude, sign)
    return image
