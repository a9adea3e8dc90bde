"""Measures of one set of weights, a file each.

A file of this folder is a column of every table, named after the file. It has one function,

    def metric(tensors: Mapping[str, Tensor]) -> float

of the trainable parameters by name, in model order. A metric that draws random numbers has a
generator of its own. It raises ValueError for weights that it can't measure: the stage then fails.
"""

import importlib
import math
import pkgutil
from collections.abc import Mapping

from torch import Tensor


def names() -> list[str]:
    """Names of the files in this folder, sorted. None of them is imported."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def columns(tensors: Mapping[str, Tensor]) -> dict[str, float]:
    """Every metric of the folder by name. tensors: the trainable parameters, in model order.

    Raises ValueError naming a metric that returns no finite number, and what a metric raises.
    """
    detached = {name: tensor.detach() for name, tensor in tensors.items()}
    values = {}
    for name in names():
        value = importlib.import_module(f"{__name__}.{name}").metric(detached)
        if not _is_finite_number(value):
            raise ValueError(f"metric {name} must return a finite number, got {value!r}")
        values[name] = float(value)
    return values


def _is_finite_number(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return math.isfinite(value)
