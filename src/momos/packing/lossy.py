"""Smaller files at a price: a mosaic's motifs at few bits, without those that are rarely used, or
trained again.

The mosaic itself, an index per block, stays as it is; only pruning moves the blocks of a motif that
goes to the nearest one that stays. `Lookup` computes with motifs and mosaic in place of weights.
"""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from momos import config
from momos.compute.seeds import generator_for
from momos.images import augment
from momos.images.dataset import Dataset
from momos.images.draws import draw
from momos.images.inputs import Batches
from momos.methods import quantize
from momos.methods.mosaic import assign
from momos.packing.writing import distinct
from momos.weights.blocks import from_blocks, real_weights, to_blocks, trainable


class Batch(NamedTuple):
    """Of training images."""

    inputs: Tensor
    labels: Tensor
    done: float  # share of the training that lies before it, in [0, 1)


class Mosaic(NamedTuple):
    """A model's trainable weights."""

    motifs: Tensor  # (num_motifs, block_size)
    mosaic: Tensor  # (num_blocks,) int64


def mosaic_of(model: nn.Module, block_size: int, slicing: str) -> Mosaic:
    """The distinct blocks of the model, told apart bit by bit; ragged ones padded with zeros.
    Raises ValueError as `to_blocks` does.
    """
    blocks = to_blocks(list(trainable(model).values()), block_size, slicing).cpu()
    numbers, first = distinct(blocks.numpy().view(np.uint8))
    return Mosaic(blocks[torch.from_numpy(first)], torch.from_numpy(numbers))


@torch.no_grad()
def put_(model: nn.Module, found: Mosaic, slicing: str) -> None:
    """Writes the weights that a mosaic stands for into the model."""
    weights = list(trainable(model).values())
    for weight, value in zip(
        weights, from_blocks(found.motifs[found.mosaic], weights, slicing), strict=True
    ):
        weight.copy_(value)


def quantised(found: Mosaic, bits: int) -> Mosaic:
    """All motifs on one grid of `bits` (method A4), with one zero: motifs that differ in its sign
    alone become the same.
    """
    return found._replace(motifs=quantize.quantize(found.motifs, bits) + 0.0)


def pruned(found: Mosaic, min_usage: int) -> Mosaic:
    """Without the motifs that fewer than min_usage blocks use, whose blocks go to the nearest one
    left; the most used one always stays.
    """
    usage = torch.bincount(found.mosaic, minlength=len(found.motifs))
    kept = found.motifs[usage >= min(min_usage, int(usage.max()))]
    return Mosaic(kept, assign(found.motifs, kept)[found.mosaic])


def refitted(
    model: nn.Module, found: Mosaic, slicing: str, batches: Iterable[Batch], *, lr: float
) -> Mosaic:
    """The motifs after a step of Adam per batch, at a rate that falls to zero in a line; mosaic and
    buffers as they were.

    A motif's gradient is the sum over its blocks. In eval mode, so that no running statistics move.
    Raises ValueError if a loss is not finite.
    """
    lookup = Lookup(model, found, slicing)
    optimizer = torch.optim.Adam([lookup.motifs], lr=lr)
    for inputs, labels, done in batches:
        optimizer.param_groups[0]["lr"] = lr * (1 - done)
        loss = F.cross_entropy(lookup(inputs), labels)
        if not torch.isfinite(loss):
            raise ValueError(
                f"pack.refit_lr {lr}: the loss of motifs that are trained again is {loss.item()} (try a lower one)"
            )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    lookup.forget()
    return found._replace(motifs=lookup.motifs.detach().cpu())


class Lookup(nn.Module):
    """The model with its weights looked up in motifs and mosaic at every call; its own ones are not
    read.
    """

    def __init__(self, model: nn.Module, found: Mosaic, slicing: str):
        super().__init__()
        weights = trainable(model)
        self.model, self.names, self.shapes = (
            [model],
            list(weights),
            [weight.shape for weight in weights.values()],
        )
        device, size = next(iter(weights.values())).device, found.motifs.shape[1]
        self.motifs = nn.Parameter(found.motifs.to(device, copy=True))
        places = (found.mosaic[:, None] * size + torch.arange(size)).reshape(
            -1
        )  # (num_blocks * block_size,) of each weight in the motifs
        places = places[real_weights([shape.numel() for shape in self.shapes], size, slicing)]
        self.register_buffer("places", places.to(device, torch.int32))

    def weights(self) -> dict[str, Tensor]:
        flat = self.motifs.reshape(-1).index_select(0, self.places)
        parts = flat.split([shape.numel() for shape in self.shapes])
        return {
            name: part.view(shape)
            for name, part, shape in zip(self.names, parts, self.shapes, strict=True)
        }

    def forward(self, inputs: Tensor) -> Tensor:
        self.forget()
        return functional_call(self.model[0], self.weights(), (inputs,))

    def forget(self) -> None:
        """In eval mode timm's models keep what they computed from their weights."""
        self.model[0].train().eval()


def training_batches(
    dataset: Dataset, batches: Batches, augmentation: config.Augment, *, epochs: int, seed: int
) -> Iterator[Batch]:
    """All training images, `epochs` times, shuffled and augmented as training has them."""
    order, chance = generator_for("refit order", seed), generator_for("refit augment", seed)
    a = augmentation
    how = {
        "crop_padding": a.crop_padding,
        "image_size": batches.image_size,
        "magnitude": a.rand_augment_magnitude,
    }
    for epoch in range(epochs):
        indices = dataset.train[torch.randperm(len(dataset.train), generator=order)]
        draws = draw(
            len(indices),
            generator=chance,
            flip=a.flip,
            crop_padding=a.crop_padding,
            rand_augment_ops=a.rand_augment_ops,
        )
        for start in range(0, len(indices), batches.size):
            part = slice(start, start + batches.size)
            images = augment.apply(dataset.images, draws.at(part), indices=indices[part], **how)
            labels = dataset.labels[indices[part]].to(batches.device)
            yield Batch(batches.to_input(images), labels, (epoch + start / len(indices)) / epochs)
