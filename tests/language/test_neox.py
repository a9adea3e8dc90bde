"""GPT-NeoX models: folding and centring against the model itself, losses, initial weights."""

import pytest
import torch
from small_neox import TOKENS, logits, shaken, small
from torch import nn

from momos.language import neox
from momos.slt import compressibility

pytest.importorskip("transformers")


@pytest.mark.parametrize("parallel", [True, False])
def test_folding_changes_no_output(parallel):
    model = shaken(small(use_parallel_residual=parallel))
    before, num_weights = logits(model), sum(p.numel() for p in model.parameters())
    neox.fold_(model)
    assert before.std() > 0.5
    torch.testing.assert_close(logits(model), before, rtol=0, atol=1e-4)
    norms = [module for module in model.modules() if isinstance(module, nn.LayerNorm)]
    assert len(norms) == 7 and not any(list(norm.parameters()) for norm in norms)
    assert sum(p.numel() for p in model.parameters()) == num_weights - 7 * 32 + 31, (
        "a bias for the unembedding instead"
    )


def test_centring_changes_no_probability():
    model = shaken(small())
    before = logits(model).log_softmax(-1)
    neox.center_(model)
    torch.testing.assert_close(logits(model).log_softmax(-1), before, rtol=0, atol=1e-4)
    assert model.gpt_neox.embed_in.weight.mean(1).abs().max() < 1e-6
    assert model.gpt_neox.layers[1].mlp.dense_4h_to_h.weight.mean(0).abs().max() < 1e-6
    neox.fold_(model)
    torch.testing.assert_close(logits(model).log_softmax(-1), before, rtol=0, atol=1e-4)


def test_a_tied_unembedding_is_not_folded():
    with pytest.raises(ValueError, match="tied to the embedding"):
        neox.fold_(small(tie_word_embeddings=True))


def test_what_the_schemes_find_in_it():
    model = small()
    neox.fold_(model)
    heads = compressibility.attention_heads(model)
    assert len(heads) == 6 and heads[0].module == "gpt_neox.layers.0.attention"
    chosen = compressibility.chosen(compressibility.layers_of(model))
    assert {name.rsplit(".", 3)[0] for name in chosen} == {"gpt_neox.layers.1"} and len(chosen) == 4
    copied, _ = compressibility.pruned(model, heads[:1])
    assert not torch.equal(logits(copied), logits(model))


def test_initial_weights_follow_from_the_seed_alone():
    before = torch.get_rng_state()
    one, same, other = small(1), small(1), small(2)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(logits(one), logits(same)) and not torch.equal(logits(one), logits(other))


@pytest.mark.parametrize(
    "kwargs", [{"hiden_size": 16}, {"hidden_size": 15, "num_attention_heads": 4}]
)
def test_kwargs_that_no_model_has(kwargs):
    with pytest.raises(ValueError, match="language_models.kwargs: "):
        small(**kwargs)


def test_the_mean_loss_weighs_tokens():
    model = small()
    with torch.no_grad():
        whole = neox.loss(model, TOKENS).item()
    assert neox.mean_loss(model, TOKENS.split(3)) == pytest.approx(whole, abs=1e-6)
