"""Methods and recipes of trainings, for tests."""

from collections.abc import Mapping
from typing import Any

from momos import config
from momos.images.inputs import Batches
from momos.methods.method import Method, parse
from momos.training.recipe import Recipe


def method_of(
    entry: Mapping[str, Any],
    *,
    every: str | int = "epoch",
    force_zero: bool = True,
    slicing: str = "tensor",
    exclude: str = "type",
) -> Method:
    """The method of an entry of params.yaml. every: `mosaic.projection_every`."""
    mosaic = {"projection_every": every, "force_zero": force_zero, "slicing": slicing}
    return parse(entry, "methods.test", {"mosaic": mosaic, "quantize": {"exclude": exclude}})


def recipe_of(
    loop: config.Train,
    model: config.Model,
    batches: Batches,
    augmentation: config.Augment,
    method: Mapping[str, Any],
    **shared: Any,
) -> Recipe:
    """shared: as of `method_of`."""
    return Recipe(
        model=model,
        loop=loop,
        augmentation=augmentation,
        method=method_of(method, **shared),
        batches=batches,
    )
