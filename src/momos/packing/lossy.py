"""Lossy compression of a mosaic: quantise, prune or refit its motifs.

The mosaic itself, an index per block, stays as it is. Only pruning changes it: blocks of a pruned
motif go to the nearest motif that is left. `Lookup` computes with motifs and mosaic instead of
weights.
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
    """A batch of training images."""

    inputs: Tensor  # (n, C, H, W) float32
    labels: Tensor  # (n,) int64
    done: float  # share of the training before this batch, in [0, 1)


class MosaicWeights(NamedTuple):
    """A model's trainable weights as motifs and mosaic: block i is motifs[mosaic[i]]."""

    motifs: Tensor  # (num_motifs, block_size)
    mosaic: Tensor  # (num_blocks,) int64


def mosaic_of(model: nn.Module, block_size: int, slicing: str) -> MosaicWeights:
    """The model's weights as blocks that differ in any bit. Raises ValueError as `to_blocks`."""
    blocks = to_blocks(list(trainable(model).values()), block_size, slicing).cpu()
    numbers, first = distinct(blocks.numpy().view(np.uint8))
    return MosaicWeights(blocks[torch.from_numpy(first)], torch.from_numpy(numbers))


@torch.no_grad()
def put_(model: nn.Module, weights: MosaicWeights, slicing: str) -> None:
    """Write weights that are given as motifs and mosaic into the model."""
    parameters = list(trainable(model).values())
    values = from_blocks(weights.motifs[weights.mosaic], parameters, slicing)
    for parameter, value in zip(parameters, values, strict=True):
        parameter.copy_(value)


def quantised(weights: MosaicWeights, bits: int) -> MosaicWeights:
    """Quantise all motifs on one grid of `bits` (method A4).

    The grid has one zero, so that motifs which differ only in its sign become the same.
    """
    return weights._replace(motifs=quantize.quantize(weights.motifs, bits) + 0.0)


def pruned(weights: MosaicWeights, min_usage: int) -> MosaicWeights:
    """Give the blocks of motifs that fewer than min_usage use to the nearest motif that stays."""
    usage = torch.bincount(weights.mosaic, minlength=len(weights.motifs))
    kept = weights.motifs[usage >= min(min_usage, int(usage.max()))]
    return MosaicWeights(kept, assign(weights.motifs, kept)[weights.mosaic])


def refitted(
    model: nn.Module, weights: MosaicWeights, slicing: str, batches: Iterable[Batch], *, lr: float
) -> MosaicWeights:
    """Train the motifs, with a step of Adam per batch at a rate that falls in a line to zero.

    A motif's gradient is the sum over its blocks. The mosaic stays, and so do buffers: the model is
    in eval mode, so that no running statistics move. Raises ValueError if a loss is not finite.
    """
    lookup = Lookup(model, weights, slicing)
    optimizer = torch.optim.Adam([lookup.motifs], lr=lr)
    for inputs, labels, done in batches:
        optimizer.param_groups[0]["lr"] = lr * (1 - done)
        loss = F.cross_entropy(lookup(inputs), labels)
        if not torch.isfinite(loss):
            raise ValueError(
                f"pack.refit_lr {lr}: the loss of motifs that are trained again is {loss.item()} "
                "(try a lower one)"
            )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    lookup.forget()
    return weights._replace(motifs=lookup.motifs.detach().cpu())


class Lookup(nn.Module):
    """The model with its weights looked up in motifs and mosaic at every call.

    The model's own weights are not read.
    """

    places: Tensor  # (num_weights,) int32: where each weight lies in the flat motifs

    def __init__(self, model: nn.Module, weights: MosaicWeights, slicing: str):
        super().__init__()
        parameters = trainable(model)
        self.model = [model]  # in a list, so that its weights are no parameters of this module
        self.names = list(parameters)
        self.shapes = [parameter.shape for parameter in parameters.values()]
        device, size = next(iter(parameters.values())).device, weights.motifs.shape[1]
        self.motifs = nn.Parameter(weights.motifs.to(device, copy=True))
        # of each weight and each padded place: (num_blocks * block_size,)
        places = (weights.mosaic[:, None] * size + torch.arange(size)).reshape(-1)
        places = places[real_weights([shape.numel() for shape in self.shapes], size, slicing)]
        self.register_buffer("places", places.to(device, torch.int32))

    def weights(self) -> dict[str, Tensor]:
        """The weights by name, with gradients to the motifs."""
        flat = self.motifs.reshape(-1).index_select(0, self.places)
        parts = flat.split([shape.numel() for shape in self.shapes])
        views = [part.view(shape) for part, shape in zip(parts, self.shapes, strict=True)]
        return dict(zip(self.names, views, strict=True))

    def forward(self, inputs: Tensor) -> Tensor:
        self.forget()
        return functional_call(self.model[0], self.weights(), (inputs,))

    def forget(self) -> None:
        """Drop what timm's models in eval mode keep from their weights."""
        self.model[0].train().eval()


def training_batches(
    dataset: Dataset, batches: Batches, augmentation: config.Augment, *, epochs: int, seed: int
) -> Iterator[Batch]:
    """All training images, `epochs` times, shuffled and augmented as in training."""
    order, chance = generator_for("refit order", seed), generator_for("refit augment", seed)
    padding, magnitude = augmentation.crop_padding, augmentation.rand_augment_magnitude
    for epoch in range(epochs):
        indices = dataset.train[torch.randperm(len(dataset.train), generator=order)]
        draws = draw(
            len(indices),
            generator=chance,
            flip=augmentation.flip,
            crop_padding=padding,
            rand_augment_ops=augmentation.rand_augment_ops,
        )
        for start in range(0, len(indices), batches.size):
            part = slice(start, start + batches.size)
            images = augment.apply(
                dataset.images,
                draws.at(part),
                indices=indices[part],
                crop_padding=padding,
                image_size=batches.image_size,
                magnitude=magnitude,
            )
            labels = dataset.labels[indices[part]].to(batches.device)
            yield Batch(batches.to_input(images), labels, (epoch + start / len(indices)) / epochs)
