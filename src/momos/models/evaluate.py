"""Loss and accuracy of a classifier."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from momos.images.dataset import Dataset
from momos.images.inputs import Batches
from momos.models.layout import layout_of

Forward = Callable[[nn.Module, Tensor], Tensor]  # (model, network inputs) -> (n, num_classes)


def plain_forward(model: nn.Module, inputs: Tensor) -> Tensor:
    """Call the model as it is."""
    return model(inputs)


@torch.no_grad()
def loss_and_accuracy(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    batches: Batches,
    *,
    forward: Forward = plain_forward,
) -> tuple[float, float]:
    """Return (mean cross entropy in nats, accuracy in [0, 1]) over all images, in eval mode.

    images (n, C, H, W) uint8, labels (n,) int64. forward: how the model is called, for instance
    with quantised weights.
    """
    model.eval()
    losses, hits, layout = [], [], layout_of(model)
    parts = images.split(batches.size), labels.to(batches.device).split(batches.size)
    for some, expected in zip(*parts, strict=True):
        output = forward(model, batches.to_input(some, layout))
        losses.append(F.cross_entropy(output, expected, reduction="sum"))
        hits.append((output.argmax(1) == expected).sum())
    loss = torch.stack(losses).cpu().double().sum().item()
    return loss / len(labels), torch.stack(hits).sum().item() / len(labels)


def training_inputs(model: nn.Module, dataset: Dataset, batches: Batches) -> Iterator[Tensor]:
    """Yield network inputs (n, C, H, W) of the training images in order, not augmented."""
    for indices in dataset.train.split(batches.size):
        yield batches.to_input(dataset.images[indices], layout_of(model))


def test_accuracy(model: nn.Module, dataset: Dataset, batches: Batches) -> float:
    """Return the accuracy in [0, 1] on the test images; the model moves to the inputs' device."""
    images, labels = dataset.images[dataset.test], dataset.labels[dataset.test]
    return loss_and_accuracy(model.to(batches.device), images, labels, batches)[1]
