"""Magnitude pruning against a sort of all weights."""

import pytest
import torch
from torch import nn

from momos.own.magnitude import sparse


@pytest.mark.parametrize("kept", [1.0, 0.5, 0.07])
def test_the_largest_weights_of_all_matrices_stay(kept):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(9, 7), nn.Linear(7, 4))
    before = [weight.detach().clone() for weight in model.parameters()]
    pruned, cost = sparse(model, kept)
    sizes = sorted(
        (float(x.abs()) for w in before if w.ndim > 1 for x in w.flatten()), reverse=True
    )
    least = sizes[round(kept * len(sizes)) - 1]
    for old, new in zip(before, pruned.parameters(), strict=True):
        wanted = old if old.ndim == 1 else torch.where(old.abs() >= least, old, 0.0)
        assert torch.equal(new, wanted)
    assert cost == (round(kept * len(sizes)) + 7 + 4) / (len(sizes) + 7 + 4)
    assert all(map(torch.equal, model.parameters(), before)), "the model itself is left alone"
