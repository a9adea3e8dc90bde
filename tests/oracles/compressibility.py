"""Quantisation and its critical point by trying everything: levels written out, every n_q, every
theta (method B1, in float64).
"""

import copy
import math

import numpy as np
import torch


def nearest_level(weights: np.ndarray, n_q: int, theta: float) -> np.ndarray:
    """The level closest to each weight, found by looking at all n_q; weights beyond the last level
    are closest to it.
    """
    m = (n_q - 1) // 2
    levels = np.array([k * theta / m for k in range(-m, m + 1)])
    flat = weights.astype(np.float64).reshape(-1, 1)
    return levels[np.abs(flat - levels).argmin(axis=1)].reshape(weights.shape)


def quantized(model: torch.nn.Module, n_q: int, fraction: float) -> torch.nn.Module:
    model = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in {id(p): p for p in model.parameters() if p.ndim >= 2}.values():
            weights = parameter.numpy()
            theta = float(np.float32(fraction * float(np.abs(weights).max())))
            parameter.copy_(torch.from_numpy(nearest_level(weights, n_q, theta)))
    return model


def losses_by_n_q(model: torch.nn.Module, loss_fn, max_n_q: int, fractions) -> dict[int, float]:
    """The lowest loss over fractions for every odd n_q, weak to strong."""
    return {
        n_q: min(loss_fn(quantized(model, n_q, fraction)) for fraction in fractions)
        for n_q in range(max_n_q, 2, -2)
    }


def critical(losses: dict[int, float], limit: float) -> int | None:
    """The last strength, weak to strong, before the first whose loss is above the limit or not
    finite.
    """
    strongest = None
    for strength, loss in losses.items():
        if not (math.isfinite(loss) and loss <= limit):
            break
        strongest = strength
    return strongest


def crosses_once(losses: dict[int, float], limit: float) -> bool:
    """Whether the loss, once above the limit, stays there."""
    inside = [loss <= limit for loss in losses.values()]
    return inside == sorted(inside, reverse=True)
