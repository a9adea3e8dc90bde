"""Batches of images for the tests of momos.images, and settings of augmentation."""

import torch
from torchvision.transforms import functional as F

OFF = {"flip": False, "crop_padding": 0, "rand_augment_ops": 0, "rand_augment_magnitude": 9}
ONE_OPERATION = OFF | {"rand_augment_ops": 1}
ALL = {"flip": True, "crop_padding": 4, "rand_augment_ops": 2, "rand_augment_magnitude": 9}


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def some_images(num_images=6, channels=3, height=32, width=32, seed=0):
    """Noise plus a slope, so that both local and global operations change something."""
    slope = torch.linspace(40, 180, width).expand(num_images, channels, height, width)
    noise = torch.randint(0, 60, (num_images, channels, height, width), generator=generator(seed))
    return (slope + noise).to(torch.uint8)


def to_pil(image):
    return F.to_pil_image(image)


def from_pil(image):
    return F.pil_to_tensor(image)
