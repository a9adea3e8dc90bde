"""Complexity of weights that arrive tensor by tensor, so that memory does not grow with the model.

The columns are those of `momos.complexity.measure`, with two differences. There may be several
initialisations: bdm_<n>d_initial is their mean. And zstd does not know the size in advance here, so
it may need up to 0.01 % more or fewer bytes than in one piece. All other values are the same.

| further column              | what it is                                                         |
|-----------------------------|--------------------------------------------------------------------|
| num_initial                 | initialisations                                                    |
| .._initial_std, .._z, .._p  | deviation over initialisations; (trained - mean) / deviation; the  |
|                             | chance that another initialisation is as low (Student's t)         |
| bdm_<n>d_markov, _permuted  | controls (`momos.survey.controls`)                                 |
| planes, plane_7 ..          | BDM of bit planes in bits, total and each (method A10), with the   |
|                             | mean over initialisations, the ratio to it, z and p of the total   |
"""

import math
from collections.abc import Callable, Iterable, Sequence

import numpy as np
import torch
from torch import Tensor

from momos.complexity import bdm, compressors, planes
from momos.survey import controls

NamedTensors = Iterable[tuple[str, Tensor]]  # trainable parameters in model order
CHUNK_BYTES = 1 << 24  # bytes that a compressor is given at once
BIT_DEPTH = 8  # of the planes
CONTROLS = {"markov": controls.markov, "permuted": controls.permuted}  # beside shuffled bits


def measure_against(
    trained: Callable[[], NamedTensors],
    initial: Sequence[Callable[[], NamedTensors]],
    *,
    compressors: Sequence[str],
    seed: int,
) -> dict[str, float | int | None]:
    """The columns of `momos.complexity.measure` that pieces give, and those of the table above.

    Of the former these are num_weights, the BDM columns, a ratio a compressor (weights and signs)
    and sparsity. What one initialisation can't tell (deviations, z, p) is None.
    trained: gives the same weights at each call. initial: a function an initialisation, called
    once. compressors: names of files in `momos.complexity.compressors`. seed: of the controls.
    Raises ValueError for NaN or infinite weights, for names or shapes that differ between trained
    and initial weights, and for a model that has no complete block of 12 or of 4x4 weights.
    """
    starts = [SignCounts(weights(), "initial", with_planes=True) for weights in initial]
    end = TrainedCounts(trained(), compressors, with_planes=True)
    columns: dict[str, float | int | None] = dict(_columns(end, starts, trained, seed))
    for name, control in CONTROLS.items():
        counts = bdm.BlockCounts(control(_signs(trained()), seed))
        columns[f"bdm_1d_{name}"] = bdm.complexity(counts.words)
        columns[f"bdm_2d_{name}"] = bdm.complexity(counts.squares)
    for prefix, kind in (("bdm_1d", "words"), ("bdm_2d", "squares")):
        values = [bdm.complexity(getattr(start.counts, kind)) for start in starts]
        columns |= _against(prefix, bdm.complexity(getattr(end.counts, kind)), values)
    bit_planes = planes.against(end.planes, [start.planes for start in starts])
    bit_planes["planes_p"] = chance(bit_planes["planes_z"], len(starts))
    return columns | {"num_initial": len(starts)} | bit_planes


def _columns(
    end: "TrainedCounts",
    starts: Sequence["SignCounts"],
    trained: Callable[[], NamedTensors],
    seed: int,
) -> dict[str, float | int]:
    """The columns that `momos.complexity.measure` has too."""
    for start in starts:
        _require_same_layout(end.layout, start.layout)
    control = bdm.BlockCounts(bdm.shuffled(_signs(trained()), seed))
    words = [start.counts.words for start in starts]
    squares = [start.counts.squares for start in starts]
    return {
        "num_weights": end.num_weights,
        **_bdm_columns("bdm_1d", end.counts.words, words, control.words),
        **_bdm_columns("bdm_2d", end.counts.squares, squares, control.squares),
        **{name: stream.ratio() for name, stream in end.raw.items()},
        **{f"{name}_binary": stream.ratio() for name, stream in end.binary.items()},
        "sparsity": end.zeros / end.num_weights,
    }


def _against(prefix: str, value: float, initial: Sequence[float]) -> dict[str, float | None]:
    """Where a value lies among those of initialisations, as the module's table says."""
    names = [f"{prefix}_{name}" for name in ("initial_std", "z", "p")]
    if len(initial) < 2:
        return dict.fromkeys(names)
    mean, std = float(np.mean(initial)), float(np.std(initial, ddof=1))
    if not std:
        return dict(zip(names, (std, None, None), strict=True))
    z = (value - mean) / std
    return dict(zip(names, (std, z, chance(z, len(initial))), strict=True))


def chance(z: float | None, num_initial: int) -> float | None:
    """How probable an initialisation of this z or less is, by Student's t; None without z.

    It is one more value beside the num_initial others, so that their mean's own spread counts too.
    """
    from scipy.special import stdtr

    if z is None:
        return None
    return float(stdtr(num_initial - 1, z / math.sqrt(1 + 1 / num_initial)))


