"""Stage `pack`: one model's runs of the grid as files: bytes, and accuracy once decoded.

What has been measured before is taken from where it is kept (`momos.measured`).
usage: pack.py MODEL DATA.safetensors RUNS_DIR OUT.csv
"""

import sys
from functools import partial
from pathlib import Path

import pandas as pd

from momos import config
from momos.complexity import compressors
from momos.compute.device import prepare_device
from momos.files import atomic
from momos.images.dataset import load_dataset
from momos.measured import Measured
from momos.packing.runs import pack_run


def main(name: str, data_file: Path, runs_dir: Path, out: Path) -> None:
    settings, augmentation = config.load(config.Pack), config.load(config.Augment)
    which, loop = config.load(config.Evaluate).checkpoint, config.load(config.Train)
    dataset, device = load_dataset(data_file), prepare_device(loop.device, loop.num_threads)
    depends = {
        "batch_size": loop.batch_size,
        "which": which,
        "settings": settings,
        "augmentation": augmentation,
    }
    later = [f"{compressors.__name__}.{name}" for name in settings.compressors]
    rows = []
    with Measured(Path(__file__), depends, data_file, device=device, later=later) as measured:
        for run in config.runs(name):
            if run.grid == "main":
                measure = partial(
                    pack_run,
                    run.folder(runs_dir.parent),
                    run,
                    dataset,
                    device,
                    batch_size=loop.batch_size,
                    which=which,
                    settings=settings,
                    augmentation=augmentation,
                )
                rows += measured(run.folder(runs_dir.parent), run, measure)
    atomic.write_text(out, pd.DataFrame(rows).to_csv(index=False))


if __name__ == "__main__":
    main(sys.argv[1], *map(Path, sys.argv[2:5]))
