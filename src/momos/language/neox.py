"""Causal language models: transformers' GPTNeoXForCausalLM, its loss, and its layer norms folded.

Pythia models have this architecture, and so have those trained here (singular MDL, App. B).
transformers takes seconds to import, so each function that needs it imports it.
"""

import copy
import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from momos.settings import suggestion

if TYPE_CHECKING:
    from transformers import GPTNeoXForCausalLM
    from transformers.models.gpt_neox.modeling_gpt_neox import GPTNeoXLayer

# What transformers and torch raise when they are called with settings that make no sense to them
ARGUMENT_ERRORS = (
    TypeError, ValueError, AssertionError, LookupError, AttributeError, ArithmeticError,
    RuntimeError, OSError,
)  # fmt: skip


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
    _check_activation(kwargs)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        try:  # a copy: the constructor writes into mappings
            return GPTNeoXForCausalLM(GPTNeoXConfig(**shape | copy.deepcopy(dict(kwargs))))
        except (*ARGUMENT_ERRORS, StrictDataclassError) as error:
            raise ValueError(_no_model(kwargs, error)) from error


def _check_activation(kwargs: Mapping[str, Any]) -> None:
    """Raises ValueError for a name of an activation that transformers does not know."""
    from transformers.activations import ACT2FN

    name = kwargs.get("hidden_act")
    if isinstance(name, str) and name not in ACT2FN:
        raise ValueError(
            f"language_models.kwargs.hidden_act must be one of {', '.join(sorted(ACT2FN))}, "
            f"got {name!r}{suggestion(name, ACT2FN)}"
        )


def _no_model(kwargs: Mapping[str, Any], error: Exception) -> str:
    reason = f"{type(error).__name__}: {error}"
    return f"language_models.kwargs: no GPT-NeoX has {dict(kwargs)!r} ({reason})"


@torch.no_grad()
def check(
    kwargs: Mapping[str, Any], *, vocabulary: int, context: int, center: bool, fold: bool
) -> None:
    """Try what a training and its measures will do with such a model, on one sequence.

    Raises ValueError naming the setting, before any training, for kwargs that make no model, for
    one that can't read such a sequence, and for one that can't be centred or folded as asked.
    """
    model = build(kwargs, vocabulary=vocabulary, context=context, seed=0).eval()
    sequence = torch.full((1, context + 1), vocabulary - 1)
    try:
        before = loss(model, sequence).item()
    except ARGUMENT_ERRORS as error:
        raise ValueError(_no_model(kwargs, error)) from error
    if not math.isfinite(before):
        raise ValueError(
            f"language_models.kwargs: {dict(kwargs)!r} make a model whose loss is {before} before "
            "any training; expected a finite one"
        )
    if center:
        center_(model)
    if fold:
        fold_(model)


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

    The norms keep no parameters, and no output changes. A norm's shift needs a bias of the layer
    after it: where that has none, as GPT-NeoX's unembedding, one is added. Raises ValueError for an
    unembedding that is tied to the embedding.
    """
    body, head = model.gpt_neox, model.lm_head
    _check_untied(model, "fold")
    for layer in _layers(model):
        attention, mlp = layer.attention, layer.mlp
        layer.input_layernorm = _fold(layer.input_layernorm, attention.query_key_value)
        layer.post_attention_layernorm = _fold(layer.post_attention_layernorm, mlp.dense_h_to_4h)
    body.final_layer_norm = _fold(body.final_layer_norm, head)


def _fold(norm: nn.LayerNorm, linear: nn.Linear) -> nn.LayerNorm:
    """W (norm * scale + shift) + b = (W scale) norm + (b + W shift), in float64, rounded once."""
    weight = linear.weight.double()
    if linear.bias is None:
        linear.bias = nn.Parameter(linear.weight.new_zeros(linear.out_features))
    linear.bias.copy_(linear.bias.double() + weight @ norm.bias.double())
    linear.weight.copy_(weight * norm.weight.double())
    return nn.LayerNorm(norm.normalized_shape, norm.eps, elementwise_affine=False)


@torch.no_grad()
def center_(model: "GPTNeoXForCausalLM") -> None:
    """Shift weights so that writes to the residual stream have mean zero over its width, in place.

    The unembedding is shifted to mean zero over the vocabulary. No probability changes: layer norms
    subtract the one mean, softmax the other. All logits of a position change by the same number.
    Raises ValueError for an unembedding that is tied to the embedding.
    """
    _check_untied(model, "center")
    embedding, head = model.gpt_neox.embed_in, model.lm_head
    embedding.weight.sub_(embedding.weight.mean(1, keepdim=True))
    for layer in _layers(model):
        for linear in (layer.attention.dense, layer.mlp.dense_4h_to_h):
            linear.weight.sub_(linear.weight.mean(0, keepdim=True))
            if linear.bias is not None:
                linear.bias.sub_(linear.bias.mean())
    head.weight.sub_(head.weight.mean(0, keepdim=True))


def _check_untied(model: "GPTNeoXForCausalLM", setting: str) -> None:
    if model.lm_head.weight is model.gpt_neox.embed_in.weight:
        raise ValueError(
            f"language_models.{setting} must be false for an unembedding that is tied to the "
            "embedding (kwargs.tie_word_embeddings)"
        )


def _layers(model: "GPTNeoXForCausalLM") -> "list[GPTNeoXLayer]":
    return cast("list[GPTNeoXLayer]", list(model.gpt_neox.layers))
