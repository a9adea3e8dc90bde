"""What the LLC's estimate is where the loss is its own quadratic part at w* (method B2).

L(w) = L(w*) + g' d + d' H d / 2 with d = w - w* makes the sampled density normal. With eigenvalues
h of H, a = nbeta h + localization, and the gradient's coordinates g_i along the eigenvectors:

    nbeta (E[L] - L(w*)) = sum nbeta h / (2 a)  -  sum g_i^2 nbeta^2 (a + localization) / (2 a^2)
    nbeta^2 Var[L]       = sum (nbeta h / a)^2 / 2  +  sum g_i^2 (nbeta localization)^2 / a^3

While nbeta h is small against the localisation, the first sum is nbeta / (2 localization) tr(H). A
sampler with steps lr and scale G samples variances 1 / (a (1 - lr G a / 4)) instead of 1 / a.
"""

import math
from typing import NamedTuple

import numpy as np

from momos.slt.llc.sampling import check_positive
from momos.slt.llc.spectrum import Spectrum


class Quadratic(NamedTuple):
    """A prediction without any sampling. All are NaN where the quadratic part has no density.

    That is so where an eigenvalue lies at or below -localization / nbeta: see `indefinite`.
    """

    mean: float  # the first sum, over probes
    std: float  # sample standard deviation over probes; NaN for a single probe
    gradient_term: float  # what the gradient adds to it, at most 0
    variance: float  # of the variance-based estimate, its gradient's part included
    # By which the sampler's steps multiply the first sum. NaN if they diverge, or if it is 0.
    step_bias: float

    @property
    def indefinite(self) -> bool:
        """Whether the quadratic part has no density to sample from."""
        return math.isnan(self.mean)

    @property
    def no_minimum(self) -> bool:
        """Whether the gradient's term is above a tenth of the prediction."""
        return abs(self.gradient_term) > 0.1 * abs(self.mean)


def predict(
    spectrum: Spectrum, *, nbeta: float, localization: float, step: float = 0.0
) -> Quadratic:
    """The quadratic prediction of an estimate at these settings.

    step: lr G of the sampler, 0 for exact sampling. Raises ValueError for arguments out of range.
    """
    check_positive("nbeta", nbeta)
    check_positive("localization", localization)
    if not spectrum.smallest * nbeta > -localization:
        return Quadratic(*[math.nan] * 5)

    def pull(h: np.ndarray) -> np.ndarray:
        return nbeta * h + localization

    def rise(h: np.ndarray) -> np.ndarray:
        return nbeta * h / (2 * pull(h))

    def stepped(h: np.ndarray) -> np.ndarray:
        return rise(h) / (1 - step * pull(h) / 4)

    rises = spectrum.traces(rise)
    variance = spectrum.traces(lambda h: 2 * rise(h) ** 2).mean()
    slope = spectrum.along_gradient(lambda h: (nbeta * localization) ** 2 / pull(h) ** 3)
    stable = step * (nbeta * spectrum.largest + localization) < 4 and rises.sum() != 0
    return Quadratic(
        mean=float(rises.mean()),
        std=float(rises.std(ddof=1)) if len(rises) > 1 else math.nan,
        gradient_term=-spectrum.along_gradient(
            lambda h: nbeta**2 * (pull(h) + localization) / (2 * pull(h) ** 2)
        ),
        variance=float(variance + slope),
        step_bias=float(spectrum.traces(stepped).sum() / rises.sum()) if stable else math.nan,
    )
