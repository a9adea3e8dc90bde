"""Share of weights that are exactly zero."""

from collections.abc import Mapping

from torch import Tensor


def metric(tensors: Mapping[str, Tensor]) -> float:
    zeros = sum(int((tensor == 0).sum()) for tensor in tensors.values())
    return zeros / sum(tensor.numel() for tensor in tensors.values())
