"""Stage `llc`: LLC of one language model at each step, beside what curvature alone predicts.

usage: llc.py MODEL SEED TEXT.safetensors MODEL_DIR OUT_DIR
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
from momos.slt.llc import language_models


def main(name: str, seed: int, text_file: Path, folder: Path, out_dir: Path) -> None:
    recipe, settings = config.load(config.LanguageModel, name), config.load(config.Llc)
    corpus, loop = config.load(config.Text), config.load(config.Train)
    device = prepare_device(loop.device, loop.num_threads)
    tokens = atomic.load_tensors(text_file)["train"]
    batches = language_models.llc_batches(tokens, corpus, settings, device)
    sections = (recipe, settings, corpus, loop)
    depends = {"seed": seed} | {section.section: asdict(section) for section in sections}
    with Scratch("llc", depends, text_file, *steps.described_by(folder)) as finished:
        tables = language_models.llc_at_steps(
            folder, recipe, batches, settings, finished, name=name, seed=seed
        )
    for table, rows in tables._asdict().items():
        if not rows:  # this seed is not swept
            continue
        atomic.write_text(out_dir / f"{table}.csv", pd.DataFrame(rows).to_csv(index=False))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), *map(Path, sys.argv[3:6]))
