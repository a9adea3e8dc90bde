"""Stage `complexity`: critical n_q and LLC of one image classifier's runs (method B4).

What has been measured before is taken from where it is kept (`momos.measured`).
usage: complexity.py MODEL DATA.safetensors RUNS_DIR EVALUATION.csv OUT.csv
"""

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pandas as pd
from tqdm import tqdm

from momos import config
from momos.compute.device import prepare_device
from momos.files import atomic, run_folder
from momos.images.dataset import load_dataset
from momos.measured import Measured
from momos.resume.scratch import Scratch
from momos.slt.classifiers import measure_classifier

KEYS = ["model", "method", "seed"]
BESIDE = (
    "num_weights", "rac", "bdm_1d_ratio", "bdm_2d_ratio", "planes_ratio", "test_accuracy_last",
)  # fmt: skip


def main(name: str, data_file: Path, runs_dir: Path, evaluation_csv: Path, out: Path) -> None:
    settings, search = config.load(config.Complexity), config.load(config.Compressibility)
    evaluate, loop = config.load(config.Evaluate), config.load(config.Train)
    eps, dataset = list(config.load(config.Slt).eps), load_dataset(data_file)
    device = prepare_device(loop.device, loop.num_threads)
    evaluation = pd.read_csv(evaluation_csv).query("weights == 'deployed'").set_index(KEYS)
    wanted = [
        run
        for run in config.runs(name)
        if run.grid == "main" and run.method in settings.methods and run.seed in settings.seeds
    ]
    common = {"eps": eps, "search": search, "settings": replace(settings, methods=(), seeds=())}
    folders = [run.folder(runs_dir.parent) for run in wanted]
    files = [folder / file for folder in folders for file in (run_folder.RUN, "last.safetensors")]
    parts = Scratch("complexity", common, data_file, *files)
    rows = []
    with parts, Measured(Path(__file__), common, data_file, device=device) as measured:
        for run, folder in tqdm(list(zip(wanted, folders, strict=True)), disable=None, desc=name):

            def measure(run: config.Run = run, folder: Path = folder) -> list[dict]:
                def keep(chain: str, compute: Callable[[], dict]) -> dict:
                    return parts(f"{run.method}-{run.seed}-{chain}", compute)

                about = folder, run.settings, dataset
                return [measure_classifier(*about, settings, search, eps, device, keep)]

            key = run[: len(KEYS)]
            beside = evaluation.loc[key][[*BESIDE, *evaluate.compressors]].to_dict()
            (row,) = measured(folder, run.settings, measure)
            rows.append(dict(zip(KEYS, key, strict=True)) | beside | row)
    frame = pd.DataFrame(rows, columns=None if rows else KEYS)
    atomic.write_text(out, frame.to_csv(index=False))


if __name__ == "__main__":
    main(sys.argv[1], *map(Path, sys.argv[2:6]))
