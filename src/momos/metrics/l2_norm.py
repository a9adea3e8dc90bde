"""Euclidean norm of all weights, in float64."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor


def metric(tensors: Mapping[str, Tensor]) -> float:
    norms = [
        float(torch.linalg.vector_norm(tensor.cpu(), dtype=torch.float64))
        for tensor in tensors.values()
    ]
    return math.sqrt(sum(norm**2 for norm in norms))
