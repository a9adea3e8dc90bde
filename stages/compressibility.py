"""Stage `compressibility`: one scheme's curves and critical points at the steps of one training.

usage: compressibility.py MODEL SEED SCHEME TEXT.safetensors MODEL_DIR OUT_DIR
"""

import sys
from dataclasses import asdict
from pathlib import Path

import pandas as pd

from momos import config
from momos.compute.device import prepare_device
from momos.files import atomic
from momos.language import steps
from momos.resume.scratch import Scratch
from momos.slt.compressibility import language_models, schemes


def main(name: str, seed: int, scheme: str, text_file: Path, folder: Path, out_dir: Path) -> None:
    recipe, settings = config.load(config.LanguageModel, name), config.load(config.Compressibility)
    corpus, loop = config.load(config.Text), config.load(config.Train)
    eps = list(config.load(config.Slt).eps)
    device = prepare_device(loop.device, loop.num_threads)
    tokens = atomic.load_tensors(text_file)["train"]
    evaluation = language_models.evaluation_batches(tokens, corpus, settings, device)
    training, chosen_steps = None, list(recipe.steps)
    if scheme == "pruning":
        training = language_models.retraining(tokens, corpus, recipe, settings, device, seed=seed)
        chosen_steps = schemes.pruned_steps(recipe.steps, settings.pruning_steps)
    search = schemes.search(scheme, settings, seed=seed, training=training)
    sections = (recipe, settings, corpus, loop)
    depends = {"seed": seed, "scheme": scheme, "eps": eps}
    depends |= {section.section: asdict(section) for section in sections}
    inputs = (text_file, *steps.described_by(folder))
    with Scratch("compressibility", depends, *inputs) as finished:
        curve, critical = language_models.critical_points_at_steps(
            folder, chosen_steps, search, evaluation, eps, finished, title=f"{name} {seed} {scheme}"
        )
    atomic.write_text(out_dir / "curve.csv", pd.DataFrame(curve).to_csv(index=False))
    atomic.write_text(out_dir / "critical.csv", pd.DataFrame(critical).to_csv(index=False))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3], *map(Path, sys.argv[4:7]))
