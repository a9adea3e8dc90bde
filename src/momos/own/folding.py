"""Layer norms of Hugging Face language models, folded into the linear layers after them.

The second paper measures models without the scales and shifts of their norms (App. B). Folded, the
model computes the same with fewer parameters. FOLDS says where norms are, by `config.model_type`.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import nn


class Places(NamedTuple):
    """Where an architecture has its norms, as paths of attributes."""

    layers: str
    norms: dict[str, tuple[str, ...]]  # of a layer: norm -> the linear layers that read it
    last: str  # the norm before the unembedding


_LLAMA = Places(
    "model.layers",
    {
        "input_layernorm": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
        "post_attention_layernorm": ("mlp.gate_proj", "mlp.up_proj"),
    },
    "model.norm",
)
FOLDS = {
    "gpt_neox": Places(
        "gpt_neox.layers",
        {
            "input_layernorm": ("attention.query_key_value",),
            "post_attention_layernorm": ("mlp.dense_h_to_4h",),
        },
        "gpt_neox.final_layer_norm",
    ),
    "gpt2": Places(
        "transformer.h", {"ln_1": ("attn.c_attn",), "ln_2": ("mlp.c_fc",)}, "transformer.ln_f"
    ),
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "qwen2": _LLAMA,
}


@torch.no_grad()
def linear_layers_(model: nn.Module) -> None:
    """Put linear layers in the place of transformers' Conv1D (GPT-2), which computes the same.

    Its weight is (in, out), that of a linear layer (out, in).
    """
    for parent in list(model.modules()):
        for name, layer in list(parent.named_children()):
            kind, weights = type(layer), layer._parameters
            if kind.__name__ == "Conv1D" and kind.__module__.startswith("transformers"):
                weight, bias = weights["weight"], weights["bias"]
                assert weight is not None  # it always has one
                linear = nn.Linear(weight.shape[0], weight.shape[1], device="meta")
                linear.weight, linear.bias = nn.Parameter(weight.T.contiguous()), bias  # type: ignore
                setattr(parent, name, linear.train(layer.training))


@torch.no_grad()
def fold_norms_(model: Any) -> str:
    """Fold what can be folded, in place, and say in a sentence what was done.

    model: a causal language model of transformers, with linear layers (`linear_layers_`). The norms
    keep no parameters, and no output changes. The last norm stays where the unembedding is tied to
    the embedding. Models of other types stay as they are.
    """
    kind = model.config.model_type
    if kind not in FOLDS:
        known = ", ".join(FOLDS)
        return f"layer norms are not folded: unknown for {kind}, known for {known}"
    places = FOLDS[kind]
    for layer in model.get_submodule(places.layers):
        for name, readers in places.norms.items():
            _fold(layer, name, [layer.get_submodule(reader) for reader in readers])
    head = model.get_output_embeddings()
    if head.weight is model.get_input_embeddings().weight:
        return (
            "layer norms are folded into the linear layers after them, but the last one: "
            "the unembedding is tied to the embedding"
        )
    parent, _, name = places.last.rpartition(".")
    _fold(model.get_submodule(parent), name, [head])
    return "layer norms are folded into the linear layers after them"


def _fold(parent: nn.Module, name: str, readers: Sequence[Any]) -> None:
    """W (norm * scale + shift) + b = (W scale) norm + (b + W shift), in float64, rounded once.

    A shift needs a bias of each reader: where there is none, one is added.
    """
    norm: Any = getattr(parent, name)
    scale, shift = norm.weight.double(), getattr(norm, "bias", None)
    for reader in readers:
        weight = reader.weight.double()
        if shift is not None:
            if reader.bias is None:
                reader.bias = nn.Parameter(reader.weight.new_zeros(len(weight)))
            reader.bias.copy_(reader.bias.double() + weight @ shift.double())
        reader.weight.copy_(weight * scale)
    if shift is None:
        plain: nn.Module = nn.RMSNorm(scale.shape, norm.variance_epsilon, elementwise_affine=False)
    else:
        plain = nn.LayerNorm(scale.shape, norm.eps, elementwise_affine=False)
    setattr(parent, name, plain)
