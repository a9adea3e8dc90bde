"""Causal language models: transformers' GPTNeoXForCausalLM, its loss, and its layer norms folded.

Pythia models have this architecture, and so have those trained here (singular MDL, App. B).
transformers takes seconds to import, so each function that needs it imports it.
"""

import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

if TYPE_CHECKING:
    from transformers import GPTNeoXForCausalLM
    from transformers.models.gpt_neox.modeling_gpt_neox import GPTNeoXLayer


def build(
    kwargs: Mapping[str, Any], *, vocabulary: int, context: int, seed: int
) -> "GPTNeoXForCausalLM":
    """A GPT-NeoX on the CPU, with initial weights from the seed; the global RNG state stays.

    kwargs: of GPTNeoXConfig. vocabulary: number of tokens. context: tokens per sequence.
    Raises ValueError for kwargs that do not fit.
    """
    from huggingface_hub.errors import StrictDataclassError
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

    shape = {
        "vocab_size": vocabulary,
        "max_position_embeddings": context,
        "bos_token_id": None,
        "eos_token_id": None,
        "use_cache": False,
    }
    unknown = sorted(set(kwargs) - set(GPTNeoXConfig().to_dict()))
    if unknown:
        raise ValueError(
            f"language_models.kwargs: GPTNeoXConfig does not take {', '.join(unknown)}"
        )
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        try:
            return GPTNeoXForCausalLM(GPTNeoXConfig(**shape | dict(kwargs)))
        except (TypeError, ValueError, StrictDataclassError) as error:
            raise ValueError(
                f"language_models.kwargs: no GPT-NeoX has {dict(kwargs)!r} ({error})"
            ) from error


def loss(model: nn.Module, batch: Tensor) -> Tensor:
    """Mean cross-entropy of the next token, in nats. batch (n, context + 1) int64."""
    logits = model(batch[:, :-1], use_cache=False).logits
    return F.cross_entropy(logits.flatten(0, 1).float(), batch[:, 1:].flatten())


@torch.no_grad()
def mean_loss(model: nn.Module, batches: Iterable[Tensor]) -> float:
    """Mean of `loss` over all tokens of all batches, in nats."""
    losses = [(loss(model, batch).item(), len(batch)) for batch in batches]
    return math.fsum(value * size for value, size in losses) / sum(size for _, size in losses)


# --- the same function with fewer parameters


@torch.no_grad()
def fold_(model: "GPTNeoXForCausalLM") -> None:
    """Fold each layer norm's scale and shift into the linear layer after it, in place.

    The norms keep no parameters, and no output changes. The last norm's shift needs a bias of the
    unembedding; GPT-NeoX has none, so one is added. Raises ValueError for an unembedding that is
    tied to the embedding.
    """
    body, head = model.gpt_neox, model.lm_head
    if head.weight is body.embed_in.weight:
        raise ValueError(
            "layer norms can't be folded into an unembedding that is tied to the embedding"
        )
    for layer in _layers(model):
        attention, mlp = layer.attention, layer.mlp
        layer.input_layernorm = _fold(layer.input_layernorm, attention.query_key_value)
        layer.post_attention_layernorm = _fold(layer.post_attention_layernorm, mlp.dense_h_to_4h)
    if head.bias is None:
        zeros = torch.zeros(head.out_features, dtype=head.weight.dtype, device=head.weight.device)
        head.bias = nn.Parameter(zeros)
    body.final_layer_norm = _fold(body.final_layer_norm, head)


def _fold(norm: nn.LayerNorm, linear: nn.Linear) -> nn.LayerNorm:
    """W (norm * scale + shift) + b = (W scale) norm + (b + W shift), in float64, rounded once."""
    weight = linear.weight.double()
    linear.bias.copy_(linear.bias.double() + weight @ norm.bias.double())
    linear.weight.copy_(weight * norm.weight.double())
    return nn.LayerNorm(norm.normalized_shape, norm.eps, elementwise_affine=False)


@torch.no_grad()
def center_(model: "GPTNeoXForCausalLM") -> None:
    """Shift weights so that writes to the residual stream have mean zero over its width, in place.

    The unembedding is shifted to mean zero over the vocabulary. No probability changes: layer norms
    subtract the one mean, softmax the other. All logits of a position change by the same number.
    """
    embedding, head = model.gpt_neox.embed_in, model.lm_head
    embedding.weight.sub_(embedding.weight.mean(1, keepdim=True))
    for layer in _layers(model):
        for linear in (layer.attention.dense, layer.mlp.dense_4h_to_h):
            linear.weight.sub_(linear.weight.mean(0, keepdim=True))
            linear.bias.sub_(linear.bias.mean())
    head.weight.sub_(head.weight.mean(0, keepdim=True))


def _layers(model: "GPTNeoXForCausalLM") -> "list[GPTNeoXLayer]":
    return cast("list[GPTNeoXLayer]", list(model.gpt_neox.layers))
