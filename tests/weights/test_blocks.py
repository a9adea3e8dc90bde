"""Slicing against loops over single weights."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from momos.weights import blocks

shape = st.lists(st.integers(0, 4), min_size=0, max_size=3)
shapes = st.lists(shape, min_size=1, max_size=5).filter(
    lambda shapes: any(0 not in shape for shape in shapes)
)


def tensors_of(shapes):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=generator) for shape in shapes]


def sliced_by_hand(tensors, block_size, slicing):
    """One weight at a time."""
    pieces = [tensor.reshape(-1).tolist() for tensor in tensors]
    if slicing == "model":
        pieces = [[weight for piece in pieces for weight in piece]]
    rows = []
    for piece in pieces:
        for start in range(0, len(piece), block_size):
            row = piece[start : start + block_size]
            rows.append(row + [0.0] * (block_size - len(row)))
    return rows


@given(shapes, st.integers(1, 7), st.sampled_from(blocks.SLICINGS))
def test_slicing_equals_the_loop_and_is_undone(shapes, block_size, slicing):
    tensors = tensors_of(shapes)
    block_size = min(block_size, sum(tensor.numel() for tensor in tensors))
    cut = blocks.to_blocks(tensors, block_size, slicing)
    assert cut.tolist() == sliced_by_hand(tensors, block_size, slicing)
    assert len(cut) == blocks.num_blocks(
        [tensor.numel() for tensor in tensors], block_size, slicing
    )
    for tensor, again in zip(tensors, blocks.from_blocks(cut, tensors, slicing), strict=True):
        assert torch.equal(tensor, again) and tensor.shape == again.shape


def test_padding_stands_only_at_the_end_of_each_piece():
    assert blocks.real_weights([3, 4], 2).tolist() == [
        True,
        True,
        True,
        False,
        True,
        True,
        True,
        True,
    ]
    assert blocks.real_weights([3, 4], 2, "model").tolist() == [True] * 7 + [False]
    assert blocks.num_blocks([3, 4], 2) == math.ceil(3 / 2) + math.ceil(4 / 2)


@pytest.mark.parametrize("block_size", [0, -1, 8])
def test_a_bad_block_size_is_named(block_size):
    with pytest.raises(ValueError, match=rf"block_size must be in 1..7 .*got {block_size}"):
        blocks.to_blocks([torch.ones(3), torch.ones(2, 2)], block_size)


def test_an_unknown_slicing_is_named():
    with pytest.raises(ValueError, match="slicing.*'layer'"):
        blocks.num_blocks([3], 1, "layer")


def test_dtypes_survive_the_round_trip():
    tensors = [torch.ones(3, dtype=torch.float64), torch.ones(2, dtype=torch.bfloat16)]
    assert [
        tensor.dtype for tensor in blocks.from_blocks(blocks.to_blocks(tensors, 2), tensors)
    ] == [torch.float64, torch.bfloat16]


def test_trainable_leaves_out_frozen_weights_and_lists_tied_ones_once():
    model = torch.nn.Sequential(
        torch.nn.Linear(2, 2), torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2)
    )
    model[1].weight = model[0].weight
    model[0].bias.requires_grad_(False)
    assert list(blocks.trainable(model)) == ["0.weight", "1.bias", "2.weight", "2.bias"]
