"""Stage `prepare`: a dataset as uint8 tensors with fixed splits.   usage: prepare.py OUT.safetensors OUT.json"""

import json
import sys
from pathlib import Path

from momos import config, data


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
    out_summary.write_text(json.dumps(data.summary(dataset), indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
