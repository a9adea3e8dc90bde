"""Causal language models along training, behind one door: a Pythia by revision, or a GPT-NeoX
trained here (singular MDL, App. B).

A folder holds what the door needs, `run.json`, and of a model trained here history.csv and the
weights at each listed step. `load` gives the model at a step as it is measured: layer norms folded
into the linear layers after them, in float32, in eval mode. Both sources are transformers'
GPTNeoXForCausalLM, which takes seconds to import: only where it is needed.
"""

import hashlib
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from momos import config
from momos.files import atomic, run_folder
from momos.resume.checkpoints import Checkpoints, restore_training_, training_state

ABOUT, COLUMNS = run_folder.RUN, ("step", "lr", "train_loss", "val_loss")
BETAS, CLIP = (0.9, 0.95), 1.0  # Pythia's: Adam's betas, and the largest norm of a gradient
Row = dict[str, float | int]


class Unavailable(RuntimeError):
    """A model or a revision of it is neither on the hub nor in its cache."""


class Diverged(ArithmeticError):
    """A training loss that is not finite."""


def build(kwargs: Mapping[str, Any], *, vocabulary: int, context: int, seed: int) -> nn.Module:
    """A GPT-NeoX with initial weights from the seed; kwargs: of GPTNeoXConfig. The global RNG state
    stays as it was.

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
    """Over all tokens."""
    losses = [(loss(model, batch).item(), len(batch)) for batch in batches]
    return math.fsum(value * size for value, size in losses) / sum(size for _, size in losses)


def train(
    model: nn.Module,
    batches: Iterable[Tensor],
    *,
    settings: config.Language,
    lr: float,
    steps: Sequence[int],
    held_out: Sequence[Tensor],
    on_checkpoint: Callable[[nn.Module | None, Row], None],
    order: torch.Generator | None = None,
    kept: Checkpoints | None = None,
) -> None:
    """Train in place on one of `batches` after another; at each of `steps` (rising) on_checkpoint
    sees the model and a history row.

    AdamW; the learning rate rises to lr over warmup_steps, then falls as a cosine to final_lr of it
    at the last step. With `kept`, and the generator `order` that batches are drawn from, it goes on
    where it was interrupted: on_checkpoint, which saves models in kept.folder, sees the rows from
    before with no model. Raises Diverged.
    """
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=lr, betas=BETAS, weight_decay=settings.weight_decay, fused=True
    )
    model.train()
    device = next(model.parameters()).device
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        first, rows = _restore(kept, model, optimizer, order) if kept is not None else (1, [])
        for row in rows:
            on_checkpoint(None, row)
        for step, batch in zip(range(first, steps[-1] + 1), batches, strict=False):
            optimizer.param_groups[0]["lr"] = rate = lr * schedule(step, steps[-1], settings)
            train_loss = _update(model, optimizer, batch)
            if not math.isfinite(train_loss):
                raise Diverged(
                    f"training diverged: loss {train_loss} at step {step} (try a lower lr than {lr})"
                )
            if step in steps:
                model.eval()
                rows.append(
                    {
                        "step": step,
                        "lr": rate,
                        "train_loss": train_loss,
                        "val_loss": mean_loss(model, held_out),
                    }
                )
                on_checkpoint(model, rows[-1])
                model.train()
            if kept is not None and kept.due():
                saved = [step_file(kept.folder, row["step"]) for row in rows]
                kept.save(
                    step,
                    {"rows": rows, "lr": rate},
                    training_state(model, optimizer, {"order": order}),
                    saved,
                )


def _update(model: nn.Module, optimizer: torch.optim.Optimizer, batch: Tensor) -> float:
    """One step on the batch -> its loss before; no step where that is not finite."""
    optimizer.zero_grad()
    here = loss(model, batch)
    if math.isfinite(value := here.item()):
        here.backward()
        nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
    return value


def _restore(
    kept: Checkpoints, model: nn.Module, optimizer: torch.optim.Optimizer, order: torch.Generator
) -> tuple[int, list[Row]]:
    """The first step to take, and the history rows before it; all else in place."""
    saved = kept.load()
    if saved is None:
        return 1, []
    restore_training_(saved, model, optimizer, {"order": order}, lr=saved.values["lr"])
    return saved.position + 1, saved.values["rows"]


def schedule(step: int, last: int, settings: config.Language) -> float:
    """The learning rate of a step as a fraction of the largest."""
    warm = min(1.0, step / max(settings.warmup_steps, 1))
    done = max(0.0, step - settings.warmup_steps) / max(last - settings.warmup_steps, 1)
    return warm * (
        settings.final_lr + (1 - settings.final_lr) * 0.5 * (1 + math.cos(math.pi * done))
    )


# ---- checkpoints


def step_file(folder: Path, step: int) -> Path:
    return folder / f"step{step}.safetensors"


def save_step(folder: Path, step: int, model: nn.Module) -> None:
    atomic.save_tensors(step_file(folder, step), model.state_dict())


def find_revisions(name: str, steps: Iterable[int]) -> dict[str, str]:
    """The commit of each step's revision, downloaded to the hub's cache or found there. Raises
    Unavailable naming the revision.
    """
    return {str(step): snapshot(name, f"step{step}").name for step in steps}


def snapshot(name: str, revision: str) -> Path:
    """The folder of a revision or commit in the hub's cache, downloaded if it is not there. Raises
    Unavailable.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled

    try:
        return Path(
            snapshot_download(
                name,
                revision=revision,
                allow_patterns=["config.json", "*.safetensors*", "pytorch_model*.bin*"],
            )
        )
    except (HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        raise Unavailable(
            f"{name} at revision {revision} is neither on the hub nor in its cache: {reason}"
        ) from error


def load(folder: Path, step: int, *, device: torch.device | str = "cpu") -> nn.Module:
    """The model at a step as it is measured. Raises ValueError for a folder without it, Unavailable
    for a Pythia that is gone.
    """
    about = atomic.read_json(folder / ABOUT)
    if step not in about["steps"]:
        raise ValueError(
            f"{folder / ABOUT}: expected step {step} among its steps {about['steps']} (run `dvc repro`)"
        )
    if about["source"] == "pythia":
        model = _pretrained(about["name"], about["revisions"][str(step)])
    else:
        model = build(
            about["kwargs"], vocabulary=about["vocabulary"], context=about["context"], seed=0
        )
        model.load_state_dict(atomic.load_tensors(step_file(folder, step)))
    if about["center"]:
        center_(model)
    if about["fold"]:
        fold_(model)
    return model.eval().to(device)


def _pretrained(name: str, commit: str) -> nn.Module:
    from transformers import GPTNeoXForCausalLM

    return GPTNeoXForCausalLM.from_pretrained(snapshot(name, commit), dtype=torch.float32)


# ---- the same function with fewer parameters


@torch.no_grad()
def fold_(model: nn.Module) -> None:
    """Every layer norm's scale and shift into the linear layer after it, in place: the norms keep
    no parameters, no output changes.

    The last norm's shift needs a bias of the unembedding, which GPT-NeoX has not: it gets one.
    """
    body = model.gpt_neox
    for layer in body.layers:
        layer.input_layernorm = _folded(layer.input_layernorm, layer.attention.query_key_value)
        layer.post_attention_layernorm = _folded(
            layer.post_attention_layernorm, layer.mlp.dense_h_to_4h
        )
    head = model.lm_head
    if head.weight is body.embed_in.weight:
        raise ValueError(
            "layer norms can't be folded into an unembedding that is tied to the embedding"
        )
    if head.bias is None:
        head.bias = nn.Parameter(
            torch.zeros(head.out_features, dtype=head.weight.dtype, device=head.weight.device)
        )
    body.final_layer_norm = _folded(body.final_layer_norm, head)


def _folded(norm: nn.LayerNorm, linear: nn.Linear) -> nn.LayerNorm:
    """W (norm * scale + shift) + b = (W scale) norm + (b + W shift); in float64, rounded once."""
    weight = linear.weight.double()
    linear.bias.copy_(linear.bias.double() + weight @ norm.bias.double())
    linear.weight.copy_(weight * norm.weight.double())
    return nn.LayerNorm(norm.normalized_shape, norm.eps, elementwise_affine=False)


@torch.no_grad()
def center_(model: nn.Module) -> None:
    """What is written to the residual stream to mean zero over its width, in place; and the
    unembedding over the vocabulary.

    Layer norms subtract the one, softmax the other: probabilities do not change (logits do, by one
    number for all of a position's).
    """
    body = model.gpt_neox
    body.embed_in.weight.sub_(body.embed_in.weight.mean(1, keepdim=True))
    for layer in body.layers:
        for linear in (layer.attention.dense, layer.mlp.dense_4h_to_h):
            linear.weight.sub_(linear.weight.mean(0, keepdim=True))
            linear.bias.sub_(linear.bias.mean())
    model.lm_head.weight.sub_(model.lm_head.weight.mean(0, keepdim=True))


def generator_for(purpose: str, seed: int) -> torch.Generator:
    """A CPU generator that depends on the purpose and the seed alone."""
    digest = hashlib.sha256(f"language:{purpose}:{seed}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
