"""Augmentation of training images (method A9), and normalisation of all images. Batches of uint8 tensors, one draw per image."""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

MAGNITUDE_BINS = 31  # torchvision's; magnitudes are 0..30
OPERATIONS = (
    "Identity", "ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate", "Brightness", "Color", "Contrast", "Sharpness",
    "Posterize", "Solarize", "AutoContrast", "Equalize",
)  # fmt: skip


class Draws(NamedTuple):
    """What chance decides for a batch of n images; None where the setting is off.

    flipped (n,) bool; offsets (n, 2) int64, row and column of the crop in the padded image, 0..2*padding;
    operations (n, num_ops) int64, indices into OPERATIONS; signs (n, num_ops) int64, -1 or 1, drawn for every operation.
    """

    flipped: Tensor | None
    offsets: Tensor | None
    operations: Tensor | None
    signs: Tensor | None


def draw(num_images: int, *, generator: torch.Generator, flip: bool, crop_padding: int, rand_augment_ops: int) -> Draws:
    """All draws of one batch, independent and uniform, from `generator` alone."""
    flipped = offsets = operations = signs = None
    if flip:
        flipped = torch.randint(2, (num_images,), generator=generator).bool()
    if crop_padding:
        offsets = torch.randint(2 * crop_padding + 1, (num_images, 2), generator=generator)
    if rand_augment_ops:
        operations = torch.randint(len(OPERATIONS), (num_images, rand_augment_ops), generator=generator)
        signs = torch.randint(2, (num_images, rand_augment_ops), generator=generator) * 2 - 1
    return Draws(flipped, offsets, operations, signs)


def augment(
    images: Tensor,
    *,
    generator: torch.Generator,
    flip: bool,
    crop_padding: int,
    image_size: int,
    rand_augment_ops: int,
    rand_augment_magnitude: int,
) -> Tensor:
    """Flip, crop, resize, RandAugment, in this order: images (n, C, H, W) uint8 -> (n, C, image_size, image_size) uint8.

    `flip`: mirror left to right with probability 1/2. `crop_padding`: pixels of zeros on each side, from which a crop of the
    original size is taken (0: none). `rand_augment_ops`: operations per image (0: off), all of `rand_augment_magnitude`, 0..30.
    """
    draws = draw(len(images), generator=generator, flip=flip, crop_padding=crop_padding, rand_augment_ops=rand_augment_ops)
    if draws.flipped is not None:
        images = flip_chosen(images, draws.flipped)
    if draws.offsets is not None:
        images = crop(images, draws.offsets, crop_padding)
    images = resize(images, image_size)
    if draws.operations is not None:
        images = rand_augment(images, draws.operations, draws.signs, magnitude=rand_augment_magnitude)
    return images


def flip_chosen(images: Tensor, flipped: Tensor) -> Tensor:
    """Mirrors left to right the images (n, C, H, W) where flipped (n,) is true."""
    return torch.where(flipped[:, None, None, None], images.flip(-1), images)


def crop(images: Tensor, offsets: Tensor, padding: int) -> Tensor:
    """From images (n, C, H, W) padded with zeros, crops of H x W whose upper left corners are offsets (n, 2) = (row, column)."""
    num_images, channels, height, width = images.shape
    padded = torch.nn.functional.pad(images, (padding,) * 4)
    rows = offsets[:, :1] + torch.arange(height)  # (n, H)
    columns = offsets[:, 1:] + torch.arange(width)  # (n, W)
    image = torch.arange(num_images)[:, None, None, None]
    channel = torch.arange(channels)[:, None, None]
    return padded[image, channel, rows[:, None, :, None], columns[:, None, None, :]]


def resize(images: Tensor, image_size: int) -> Tensor:
    """(n, C, H, W) uint8 -> (n, C, image_size, image_size) uint8, bilinear with antialiasing; the same images if they fit."""
    if images.shape[-2:] == (image_size, image_size):
        return images
    from torchvision.transforms import InterpolationMode, functional

    return functional.resize(images, [image_size, image_size], InterpolationMode.BILINEAR, antialias=True)


