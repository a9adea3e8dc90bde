"""Description length of weights, and relative algorithmic compression, RAC (MoMos, Eq. 3, 8, 21).

    trivial   L_0 = d * q                           d weights of q bits
    MoMos     L   = k * s * q + n * ceil(log2 k)    k motifs of s weights, n blocks naming a motif
    RAC           = L_0 / L

All lengths are exact integers. The additive constant of Eq. 8 is ignored, as in the paper.
"""

import contextlib
import operator
from collections.abc import Iterable

from momos.methods.method import Stored


def trivial_bits(num_weights: int, bits: int = 32) -> int:
    """Trivial description length L_0 in bits (Eq. 3).

    Raises ValueError unless both arguments are positive integers.
    """
    return _positive("num_weights", num_weights) * _positive("bits", bits)


def momos_bits(num_blocks: int, block_size: int, num_motifs: int, bits: int = 32) -> int:
    """Description length L of a mosaic in bits (Eq. 8).

    Raises ValueError unless all arguments are positive integers and num_motifs <= num_blocks.
    """
    blocks, size = _positive("num_blocks", num_blocks), _positive("block_size", block_size)
    motifs, bits = _positive("num_motifs", num_motifs), _positive("bits", bits)
    if motifs > blocks:
        raise ValueError(f"num_motifs must be in 1..{blocks} (num_blocks), got {motifs}")
    return description_bits(motifs * size, bits, [(blocks, motifs)])


def rac(
    num_weights: int, num_blocks: int, block_size: int, num_motifs: int, bits: int = 32
) -> float:
    """Relative algorithmic compression L_0 / L (Eq. 21).

    num_blocks: ceil(num_weights / block_size), or the sum of such ceilings over tensors. bits: of a
    stored weight, in L_0 and in L.
    Raises ValueError for values that are no positive integers or can't belong to one model.
    """
    _check_slicing(num_weights, num_blocks, block_size)
    return trivial_bits(num_weights, bits) / momos_bits(num_blocks, block_size, num_motifs, bits)


def lower_complexity(
    num_weights: int, num_blocks: int, block_size: int, num_motifs: int, bits: int = 32
) -> bool:
    """Whether L < L_0, the lower-complexity regime (Cor. 3.4). Arguments and errors as in `rac`."""
    _check_slicing(num_weights, num_blocks, block_size)
    return momos_bits(num_blocks, block_size, num_motifs, bits) < trivial_bits(num_weights, bits)


def qat_rac(bits: int) -> float:
    """RAC of a model quantised to `bits` per weight, 32 / bits. Raises ValueError outside 1..32."""
    if _positive("bits", bits) > 32:
        raise ValueError(f"bits must be in 1..32, got {bits}")
    return 32 / bits


def stored_bits(stored: Stored) -> int:
    """Return the description length in bits of what a method stores (Eq. 8)."""
    return description_bits(stored.num_values, stored.bits, stored.alphabets)


def description_bits(
    num_values: int, bits: float, alphabets: Iterable[tuple[int, int]] = ()
) -> int:
    """Return the description length of values and of indices into alphabets (Eq. 8).

    It is num_values * bits, and num_indices * ceil(log2 num_symbols) for each alphabet. bits: of a
    value; no whole number for the mean of several types, and then the length is rounded.
    alphabets: (num_indices, num_symbols) of each.
    """
    lengths = (indices * (symbols - 1).bit_length() for indices, symbols in alphabets)
    return round(num_values * bits) + sum(lengths)


def describe_stored(num_weights: int, stored: Stored) -> dict[str, float]:
    """Columns rac, description_bits, trivial_bits and lower_complexity (Cor. 3.4) of a model.

    num_weights: of the model (d). stored: what describes them (`Method.stored`).
    """
    return describe(trivial_bits(num_weights), stored_bits(stored))


def describe(trivial: int, length: int) -> dict[str, float]:
    """Those columns of two lengths in bits: of the weights one by one (L_0), and as stored."""
    return {
        "rac": trivial / length,
        "description_bits": length,
        "trivial_bits": trivial,
        "lower_complexity": length < trivial,
    }


def _check_slicing(num_weights: int, num_blocks: int, block_size: int) -> None:
    """A vector of d weights needs at least ceil(d / s) blocks and never more than d."""
    weights, size = _positive("num_weights", num_weights), _positive("block_size", block_size)
    if not -(-weights // size) <= _positive("num_blocks", num_blocks) <= weights:
        expected = f"{-(-weights // size)}..{weights} for {weights} weights in blocks of {size}"
        raise ValueError(f"num_blocks must be in {expected}, got {num_blocks}")


def _positive(name: str, value: int) -> int:
    """value as an int. Raises ValueError unless it is a whole number of at least 1."""
    with contextlib.suppress(TypeError):
        if (number := operator.index(value)) >= 1:
            return number
    raise ValueError(f"{name} must be a positive integer, got {value!r}")
