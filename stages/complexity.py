"""Stage `complexity`: both papers' measures of one image classifier's runs (method B4).

They are taken at the last weights, and at the steps that train.keep has kept. How far the weights
can be quantised is taken of baselines of every seed. What has been measured before is taken from
where it is kept (`momos.measured`).
usage: complexity.py MODEL DATA.safetensors RUNS_DIR EVALUATION.csv OUT.csv ALONG.csv QUANTISED.csv
"""

import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pandas as pd
from tqdm import tqdm

from momos import config
from momos.complexity import compressors
from momos.compute.device import prepare_device
from momos.files import atomic, run_folder
from momos.images.dataset import load_dataset
from momos.measured import Measured
from momos.resume.scratch import Scratch
from momos.slt.along import measure_along
from momos.slt.classifiers import measure_classifier, measure_quantisability

KEYS = ["model", "method", "seed"]
BESIDE = (
    "num_weights", "rac", "bdm_1d_ratio", "bdm_2d_ratio", "planes_ratio", "test_accuracy_last",
)  # fmt: skip
SCORES = ("bdm_1d_z", "bdm_2d_z", "planes_z")


def part_of(parts: Scratch, prefix: str, name: str, compute: Callable[[], dict]) -> dict:
    return parts(f"{prefix}{name}", compute)


def as_rows(measure: Callable[[], dict]) -> list[dict]:
    return [measure()]


def main(name: str, data_file: Path, runs_dir: Path, evaluation_csv: Path, *outs: Path) -> None:
    settings, search = config.load(config.Complexity), config.load(config.Compressibility)
    evaluate, loop = config.load(config.Evaluate), config.load(config.Train)
    rivals = config.load(config.Rivals)
    eps, dataset = list(config.load(config.Slt).eps), load_dataset(data_file)
    device = prepare_device(loop.device, loop.num_threads)
    evaluation = pd.read_csv(evaluation_csv).query("weights == 'deployed'").set_index(KEYS)
    runs = [run for run in config.runs(name) if run.grid == "main"]
    runs = [run for run in runs if run.method in settings.methods]
    wanted = [run for run in runs if run.seed in settings.seeds]
    common = {"eps": eps, "search": search, "settings": replace(settings, methods=(), seeds=())}
    folders = [run.folder(runs_dir.parent) for run in wanted]
    files = [folder / file for folder in folders for file in (run_folder.RUN, "last.safetensors")]
    parts = Scratch("complexity", common, data_file, *files)
    later = [f"{compressors.__name__}.{name}" for name in rivals.compressors]
    kept_rows = Measured(Path(__file__), common, data_file, device=device, later=later)
    rows, along, quantised = [], [], []
    with parts, kept_rows as measured:
        for run, folder in tqdm(list(zip(wanted, folders, strict=True)), disable=None, desc=name):
            keep = partial(part_of, parts, f"{run.method}-{run.seed}-")
            what, how = (folder, run.settings, dataset), (eps, device, keep)
            last = partial(measure_classifier, *what, settings, search, *how)
            kept = partial(measure_along, *what, settings, search, rivals, *how)
            key = run[: len(KEYS)]
            names, cells = dict(zip(KEYS, key, strict=True)), evaluation.loc[key]
            (row,) = measured(folder, run.settings, partial(as_rows, last))
            rows.append(names | cells[[*BESIDE, *evaluate.compressors]].to_dict() | row)
            steps = measured(folder, (run.settings, rivals), kept)
            along += [names | {"rac": cells["rac"]} | row for row in steps]
        for run in [run for run in runs if run.settings.family == "baseline"]:
            folder, about = run.folder(runs_dir.parent), (settings, search, eps, device)
            n_q = partial(measure_quantisability, folder, run.settings, dataset, *about)
            (row,) = measured(folder, "n_q", partial(as_rows, n_q))
            cells = evaluation.loc[run[: len(KEYS)]][[*BESIDE, *SCORES, *evaluate.compressors]]
            quantised.append(dict(zip(KEYS, run, strict=False)) | cells.to_dict() | row)
    for path, found in zip(outs, (rows, along, quantised), strict=True):
        frame = pd.DataFrame(found, columns=None if found else KEYS)
        atomic.write_text(path, frame.to_csv(index=False))


if __name__ == "__main__":
    main(sys.argv[1], *map(Path, sys.argv[2:8]))
