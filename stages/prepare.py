"""Stage `prepare`: a dataset as uint8 tensors with fixed splits.   usage: prepare.py OUT.safetensors OUT.json"""

import sys
from pathlib import Path

from momos import checkpoint, config, data


def main(out: Path, out_summary: Path) -> None:
    settings = config.load(config.Data)
    dataset = data.read(
        settings.source,
        path=settings.path,
        download=settings.download,
        test_fraction=settings.test_fraction,
        validation_fraction=settings.validation_fraction,
        split_seed=settings.split_seed,
    )
    data.save(dataset, out)
    checkpoint.write_json(out_summary, data.summary(dataset))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
