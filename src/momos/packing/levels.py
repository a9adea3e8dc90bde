"""Size of a model as a file in each coding, and its accuracy once it is read back."""

import copy
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from torch import nn

from momos import config, packing
from momos.complexity.compressors import compress
from momos.packing import lossy

ORDINARY = "safetensors"  # the coding without compression
COMBINED = "combined"  # the level whose motifs are refitted, pruned, and at few bits
WEIGHTS = ("motifs", "mosaic", "tails", "weights")  # sections that hold the trainable weights
# Columns val_accuracy and test_accuracy: levels are chosen by the first, and the second is reported
Accuracies = Callable[[nn.Module], Mapping[str, float]]


def ordinary(model: nn.Module, accuracies: Accuracies, compressors: Sequence[str]) -> list[dict]:
    """A row for the safetensors file of the model's state dict, and one per compressor of it."""
    from safetensors.torch import save

    content = save({name: tensor.cpu().contiguous() for name, tensor in model.state_dict().items()})
    sizes = {ORDINARY: len(content)} | {name: len(compress(content, name)) for name in compressors}
    reached = accuracies(model)
    return [{"coding": name, "file_bytes": size, **reached} for name, size in sizes.items()]


def lossless(
    model: nn.Module, accuracies: Accuracies, *, block_size: int, slicing: str
) -> list[dict]:
    """A row per level of the .momos file. Raises ValueError if a tensor comes back changed."""
    return [
        measure_file(level, model, accuracies, level=level, block_size=block_size, slicing=slicing)
        for level in packing.LEVELS
    ]


def lossy_levels(
    model: nn.Module,
    accuracies: Accuracies,
    batches: Iterable[lossy.Batch],
    settings: config.Pack,
    *,
    block_size: int,
    slicing: str,
) -> list[dict]:
    """A row per lossy level, all of them entropy-coded.

    batches: training images, on which motifs are refitted. Raises ValueError as `lossless` does,
    and where refitting diverges.
    """
    changed = copy.deepcopy(model)
    start = lossy.mosaic_of(model, block_size, slicing)
    rows = []
    for name, weights in levels(changed, start, batches, settings, slicing):
        lossy.put_(changed, weights, slicing)
        row = measure_file(
            name, changed, accuracies, level="entropy", block_size=block_size, slicing=slicing
        )
        rows.append(row)
    return rows


def levels(
    model: nn.Module,
    start: lossy.MosaicWeights,
    batches: Iterable[lossy.Batch],
    settings: config.Pack,
    slicing: str,
) -> Iterator[tuple[str, lossy.MosaicWeights]]:
    """Each lossy level's name and what it makes of the mosaic; the model's weights do not count."""
    for bits in settings.motif_bits:
        yield f"motifs{bits}", lossy.quantised(start, bits)
    yield "pruned", lossy.pruned(start, settings.min_usage)
    refitted = lossy.refitted(model, start, slicing, batches, lr=settings.refit_lr)
    yield "refitted", refitted
    pruned = lossy.pruned(refitted, settings.min_usage)
    yield COMBINED, lossy.quantised(pruned, settings.combined_bits)


def measure_file(
    coding: str,
    model: nn.Module,
    accuracies: Accuracies,
    *,
    level: str,
    block_size: int,
    slicing: str,
) -> dict:
    """Write the model as a .momos file, read it into another module, and measure that.

    coding: the row's name. Raises ValueError if a tensor comes back changed.
    """
    with tempfile.TemporaryDirectory() as folder:
        path, decoded = Path(folder) / "model.momos", copy.deepcopy(model)
        packing.pack(model, path, block_size, level=level, slicing=slicing)
        # timm's models keep what they computed from weights until they are in training mode
        decoded.train()
        for tensor in decoded.state_dict().values():
            tensor.zero_()
        packing.unpack(path, decoded)
        different = packing.differences(path, model.state_dict())
        if different:
            raise ValueError(f"{coding}: {', '.join(different[:5])} came back changed")
        contents = packing.inspect(path)
    sections = {f"{kind}_bytes": size for kind, size in contents.sections.items()}
    weights = sum(contents.sections[kind] for kind in WEIGHTS)
    row = {
        "coding": coding,
        "file_bytes": contents.file_bytes,
        **accuracies(decoded),
        "num_motifs": sum(group.num_motifs for group in contents.groups),
    }
    return row | {"stored_bytes": weights} | sections
