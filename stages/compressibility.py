"""Stage `compressibility`: one scheme's curves and critical points at every checkpoint of one
language model.

usage: compressibility.py MODEL SEED SCHEME TEXT.safetensors CHECKPOINTS_DIR OUT_DIR
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
from momos.slt import schemes
from momos.slt.compressibility import Retraining


def main(name: str, seed: int, scheme: str, text_file: Path, folder: Path, out_dir: Path) -> None:
    recipe, settings = config.load(config.LanguageModel, name), config.load(config.Compressibility)
    corpus, loop, eps = (
        config.load(config.Text),
        config.load(config.Train),
        list(config.load(config.Slt).eps),
    )
    device = prepare_device(loop.device, loop.num_threads)
    tokens = atomic.load_tensors(text_file)["train"]
    evaluation = text.sequences(
        tokens, corpus.context, settings.num_sequences, neox.generator_for("evaluation", 0)
    ).to(device)
    shape = (corpus.context, settings.retraining_batch_size, settings.retraining_steps)
    again = [
        batch.to(device)
        for batch in text.batches(tokens, *shape, neox.generator_for("retraining", seed))
    ]
    training = Retraining(
        train_loss_fn=neox.loss,
        batches=again,
        train_lr=recipe.lr,
        num_steps=settings.retraining_steps,
        optimizer=partial(torch.optim.AdamW, betas=neox.BETAS, weight_decay=0.0),
        seed=seed,
    )
    search = schemes.search(scheme, settings, seed=seed, training=training)
    steps = (
        schemes.pruned_steps(recipe.steps, settings.pruning_steps)
        if scheme == "pruning"
        else recipe.steps
    )
    depends = {"seed": seed, "scheme": scheme, "eps": eps} | {
        kind.section: asdict(kind) for kind in (recipe, settings, corpus, loop)
    }
    curve, critical = [], []
    with Scratch(
        "compressibility", depends, text_file, folder / neox.ABOUT, folder / run_folder.HISTORY
    ) as finished:
        for step in tqdm(steps, disable=None, desc=f"{name} {seed} {scheme}"):
            found = finished(
                str(step),
                partial(measure, search, folder, step, evaluation.split(settings.batch_size), eps),
            )
            curve += [{"step": step} | row for row in found["curve"]]
            critical += [{"step": step} | row for row in found["critical"]]
    atomic.write_text(out_dir / "curve.csv", pd.DataFrame(curve).to_csv(index=False))
    atomic.write_text(out_dir / "critical.csv", pd.DataFrame(critical).to_csv(index=False))


def measure(
    search: schemes.Search,
    folder: Path,
    step: int,
    evaluation: list[torch.Tensor],
    eps: list[float],
) -> dict:
    model = neox.load(folder, step, device=evaluation[0].device)
    return schemes.rows(
        search(model, lambda compressed: neox.mean_loss(compressed, evaluation), eps)
    )


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3], *map(Path, sys.argv[4:7]))
