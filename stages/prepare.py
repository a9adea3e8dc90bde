"""Stage `prepare`: a data set as uint8 tensors with fixed splits.

usage: prepare.py OUT.safetensors OUT.json
"""

import sys
from pathlib import Path

from momos import config
from momos.files import atomic
from momos.images.dataset import dataset_summary, save_dataset
from momos.raw.pictures import Fit
from momos.raw.sources import read_dataset


def main(out: Path, out_summary: Path) -> None:
    config.check()  # names that become arguments of the other stages, before any of them begins
    settings = config.load(config.Data)
    fit = Fit(settings.fit, settings.fit_size) if settings.fit and settings.fit_size else None
    dataset = read_dataset(
        settings.source,
        path=settings.path,
        download=settings.download,
        test_fraction=settings.test_fraction,
        validation_fraction=settings.validation_fraction,
        split_seed=settings.split_seed,
        fit=fit,
    )
    save_dataset(dataset, out)
    atomic.write_json(out_summary, dataset_summary(dataset))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
