"""Euclidean norm of all weights, in float64."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor


def metric(tensors: Mapping[str, Tensor]) -> float:
    return math.sqrt(
        sum(
            float(torch.linalg.vector_norm(tensor.cpu(), dtype=torch.float64)) ** 2
            for tensor in tensors.values()
        )
    )