def normalize(images: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """(x / 255 - mean) / std per channel: (n, C, H, W) uint8 -> float32. ValueError unless C entries each, and std > 0."""
    channels = images.shape[1]
    for key, values in (("data.mean", mean), ("data.std", std)):
        if len(values) != channels:
            raise ValueError(f"{key} has {len(values)} entries, {list(values)}; expected {channels}, one per image channel")
    if min(std) <= 0:
        raise ValueError(f"data.std must be positive in every channel, got {list(std)}")
    shift, scale = (torch.tensor(values, dtype=torch.float32, device=images.device)[:, None, None] for values in (mean, std))
    return (images.float() / 255).sub_(shift).div_(scale)


def rand_augment(images: Tensor, operations: Tensor, signs: Tensor, *, magnitude: int) -> Tensor:
    """RandAugment (Cubuk et al. 2019, arXiv 1909.13719) as torchvision's `RandAugment` does it on PIL images.

    images (n, C, H, W) uint8, C 1 or 3; operations and signs (n, num_ops) as in `Draws`, applied from left to right; the sign
    counts where torchvision draws one. Nearest-neighbour geometry, black where nothing is known; equal bit for bit.
    """
    from PIL import Image

    _, channels, height, width = images.shape
    if channels not in (1, 3):
        raise ValueError(f"augment.rand_augment_ops must be 0 for images of {channels} channels; expected 1 or 3 channels")
    apply = _operations(magnitude, height, width)
    pixels = images.permute(0, 2, 3, 1).numpy()  # (n, H, W, C)
    changed = np.empty_like(pixels, order="C")
    for position, (indices, directions) in enumerate(zip(operations.tolist(), signs.tolist(), strict=True)):
        image = Image.fromarray(pixels[position].squeeze(-1) if channels == 1 else np.ascontiguousarray(pixels[position]))
        for index, sign in zip(indices, directions, strict=True):
            image = apply[index](image, sign)
        changed[position] = np.asarray(image).reshape(height, width, channels)
    return torch.from_numpy(changed).permute(0, 3, 1, 2).contiguous()


def _operations(magnitude: int, height: int, width: int) -> list[Callable[[Any, int], Any]]:
    """OPERATIONS as functions (PIL image, sign) -> PIL image, at the given magnitude for images of height x width pixels."""
    from torchvision.transforms import functional as F

    if not 0 <= magnitude < MAGNITUDE_BINS:
        raise ValueError(f"augment.rand_augment_magnitude must be an integer from 0 to {MAGNITUDE_BINS - 1}, got {magnitude!r}")

    def level(first: float, last: float) -> float:
        return torch.linspace(first, last, MAGNITUDE_BINS)[magnitude].item()

    def affine(image: Any, *, shift: Sequence[int] = (0, 0), shear: Sequence[float] = (0.0, 0.0), center: Any = None) -> Any:
        return F.affine(image, angle=0.0, translate=list(shift), scale=1.0, shear=list(shear), center=center)

    slope, angle, factor = level(0.0, 0.3), level(0.0, 30.0), level(0.0, 0.9)
    right, down = (int(level(0.0, 150.0 / 331.0 * size)) for size in (width, height))  # pixels
    bits = 8 - round(magnitude / ((MAGNITUDE_BINS - 1) / 4))
    threshold = level(255.0, 0.0)

    def shear_degrees(sign: int) -> float:
        return math.degrees(math.atan(sign * slope))

    return [
        lambda image, sign: image,
        lambda image, sign: affine(image, shear=(shear_degrees(sign), 0.0), center=[0, 0]),
        lambda image, sign: affine(image, shear=(0.0, shear_degrees(sign)), center=[0, 0]),
        lambda image, sign: affine(image, shift=(sign * right, 0)),
        lambda image, sign: affine(image, shift=(0, sign * down)),
        lambda image, sign: F.rotate(image, sign * angle),
        lambda image, sign: F.adjust_brightness(image, 1.0 + sign * factor),
        lambda image, sign: F.adjust_saturation(image, 1.0 + sign * factor),
        lambda image, sign: F.adjust_contrast(image, 1.0 + sign * factor),
        lambda image, sign: F.adjust_sharpness(image, 1.0 + sign * factor),
        lambda image, sign: F.posterize(image, bits),
        lambda image, sign: F.solarize(image, threshold),
        lambda image, sign: F.autocontrast(image),
        lambda image, sign: F.equalize(image),
    ]
