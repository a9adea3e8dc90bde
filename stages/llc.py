"""Stage `llc`: the local learning coefficient of one language model at every checkpoint, and tr(H).

usage: llc.py MODEL SEED TEXT.safetensors CHECKPOINTS_DIR OUT_DIR
"""

import sys
from dataclasses import asdict
from functools import partial
from pathlib import Path

import pandas as pd
import torch
from tqdm import tqdm

from momos import config
from momos.compute.device import prepare_device
from momos.files import atomic, run_folder
from momos.language import neox, text
from momos.resume.scratch import Scratch
from momos.slt import estimates


def main(name: str, seed: int, text_file: Path, folder: Path, out_dir: Path) -> None:
    recipe, settings = config.load(config.LanguageModel, name), config.load(config.Llc)
    corpus, loop = config.load(config.Text), config.load(config.Train)
    device = prepare_device(loop.device, loop.num_threads)
    tokens, shape = (
        atomic.load_tensors(text_file)["train"],
        (settings.batch_size, settings.num_batches),
    )
    batches = text.batches(
        tokens, corpus.context, *shape, neox.generator_for("llc", 0)
    )  # the same for all checkpoints and seeds
    depends = {"seed": seed} | {
        kind.section: asdict(kind) for kind in (recipe, settings, corpus, loop)
    }
    rows, traces = [], []
    with Scratch(
        "llc", depends, text_file, folder / neox.ABOUT, folder / run_folder.HISTORY
    ) as finished:
        for step in tqdm(recipe.steps, disable=None, desc=f"{name} {seed} llc"):
            found = finished(
                str(step),
                partial(measure, folder, step, name, settings, seed, batches, device, finished),
            )
            rows.append({"step": step} | found["row"])
            traces += [{"step": step} | row for row in found["traces"]]
    atomic.write_text(out_dir / "llc.csv", pd.DataFrame(rows).to_csv(index=False))
    atomic.write_text(out_dir / "traces.csv", pd.DataFrame(traces).to_csv(index=False))


def measure(
    folder: Path,
    step: int,
    name: str,
    settings: config.Llc,
    seed: int,
    batches: list,
    device: torch.device,
    finished: Scratch,
) -> dict:
    model, moved = neox.load(folder, step, device=device), [batch.to(device) for batch in batches]
    how = {"lr": settings.lr[name], "num_draws": settings.num_draws[name], "seed": seed}
    return estimates.estimate(
        model,
        neox.loss,
        moved,
        settings,
        **how,
        keep=lambda part, run: finished(f"{step}-{part}", run),
    )


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), *map(Path, sys.argv[3:6]))
