"""TinyViT looks its attention biases up once in eval mode: neither samplers nor searches may go on
with the old ones.
"""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from momos.models import build
from momos.slt import compressibility
from momos.slt.llc import estimate_llc

KWARGS = {"embed_dims": [8, 16], "depths": [1, 1], "num_heads": [2, 2], "window_sizes": [2, 2]}
IMAGES = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def model() -> nn.Module:
    """Its cache filled, without a graph."""
    made = build("tiny_vit", 10, image_size=16, kwargs=KWARGS)
    made.eval()
    with torch.no_grad():
        made(IMAGES)
    assert any(
        module.attention_bias_cache
        for module in made.modules()
        if hasattr(module, "attention_bias_cache")
    )
    return made


def test_a_compressed_copy_computes_with_its_own_biases(model):
    copied = compressibility.noisy(model, 1.0, kind="absolute").model
    fresh = build("tiny_vit", 10, image_size=16, kwargs=KWARGS)
    fresh.load_state_dict(copied.state_dict())
    fresh.eval()
    with torch.no_grad():
        assert torch.equal(copied(IMAGES), fresh(IMAGES)) and not torch.allclose(
            copied(IMAGES), model(IMAGES)
        )


def test_a_chain_takes_more_than_one_step(model):
    found = estimate_llc(
        model,
        lambda m, labels: F.cross_entropy(m(IMAGES), labels),
        [torch.tensor([1, 2])],
        lr=1e-5,
        nbeta=10.0,
        localization=10.0,
        num_chains=1,
        num_draws=3,
    )
    assert found.loss_trace.shape == (1, 3) and len(set(found.loss_trace[0])) == 3