def further_columns() -> list[str]:
    """Names of the module's further columns, in the order of `measure_against`."""
    suffixes = ("initial_std", "z", "p", "markov", "permuted")
    bdm_names = [f"bdm_{n}d_{suffix}" for n in (1, 2) for suffix in suffixes]
    totals = ["planes", "planes_initial", "planes_ratio", "planes_z", "planes_p"]
    each = [
        f"plane_{plane}{suffix}"
        for plane in reversed(range(BIT_DEPTH))
        for suffix in ("", "_ratio")
    ]
    return ["num_initial", *bdm_names, *totals, *each]


class SignCounts:
    """Block counts of one set of weights, its tensors' names and shapes, and BDM by bit planes."""

    def __init__(self, weights: NamedTensors, role: str, *, with_planes: bool = False):
        self.counts = bdm.BlockCounts()
        self.planes = np.zeros(BIT_DEPTH)
        self.layout: dict[str, tuple[int, ...]] = {}
        for name, tensor in weights:
            self.layout[name] = tuple(tensor.shape)
            self.add(_checked(name, tensor, role))
            if with_planes:
                self.planes += planes.model_planes({name: tensor}, BIT_DEPTH)

    def add(self, weights: np.ndarray) -> None:
        """Count one tensor's signs (float32, any shape)."""
        self.counts.add(weights > 0)


class TrainedCounts(SignCounts):
    """Block counts of trained weights, with their compressed sizes and the number of zeros."""

    def __init__(
        self, weights: NamedTensors, compressors: Sequence[str], *, with_planes: bool = False
    ):
        self.num_weights = self.zeros = 0
        self.raw = {name: CompressedSize(name) for name in compressors}
        self.binary = {name: CompressedSize(name) for name in compressors}
        self._carry = np.zeros(0, dtype=bool)  # signs that do not fill a byte yet
        super().__init__(weights, "trained", with_planes=with_planes)
        self._pack(self._carry)

    def add(self, weights: np.ndarray) -> None:
        bits = weights > 0
        self.counts.add(bits)
        self.num_weights += weights.size
        self.zeros += int(weights.size - np.count_nonzero(weights))
        for stream in self.raw.values():
            stream.add(weights)
        joined = np.concatenate([self._carry, bits.reshape(-1)])
        whole = joined.size - joined.size % 8
        self._pack(joined[:whole])
        self._carry = joined[whole:]

    def _pack(self, bits: np.ndarray) -> None:
        for stream in self.binary.values():
            stream.add(np.packbits(bits))


class CompressedSize:
    """Bytes that went into a compressor and came out of it.

    Raises ValueError for a name that is no file of `momos.complexity.compressors`.
    """

    def __init__(self, name: str):
        self._stream = compressors.load(name).stream()
        self._read = self._written = 0

    def add(self, data: np.ndarray) -> None:
        """Compress an array's bytes, in the order of its elements."""
        view = np.ascontiguousarray(data).reshape(-1).data.cast("B")
        for start in range(0, len(view), CHUNK_BYTES):
            self._written += len(self._stream.compress(view[start : start + CHUNK_BYTES]))
        self._read += len(view)

    def ratio(self) -> float:
        """Raw / compressed bytes. Ends the stream."""
        return self._read / (self._written + len(self._stream.flush()))


def _signs(weights: NamedTensors) -> Iterable[np.ndarray]:
    """Bool arrays of the tensors' shapes, true where weight > 0."""
    return ((tensor.detach() > 0).cpu().numpy() for _, tensor in weights)


def _checked(name: str, tensor: Tensor, role: str) -> np.ndarray:
    """The tensor as float32 of the same shape. Raises ValueError unless it is finite and float."""
    if not tensor.is_floating_point():
        raise ValueError(
            f"tensor {name} ({role}) must hold floating-point weights, got {tensor.dtype}"
        )
    if not torch.isfinite(tensor.detach()).all():
        raise ValueError(f"tensor {name} ({role}) holds NaN or infinite weights")
    return tensor.detach().float().cpu().numpy()


def _require_same_layout(
    trained: dict[str, tuple[int, ...]], initial: dict[str, tuple[int, ...]]
) -> None:
    """Raises ValueError, naming the tensor, unless names and shapes are the same."""
    if not trained:
        raise ValueError("no tensors to measure")
    for name in dict.fromkeys([*trained, *initial]):
        before, after = initial.get(name, "no such tensor"), trained.get(name, "no such tensor")
        if before != after:
            raise ValueError(
                f"tensor {name} must have the same shape before and after training, "
                f"got {after} trained, {before} initial"
            )


def _bdm_columns(
    prefix: str, trained: np.ndarray, initial: Sequence[np.ndarray], control: np.ndarray
) -> dict[str, float]:
    """Block counts -> BDM of the trained weights, and the values that it is read against."""
    value = bdm.complexity(trained)
    start = float(np.mean([bdm.complexity(counts) for counts in initial]))
    return {
        prefix: value,
        f"{prefix}_initial": start,
        f"{prefix}_ratio": value / start,
        f"{prefix}_normalized": bdm.normalized(trained),
        f"{prefix}_shuffled": bdm.complexity(control),
    }
