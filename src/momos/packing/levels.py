"""What a model takes as a file, coding by coding, and how accurate it is once it is read back."""

import copy
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from torch import nn

from momos import config, packing
from momos.complexity.compressors import compress
from momos.packing import lossy

ORDINARY = "safetensors"
COMBINED = "combined"  # refitted, pruned, and at few bits
WEIGHTS = ("motifs", "mosaic", "tails", "weights")  # sections that hold the trainable weights
Accuracy = Callable[[nn.Module], float]


def ordinary(model: nn.Module, accuracy: Accuracy, compressors: Sequence[str]) -> list[dict]:
    """A row for the safetensors file of the model's state dict, and one for each compressor of that
    file.
    """
    from safetensors.torch import save

    content = save({name: tensor.cpu().contiguous() for name, tensor in model.state_dict().items()})
    sizes = {ORDINARY: len(content)} | {
        name: len(compress(content, name)) for name in compressors
    }
    reached = accuracy(model)
    return [
        {"coding": name, "file_bytes": size, "test_accuracy": reached}
        for name, size in sizes.items()
    ]


def lossless(model: nn.Module, accuracy: Accuracy, **how) -> list[dict]:
    """A row per level of the .momos file. how: block_size and slicing. Raises ValueError if a
    tensor comes back changed.
    """
    return [row(level, model, accuracy, level=level, **how) for level in packing.LEVELS]


def lossy_levels(
    model: nn.Module,
    accuracy: Accuracy,
    batches: Iterable[lossy.Batch],
    settings: config.Pack,
    *,
    block_size: int,
    slicing: str,
) -> list[dict]:
    """A row per lossy level, all of them entropy-coded. batches: on which motifs are trained again."""
    changed = copy.deepcopy(model)
    rows = []
    for name, found in levels(
        changed, lossy.mosaic_of(model, block_size, slicing), batches, settings, slicing
    ):
        lossy.put_(changed, found, slicing)
        rows.append(
            row(name, changed, accuracy, level="entropy", block_size=block_size, slicing=slicing)
        )
    return rows


def levels(
    model: nn.Module,
    start: lossy.Mosaic,
    batches: Iterable[lossy.Batch],
    settings: config.Pack,
    slicing: str,
) -> Iterator[tuple[str, lossy.Mosaic]]:
    """Each name and what becomes of the mosaic. The model's own weights are of no effect."""
    for bits in settings.motif_bits:
        yield f"motifs{bits}", lossy.quantised(start, bits)
    yield "pruned", lossy.pruned(start, settings.min_usage)
    again = lossy.refitted(model, start, slicing, batches, lr=settings.refit_lr)
    yield "refitted", again
    yield COMBINED, lossy.quantised(lossy.pruned(again, settings.min_usage), settings.combined_bits)


def row(coding: str, model: nn.Module, accuracy: Accuracy, **how) -> dict:
    """The model written as a .momos file and read into another module, which is measured. Raises
    ValueError if it is not the same.
    """
    with tempfile.TemporaryDirectory() as folder:
        path, decoded = Path(folder) / "model.momos", copy.deepcopy(model)
        packing.pack(model, path, **how)
        decoded.train()  # timm's models keep what they computed from weights, until then
        for tensor in decoded.state_dict().values():
            tensor.zero_()
        packing.unpack(path, decoded)
        different = packing.differences(path, model.state_dict())
        if different:
            raise ValueError(f"{coding}: {', '.join(different[:5])} came back changed")
        contents = packing.inspect(path)
    sections = {f"{kind}_bytes": size for kind, size in contents.sections.items()}
    weights = sum(contents.sections[kind] for kind in WEIGHTS)
    found = {
        "coding": coding,
        "file_bytes": contents.file_bytes,
        "test_accuracy": accuracy(decoded),
        "num_motifs": _motifs(contents),
    }
    return found | {"stored_bytes": weights} | sections


def _motifs(contents: packing.Contents) -> int:
    return sum(group.num_motifs for group in contents.groups)
