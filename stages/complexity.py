"""Stage `complexity`: critical n_q and LLC of one image classifier's runs (method B4).

usage: complexity.py MODEL DATA.safetensors RUNS_DIR EVALUATION.csv OUT.csv
"""

import sys
from dataclasses import asdict
from functools import partial
from pathlib import Path

import pandas as pd
from tqdm import tqdm

from momos import config
from momos.compute.device import prepare_device
from momos.files import atomic, run_folder
from momos.images.dataset import load_dataset
from momos.resume.scratch import Scratch
from momos.slt.classifiers import measure_classifier

KEYS = ["model", "method", "seed"]
BESIDE = ("num_weights", "rac", "bdm_1d_ratio", "bdm_2d_ratio", "test_accuracy_last")


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
    sections = (settings, search, evaluate, loop)
    depends = {"eps": eps} | {section.section: asdict(section) for section in sections}
    folders = [run.folder(runs_dir.parent) for run in wanted]
    files = [folder / file for folder in folders for file in (run_folder.RUN, "last.safetensors")]
    rows = []
    with Scratch("complexity", depends, data_file, *files) as finished:
        for run, folder in tqdm(list(zip(wanted, folders, strict=True)), disable=None, desc=name):
            part = f"{run.method}-{run.seed}"

            def keep(chain: str, compute, part: str = part) -> dict:
                return finished(f"{part}-{chain}", compute)

            work = partial(
                measure_classifier,
                folder,
                run.settings,
                dataset,
                settings,
                search,
                eps,
                device,
                keep,
            )
            key = run[: len(KEYS)]
            beside = evaluation.loc[key][[*BESIDE, *evaluate.compressors]].to_dict()
            rows.append(dict(zip(KEYS, key, strict=True)) | beside | finished(part, work))
    frame = pd.DataFrame(rows, columns=None if rows else KEYS)
    atomic.write_text(out, frame.to_csv(index=False))


if __name__ == "__main__":
    main(sys.argv[1], *map(Path, sys.argv[2:6]))
