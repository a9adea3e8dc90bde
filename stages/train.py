"""Stages `train`, `more_seeds` and `ablation`: one model, one method, one seed.

usage: train.py MODEL METHOD SEED DATA.safetensors RUN_DIR COST.json [--block-size S --capacity C]

METHOD is an entry of params.yaml; with a block size and a capacity it only names a cell of the
ablation. A training that was interrupted goes on from its last checkpoint. With train.stacked_seeds
the first stage of a group of seeds trains all of them; the others take their part from it.
"""

import argparse
from pathlib import Path

from tqdm import tqdm

from momos import config, models, tracking
from momos.compute import cost
from momos.compute.device import prepare_device
from momos.files import atomic, run_folder
from momos.images.dataset import load_dataset
from momos.images.inputs import Batches
from momos.methods.method import Method
from momos.training import loop, runs
from momos.training.recipe import Recipe


def main(key: dict, method: Method, paths: argparse.Namespace) -> None:
    model, images = config.load(config.Model, key["model"]), config.load(config.Data)
    settings = config.load(config.Train).of_model(model)
    dataset = load_dataset(paths.data)
    device = prepare_device(settings.device, settings.num_threads, settings.precision)
    recipe = Recipe(
        model=model,
        loop=settings,
        augmentation=config.load(config.Augment),
        method=method,
        batches=Batches(settings.batch_size, model.image_size, images.mean, images.std, device),
    )
    seeds = settings.together(key["seed"]) if key["grid"] == "main" else (key["seed"],)
    shape = runs.input_shape(dataset, recipe)
    networks = {
        seed: models.build(model.arch, seed=seed, kwargs=model.kwargs, **shape) for seed in seeds
    }
    about = runs.describe_run(key, networks[key["seed"]], dataset, recipe, len(seeds))
    # a folder that can't be written is met here, before training
    atomic.write_json(paths.run / run_folder.RUN, about)
    script, seconds = Path(__file__), settings.checkpoint_seconds
    bar = tqdm(total=settings.epochs, disable=None, desc=" ".join(map(str, key.values())))
    kept = runs.checkpoints_of(key, seeds, about, script, seconds=seconds)
    with kept, tracking.run(config.load(config.Tracking), about) as log, bar:

        def follow(row: loop.Row) -> None:
            log(row)
            bar.update()

        try:
            with cost.Meter(device) as meter:
                result = runs.train_seed(
                    networks, key["seed"], dataset, recipe, on_epoch=follow, checkpoints=kept
                )
        except loop.TrainingDiverged as error:
            run_folder.save_history(paths.run, loop.HISTORY_COLUMNS, error.history)
            raise
        runs.save_run(paths.run, about, result)
        log.finish(paths.run)
        spent = kept.share(meter.read()) | {"num_epochs": len(result.history)}
        atomic.write_json(paths.cost, spent)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(usage=__doc__)
    parser.add_argument("model")
    parser.add_argument("method")
    parser.add_argument("seed", type=int)
    for name in ("data", "run", "cost"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--block-size", type=int)
    parser.add_argument("--capacity", type=float)
    args = parser.parse_args()
    in_ablation = args.block_size is not None
    treatment = (
        config.cell(args.block_size, args.capacity)
        if in_ablation
        else config.load_method(args.method)
    )
    identity = {"profile": config.profile(), "model": args.model, "method": args.method}
    identity |= {"seed": args.seed, "grid": "ablation" if in_ablation else "main"}
    main(identity, treatment, args)
