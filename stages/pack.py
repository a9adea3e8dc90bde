"""Stage `pack`: one model's runs of the grid as files: bytes, and accuracy once decoded.

usage: pack.py MODEL DATA.safetensors RUNS_DIR OUT.csv
"""

import sys
from pathlib import Path

import pandas as pd

from momos import config
from momos.compute.device import prepare_device
from momos.files import atomic
from momos.images.dataset import load_dataset
from momos.packing.runs import pack_run


def main(name: str, data_file: Path, runs_dir: Path, out: Path) -> None:
    settings, augmentation = config.load(config.Pack), config.load(config.Augment)
    which, loop = config.load(config.Evaluate).checkpoint, config.load(config.Train)
    dataset, device = load_dataset(data_file), prepare_device(loop.device, loop.num_threads)
    rows = []
    for run in config.runs(name):
        if run.grid == "main":
            rows += pack_run(
                run.folder(runs_dir.parent),
                run,
                dataset,
                device,
                batch_size=loop.batch_size,
                which=which,
                settings=settings,
                augmentation=augmentation,
            )
    atomic.write_text(out, pd.DataFrame(rows).to_csv(index=False))


if __name__ == "__main__":
    main(sys.argv[1], *map(Path, sys.argv[2:5]))
