"""Measures of several weight files, of the whole and of each tensor, so that they can be compared.

Each value stands beside those of fresh weights of the same layout: `ratio` to their mean, and `z`,
how many of their standard deviations lie between. Files of one layout share the fresh weights,
which are measured once.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from momos.cli.arguments import naming
from momos.cli.stored import raw_bytes, stored_form
from momos.complexity import bdm, compressors, planes
from momos.files.droppings import files_below
from momos.packing import read_tensors
from momos.survey.network import Network, find_network
from momos.survey.streaming import CompressedSize
from momos.weights.files import (
    WeightFile,
    entries,
    holds_weights,
    is_weight_file,
    open_weights,
    some_of,
)

if TYPE_CHECKING:
    from torch import Tensor

Columns = dict[str, Any]  # one row of a table: text, numbers, and None
MEASURES = ("bdm_1d", "bdm_2d", "planes")
BIT_DEPTH = 8  # of the planes
PICTURE = 32  # rows and columns of a tensor that are shown
PACKED = ".momos"
PER_LAYER = "zstd"  # compressor of single tensors
ROUNDING = 1e-12  # a smaller deviation relative to the mean is none
WHOLE = ""  # in the place of a tensor's name
Counts = dict[str, dict[str, float]]  # tensor, or WHOLE -> measure -> bits


class Source(NamedTuple):
    """One weight file of a comparison."""

    name: str  # for readers
    path: Path
    series: str | None = None  # the folder of checkpoints that it is one of
    step: int | None = None  # its place in the training


class Measured(NamedTuple):
    """What was measured of one file."""

    columns: Columns  # a row: name, series, step, numbers of weights and bytes, the measures
    layers: list[Columns]  # a row a tensor, in the file's order
    pictures: dict[
        str, np.ndarray
    ]  # tensor -> its upper left corner, float32, at most PICTURE wide


def sources(paths: Sequence[Path]) -> list[Source]:
    """The weight files that arguments mean; a folder of checkpoints means all that are in it.

    Raises ValueError, naming it, for what is missing, for a folder without weights, and for fewer
    than two files in all.
    """
    found = [source for path in paths for source in _sources(path)]
    if len(found) < 2:
        named = ", ".join(map(str, paths))
        raise ValueError(f"{named} is one model: expected two or more to compare, or a folder")
    return found


def _sources(path: Path) -> list[Source]:
    if not path.is_dir():
        return [Source(str(path), path)]
    inside = entries(path)
    children = [one for one in inside if one.is_dir() and holds_weights(one)]
    if len(children) < 2 and holds_weights(path):
        return [Source(str(path), path)]
    children += [one for one in inside if one.is_file() and _is_model(one)]
    if not children:
        raise ValueError(f"{path} holds no weights: expected a model, or checkpoints of one")
    children.sort(key=lambda one: [_numbers(one), one.name])
    series = path.resolve().name
    return [
        Source(f"{series}/{one.name}", one, series, (_numbers(one) or [place])[-1])
        for place, one in enumerate(children)
    ]


def _is_model(path: Path) -> bool:
    return path.suffix == PACKED or is_weight_file(path)


def _numbers(path: Path) -> list[int]:
    """The numbers in a name, without its ending: epoch=3-step=100.ckpt -> [3, 100]."""
    return [int(digits) for digits in re.findall(r"\d+", path.name.rpartition(".")[0] or path.name)]


class Measurer:
    """Measures files one after another, and keeps what fresh weights of a layout came to."""

    def __init__(
        self, num_init_seeds: int, init: str, kinds: Sequence, compressor_names: Sequence[str]
    ) -> None:
        """init, kinds: as `momos.weights.initial.fresh` takes them. Raises ValueError for a name
        that is no compressor.
        """
        for name in compressor_names:
            compressors.load(name)
        self.num_init_seeds, self.init, self.kinds = num_init_seeds, init, kinds
        self.compressors = compressor_names
        self._fresh: dict[tuple, list[Counts]] = {}

    def measure(self, source: Source) -> Measured:
        """Measure one file. Raises ValueError, naming it, for what is no model's weights."""
        with naming(source.path):
            return self._measure(source)

    def _measure(self, source: Source) -> Measured:
        network = find_network(_opened(source.path), init=self.init, kinds=self.kinds)
        tensors = list(network.weights())
        counts, fresh = _counts(tensors), self._fresh_counts(network)
        form = stored_form([tensor for _, tensor in tensors])
        columns: Columns = {
            **source._asdict(),
            "path": str(source.path),
            "num_weights": sum(tensor.numel() for _, tensor in tensors),
            "num_tensors": len(tensors),
            "stored_dtype": form.dtype,
            "init": network.init,
            "num_init_seeds": self.num_init_seeds,
            "file_bytes": _size(source.path),
            "weight_bytes": sum(tensor.nbytes for _, tensor in tensors),
            **{f"{name}_bytes": _compressed(tensors, name) for name in self.compressors},
            "sparsity": _share_of_zeros(tensors),
            **_against(counts, fresh, WHOLE),
        }
        layers = [_layer(name, tensor) | _against(counts, fresh, name) for name, tensor in tensors]
        pictures = {name: _picture(tensor) for name, tensor in tensors if tensor.ndim > 1}
        return Measured(columns, layers, pictures)

    def _fresh_counts(self, network: Network) -> list[Counts]:
        key = (tuple((name, network.stored.layout[name]) for name in network.names), network.init)
        if key not in self._fresh:
            seeds = range(self.num_init_seeds)
            self._fresh[key] = [_counts(network.fresh(seed)) for seed in seeds]
        return self._fresh[key]


