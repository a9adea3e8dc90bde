"""Resizing by PIL's bilinear filter, bit for bit on every device, and normalisation."""

import functools
import math
from collections.abc import Sequence

import torch
from torch import Tensor

_FILTER_BITS = 22  # of a weight in PIL's resize


def resize(images: Tensor, image_size: int) -> Tensor:
    """(n, C, H, W) uint8 -> (n, C, image_size, image_size) uint8, by PIL's bilinear filter; the
    same images if they fit.

    The same bytes on every device, and PIL's for square images (of others it may take the axes in
    the other order, which rounds otherwise): it sums whole numbers, which float64 holds exactly.
    torch's own resize is off by one in a fifth of the pixels. MPS has no float64 and uses the CPU.
    """
    if images.shape[-2:] == (image_size, image_size):
        return images
    pixels = (images.cpu() if images.device.type == "mps" else images).double()
    down, across = (_filter(size, image_size, pixels.device) for size in pixels.shape[-2:])
    return _whole(down @ _whole(pixels @ across.T)).to(images.device, torch.uint8)


def _whole(sums: Tensor) -> Tensor:
    return sums.add_(2 ** (_FILTER_BITS - 1)).mul_(2.0**-_FILTER_BITS).floor_()


@functools.lru_cache(maxsize=8)
def _filter(size: int, resized: int, device: torch.device) -> Tensor:
    """PIL's weights (resized, size): triangles, wider where it shrinks, times 2^_FILTER_BITS and
    rounded; float64, kept on the device.
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
    """(x / 255 - mean) / std per channel: (n, C, H, W) uint8 -> float32. ValueError unless C
    entries each, and std > 0.
    """
    channels = images.shape[1]
    for key, values in (("data.mean", mean), ("data.std", std)):
        if len(values) != channels:
            raise ValueError(
                f"{key} has {len(values)} entries, {list(values)}; expected {channels}, one per image channel"
            )
    if min(std) <= 0:
        raise ValueError(f"data.std must be positive in every channel, got {list(std)}")
    shift, scale = (_per_channel(tuple(values), images.device) for values in (mean, std))
    return (images.float() / 255).sub_(shift).div_(scale)


@functools.lru_cache(maxsize=8)
def _per_channel(values: tuple[float, ...], device: torch.device) -> Tensor:
    """(C, 1, 1) float32; kept, for bringing it to a GPU waits for the GPU."""
    return torch.tensor(values, dtype=torch.float32, device=device)[:, None, None]
