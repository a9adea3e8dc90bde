"""Section 3 of the MoMos paper as exact functions.

They say how many weight spaces a mosaic can choose from, and how large each is.
"""

from collections.abc import Iterator, Sequence
from itertools import product
from typing import NamedTuple

from momos.weights.blocks import num_motifs


class Counterexample(NamedTuple):
    """A case that breaks a statement of the paper."""

    statement: str  # "Cor. 3.9" or "Prop. 3.10"
    case: str
    left: int  # does not compare with `right` as stated
    right: int


def stirling2(n: int, j: int) -> int:
    """Count partitions of n objects into j non-empty sets. Raises ValueError below zero."""
    if n < 0 or j < 0:
        raise ValueError(f"stirling2 needs n >= 0 and j >= 0, got n={n}, j={j}")
    return _stirling_row(n, j)[j]


def num_components(num_blocks: int, num_motifs: int) -> int:
    """Count distinct linear components: N(n, k) = sum of Stirling2(n, j) for j = 1 .. min(n, k).

    Raises ValueError unless both are at least 1. Source: MoMos, Eq. 17.
    """
    _at_least_one(num_blocks=num_blocks, num_motifs=num_motifs)
    return sum(_stirling_row(num_blocks, min(num_blocks, num_motifs))[1:])


def growth_bound(num_blocks: int) -> int:
    """2^(n - 1), which N(n, k) reaches for every k >= 2 (Cor. 3.9).

    Raises ValueError below one block.
    """
    _at_least_one(num_blocks=num_blocks)
    return 2 ** (num_blocks - 1)


def component_dimension(
    mosaic: Sequence[int], block_size: int, num_weights: int | None = None
) -> int:
    """Dimension of one mosaic's component (Lemma 3.5): distinct motifs used, times s (Eq. 11).

    mosaic: the index of each block's motif. num_weights: d; None: n s. Where the last block is cut
    off (d < n s) and nobody else uses its motif, what is cut off is no dimension; the lemma then
    states the bound alone. Raises ValueError for a block size below 1, and for d that needs another
    number of blocks.
    """
    _at_least_one(block_size=block_size)
    whole = len(mosaic) * block_size
    cut_off = 0 if num_weights is None else whole - num_weights
    if not 0 <= cut_off < block_size or (cut_off and not mosaic):
        expected = f"in {whole - block_size + 1}..{whole}, which need {len(mosaic)} blocks"
        raise ValueError(f"num_weights must be {expected}, got {num_weights}")
    alone = bool(mosaic) and mosaic[-1] not in mosaic[:-1]
    return len(set(mosaic)) * block_size - (cut_off if alone else 0)


def component_dimension_bound(num_motifs: int, block_size: int) -> int:
    """k * s, the largest dimension that any component has (Lemma 3.5).

    It is the same where motifs are trained or moved by k-means: with their mosaic fixed they stay
    within its component, and a network has no more of them than before. So is the description
    length that follows (`momos.complexity.code_length`). Raises ValueError unless both are at least
    1.
    """
    _at_least_one(num_motifs=num_motifs, block_size=block_size)
    return num_motifs * block_size


def num_mosaics(num_blocks: int, num_motifs: int) -> int:
    """k^n, how many components the hypothesis class is a union of, at most (Prop. 3.6).

    Mosaics that induce one partition have one component: `num_components` counts those. Raises
    ValueError unless both are at least 1.
    """
    _at_least_one(num_blocks=num_blocks, num_motifs=num_motifs)
    return num_motifs**num_blocks


def num_motifs_needed(weights: Sequence[float], block_size: int) -> int:
    """Count the distinct blocks of weights: they lie in the class if k is as large (Prop. 3.6).

    weights: (d,). A last block that is cut off needs no motif of its own if it begins as another
    block does. Raises ValueError for a block size below 1, and without weights.
    """
    _at_least_one(block_size=block_size, num_weights=len(weights))
    blocks = [tuple(weights[i : i + block_size]) for i in range(0, len(weights), block_size)]
    whole, last = set(blocks[:-1]), blocks[-1]
    return len(whole) + (last not in {block[: len(last)] for block in whole})