def _opened(path: Path) -> WeightFile:
    if path.suffix != PACKED:
        return open_weights(path)
    tensors = read_tensors(path)
    layout = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    return WeightFile(
        str(path), layout, tensors.__getitem__, lambda name: tensors[name].is_floating_point()
    )


def _size(path: Path) -> int:
    """Bytes of a file, or of a folder's weight files."""
    files = [path] if path.is_file() else [one for one in files_below(path) if is_weight_file(one)]
    return sum(one.stat().st_size for one in files)


def _counts(weights: "Iterable[tuple[str, Tensor]]") -> Counts:
    """The measures of one set of weights, of the whole and of each tensor, in bits."""
    whole, found, total = bdm.BlockCounts(), {}, 0.0
    for name, tensor in weights:
        bits = (tensor.detach() > 0).cpu().numpy()
        whole.add(bits)
        own = _bdm(bdm.BlockCounts([bits]))
        for _, by_plane in planes.by_tensor({name: tensor}, BIT_DEPTH, planes.PERCENTILE):
            own["planes"] = float(by_plane.sum())
        total += own.get("planes", 0.0)
        found[name] = own
    return found | {WHOLE: _bdm(whole) | ({"planes": total} if total else {})}


def _bdm(counts: bdm.BlockCounts) -> dict[str, float]:
    """BDM in one and two dimensions, where there is a complete block."""
    parts = {"bdm_1d": counts.words, "bdm_2d": counts.squares}
    return {name: bdm.complexity(part) for name, part in parts.items() if part.any()}


def _against(counts: Counts, fresh: Sequence[Counts], name: str) -> Columns:
    """Each measure with its ratio to fresh weights' mean and its z; None where there is none."""
    columns: Columns = {}
    for measure in MEASURES:
        value = counts[name].get(measure)
        initial = np.array([own[name].get(measure, np.nan) for own in fresh])
        mean = initial.mean()
        spread = initial.std(ddof=1) if len(initial) > 1 else 0.0
        ratio = None if value is None else float(value / mean)
        is_varied = spread > ROUNDING * abs(mean)  # equal values differ from their mean's rounding
        z = float((value - mean) / spread) if value is not None and is_varied else None
        columns |= {measure: value, f"{measure}_ratio": ratio, f"{measure}_z": z}
    return columns


def _layer(name: str, tensor: "Tensor") -> Columns:
    """What single tensors tell beside the measures: bits a weight, and how many values differ."""
    raw = raw_bytes(tensor)
    small = len(compressors.load(PER_LAYER).compress(raw.tobytes()))
    return {
        "name": name,
        "shape": list(tensor.shape),
        "num_weights": tensor.numel(),
        "distinct_values": int(len(tensor.unique())),
        f"{PER_LAYER}_bits_per_weight": 8 * small / tensor.numel(),
    }


def _compressed(tensors: "Sequence[tuple[str, Tensor]]", compressor: str) -> int:
    stream, size = CompressedSize(compressor), 0
    for _, tensor in tensors:
        stream.add(raw_bytes(tensor))
        size += tensor.nbytes
    return round(size / stream.ratio())


def _share_of_zeros(tensors: "Sequence[tuple[str, Tensor]]") -> float:
    zeros = sum(int((tensor == 0).sum()) for _, tensor in tensors)
    return zeros / sum(tensor.numel() for _, tensor in tensors)


def _picture(tensor: "Tensor") -> np.ndarray:
    corner = tensor.detach().reshape(len(tensor), -1)[:PICTURE, :PICTURE]
    return corner.float().cpu().numpy()


def layers_in_common(measured: Sequence[Measured]) -> Iterator[str]:
    """Names of the tensors that all files have in one shape, in the first file's order."""
    shapes = [{row["name"]: row["shape"] for row in one.layers} for one in measured]
    return (name for name, shape in shapes[0].items() if all(s.get(name) == shape for s in shapes))


def other_layers(measured: Sequence[Measured]) -> str:
    """Names of tensors that some file lacks, for readers; empty if there is none."""
    common = set(layers_in_common(measured))
    others = dict.fromkeys(
        row["name"] for one in measured for row in one.layers if row["name"] not in common
    )
    return some_of(list(others)) if others else ""
