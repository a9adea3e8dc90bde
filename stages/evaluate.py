"""Stage `evaluate`: accuracy, description length and complexity of one model's runs.

What has been measured before is taken from where it is kept (`momos.measured`).
usage: evaluate.py MODEL DATA.safetensors RUNS_DIR OUT.csv
"""

import sys
from functools import partial
from pathlib import Path

import pandas as pd

from momos import config, metrics
from momos.complexity import compressors
from momos.complexity.evaluation import evaluate_run
from momos.compute.device import prepare_device
from momos.files import atomic, run_folder
from momos.images.dataset import load_dataset
from momos.images.inputs import Batches
from momos.measured import Measured

LATER = [f"{metrics.__name__}.{name}" for name in metrics.names()]  # imported when first needed


def main(model: str, data_file: Path, runs_dir: Path, out: Path) -> None:
    settings, loop = config.load(config.Evaluate), config.load(config.Train)
    device = prepare_device(loop.device, loop.num_threads)
    dataset, runs = load_dataset(data_file), config.runs(model)
    in_grid = [run.settings.block_size for run in runs if run.grid == "main"]
    block_sizes = sorted({size for size in in_grid if size is not None})
    depends = {"settings": settings, "batch_size": loop.batch_size, "block_sizes": block_sizes}
    later = [*LATER, *(f"{compressors.__name__}.{name}" for name in settings.compressors)]
    rows = []
    with Measured(Path(__file__), depends, data_file, device=device, later=later) as measured:
        for run in runs:
            folder = run.folder(runs_dir.parent)
            batches = Batches.of_run(run_folder.load_run(folder), loop.batch_size, device)
            measure = partial(
                evaluate_run, folder, run.settings, dataset, batches, settings, block_sizes
            )
            rows += measured(folder, run.settings, measure)
    atomic.write_text(out, pd.DataFrame(rows).to_csv(index=False))


if __name__ == "__main__":
    main(sys.argv[1], *map(Path, sys.argv[2:5]))
