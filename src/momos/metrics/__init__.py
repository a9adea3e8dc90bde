"""Measures of one set of weights, a file each: a file here is a column of every table, named after
it.

Such a file has one function,

    def metric(tensors: Mapping[str, Tensor]) -> float

of the trainable parameters in model order. It draws nothing at random but from a generator of its
own, and raises ValueError for weights that it can't measure: the stage then fails.
"""

import importlib
import math
import pkgutil
from collections.abc import Mapping

from torch import Tensor


def names() -> list[str]:
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def columns(tensors: Mapping[str, Tensor]) -> dict[str, float]:
    """Every metric of the folder by name. Raises ValueError naming a metric that is no finite
    number, and what a metric raises.
    """
    detached = {name: tensor.detach() for name, tensor in tensors.items()}
    found = {}
    for name in names():
        value = importlib.import_module(f"{__name__}.{name}").metric(detached)
        if (
            isinstance(value, bool)
            or not isinstance(value, int | float)
            or not math.isfinite(value)
        ):
            raise ValueError(f"metric {name} must return a finite number, got {value!r}")
        found[name] = float(value)
    return found
