"""Weight files as other people's training scripts leave them behind."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

Tensors = dict[str, Tensor]


def saved(path: Path, content: Any) -> Path:
    """Write tensors as .safetensors, or anything by torch.save, and return the path."""
    if path.suffix == ".safetensors":
        save_file({name: tensor.contiguous() for name, tensor in content.items()}, path)
    else:
        torch.save(content, path)
    return path


def prefixed(prefix: str) -> Callable[[Mapping[str, Tensor]], Tensors]:
    return lambda tensors: {prefix + name: tensor for name, tensor in tensors.items()}


def trained_by_timm(arch: str, seed: int = 5, **kwargs: Any) -> Tensors:
    """Another initialisation, its weights shifted towards positive ones, as if trained."""
    import timm

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        tensors = timm.create_model(arch, **kwargs).state_dict()
    return {
        name: tensor + 0.01 if tensor.is_floating_point() else tensor
        for name, tensor in tensors.items()
    }
