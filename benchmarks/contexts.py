"""Does a mosaic's coder gain by counting each tensor for itself?

usage: python -m benchmarks.contexts RUNS_DIR OUT.csv

RUNS_DIR: runs/digits. A row per model and MoMos method, in bytes: the entropy of all indices
together, and what an ideal adaptive coder takes with one table for the whole mosaic, and with one
for each tensor. The coder has a Dirichlet prior, the better of two concentrations. It learns its
counts as it goes, so that nothing else is stored.
"""

from pathlib import Path

import numpy as np
from scipy.special import gammaln, xlogy

from benchmarks.runs import paths, write_table
from momos import models
from momos.files import run_folder
from momos.weights import blocks

PRIORS = (0.5, 0.05)  # pseudo-counts an index starts with


def indices(folder: Path, block_size: int) -> list[np.ndarray]:
    """The mosaic, an array of motif numbers for each tensor."""
    model = models.restore(run_folder.load_run(folder), run_folder.load_weights(folder, "last"))
    tensors = list(blocks.trainable(model).values())
    whole = blocks.to_blocks(tensors, block_size).numpy()
    _, mosaic = np.unique(whole, axis=0, return_inverse=True)
    counts = [blocks.num_blocks([tensor.numel()], block_size) for tensor in tensors]
    return np.split(mosaic.ravel(), np.cumsum(counts)[:-1])


def adaptive_bytes(parts: list[np.ndarray], num_motifs: int) -> float:
    """Bytes of an ideal coder whose counts start anew with each part."""
    usages = [np.bincount(part, minlength=num_motifs) for part in parts]
    return (
        min(sum(_adaptive_nats(usage, prior) for usage in usages) for prior in PRIORS)
        / np.log(2)
        / 8
    )


def _adaptive_nats(usage: np.ndarray, prior: float) -> float:
    total, number = usage.sum(), len(usage)
    learned = gammaln(usage[usage > 0] + prior) - gammaln(prior)
    return float(gammaln(total + number * prior) - gammaln(number * prior) - learned.sum())


def row(folder: Path, block_size: int) -> dict[str, float]:
    parts = indices(folder, block_size)
    whole = np.concatenate(parts)
    usage = np.bincount(whole)
    entropy = -xlogy(usage, usage / usage.sum()).sum() / np.log(2) / 8
    one, each = adaptive_bytes([whole], len(usage)), adaptive_bytes(parts, len(usage))
    return {
        "motifs": len(usage),
        "entropy": entropy,
        "one_table": one,
        "a_table_a_tensor": each,
        "ratio": each / one,
    }


if __name__ == "__main__":
    write_table(*paths(__doc__, 2), row)
