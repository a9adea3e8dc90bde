"""Resize images by PIL's bilinear filter, bit for bit on every device, and normalise them."""

import functools
import math
from collections.abc import Sequence

import torch
from torch import Tensor

_FILTER_BITS = 22  # precision of the weights in PIL's resize


def resize(images: Tensor, image_size: int) -> Tensor:
    """Resize images (n, C, H, W) uint8 to (n, C, image_size, image_size) uint8.

    Images of that size are returned as they are. The bytes are the same on every device, because
    the filter sums whole numbers, which float64 holds exactly. For square images they equal PIL's;
    for others PIL may take the axes in the other order, which rounds differently. torch's own
    resize is off by one in a fifth of the pixels. MPS has no float64 and uses the CPU.
    """
    if images.shape[-2:] == (image_size, image_size):
        return images
    pixels = (images.cpu() if images.device.type == "mps" else images).double()
    down, across = (_filter(size, image_size, pixels.device) for size in pixels.shape[-2:])
    return _round(down @ _round(pixels @ across.T)).to(images.device, torch.uint8)


def _round(sums: Tensor) -> Tensor:
    return sums.add_(2 ** (_FILTER_BITS - 1)).mul_(2.0**-_FILTER_BITS).floor_()


@functools.lru_cache(maxsize=8)
def _filter(size: int, resized: int, device: torch.device) -> Tensor:
    """PIL's filter from `size` to `resized` pixels: whole weights (resized, size), as float64.

    Each row is a triangle, wider where the image shrinks, times 2^_FILTER_BITS and rounded. The
    result is kept on the device.
    """
    scale = size / resized
    support = max(scale, 1.0)
    weights = torch.zeros(resized, size, dtype=torch.float64)
    for row, at in zip(
        weights, ((position + 0.5) * scale for position in range(resized)), strict=True
    ):
        first, end = max(int(at - support + 0.5), 0), min(int(at + support + 0.5), size)
        triangle = [
            max(1 - abs((source - at + 0.5) / support), 0.0) for source in range(first, end)
        ]
        row[first:end] = torch.tensor(
            [math.floor(0.5 + weight / sum(triangle) * 2**_FILTER_BITS) for weight in triangle]
        )
    return weights.to(device)


def normalize(images: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """(x / 255 - mean) / std per channel: images (n, C, H, W) uint8 -> float32.

    Raises ValueError unless mean and std have C entries and every std is positive.
    """
    channels = images.shape[1]
    for key, values in (("data.mean", mean), ("data.std", std)):
        if len(values) != channels:
            raise ValueError(
                f"{key} has {len(values)} entries, {list(values)}; "
                f"expected {channels}, one per image channel"
            )
    if min(std) <= 0:
        raise ValueError(f"data.std must be positive in every channel, got {list(std)}")
    shift, scale = (_per_channel(tuple(values), images.device) for values in (mean, std))
    return (images.float() / 255).sub_(shift).div_(scale)


@functools.lru_cache(maxsize=8)
def _per_channel(values: tuple[float, ...], device: torch.device) -> Tensor:
    """(C, 1, 1) float32 on the device; kept, because copying it to a GPU waits for the GPU."""
    return torch.tensor(values, dtype=torch.float32, device=device)[:, None, None]
