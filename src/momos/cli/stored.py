"""Weights in the form in which a file has them: type, compressed sizes, description length."""

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor

Columns = dict[str, Any]  # one row of a table: text, numbers, and None
PLAIN = "float32"


class StoredForm(NamedTuple):
    """How weights are stored: the names of their types, and bits of one on average."""

    dtype: str
    bits: float


def stored_form(tensors: Iterable["Tensor"]) -> StoredForm:
    """The form of some weights. Bits are a whole number unless types are mixed."""
    names: dict[str, None] = {}
    num_bits = num_weights = 0
    for tensor in tensors:
        names[str(tensor.dtype).removeprefix("torch.")] = None
        num_bits += 8 * tensor.nbytes
        num_weights += tensor.numel()
    bits = num_bits / num_weights
    return StoredForm(" and ".join(names), int(bits) if bits == int(bits) else bits)


def ratios_as_stored(tensors: Sequence["Tensor"], columns: Mapping[str, Any]) -> Columns:
    """Compression ratios of the weights' bytes as they are stored, by compressor.

    columns: with the ratios of the weights as float32, which get names ending in _float32. Weights
    that are stored as float32 have one ratio a compressor.
    """
    from momos.complexity import compressors

    if stored_form(tensors).dtype == PLAIN:
        return {}
    names = [name for name in compressors.names() if name in columns]
    return {f"{name}_float32": columns[name] for name in names} | {
        name: compressed_ratio(tensors, name) for name in names
    }


def compressed_ratio(tensors: Iterable["Tensor"], compressor: str) -> float:
    """Bytes of the tensors, one after the other, over their compressed size."""
    from momos.survey.streaming import CompressedSize

    stream = CompressedSize(compressor)
    for tensor in tensors:
        stream.add(raw_bytes(tensor))
    return stream.ratio()


def raw_bytes(tensor: "Tensor") -> Any:
    """The tensor's bytes, (nbytes,) uint8."""
    import torch

    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()


def plain_description(num_weights: int, bits: float) -> Columns:
    """Description length of weights that are stored one by one: RAC is 1."""
    from momos.complexity.code_length import describe, description_bits

    length = description_bits(num_weights, bits)
    return describe(length, length)


def mosaic_description(
    sizes: Sequence[int], block_size: int, num_motifs: int, bits: float
) -> Columns:
    """Description length as a mosaic of the distinct blocks (MoMos, Eq. 8 and 21).

    sizes: numbers of weights by tensor. num_motifs: distinct blocks. bits: of a weight as stored,
    in the motifs and in the trivial length.
    """
    from momos.complexity.code_length import describe, description_bits
    from momos.weights import blocks

    num_weights, num_blocks = sum(sizes), blocks.num_blocks(sizes, block_size)
    length = description_bits(num_motifs * block_size, bits, [(num_blocks, num_motifs)])
    return {
        "num_weights": num_weights,
        "block_size": block_size,
        "num_blocks": num_blocks,
        **describe(description_bits(num_weights, bits), length),
    }
