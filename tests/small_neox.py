"""A GPT-NeoX of a few thousand weights for tests, and what it says about some tokens."""

import torch
from torch import nn

from momos.language import neox

SMALL = {
    "hidden_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 32,
}


def small(seed: int = 0, **kwargs) -> nn.Module:
    return neox.build(SMALL | kwargs, vocabulary=31, context=12, seed=seed)


def shaken(model: nn.Module) -> nn.Module:
    """Every parameter random, layer norms and biases too, which start at one and zero."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


TOKENS = torch.randint(0, 31, (4, 13), generator=torch.Generator().manual_seed(2))


@torch.no_grad()
def logits(model: nn.Module) -> torch.Tensor:
    return model(TOKENS[:, :-1], use_cache=False).logits
