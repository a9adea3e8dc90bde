"""Memory layout: where a model's weights and images lie best on its device."""

import torch
from torch import nn

from momos.models import linear


def arrange_(model: nn.Module, device: torch.device, precision: str = "float32") -> nn.Module:
    """Moves the model to the device and into the memory layout that its convolutions like best; the
    function stays the same.

    That is channels last, but not for full float32 on a GPU: cuDNN's kernels for it take channels
    first, and transpose whatever else they get (7.8 against 5.9 ms for a step of ResNet20 on an
    H200, and 3.5 against 4.8 ms in TF32).
    """
    last = _convolutions(model) and not (device.type == "cuda" and precision == "float32")
    return linear.speed_up_(
        model.to(device, memory_format=torch.channels_last if last else torch.contiguous_format)
    )


def layout_of(model: nn.Module) -> torch.memory_format:
    """How its images lie best in memory: channels last for convolutions, on a GPU as `arrange_` has
    laid the weights, else as usual.
    """
    weights = [module.weight for module in _convolutions(model)]
    last = [
        weight for weight in weights if weight.device.type != "cuda" or not weight.is_contiguous()
    ]
    return torch.channels_last if last else torch.contiguous_format


def _convolutions(model: nn.Module) -> list[nn.Conv2d]:
    return [module for module in model.modules() if isinstance(module, nn.Conv2d)]
