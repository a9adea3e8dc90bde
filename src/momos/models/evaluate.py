"""Loss and accuracy of a classifier."""

from collections.abc import Collection

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from momos.images.inputs import Batches
from momos.methods.quantize import quantized_forward
from momos.models.layout import layout_of


@torch.no_grad()
def loss_and_accuracy(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    batches: Batches,
    *,
    bits: int = 32,
    quantized: Collection[str] = (),
) -> tuple[float, float]:
    """(mean cross entropy in nats, accuracy in [0, 1]) over all images (n, C, H, W) uint8 with
    labels (n,), in eval mode.
    """
    model.eval()
    losses, hits, layout = [], [], layout_of(model)
    for some, expected in zip(
        images.split(batches.size), labels.to(batches.device).split(batches.size), strict=True
    ):
        output = quantized_forward(
            model, batches.to_input(some, layout), bits=bits, names=quantized
        )
        losses.append(F.cross_entropy(output, expected, reduction="sum"))
        hits.append((output.argmax(1) == expected).sum())
    return torch.stack(losses).cpu().double().sum().item() / len(labels), torch.stack(
        hits
    ).sum().item() / len(labels)
