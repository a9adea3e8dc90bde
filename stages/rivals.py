"""Stage `rivals`: what the weights of one language model's checkpoints say by themselves.

usage: rivals.py MODEL MODEL_DIR OUT.csv
"""

import sys
from pathlib import Path

import pandas as pd

from momos import config
from momos.complexity.language_models import measure_steps
from momos.compute.device import prepare_device
from momos.files import atomic


def main(name: str, folder: Path, out: Path) -> None:
    recipe, settings = config.load(config.LanguageModel, name), config.load(config.Rivals)
    seeds, loop = config.load(config.Slt).seeds, config.load(config.Train)
    device = prepare_device(loop.device, loop.num_threads)
    rows = [
        {"seed": seed} | row
        for seed in seeds
        for row in measure_steps(folder / str(seed), recipe.steps, settings, device=device)
    ]
    atomic.write_text(out, pd.DataFrame(rows).to_csv(index=False))


if __name__ == "__main__":
    main(sys.argv[1], *map(Path, sys.argv[2:4]))
