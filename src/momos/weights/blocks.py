"""Weights as blocks and back: the slicing operator and its inverse (MoMos, Eq. 4 and 5).

`slicing="tensor"` pads and cuts each tensor by itself, as the authors' code does; num_blocks is
then a sum of ceilings. `slicing="model"` first flattens all tensors into one vector, as in the
paper.
"""

import math
from collections.abc import Sequence
from fractions import Fraction

import torch
from torch import Tensor, nn

SLICINGS = ("tensor", "model")


def trainable(model: nn.Module) -> dict[str, nn.Parameter]:
    """Trainable parameters by name, in model order, a tied one once: the weights of both papers."""
    return {
        name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad
    }


def num_blocks(sizes: Sequence[int], block_size: int, slicing: str = "tensor") -> int:
    """Number of blocks (n) for tensors of the given numbers of weights.

    Raises ValueError as `to_blocks` does.
    """
    return sum(-(-size // block_size) for size in _pieces(sizes, block_size, slicing))


def num_motifs(num_blocks: int, capacity: float) -> int:
    """Number of motifs (k): floor(capacity * num_blocks), in 1..num_blocks (MoMos, Sec. 4).

    The product is taken of the decimal number that was written, so that 0.07 * 100 is 7. Raises
    ValueError for num_blocks below 1 and for a capacity outside (0, 1].
    """
    if num_blocks < 1:
        raise ValueError(f"num_blocks must be 1 or more, got {num_blocks}")
    if isinstance(capacity, str | bool) or not 0 < capacity <= 1:
        raise ValueError(f"capacity must be a number in (0, 1], got {capacity!r}")
    written = Fraction(repr(float(capacity)))
    return min(max(math.floor(written * num_blocks), 1), num_blocks)


def to_blocks(tensors: Sequence[Tensor], block_size: int, slicing: str = "tensor") -> Tensor:
    """Cut tensors of any shapes into blocks (num_blocks, block_size).

    The last block of each piece is padded with zeros. Raises ValueError for a block size below 1 or
    above the number of weights, and for an unknown slicing.
    """
    pieces = _pieces([tensor.numel() for tensor in tensors], block_size, slicing)
    flat = torch.cat([tensor.detach().reshape(-1) for tensor in tensors])
    cut = [nn.functional.pad(piece, (0, -len(piece) % block_size)) for piece in flat.split(pieces)]
    return torch.cat(cut).reshape(-1, block_size)


def from_blocks(blocks: Tensor, like: Sequence[Tensor], slicing: str = "tensor") -> list[Tensor]:
    """The inverse of `to_blocks`: tensors with the shapes and dtypes of `like`, without padding.

    blocks: (num_blocks, block_size).
    """
    block_size = blocks.shape[1]
    flat = blocks.reshape(-1)[
        real_weights([tensor.numel() for tensor in like], block_size, slicing, device=blocks.device)
    ]
    pieces = flat.split([tensor.numel() for tensor in like])
    return [
        piece.reshape(tensor.shape).to(tensor.dtype)
        for piece, tensor in zip(pieces, like, strict=True)
    ]


def real_weights(
    sizes: Sequence[int],
    block_size: int,
    slicing: str = "tensor",
    *,
    device: torch.device | None = None,
) -> Tensor:
    """Mask (num_blocks * block_size,) bool: true for a weight, false for padding."""
    pieces = _pieces(sizes, block_size, slicing)
    mask = torch.ones(
        sum(size + -size % block_size for size in pieces), dtype=torch.bool, device=device
    )
    end = 0
    for size in pieces:
        end += size + -size % block_size
        mask[end - (-size % block_size) : end] = False
    return mask


def _pieces(sizes: Sequence[int], block_size: int, slicing: str) -> list[int]:
    """Numbers of weights that are cut together. Raises ValueError as `to_blocks` does."""
    if slicing not in SLICINGS:
        raise ValueError(f"mosaic.slicing must be one of {', '.join(SLICINGS)}, got {slicing!r}")
    total = sum(sizes)
    if not 1 <= block_size <= total:
        raise ValueError(
            f"block_size must be in 1..{total} (the number of weights), got {block_size}"
        )
    return list(sizes) if slicing == "tensor" else [total]
