"""Bits that keep one thing of a network's signs and nothing else: what a low complexity is read by.

shuffled  each tensor's bits permuted: keeps the share of ones (`momos.complexity.bdm.shuffled`)
markov    a first-order chain with each tensor's own rates of change: keeps runs along a row
permuted  each tensor's rows permuted, so its neurons: keeps every row
"""

from collections.abc import Iterable, Iterator

import numpy as np

MARKOV, PERMUTED = 1, 2  # beside the seed and the tensor's number in a generator's seed


def markov(tensors: Iterable[np.ndarray], seed: int) -> Iterator[np.ndarray]:
    """Bool arrays -> chains of the same shapes, which change value as often from 0 and from 1.

    A chain begins with the tensor's first bit. Tensor number i has its own generator.
    """
    for index, bits in enumerate(tensors):
        generator = np.random.default_rng([seed, index, MARKOV])
        yield _chain(bits.reshape(-1), generator).reshape(bits.shape)


def permuted(tensors: Iterable[np.ndarray], seed: int) -> Iterator[np.ndarray]:
    """Bool arrays with their rows (first axis) permuted. Tensor number i has its own generator."""
    for index, bits in enumerate(tensors):
        generator = np.random.default_rng([seed, index, PERMUTED])
        yield bits[generator.permutation(len(bits))] if bits.ndim else bits


def _chain(bits: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """(length,) bool -> another of the same first bit and rates of change."""
    before, after = bits[:-1], bits[1:]
    rates = [_share(after[before == value] != value) for value in (False, True)]
    if not bits.size or not rates[int(bits[0])]:
        return np.full(bits.shape, bool(bits.size and bits[0]))
    runs: list[np.ndarray] = []
    value, length = bool(bits[0]), 0
    while length < bits.size:  # a few rounds: each draws about as many runs as are missing
        num_pairs = 2 + (bits.size - length) // 4
        drawn = np.empty((num_pairs, 2), dtype=np.int64)
        for column, each in enumerate((value, not value)):
            drawn[:, column] = _runs(rates[int(each)], num_pairs, bits.size, generator)
        values = np.tile([value, not value], num_pairs)
        run = np.repeat(values, drawn.reshape(-1))[: bits.size - length]
        runs.append(run)
        length += run.size
    return np.concatenate(runs)


def _share(changes: np.ndarray) -> float:
    return float(changes.mean()) if changes.size else 0.0


def _runs(rate: float, count: int, longest: int, generator: np.random.Generator) -> np.ndarray:
    """Lengths of runs that end with this probability at each bit, at most `longest`."""
    if not rate:
        return np.full(count, longest)
    drawn = generator.geometric(rate, count)
    return np.minimum(drawn, longest, out=drawn)
