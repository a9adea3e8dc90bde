"""Weights of a network without its code: which of a file's tensors they are, and fresh ones."""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from momos.weights.files import PREFIXES, WeightFile
from momos.weights.initial import Kinds, buffers, stream

NamedTensors = Iterable[tuple[str, Tensor]]
QUANTISED = (torch.int8, torch.uint8, torch.int32)  # integers that stand for weights


class Network(NamedTuple):
    """The weights of a file, and how often it holds what is none.

    names: of the weights, in the file's order. num_buffers: tensors that no optimiser moves.
    num_tied: copies of another tensor. num_beside: of an optimiser's state or another wrapper.
    """

    stored: WeightFile
    names: tuple[str, ...]
    num_buffers: int
    num_tied: int
    init: str
    kinds: Kinds

    def weights(self) -> NamedTensors:
        """Trained weights in the file's order."""
        return ((name, self.stored[name]) for name in self.names)

    def fresh(self, seed: int) -> NamedTensors:
        """Freshly initialised weights of the same layout (`momos.weights.initial`)."""
        own = set(self.names)
        pairs = stream(self.stored.layout, seed, self.init, self.kinds)
        return ((name, tensor) for name, tensor in pairs if name in own)

    def initialisations(self, seeds: Sequence[int]) -> list[Callable[[], NamedTensors]]:
        """A function a seed that gives fresh weights."""
        return [lambda seed=seed: self.fresh(seed) for seed in seeds]  # type: ignore[misc]

    def left_out(self) -> dict[str, int]:
        """The columns that count what is no weight."""
        return {
            "num_buffers": self.num_buffers,
            "num_tied": self.num_tied,
            "num_beside": self.stored.num_beside,
        }


def find_network(stored: WeightFile, *, init: str = "default", kinds: Kinds = ()) -> Network:
    """Which tensors of a file are weights, and how they are initialised.

    init, kinds: as in `momos.weights.initial.fresh`. Tensors with the same numbers count once,
    the first. Constants are no copies, nor tensors of one axis: the biases of two branches that are
    added up have the same gradients, so the same numbers, and are two all the same.
    Raises ValueError, in a sentence that names the file, the tensor and what was expected: for
    integers, NaN and infinite weights, an empty tensor, a tensor of which nothing is known, names
    in two layouts at once, and a file without weights.
    """
    try:
        _require_one_layout(stored)
        no_weights = _buffers(stored, kinds)
        names, num_tied = _distinct_weights(stored, no_weights)
        stream(stored.layout, 0, init, kinds)  # what it refuses, it refuses before any weight
    except ValueError as error:
        raise ValueError(f"{stored.name}: {error}") from error
    if not names:
        raise ValueError(
            f"{stored.name} holds no weights: all of its {len(stored)} tensors are buffers; "
            "expected floating-point weights by name"
        )
    return Network(stored, names, len(no_weights), num_tied, init, kinds)


def _require_one_layout(stored: WeightFile) -> None:
    """Raises ValueError for a network that is there twice, with and without a wrapper's prefix."""
    for prefix in PREFIXES:
        inner = [name for name in stored if name.startswith(prefix)]
        twice = [
            name
            for name in inner
            if stored.layout.get(name.removeprefix(prefix)) == stored.layout[name]
        ]
        if inner and len(twice) == len(inner):
            raise ValueError(
                f"tensor {twice[0]} is there without the prefix {prefix} too, as all others with "
                "it are: expected one layout of names"
            )


def _buffers(stored: WeightFile, kinds: Kinds) -> set[str]:
    """Names of the tensors that no optimiser moves.

    Raises ValueError for a tensor of which nothing is known. Beside integer matrices it is the
    scale of quantised weights, and these are named instead.
    """
    try:
        return set(buffers(stored.layout, kinds))
    except ValueError as error:
        for name, tensor in stored.items():
            if tensor.ndim > 1 and tensor.dtype in QUANTISED:
                found = f"tensor {name} is {tensor.dtype}, expected floating-point weights"
                raise ValueError(found) from error
        raise


def _distinct_weights(stored: WeightFile, no_weights: set[str]) -> tuple[tuple[str, ...], int]:
    """Names of the weights, copies left out, and the number of copies."""
    names: list[str] = []
    seen: set[tuple] = set()
    for name in stored:
        if name in no_weights:
            continue
        tensor = stored[name]
        if not tensor.is_floating_point():
            raise ValueError(f"tensor {name} is {tensor.dtype}, expected floating-point weights")
        if tensor.itemsize < 2:  # float8, whose scale is not guessed
            expected = "floating-point weights of 16 bits or more"
            raise ValueError(f"tensor {name} is {tensor.dtype}, expected {expected}")
        if not bool(torch.isfinite(tensor).all()):
            raise ValueError(f"tensor {name} holds NaN or infinite weights, expected finite ones")
        if tensor.ndim > 1 and not bool((tensor == tensor.reshape(-1)[0]).all()):
            key = (tensor.dtype, tuple(tensor.shape), _hash(tensor))
            if key in seen:
                continue
            seen.add(key)
        names.append(name)
    num_weights = len(stored) - len(no_weights)
    return tuple(names), num_weights - len(names)


def _hash(tensor: Tensor) -> bytes:
    plain = tensor.detach().cpu().contiguous().view(torch.uint8).numpy()
    return hashlib.blake2b(plain.data).digest()
