"""Stage `complexity`: critical n_q and LLC of one image classifier's runs, beside the measures of
`evaluate` (method B4).

usage: complexity.py MODEL DATA.safetensors RUNS_DIR EVALUATION.csv OUT.csv
"""

import sys
from dataclasses import asdict
from functools import partial
from pathlib import Path

import pandas as pd
import torch
from torch.nn import functional as F
from tqdm import tqdm

from momos import config, models
from momos.compute.device import prepare_device
from momos.compute.seeds import generator_for
from momos.files import atomic, run_folder
from momos.images.dataset import Dataset, load_dataset
from momos.images.inputs import Batches
from momos.methods import quantize
from momos.resume.scratch import Scratch
from momos.slt import estimates, schemes

KEPT = ("num_weights", "rac", "bdm_1d_ratio", "bdm_2d_ratio", "test_accuracy_last")


def main(name: str, data_file: Path, runs_dir: Path, evaluation_csv: Path, out: Path) -> None:
    settings, search, evaluate = (
        config.load(config.Complexity),
        config.load(config.Compressibility),
        config.load(config.Evaluate),
    )
    loop, eps, dataset = (
        config.load(config.Train),
        list(config.load(config.Slt).eps),
        load_dataset(data_file),
    )
    device, evaluation, rows = (
        prepare_device(loop.device, loop.num_threads),
        pd.read_csv(evaluation_csv),
        [],
    )
    wanted = [
        run
        for run in config.runs(name)
        if run.grid == "main" and run.method in settings.methods and run.seed in settings.seeds
    ]
    depends = {"eps": eps} | {
        kind.section: asdict(kind) for kind in (settings, search, evaluate, loop)
    }
    files = [
        run.folder(runs_dir.parent) / file
        for run in wanted
        for file in (run_folder.RUN, "last.safetensors")
    ]
    with Scratch("complexity", depends, data_file, *files) as finished:
        for run in tqdm(wanted, disable=None, desc=f"{name} complexity"):
            part = f"{run.method}-{run.seed}"
            found = finished(
                part,
                partial(
                    measure,
                    run.folder(runs_dir.parent),
                    dataset,
                    settings,
                    search,
                    eps,
                    device,
                    part,
                    finished,
                ),
            )
            mine = evaluation[
                (evaluation.method == run.method)
                & (evaluation.seed == run.seed)
                & (evaluation.weights == "deployed")
            ]
            beside = mine.iloc[0][[*KEPT, *evaluate.compressors]].to_dict()
            rows.append(
                {"model": run.model, "method": run.method, "seed": run.seed} | beside | found
            )
    atomic.write_text(
        out,
        pd.DataFrame(rows, columns=None if rows else ["model", "method", "seed"]).to_csv(
            index=False
        ),
    )


def measure(
    folder: Path,
    dataset: Dataset,
    settings: config.Complexity,
    grid: config.Compressibility,
    eps: list[float],
    device: torch.device,
    name: str,
    finished: Scratch,
) -> dict:
    """On training images as validation has them, at the last weights as deployed: fake quantisation
    is gone.
    """
    about = run_folder.load_run(folder)
    model = models.restore(about, run_folder.load_weights(folder, "last"))
    model = (
        quantize.deployed(model, about["bits"], about["exclude"], about["arch"]).to(device).eval()
    )
    size = settings.batch_size
    shape = Batches(size, about["image_size"], tuple(about["mean"]), tuple(about["std"]), device)
    order = dataset.train[
        torch.randperm(len(dataset.train), generator=generator_for("complexity", 0))
    ]
    batches = [
        (shape.to_input(dataset.images[part]), dataset.labels[part].to(device))
        for part in order[: max(settings.num_images, size * settings.num_batches)].split(size)
        if len(part) == size
    ]
    chosen = batches[: -(-settings.num_images // size)]

    def mean_loss(compressed) -> float:
        return sum(loss(compressed, batch).item() for batch in chosen) / len(chosen)

    points = schemes.search("quantization", grid, seed=0)(model, mean_loss, eps)
    critical = {f"critical_n_q_eps{point.eps:g}": point.value for point in points}
    critical |= {f"critical_status_eps{point.eps:g}": point.status for point in points}
    how = {"lr": settings.lr, "num_draws": settings.num_draws, "seed": about["seed"]}
    how |= {"keep": lambda part, run: finished(f"{name}-{part}", run)}
    found = estimates.estimate(model, loss, batches[: settings.num_batches], settings, **how)
    return {name: value for name, value in found["row"].items() if name != "num_weights"} | critical


def loss(model, batch) -> torch.Tensor:
    return F.cross_entropy(model(batch[0]), batch[1])


if __name__ == "__main__":
    main(sys.argv[1], *map(Path, sys.argv[2:6]))
