"""What tells whether chains have mixed: R-hat and effective sample size, by ArviZ."""

import math
from typing import NamedTuple

import numpy as np

MIN_DRAWS = 4  # of a chain, below which ArviZ gives neither number


class Diagnostics(NamedTuple):
    """Of the rise of the loss over chains; a number is NaN where there is too little to tell."""

    rhat: float  # rank-normalised split R-hat (Vehtari et al. 2021): 1 where the chains agree
    ess: float  # effective number of independent draws of all chains, for the mean
    # Mean G over weights and chains, as their last step had it: lr * scale is the sampler's step
    scale: float
    init_loss_se: float  # standard error of the mean of L(w*) over batches


def mixing(rises: np.ndarray) -> tuple[float, float]:
    """R-hat and effective sample size of (num_chains, num_draws); R-hat needs two chains.

    Both need MIN_DRAWS draws that are not all the same.
    """
    from arviz_stats.base import array_stats  # takes a second

    num_chains, num_draws = rises.shape
    if num_draws < MIN_DRAWS or not np.ptp(rises) > 0:
        return math.nan, math.nan
    axes = {"chain_axis": 0, "draw_axis": 1}
    ess = float(array_stats.ess(rises, method="mean", **axes))
    return float(array_stats.rhat(rises, **axes)) if num_chains > 1 else math.nan, ess


def standard_error(losses: np.ndarray) -> float:
    """Of the mean of losses, of which NaN are left out; NaN where there is only one."""
    known = losses[~np.isnan(losses)]
    return float(known.std(ddof=1) / math.sqrt(len(known))) if len(known) > 1 else math.nan
