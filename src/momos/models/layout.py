"""Memory layout: the order in which weights and images lie best on a device."""

import torch
from torch import nn

from momos.models import linear


def arrange_(model: nn.Module, device: torch.device, precision: str = "float32") -> nn.Module:
    """Move the model to the device, into the layout in which its convolutions are fastest.

    The function that it computes stays the same. The layout is channels last, except for float32
    on a GPU: cuDNN's kernels for float32 take channels first and transpose everything else. A step
    of ResNet20 on an H200 takes 7.8 ms with channels last and 5.9 ms with channels first; in TF32
    it takes 3.5 and 4.8 ms.
    """
    is_last = _convolutions(model) and not (device.type == "cuda" and precision == "float32")
    layout = torch.channels_last if is_last else torch.contiguous_format
    # torch's type information lacks the overload with a memory format
    moved: nn.Module = model.to(device, memory_format=layout)  # type: ignore[call-overload]
    return linear.speed_up_(moved)


def layout_of(model: nn.Module) -> torch.memory_format:
    """Layout of images: channels last for convolutions, on a GPU only if `arrange_` chose it."""
    weights = [module.weight for module in _convolutions(model)]
    is_last = any(weight.device.type != "cuda" or not weight.is_contiguous() for weight in weights)
    return torch.channels_last if is_last else torch.contiguous_format


def _convolutions(model: nn.Module) -> list[nn.Conv2d]:
    return [module for module in model.modules() if isinstance(module, nn.Conv2d)]
