"""The LLC of a language model at each step that was saved (method B3)."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from tqdm import tqdm

from momos import config
from momos.compute.seeds import generator_for
from momos.language import neox, steps, text
from momos.resume.scratch import Scratch
from momos.slt.llc.rows import Target, llc_rows, spectrum_of
from momos.slt.llc.sweep import Rows, plateau, sweep_rows


class LlcTables(NamedTuple):
    """What stage `llc` writes."""

    llc: Rows  # a row per step
    traces: Rows  # a row per step, chain and draw
    sweep: Rows  # a row per swept step and setting, that of the section itself first
    plateau: Rows  # a row per swept step


def llc_at_steps(
    folder: Path,
    recipe: config.LanguageModel,
    batches: Sequence[Tensor],
    settings: config.Llc,
    finished: Scratch,
    *,
    name: str,
    seed: int,
) -> LlcTables:
    """Estimate the LLC at each step, and over the settings of llc.sweep at the swept ones.

    folder: of the model's training, see `momos.language.steps`. batches: (n, context + 1) int64
    each, on the device to compute on. name: of the model in the settings. Raises LlcDiverged.
    """
    swept = settings.sweep_steps if settings.sweep and seed in settings.sweep_seeds else ()

    def estimate(step: int) -> dict[str, Any]:
        model = steps.load(folder, step, device=batches[0].device)
        target = Target(model, neox.loss, batches, seed)

        def keep(part: str, compute: Callable[[], dict]) -> dict:
            return finished(f"{step}-{part}", compute)

        num_steps = settings.sweep_lanczos_steps if step in swept else settings.num_lanczos_steps
        spectrum = spectrum_of(target, settings, keep, num_lanczos_steps=num_steps)
        main = llc_rows(
            target,
            settings,
            lr=settings.lr[name],
            num_draws=settings.num_draws[name],
            spectrum=spectrum,
            keep=keep,
        )
        others = sweep_rows(target, settings, spectrum, keep) if step in swept else []
        return main | {"sweep": others}

    tables = LlcTables([], [], [], [])
    for step in tqdm(recipe.steps, disable=None, desc=f"{name} {seed} llc"):
        part = finished(str(step), partial(estimate, step))
        tables.llc.append({"step": step} | part["row"])
        tables.traces.extend({"step": step} | row for row in part["traces"])
        if step in swept:
            rows = [part["row"], *part["sweep"]]
            tables.sweep.extend({"step": step} | row for row in rows)
            tables.plateau.append({"step": step} | plateau(rows, settings.nbeta))
    return tables


def llc_batches(
    tokens: Tensor, corpus: config.Text, settings: config.Llc, device: torch.device
) -> list[Tensor]:
    """Batches of training text, the same for all models, seeds and steps."""
    generator = generator_for("language:llc", 0)
    shape = (corpus.context, settings.batch_size, settings.num_batches)
    return [batch.to(device) for batch in text.draw_batches(tokens, *shape, generator)]
