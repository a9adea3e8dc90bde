"""Critical points and LLC of a language model at each step that was saved (method B3)."""

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
from momos.slt.llc.rows import llc_rows

Rows = list[dict[str, Any]]


def llc_at_steps(
    folder: Path,
    recipe: config.LanguageModel,
    batches: Sequence[Tensor],
    settings: config.Llc,
    finished: Scratch,
    *,
    name: str,
    seed: int,
) -> tuple[Rows, Rows]:
    """Estimate the LLC at each step.

    folder: of the model's training, see `momos.language.steps`. batches: (n, context + 1) int64
    each, on the device to compute on. name: of the model in the settings. Returns a row per step,
    and a row per step, chain and draw. Raises LlcDiverged.
    """

    def estimate(step: int) -> dict[str, Any]:
        return llc_rows(
            steps.load(folder, step, device=batches[0].device),
            neox.loss,
            batches,
            settings,
            lr=settings.lr[name],
            num_draws=settings.num_draws[name],
            seed=seed,
            keep=lambda part, compute: finished(f"{step}-{part}", compute),
        )

    rows: Rows = []
    traces: Rows = []
    for step in tqdm(recipe.steps, disable=None, desc=f"{name} {seed} llc"):
        part = finished(str(step), partial(estimate, step))
        rows.append({"step": step} | part["row"])
        traces += [{"step": step} | row for row in part["traces"]]
    return rows, traces


def llc_batches(
    tokens: Tensor, corpus: config.Text, settings: config.Llc, device: torch.device
) -> list[Tensor]:
    """Batches of training text, the same for all models, seeds and steps."""
    generator = generator_for("language:llc", 0)
    shape = (corpus.context, settings.batch_size, settings.num_batches)
    return [batch.to(device) for batch in text.draw_batches(tokens, *shape, generator)]


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
    (see `momos.slt.compressibility.schemes`), each with its step.
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
