"""One run of the study: what its run.json says, what it resumes from, what its folder holds."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from momos import models
from momos.files import atomic, run_folder
from momos.images.dataset import Dataset, dataset_digest
from momos.resume.checkpoints import Checkpoints, Shared
from momos.settings import require
from momos.training.loop import HISTORY_COLUMNS, Result, Row, TrainingDiverged, train
from momos.training.recipe import Recipe
from momos.training.stacked import train_stack
from momos.weights import blocks

Key = Mapping[str, Any]  # profile, model, method, seed, grid


def input_shape(dataset: Dataset, recipe: Recipe) -> dict[str, int]:
    """Return what a network must fit: num_classes, in_channels, image_size."""
    return {
        "num_classes": len(dataset.classes),
        "in_channels": dataset.images.shape[1],
        "image_size": recipe.model.image_size,
    }


def describe_run(
    key: Key, model: nn.Module, dataset: Dataset, recipe: Recipe, num_seeds: int
) -> dict[str, Any]:
    """Return what run.json says of a run before it is trained.

    num_seeds: of those that are trained together. Raises ValueError naming method and model where
    they do not fit each other, the model where it does not fit the images, and a step of train.keep
    that no training reaches.
    """
    num_steps = recipe.loop.epochs * -(-len(dataset.train) // recipe.batches.size)
    expected = f"steps of models.{key['model']}'s training, which has {num_steps}"
    kept = list(recipe.loop.keep)
    require(max(kept, default=0) <= num_steps, "train.keep", expected, kept)
    about = dict(key) | {"arch": recipe.model.arch, "arch_kwargs": recipe.model.kwargs}
    about |= input_shape(dataset, recipe) | {"data_sha256": dataset_digest(dataset)}
    weights = blocks.trainable(model).values()
    about |= {"num_weights": sum(weight.numel() for weight in weights)}
    try:
        models.check_forward(model, **input_shape(dataset, recipe))
    except ValueError as error:
        raise ValueError(f"models.{key['model']} ({recipe.model.arch}): {error}") from error
    try:
        about |= recipe.method.describe(model)
    except ValueError as error:
        where = f"methods.{key['method']} on models.{key['model']}"
        raise ValueError(f"{where}: {error}") from error
    return about | recipe.describe() | {"stacked_seeds": num_seeds}


def checkpoints_of(
    key: Key, seeds: Sequence[int], about: Mapping[str, Any], script: Path, *, seconds: float
) -> Checkpoints:
    """Return the checkpoints of a run, or those that it shares with the other seeds of a stack.

    script: on whose content they depend. seconds: how far apart they may be.
    """
    parts = [str(key[part]) for part in ("profile", "model", "method")]
    name = "/".join(["train", *parts, "-".join(map(str, seeds))])
    if len(seeds) == 1:
        return Checkpoints(name, about, script, seconds=seconds)
    depends = dict(about) | {"seed": seeds}
    return Shared(name, depends, script, seconds=seconds, member=key["seed"], members=seeds)


def train_seed(
    networks: Mapping[int, nn.Module],
    seed: int,
    dataset: Dataset,
    recipe: Recipe,
    *,
    on_epoch: Callable[[Row], None],
    checkpoints: Checkpoints,
) -> Result:
    """Train the network of this seed, alone or with the others. Raises TrainingDiverged."""
    if len(networks) == 1:
        return train(
            networks[seed],
            dataset,
            recipe,
            seed=seed,
            on_epoch=on_epoch,
            checkpoints=checkpoints,
        )

    def follow(other: int, row: Row) -> None:
        if other == seed:
            on_epoch(row)

    results = train_stack(networks, dataset, recipe, on_epoch=follow, checkpoints=checkpoints)
    result = results[seed]
    if isinstance(result, TrainingDiverged):
        raise result
    return result


def save_run(folder: Path, about: Mapping[str, Any], result: Result) -> None:
    """Write the run folder of a finished training; run.json last."""
    run_folder.save_history(folder, HISTORY_COLUMNS, result.history)
    states = {"initial": result.initial, "best": result.best.state, "last": result.last}
    if result.marked is not None:
        states |= {"marked_best": result.marked.best, "marked_last": result.marked.last}
    states |= {run_folder.step_name(step): state for step, state in result.kept.items()}
    for which, state in states.items():
        run_folder.save_weights(folder, which, state)
    if result.last_usage is not None and result.best.usage is not None:
        usage = {"best": result.best.usage, "last": result.last_usage}
        atomic.save_tensors(folder / run_folder.USAGE, usage)
    atomic.write_json(folder / run_folder.RUN, dict(about) | result.summary())
