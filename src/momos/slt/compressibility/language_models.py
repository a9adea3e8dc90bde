"""Critical points of a language model at each step that was saved (method B3)."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from momos import config
from momos.compute.seeds import generator_for
from momos.language import neox, steps, text
from momos.language.training import BETAS
from momos.resume.scratch import Scratch
from momos.slt.compressibility import Retraining, schemes

Rows = list[dict[str, Any]]


def critical_points_at_steps(
    folder: Path,
    chosen_steps: Sequence[int],
    search: schemes.Search,
    evaluation: Sequence[Tensor],
    eps: Sequence[float],
    finished: Scratch,
    *,
    title: str,
) -> tuple[Rows, Rows]:
    """Search for a scheme's critical points at each step.

    folder: of the model's training. evaluation: batches (n, context + 1) int64 on the device to
    compute on. title: of the progress bar. Returns the rows of the tables "curve" and "critical"
    (see `schemes`), each with its step.
    """

    def search_at(step: int) -> dict[str, Rows]:
        model = steps.load(folder, step, device=evaluation[0].device)
        points = search(model, lambda compressed: neox.mean_loss(compressed, evaluation), eps)
        return schemes.rows(points)

    curve: Rows = []
    critical: Rows = []
    for step in tqdm(chosen_steps, disable=None, desc=title):
        part = finished(str(step), partial(search_at, step))
        curve += [{"step": step} | row for row in part["curve"]]
        critical += [{"step": step} | row for row in part["critical"]]
    return curve, critical


def evaluation_batches(
    tokens: Tensor, corpus: config.Text, settings: config.Compressibility, device: torch.device
) -> Sequence[Tensor]:
    """Batches of training text on which losses are measured, the same for all models and seeds."""
    generator = generator_for("language:evaluation", 0)
    sequences = text.draw_sequences(tokens, corpus.context, settings.num_sequences, generator)
    return sequences.to(device).split(settings.batch_size)


def retraining(
    tokens: Tensor,
    corpus: config.Text,
    recipe: config.LanguageModel,
    settings: config.Compressibility,
    device: torch.device,
    *,
    seed: int,
) -> Retraining:
    """Settings for training a pruned model on, as the model itself was trained."""
    generator = generator_for("language:retraining", seed)
    shape = (corpus.context, settings.retraining_batch_size, settings.retraining_steps)
    return Retraining(
        train_loss_fn=neox.loss,
        batches=[batch.to(device) for batch in text.draw_batches(tokens, *shape, generator)],
        train_lr=recipe.lr,
        num_steps=settings.retraining_steps,
        optimizer=partial(torch.optim.AdamW, betas=BETAS, weight_decay=0.0),
        seed=seed,
    )
