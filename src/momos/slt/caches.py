"""What modules remember between calls in eval mode, and must not while their weights are changed."""

from typing import Any

from torch import nn


class _Forgetful(dict):
    """Takes what is put into it and never says that it is there: it is made anew at every call."""

    def __contains__(self, key: Any) -> bool:
        return False


def forget_(model: nn.Module) -> None:
    """In place: attention biases of timm's TinyViT, LeViT and EfficientFormer, which they look up
    once and keep with their graph.
    """
    for module in model.modules():
        if isinstance(getattr(module, "attention_bias_cache", None), dict):
            module.attention_bias_cache = _Forgetful()
