"""Copies of a model whose weights may be changed without a trace in the original."""

import copy
from typing import Any, TypeVar

from torch import nn

Model = TypeVar("Model", bound=nn.Module)


class _AlwaysEmpty(dict):
    """A cache that takes entries but never says that it has one: each is computed anew."""

    def __contains__(self, key: Any) -> bool:
        return False


def eval_copy(model: Model) -> Model:
    """A deep copy in eval mode, whose modules keep nothing that they computed from old weights."""
    copied = copy.deepcopy(model)
    # The result of eval() is not used: it is None for the attention of timm's TinyViT.
    copied.eval()
    _forget_(copied)
    return copied


def _forget_(model: nn.Module) -> None:
    """Let timm's TinyViT, LeViT and EfficientFormer look their biases up at each call."""
    for module in model.modules():
        if isinstance(getattr(module, "attention_bias_cache", None), dict):
            # nn.Module declares attributes as tensors or modules; this one is a dict in timm
            module.attention_bias_cache = _AlwaysEmpty()  # type: ignore[assignment]
