"""Training a language model and saving it at listed steps; an interrupted training goes on."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from momos import config
from momos.compute.seeds import generator_for
from momos.language import text
from momos.language.neox import loss, mean_loss
from momos.language.steps import save_step, step_file
from momos.resume.checkpoints import Checkpoints, restore_training_, training_state

COLUMNS = ("step", "lr", "train_loss", "val_loss")  # of history.csv
BETAS = (0.9, 0.95)  # Adam's, as Pythia has them
MAX_GRADIENT_NORM = 1.0
Row = dict[str, Any]  # COLUMNS at one of the listed steps


class LanguageDiverged(ArithmeticError):
    """A training loss is not finite."""


def train_and_save(
    model: nn.Module,
    tokens: Mapping[str, Tensor],
    kept: Checkpoints,
    *,
    settings: config.Language,
    recipe: config.LanguageModel,
    context: int,
    seed: int,
    log: Callable[[Row], None],
) -> list[Row]:
    """Train the model on the device where it is, and save it at the recipe's steps in kept.folder.

    tokens: the parts "train" and "held_out" of the text, (n,) each. context: tokens per sequence.
    log: called with the row of each step. Returns the rows of history.csv. Raises LanguageDiverged.
    """
    device = next(model.parameters()).device
    order = generator_for("language:order", seed)
    batches = text.stream_batches(tokens["train"], context, settings.batch_size, order)
    held_out = text.draw_sequences(
        tokens["held_out"], context, settings.num_held_out, generator_for("language:held out", 0)
    )
    history: list[Row] = []

    def save(trained: nn.Module | None, row: Row) -> None:
        if trained is not None:
            save_step(kept.folder, row["step"], trained)
        history.append(row)
        log(row)

    train(
        model,
        (batch.to(device) for batch in batches),
        settings=settings,
        lr=recipe.lr,
        steps=recipe.steps,
        held_out=held_out.to(device).split(settings.batch_size),
        on_step=save,
        order=order,
        kept=kept,
    )
    return history


def train(
    model: nn.Module,
    batches: Iterable[Tensor],
    *,
    settings: config.Language,
    lr: float,
    steps: Sequence[int],
    held_out: Sequence[Tensor],
    on_step: Callable[[nn.Module | None, Row], None],
    order: torch.Generator,
    kept: Checkpoints | None = None,
) -> None:
    """Train in place, one step per batch, up to the last of the rising `steps`.

    AdamW; the learning rate is `lr` times `schedule`. on_step(model, row) is called at each of
    `steps`. order: the generator that batches are drawn from. With `kept`, an interrupted training
    goes on where it was: on_step gets the rows from before with None for the model, which it must
    have saved in kept.folder. Raises LanguageDiverged naming step and lr.
    """
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=lr, betas=BETAS, weight_decay=settings.weight_decay, fused=True
    )
    model.train()
    device = next(model.parameters()).device
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        first, rows = _restore(kept, model, optimizer, order)
        for row in rows:
            on_step(None, row)
        for step, batch in zip(range(first, steps[-1] + 1), batches, strict=False):
            optimizer.param_groups[0]["lr"] = rate = lr * schedule(step, steps[-1], settings)
            train_loss = _update(model, optimizer, batch)
            if not math.isfinite(train_loss):
                raise LanguageDiverged(
                    f"training diverged: loss {train_loss} at step {step} "
                    f"(try a lower lr than {lr})"
                )
            if step in steps:
                model.eval()
                values = (step, rate, train_loss, mean_loss(model, held_out))
                rows.append(dict(zip(COLUMNS, values, strict=True)))
                on_step(model, rows[-1])
                model.train()
            if kept is not None and kept.due():
                _save_checkpoint(kept, step, rows, rate, model, optimizer, order)


def schedule(step: int, last: int, settings: config.Language) -> float:
    """The learning rate of a step as a fraction of the largest.

    It rises in a line over warmup_steps, then falls as a cosine to final_lr at the last step.
    """
    warm = min(1.0, step / max(settings.warmup_steps, 1))
    done = max(0.0, step - settings.warmup_steps) / max(last - settings.warmup_steps, 1)
    return warm * (
        settings.final_lr + (1 - settings.final_lr) * 0.5 * (1 + math.cos(math.pi * done))
    )


def _update(model: nn.Module, optimizer: torch.optim.Optimizer, batch: Tensor) -> float:
    """The loss on the batch; then one step, unless that loss is not finite."""
    optimizer.zero_grad()
    batch_loss = loss(model, batch)
    value = batch_loss.item()
    if math.isfinite(value):
        batch_loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), MAX_GRADIENT_NORM)
        optimizer.step()
    return value


def _restore(
    kept: Checkpoints | None,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    order: torch.Generator,
) -> tuple[int, list[Row]]:
    """The first step to take and the history rows before it; model and the rest in place."""
    saved = kept.load() if kept is not None else None
    if saved is None:
        return 1, []
    restore_training_(saved, model, optimizer, {"order": order}, lr=saved.values["lr"])
    return saved.position + 1, saved.values["rows"]


def _save_checkpoint(
    kept: Checkpoints,
    step: int,
    rows: list[Row],
    rate: float,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    order: torch.Generator,
) -> None:
    state = training_state(model, optimizer, {"order": order})
    files = [step_file(kept.folder, row["step"]) for row in rows]
    kept.save(step, {"rows": rows, "lr": rate}, state, files)
