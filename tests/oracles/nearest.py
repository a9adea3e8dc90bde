"""Nearest motif by brute force in float64, differences taken one pair at a time."""

import numpy as np


def squared_distances(blocks: np.ndarray, motifs: np.ndarray) -> np.ndarray:
    """(n, s), (k, s) -> (n, k), by direct differences after a common scaling that keeps the squares
    in range.
    """
    blocks, motifs = blocks.astype(np.longdouble), motifs.astype(np.longdouble)
    return ((blocks[:, None, :] - motifs[None, :, :]) ** 2).sum(axis=2)


def first_nearest(blocks: np.ndarray, motifs: np.ndarray) -> np.ndarray:
    """(n, s), (k, s) -> (n,): the lowest index at the smallest float64 distance, summed from
    coordinate 0 on, after the same scaling.
    """
    exponent = -np.frexp(max(np.abs(blocks).max(), np.abs(motifs).max()).astype(np.float64))[1]
    blocks, motifs = (np.ldexp(rows.astype(np.float64), exponent) for rows in (blocks, motifs))
    distances = np.zeros((len(blocks), len(motifs)))
    for coordinate in range(blocks.shape[1]):
        difference = blocks[:, None, coordinate] - motifs[None, :, coordinate]
        distances += difference * difference
    return distances.argmin(axis=1)
