"""Addition modulo 47 as images: a task that networks learn by heart first and understand later.

Networks that are trained on a part of all pairs fit it soon, and answer the other pairs much later
(Power et al. 2022, "grokking").
"""

import numpy as np

MODULUS = 47
SIDE = 10  # of an image in pixels: SIDE^2 is 2 MODULUS or more


def pairs() -> tuple[np.ndarray, np.ndarray]:
    """All pairs (a, b), and a + b modulo MODULUS.

    Returns images (MODULUS^2, 1, SIDE, SIDE) uint8, row by row 255 at pixel a and at pixel
    MODULUS + b and 0 elsewhere, and labels (MODULUS^2,) int64. Pairs come in order.
    """
    a, b = np.divmod(np.arange(MODULUS**2), MODULUS)
    pixels = np.zeros((MODULUS**2, SIDE**2), dtype=np.uint8)
    pixels[np.arange(MODULUS**2), a] = 255
    pixels[np.arange(MODULUS**2), MODULUS + b] = 255
    labels = (a + b) % MODULUS
    return pixels.reshape(-1, 1, SIDE, SIDE), labels.astype(np.int64)
