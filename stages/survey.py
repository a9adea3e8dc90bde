"""Stage `survey`: complexity of trained against initial weights, a row per model (Figure 2).

usage: survey.py RUNS_DIR OUT.csv

The pairs are the pipeline's own runs; a model zoo enters by the same function.
"""

import sys
from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from momos import blocks, checkpoint, config, models, quantize, zoo


def main(runs_dir: Path, out: Path) -> None:
    settings = config.load(config.Evaluate)
    rows = zoo.survey(pairs(runs_dir, settings.checkpoint), seed=settings.shuffle_seed)
    checkpoint.write_text(out, pd.DataFrame(rows).to_csv(index=False))


def pairs(runs_dir: Path, which: str) -> Iterator[zoo.Pair]:
    """The runs of the main grid, weights as deployed."""
    for run in config.runs():
        if run.grid != "main":
            continue
        folder = run.folder(runs_dir)
        about = checkpoint.load_run(folder)
        trained = models.restore(about, checkpoint.load_weights(folder, which))
        trained = quantize.deployed(trained, about["bits"], about["exclude"], about["arch"])
        initial = models.restore(about, checkpoint.load_weights(folder, "initial"))
        name = f"{run.model} {run.method} {run.seed}"
        yield zoo.Pair(name, run.model, "this pipeline", blocks.trainable(trained), blocks.trainable(initial))


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:3]))
