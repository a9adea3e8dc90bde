"""The survey of Figure 2: how complexity changes from initialisation to the end of training, over many models.

Pairs in, rows out: where the weights come from (the pipeline's own runs, a model zoo) is the caller's business.
"""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from torch import Tensor

from momos.complexity.measure import bdm_columns


class Pair(NamedTuple):
    """One architecture's weights after training and at its random initialisation: trainable parameters in model order."""

    name: str
    family: str
    source: str  # where the trained weights come from
    trained: Mapping[str, Tensor]
    initial: Mapping[str, Tensor]


def survey(pairs: Iterable[Pair], *, seed: int) -> list[dict[str, str | int | float]]:
    """A row per pair: who it is, its number of weights and the BDM columns of `complexity.measure`.

    pairs may be a generator: one pair is held at a time. seed: of the shuffled control. Raises ValueError naming the pair.
    """
    return [_row(pair, seed) for pair in pairs]


def _row(pair: Pair, seed: int) -> dict[str, str | int | float]:
    try:
        columns = bdm_columns(pair.trained, pair.initial, seed=seed)
    except ValueError as error:
        raise ValueError(f"survey of {pair.name}: {error}") from error
    num_weights = sum(tensor.numel() for tensor in pair.trained.values())
    return {"name": pair.name, "family": pair.family, "source": pair.source, "num_weights": num_weights, **columns}