def partition(mosaic: Sequence[int]) -> frozenset[frozenset[int]]:
    """Return the sets of blocks that share a motif (Eq. 14): the mosaic without its labels."""
    classes: dict[int, set[int]] = {}
    for block, motif in enumerate(mosaic):
        classes.setdefault(motif, set()).add(block)
    return frozenset(map(frozenset, classes.values()))


def is_same_component(mosaic: Sequence[int], other: Sequence[int]) -> bool:
    """Say whether two mosaics have one component: if they set the same blocks equal (Prop. 3.7).

    The proposition assumes d = n s; it holds as well where the last block is cut off, of which at
    least one weight is left. Raises ValueError for mosaics of different length.
    """
    if len(mosaic) != len(other):
        raise ValueError(
            f"mosaics must have the same number of blocks, got {len(mosaic)} and {len(other)}"
        )
    return partition(mosaic) == partition(other)


def num_components_for_block_size(num_weights: int, block_size: int, capacity: float) -> int:
    """N(n, k) with n = ceil(d / s) and k = floor(C n), at least 1; it falls with s (Prop. 3.10).

    Raises ValueError unless d and s are at least 1, s <= d and capacity is in (0, 1].
    """
    return num_components(*_blocks_and_motifs(num_weights, block_size, capacity))


def check(
    *,
    max_blocks: int,
    num_weights: Sequence[int],
    block_sizes: Sequence[int],
    capacities: Sequence[float],
) -> list[Counterexample]:
    """Find counterexamples to Cor. 3.9 and Prop. 3.10 on a grid, in exact integers.

    None are expected. Cor. 3.9: N(n, k) >= 2^(n-1) for 2 <= k <= n <= max_blocks. Prop. 3.10: for
    every d, C and two neighbouring block sizes up to d, the larger has no more components. It has
    strictly fewer where it has fewer blocks and the smaller one has two motifs or more.
    """
    return [
        *_growth_failures(max_blocks),
        *_monotonicity_failures(num_weights, block_sizes, capacities),
    ]


def _growth_failures(max_blocks: int) -> Iterator[Counterexample]:
    for n in range(2, max_blocks + 1):
        components = 1  # k = 1: all blocks equal
        for k, partitions in enumerate(_stirling_row(n, n)[2:], start=2):
            components += partitions
            if components < growth_bound(n):
                yield Counterexample("Cor. 3.9", f"n={n}, k={k}", components, growth_bound(n))


def _monotonicity_failures(
    num_weights: Sequence[int], block_sizes: Sequence[int], capacities: Sequence[float]
) -> Iterator[Counterexample]:
    for d, capacity in product(num_weights, capacities):
        sizes = sorted({size for size in block_sizes if size <= d})
        for small, large in zip(sizes, sizes[1:], strict=False):
            more, fewer = (
                num_components_for_block_size(d, size, capacity) for size in (small, large)
            )
            if fewer > more or (fewer == more and _must_fall(d, small, large, capacity)):
                yield Counterexample(
                    "Prop. 3.10", f"d={d}, C={capacity}, s={small} and {large}", fewer, more
                )


def _must_fall(num_weights: int, small: int, large: int, capacity: float) -> bool:
    blocks, motifs = _blocks_and_motifs(num_weights, small, capacity)
    return motifs >= 2 and _blocks_and_motifs(num_weights, large, capacity)[0] < blocks


def _blocks_and_motifs(num_weights: int, block_size: int, capacity: float) -> tuple[int, int]:
    _at_least_one(num_weights=num_weights, block_size=block_size)
    if block_size > num_weights or not 0 < capacity <= 1:
        expected = f"block_size must be in 1..{num_weights} and capacity in (0, 1]"
        raise ValueError(f"{expected}, got block_size={block_size}, capacity={capacity}")
    blocks = -(-num_weights // block_size)
    return blocks, num_motifs(blocks, capacity)


def _stirling_row(n: int, width: int) -> list[int]:
    """[Stirling2(n, 0), .., Stirling2(n, width)] by S(m, j) = j S(m-1, j) + S(m-1, j-1)."""
    row = [1] + [0] * width
    for _ in range(n):
        row = [0] + [j * row[j] + row[j - 1] for j in range(1, width + 1)]
    return row


def _at_least_one(**values: int) -> None:
    for name, value in values.items():
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
