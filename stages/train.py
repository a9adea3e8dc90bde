"""Stages `train` and `ablation`: one model, one method, one seed.

usage: train.py MODEL METHOD SEED DATA.safetensors RUN_DIR COST.json [--block-size S --capacity C]

METHOD is an entry of params.yaml; with a block size and a capacity it only names a cell of the
ablation. A training that was interrupted goes on from its last checkpoint. With train.stacked_seeds
the first stage of a group of seeds trains all of them; the others find their part where that one
left it.
"""

import argparse
from pathlib import Path

from torch import nn
from tqdm import tqdm

from momos import config, models, tracking
from momos.compute import cost
from momos.compute.device import prepare_device
from momos.files import atomic, run_folder
from momos.images.dataset import dataset_digest, load_dataset
from momos.images.inputs import Batches
from momos.methods import mosaic, quantize
from momos.resume.checkpoints import Checkpoints, Shared
from momos.training import loop, stacked
from momos.weights import blocks


def main(key: dict, method: config.Method, paths: argparse.Namespace) -> None:
    recipe, settings, images = (
        config.load(config.Model, key["model"]),
        config.load(config.Train),
        config.load(config.Data),
    )
    projection, exclude = config.load(config.Mosaic), config.load(config.Quantize).exclude
    dataset = load_dataset(paths.data)
    device = prepare_device(settings.device, settings.num_threads, settings.precision)
    shape = {
        "num_classes": len(dataset.classes),
        "in_channels": dataset.images.shape[1],
        "image_size": recipe.image_size,
    }
    seeds = settings.together(key["seed"]) if key["grid"] == "main" else (key["seed"],)
    networks = {
        seed: models.build(recipe.arch, seed=seed, kwargs=recipe.kwargs, **shape) for seed in seeds
    }
    model = networks[key["seed"]]
    about = key | {
        "arch": recipe.arch,
        "arch_kwargs": recipe.kwargs,
        **shape,
        "data_sha256": dataset_digest(dataset),
    }
    about |= {"num_weights": sum(weight.numel() for weight in blocks.trainable(model).values())}
    about |= {"bits": method.bits, "exclude": exclude if method.bits < 32 else None}
    try:
        about |= mosaic.describe(
            model,
            method.block_size,
            capacity=method.capacity,
            num_motifs=method.num_motifs,
            **vars(projection),
        )
    except ValueError as error:
        raise ValueError(f"methods.{key['method']} on models.{key['model']}: {error}") from error
    augmentation = config.load(config.Augment)
    about |= loop.describe(settings, recipe, images, augmentation, device) | {
        "stacked_seeds": len(seeds)
    }
    atomic.write_json(
        paths.run / run_folder.RUN, about
    )  # a folder that can't be written is met here, before training

    setting = {
        "dataset": dataset,
        "settings": settings,
        "recipe": recipe,
        "method": method,
        "mosaic": projection,
    }
    setting |= {
        "augmentation": augmentation,
        "quantized": quantize.quantized_names(model, exclude, recipe.arch),
    }
    setting["batches"] = Batches(
        settings.batch_size, recipe.image_size, images.mean, images.std, device
    )
    bar = tqdm(
        total=settings.epochs, disable=None, unit="epoch", desc=" ".join(map(str, key.values()))
    )
    kept = checkpoints(key, seeds, about, settings.checkpoint_seconds)
    with kept, tracking.run(config.load(config.Tracking), about) as log, bar:
        setting |= {"checkpoints": kept, "on_epoch": lambda row: (log(row), bar.update())}
        try:
            with cost.Meter(device) as meter:
                result = trained(networks, key["seed"], setting)
        except loop.Diverged as error:
            run_folder.save_history(paths.run, loop.HISTORY_COLUMNS, error.history)
            raise
        save(paths.run, about, result)
        log.finish(paths.run)
        atomic.write_json(
            paths.cost, kept.share(meter.read()) | {"num_epochs": len(result.history)}
        )


def checkpoints(key: dict, seeds: tuple[int, ...], about: dict, seconds: float) -> Checkpoints:
    name = "/".join(
        [
            "train",
            *(str(key[part]) for part in ("profile", "model", "method")),
            "-".join(map(str, seeds)),
        ]
    )
    if len(seeds) == 1:
        return Checkpoints(name, about, Path(__file__), seconds=seconds)
    return Shared(
        name,
        about | {"seed": seeds},
        Path(__file__),
        seconds=seconds,
        member=key["seed"],
        members=seeds,
    )


def trained(networks: dict[int, nn.Module], seed: int, setting: dict) -> loop.Result:
    """Of the network of this seed, alone or with the others. Raises train.Diverged."""
    if len(networks) == 1:
        return loop.train(networks[seed], seed=seed, **setting)
    follow = setting["on_epoch"]
    result = stacked.train(
        networks,
        **setting | {"on_epoch": lambda other, row: follow(row) if other == seed else None},
    )[seed]
    if isinstance(result, loop.Diverged):
        raise result
    return result


def save(folder: Path, about: dict, result: loop.Result) -> None:
    run_folder.save_history(folder, loop.HISTORY_COLUMNS, result.history)
    for which, state in (
        ("initial", result.initial),
        ("best", result.best.state),
        ("last", result.last),
    ):
        run_folder.save_weights(folder, which, state)
    if result.last_usage is not None:
        atomic.save_tensors(
            folder / run_folder.USAGE, {"best": result.best.usage, "last": result.last_usage}
        )
    atomic.write_json(folder / run_folder.RUN, about | loop.summary(result))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(usage=__doc__)
    for name, kind in (
        ("model", str),
        ("method", str),
        ("seed", int),
        ("data", Path),
        ("run", Path),
        ("cost", Path),
    ):
        parser.add_argument(name, type=kind)
    parser.add_argument("--block-size", type=int)
    parser.add_argument("--capacity", type=float)
    args = parser.parse_args()
    ablation = args.block_size is not None
    grid = "ablation" if ablation else "main"
    cell = (
        config.cell(args.block_size, args.capacity)
        if ablation
        else config.load(config.Method, args.method)
    )
    main(
        {
            "profile": config.profile(),
            "model": args.model,
            "method": args.method,
            "seed": args.seed,
            "grid": grid,
        },
        cell,
        args,
    )
