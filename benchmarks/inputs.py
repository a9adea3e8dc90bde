"""Images, weights, blocks and bits that behave like real ones, the same in every process."""

import math
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from momos import config

PROFILE = Path(__file__).parents[1] / "profiles" / "cifar10.yaml"
NUM_LAYERS = 20  # of the blocks that belong to no model


def images(count: int, size: int) -> Tensor:
    """(count, 3, size, size) uint8 with the spectrum of natural images: amplitude 1 / frequency.

    Contrast and brightness vary.
    """
    generator = torch.Generator().manual_seed(0)
    rows, columns = torch.fft.fftfreq(size)[:, None], torch.fft.rfftfreq(size)
    amplitude = 1 / (rows.square() + columns.square()).sqrt().clamp(min=1 / size)
    noise = torch.randn(count, 3, size, size // 2 + 1, dtype=torch.complex64, generator=generator)
    # Channels go together.
    field = torch.fft.irfft2((noise + 2 * noise[:, :1]) * amplitude, s=(size, size))
    field = (field - field.mean((1, 2, 3), keepdim=True)) / field.std((1, 2, 3), keepdim=True)
    contrast, brightness = (
        torch.rand(2, count, 1, 1, 1, generator=generator)
        * torch.tensor([50.0, 110.0]).view(2, 1, 1, 1, 1)
    ).unbind()
    return (field * (contrast + 25) + brightness + 70).clamp(0, 255).to(torch.uint8)


def labels(count: int) -> Tensor:
    return torch.randint(10, (count,), generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def trained_(model: nn.Module) -> nn.Module:
    """Set weights as after training: heavy-tailed in every layer, scaled by its fan-in.

    Norms are near one, biases near zero.
    """
    generator = torch.Generator().manual_seed(2)
    for name, weight in model.named_parameters():
        if weight.ndim > 1:
            weight.copy_(
                _heavy_tailed(weight.numel(), generator).view_as(weight)
                * math.sqrt(2 / weight[0].numel())
            )
        else:
            weight.copy_(
                torch.randn(weight.shape, generator=generator) * 0.2 + name.endswith("weight")
            )
    return model


def blocks(count: int, block_size: int) -> Tensor:
    """(count, block_size) float32 of a model with NUM_LAYERS layers.

    Their weights differ in scale up to 100 times.
    """
    generator = torch.Generator().manual_seed(3)
    scale = torch.logspace(-2.5, -0.5, NUM_LAYERS)[torch.arange(count) * NUM_LAYERS // count]
    return _heavy_tailed(count * block_size, generator).view(count, block_size) * scale[:, None]


def motifs(blocks: Tensor, capacity: float) -> Tensor:
    """The zero block and some of the blocks: capacity * count in all."""
    order = torch.randperm(len(blocks), generator=torch.Generator().manual_seed(4))
    return torch.cat(
        [torch.zeros_like(blocks[:1]), blocks[order[: max(int(capacity * len(blocks)), 1) - 1]]]
    )


def bits(count: int) -> np.ndarray:
    """(count,) bool, fair and independent.

    They are made without scratch memory, which would hide the peak of what comes after.
    """
    return np.random.default_rng(0).integers(0, 2, count, dtype=np.bool_)


def matrix(count: int) -> Tensor:
    """About `count` normal weights, (rows, columns) with sides that 4 divides."""
    side = max(round(count**0.5 / 4) * 4, 4)
    return torch.randn(side, side, generator=torch.Generator().manual_seed(0))


def _heavy_tailed(count: int, generator: torch.Generator) -> Tensor:
    """A mixture of two normals: most weights small, one in five several times as large."""
    wide = torch.rand(count, generator=generator) < 0.2
    return torch.randn(count, generator=generator) * torch.where(wide, 2.0, 0.4)


def settings(kind: type[config.Settings], name: str | None = None):
    """A section of the paper's profile."""
    return config.load(kind, name, path=PROFILE)


def batches(count: int, image_size: int, batch_size: int) -> list[tuple[Tensor, Tensor]]:
    """Network inputs (batch_size, 3, image_size, image_size) float32 and labels.

    count: images in all.
    """
    generator = torch.Generator().manual_seed(5)
    inputs = torch.randn(count, 3, image_size, image_size, generator=generator)
    return list(zip(inputs.split(batch_size), labels(count).split(batch_size), strict=True))
