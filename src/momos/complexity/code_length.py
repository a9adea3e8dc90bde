"""Description length of a weight vector and relative algorithmic compression, RAC (MoMos, Eq. 3, 8
and 21).

    trivial   L_0 = d * q                                 d weights of q bits
    MoMos     L   = k * s * q + n * ceil(log2 k)          k motifs of s weights, n blocks that each name one
    RAC           = L_0 / L

All lengths are exact integers; the additive constant of Eq. 8 is ignored, as in the paper.
"""

import operator


def trivial_bits(num_weights: int, bits: int = 32) -> int:
    """L_0 of Eq. 3 in bits. Raises ValueError unless both are positive integers."""
    return _positive("num_weights", num_weights) * _positive("bits", bits)


def momos_bits(num_blocks: int, block_size: int, num_motifs: int, bits: int = 32) -> int:
    """L of Eq. 8 in bits. Raises ValueError unless all are positive integers and num_motifs <=
    num_blocks.
    """
    blocks, size = _positive("num_blocks", num_blocks), _positive("block_size", block_size)
    motifs, bits = _positive("num_motifs", num_motifs), _positive("bits", bits)
    if motifs > blocks:
        raise ValueError(f"num_motifs must be in 1..{blocks} (num_blocks), got {motifs}")
    return (
        motifs * size * bits + blocks * (motifs - 1).bit_length()
    )  # (k - 1).bit_length() = ceil(log2 k), exactly


def rac(
    num_weights: int, num_blocks: int, block_size: int, num_motifs: int, bits: int = 32
) -> float:
    """L_0 / L of Eq. 21.

    num_blocks is ceil(num_weights / block_size), or the sum of such ceilings over tensors. bits:
    per stored weight, in both. Raises ValueError for values that are no positive integers or that
    cannot belong to one model.
    """
    _check_slicing(num_weights, num_blocks, block_size)
    return trivial_bits(num_weights, bits) / momos_bits(num_blocks, block_size, num_motifs, bits)


def lower_complexity(
    num_weights: int, num_blocks: int, block_size: int, num_motifs: int, bits: int = 32
) -> bool:
    """Whether L < L_0, the lower-complexity regime of Corollary 3.4. Arguments and errors as `rac`."""
    _check_slicing(num_weights, num_blocks, block_size)
    return momos_bits(num_blocks, block_size, num_motifs, bits) < trivial_bits(num_weights, bits)


def qat_rac(bits: int) -> float:
    """RAC of a model quantised to `bits` per weight, 32 / bits; 1 for the float baseline. Raises
    ValueError outside 1..32.
    """
    if _positive("bits", bits) > 32:
        raise ValueError(f"bits must be in 1..32, got {bits}")
    return 32 / bits


def describe(
    num_weights: int,
    *,
    bits: int,
    block_size: int | None,
    num_blocks: int | None,
    num_motifs: int | None,
) -> dict[str, float]:
    """rac, description_bits, trivial_bits and lower_complexity (Cor. 3.4) of a model: MoMos where
    it has a block size, else QAT or float.

    Of MoMos with QAT they are those of the latent, 32-bit weights: scales per tensor break sharing
    in the deployed ones (method A4).
    """
    trivial = trivial_bits(num_weights)
    if block_size is None:
        return {
            "rac": qat_rac(bits),
            "description_bits": num_weights * bits,
            "trivial_bits": trivial,
            "lower_complexity": bits < 32,
        }
    return {
        "rac": rac(num_weights, num_blocks, block_size, num_motifs),
        "description_bits": momos_bits(num_blocks, block_size, num_motifs),
        "trivial_bits": trivial,
        "lower_complexity": lower_complexity(num_weights, num_blocks, block_size, num_motifs),
    }


def _check_slicing(num_weights: int, num_blocks: int, block_size: int) -> None:
    """A vector of d weights needs at least ceil(d / s) blocks and never more than d."""
    weights, size = _positive("num_weights", num_weights), _positive("block_size", block_size)
    if not -(-weights // size) <= _positive("num_blocks", num_blocks) <= weights:
        expected = f"{-(-weights // size)}..{weights} for {weights} weights in blocks of {size}"
        raise ValueError(f"num_blocks must be in {expected}, got {num_blocks}")


def _positive(name: str, value: int) -> int:
    """value as an int. Raises ValueError unless it is a whole number of at least 1."""
    try:
        number = operator.index(value)
    except TypeError:
        raise ValueError(f"{name} must be a positive integer, got {value!r}") from None
    if number < 1:
        raise ValueError(f"{name} must be a positive integer, got {value!r}")
    return number
