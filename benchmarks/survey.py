"""What a survey costs, reckoned up for the models of profile cifar10.

usage: python -m benchmarks.survey [OUT.json]

Measured on local weight files of real timm architectures: CPU seconds of one core, as the stage
measures a model. Downloads come on top, at the speed of the connection.
"""

import sys
import tempfile
from pathlib import Path

import torch
from safetensors.torch import save_file

from benchmarks import machine
from momos import config
from momos.files import atomic
from momos.survey import candidates
from momos.survey.run import measure_candidate
from momos.survey.weights import build

ARCHS = ("mobilenetv3_large_100", "efficientnet_b0", "resnet18", "deit_small_patch16_224")
PROFILE = Path("profiles/cifar10.yaml")


def main(out: Path) -> None:
    torch.set_num_threads(1)
    settings = config.load(config.Survey, path=PROFILE)
    found = measured(settings)
    per_million = sum(model["cpu_seconds"] for model in found) / sum(
        model["num_weights"] / 1e6 for model in found
    )
    drawn = candidates.draw(
        candidates.pretrained(),
        settings.num_models,
        max_parameters=settings.max_parameters,
        seed=settings.seed,
    )
    needed = candidates.need(
        drawn, keep_weights=settings.keep_weights, num_workers=settings.num_workers
    )
    whole = {
        "num_models": len(drawn),
        "hours": per_million * needed.num_weights / 1e6 / 3600,
        **needed._asdict(),
    }
    where = {
        key: value
        for key, value in machine.describe().items()
        if key in ("cpu", "cores", "python", *machine.LIBRARIES)
    }
    atomic.write_json(
        out,
        {
            "machine": where,
            "models": found,
            "seconds_per_million": per_million,
            PROFILE.stem: whole,
        },
    )


def measured(settings: config.Survey) -> list[dict]:
    """A model's name, number of weights and CPU seconds."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        row_settings = candidates.RowSettings(
            settings.init_seeds, settings.compressors, settings.seed, True, folder
        )
        for arch in ARCHS:
            save_file(
                build(arch, max(settings.init_seeds) + 1).state_dict(),
                folder / f"{arch}.safetensors",
            )
        records = [measure_candidate(one, row_settings) for one in candidates.in_folder(folder)]
    for record in records:
        if record.row["error"]:
            raise SystemExit(f"{record.row['name']}: {record.row['error']}")
    return [
        {key: record.cost[key] for key in ("name", "num_weights", "cpu_seconds")}
        for record in records
    ]


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path("benchmarks/survey.json"))
