"""The LLC of a language model at each step that was saved (method B3)."""

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
from momos.resume.scratch import Scratch
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
