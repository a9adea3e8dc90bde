"""Nearest motif by brute force in float64, differences taken one pair at a time."""

import numpy as np


def squared_distances(blocks: np.ndarray, motifs: np.ndarray) -> np.ndarray:
    """(n, s), (k, s) -> (n, k), by direct differences after a common scaling that keeps the squares in range."""
    blocks, motifs = blocks.astype(np.longdouble), motifs.astype(np.longdouble)
    return ((blocks[:, None, :] - motifs[None, :, :]) ** 2).sum(axis=2)
