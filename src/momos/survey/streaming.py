"""The measures of `measure` for weights that arrive tensor by tensor: what is kept of them does not
grow with the model.

Columns as in `measure`, with two differences. There may be several initialisations:
bdm_<n>d_initial is their mean. And zstd, which does not know the size in advance here, may need
some bytes more or less than in one piece (0.01 %); all other values are the same.
"""

import bz2
import lzma
import zlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from momos.complexity import bdm

Weights = Iterable[tuple[str, Tensor]]  # trainable parameters in model order
CHUNK_BYTES = 1 << 24  # what a compressor is given at once


def measure(
    trained: Callable[[], Weights],
    initial: Sequence[Callable[[], Weights]],
    *,
    compressors: Sequence[str],
    seed: int,
) -> dict[str, float | int]:
    """num_weights, the BDM columns, each compressor's ratio on float32 weights and on packed signs,
    sparsity.

    Each call of trained gives the same weights again; of initial, one call an initialisation. seed:
    of the shuffled control. Raises ValueError for NaN or infinite weights, for names or shapes that
    differ between trained and initial weights, and for a model that has no complete block of 12 or
    of 4x4 weights.
    """
    starts = [Signs(weights(), "initial") for weights in initial]
    end = Trained(trained(), compressors)
    for start in starts:
        _same_layout(end.layout, start.layout)
    control = bdm.BlockCounts(
        bdm.shuffled(((tensor.detach() > 0).cpu().numpy() for _, tensor in trained()), seed)
    )
    return {
        "num_weights": end.num_weights,
        **_bdm_columns(
            "bdm_1d", end.counts.words, [start.counts.words for start in starts], control.words
        ),
        **_bdm_columns(
            "bdm_2d",
            end.counts.squares,
            [start.counts.squares for start in starts],
            control.squares,
        ),
        **{name: stream.ratio() for name, stream in end.raw.items()},
        **{f"{name}_binary": stream.ratio() for name, stream in end.binary.items()},
        "sparsity": end.zeros / end.num_weights,
    }


class Signs:
    """Block counts of one set of weights, and its tensors' names and shapes."""

    def __init__(self, weights: Weights, role: str):
        self.counts, self.layout = bdm.BlockCounts(), {}
        for name, tensor in weights:
            self.layout[name] = tuple(tensor.shape)
            self.add(_checked(name, tensor, role))

    def add(self, weights: np.ndarray) -> None:
        self.counts.add(weights > 0)


class Trained(Signs):
    """The same with compressors and the number of zeros."""

    def __init__(self, weights: Weights, compressors: Sequence[str]):
        self.num_weights = self.zeros = 0
        self.raw = {name: Compressed(name) for name in compressors}
        self.binary = {name: Compressed(name) for name in compressors}
        self._carry = np.zeros(0, dtype=bool)  # signs that do not fill a byte yet
        super().__init__(weights, "trained")
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


class Compressed:
    """Bytes into a compressor and out of it; settings as in `momos.complexity.compressors`. Raises
    ValueError for an unknown one.
    """

    def __init__(self, name: str):
        if name not in STREAMS:
            raise ValueError(f"unknown compressor {name!r}; expected one of {', '.join(STREAMS)}")
        self._stream, self._read, self._written = STREAMS[name](), 0, 0

    def add(self, data: np.ndarray) -> None:
        view = memoryview(np.ascontiguousarray(data).reshape(-1)).cast("B")
        for start in range(0, len(view), CHUNK_BYTES):
            self._written += len(self._stream.compress(view[start : start + CHUNK_BYTES]))
        self._read += len(view)

    def ratio(self) -> float:
        """Raw / compressed bytes. Ends the stream."""
        return self._read / (self._written + len(self._stream.flush()))


def _zstd() -> Any:
    import zstandard

    return zstandard.ZstdCompressor(level=19, threads=0).compressobj()


STREAMS: dict[str, Callable[[], Any]] = {
    "gzip": lambda: zlib.compressobj(9, zlib.DEFLATED, 31),  # 31: with gzip's header and trailer
    "bz2": lambda: bz2.BZ2Compressor(9),
    "lzma": lambda: lzma.LZMACompressor(format=lzma.FORMAT_XZ, preset=6),
    "zstd": _zstd,
}


def _checked(name: str, tensor: Tensor, role: str) -> np.ndarray:
    """float32, of the tensor's shape."""
    if not tensor.is_floating_point():
        raise ValueError(
            f"tensor {name} ({role}) must hold floating-point weights, got {tensor.dtype}"
        )
    if not torch.isfinite(tensor.detach()).all():
        raise ValueError(f"tensor {name} ({role}) holds NaN or infinite weights")
    return tensor.detach().float().cpu().numpy()


def _same_layout(trained: dict[str, tuple], initial: dict[str, tuple]) -> None:
    if not trained:
        raise ValueError("no tensors to measure")
    for name in dict.fromkeys([*trained, *initial]):
        if trained.get(name) != initial.get(name):
            shapes = f"{trained.get(name, 'no such tensor')} trained, {initial.get(name, 'no such tensor')} initial"
            raise ValueError(
                f"tensor {name} must have the same shape before and after training, got {shapes}"
            )


def _bdm_columns(
    prefix: str, trained: np.ndarray, initial: Sequence[np.ndarray], control: np.ndarray
) -> dict[str, float]:
    value, start = (
        bdm.complexity(trained),
        float(np.mean([bdm.complexity(counts) for counts in initial])),
    )
    return {
        prefix: value,
        f"{prefix}_initial": start,
        f"{prefix}_ratio": value / start,
        f"{prefix}_normalized": bdm.normalized(trained),
        f"{prefix}_shuffled": bdm.complexity(control),
    }
