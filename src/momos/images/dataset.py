"""Data sets as uint8 tensors with fixed split indices, kept in one safetensors file.

`momos.raw.sources` reads the images and draws the splits. Training depends on this module alone,
so a change in how archives are read retrains nothing.
"""

import hashlib
import json
import os
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_safetensors
from torch import Tensor

SPLITS = ("train", "validation", "test")
TENSORS = ("images", "labels", *SPLITS)
METADATA = ("classes", "source", "sha256")


class Dataset(NamedTuple):
    """Labelled images and their splits into training, validation and test set."""

    images: Tensor  # (num_images, channels, height, width) uint8
    labels: Tensor  # (num_images,) int64
    train: Tensor  # (num_train,) int64, ascending indices of images
    validation: Tensor
    test: Tensor
    classes: tuple[str, ...]  # class names by label
    source: str  # data.source


def check_splits(dataset: Dataset) -> None:
    """Raise ValueError naming a split that lacks one of the classes."""
    for split in SPLITS:
        counts = _class_counts(dataset, split)
        absent = [name for name, count in counts.items() if count == 0]
        if absent:
            raise ValueError(
                f"data.source {dataset.source!r}: class {absent[0]!r} has no image among the "
                f"{sum(counts.values())} of split {split!r}; expected every class in every split "
                "(see data.validation_fraction, data.test_fraction)"
            )


def _class_counts(dataset: Dataset, split: str) -> dict[str, int]:
    counts = torch.bincount(dataset.labels[getattr(dataset, split)], minlength=len(dataset.classes))
    return dict(zip(dataset.classes, counts.tolist(), strict=True))


def dataset_digest(dataset: Dataset) -> str:
    """SHA-256 (hex) of the class names and every tensor's name, dtype, shape and bytes.

    The source's name takes no part: the same images from an archive and a folder have one digest.
    """
    sha = hashlib.sha256(json.dumps(dataset.classes).encode())
    for name in TENSORS:
        array = np.ascontiguousarray(getattr(dataset, name).numpy())
        sha.update(json.dumps([name, str(array.dtype), array.shape]).encode())
        sha.update(array.data)
    return sha.hexdigest()


def dataset_summary(dataset: Dataset) -> dict:
    """Facts about a data set, ready for JSON.

    Keys: source, sha256, image_shape [C, H, W], classes, sizes {split: images}, and class_counts
    {split: {class: images}}.
    """
    return {
        "source": dataset.source,
        "sha256": dataset_digest(dataset),
        "image_shape": list(dataset.images.shape[1:]),
        "classes": list(dataset.classes),
        "sizes": {split: len(getattr(dataset, split)) for split in SPLITS},
        "class_counts": {split: _class_counts(dataset, split) for split in SPLITS},
    }


def save_dataset(dataset: Dataset, path: str | Path) -> None:
    """Write one safetensors file, whole or not at all, with the same bytes for the same data set.

    Raises OSError naming a `path` that cannot be written.
    """
    path = Path(path)
    metadata = {
        "classes": json.dumps(dataset.classes),
        "source": dataset.source,
        "sha256": dataset_digest(dataset),
    }
    header, body = _serialise(
        {name: getattr(dataset, name).contiguous() for name in TENSORS}, metadata
    )
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as file:
            file.write(header)
            file.write(body)
        os.replace(temporary, path)
    except OSError as error:
        raise OSError(
            error.errno, f"cannot write the prepared dataset ({error.strerror})", str(path)
        ) from error
    finally:
        if temporary.is_file():
            temporary.unlink()


def _serialise(tensors: dict[str, Tensor], metadata: dict[str, str]) -> tuple[bytes, memoryview]:
    """Header and body of the safetensors file.

    The header's keys are sorted, because the library orders metadata at random.
    """
    raw = memoryview(to_safetensors(tensors, metadata))
    end = 8 + int.from_bytes(raw[:8], "little")
    header = json.dumps(
        json.loads(bytes(raw[8:end])), sort_keys=True, separators=(",", ":")
    ).encode()
    header += b" " * (-len(header) % 8)  # the format aligns its body to 8 bytes
    return len(header).to_bytes(8, "little") + header, raw[end:]


def load_dataset(path: str | Path) -> Dataset:
    """Load what `save_dataset` wrote.

    Raises ValueError naming a file that is missing, damaged, of another kind, or whose content does
    not have the recorded digest.
    """
    tensors, metadata = _read_safetensors(Path(path))
    if set(tensors) != set(TENSORS) or not set(METADATA) <= set(metadata):
        raise ValueError(
            f"{str(path)!r} is no prepared dataset: holds {sorted(tensors)}; "
            f"expected {TENSORS} and {METADATA}"
        )
    dataset = Dataset(
        **tensors, classes=_parse_classes(path, metadata["classes"]), source=metadata["source"]
    )
    if dataset_digest(dataset) != metadata["sha256"]:
        raise ValueError(
            f"{str(path)!r} is damaged: sha256 {dataset_digest(dataset)}; "
            f"expected {metadata['sha256']} as recorded in it"
        )
    return dataset


def _parse_classes(path: str | Path, text: str) -> tuple[str, ...]:
    try:
        return tuple(json.loads(text))
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"{str(path)!r} is damaged: its class names are {text!r}; expected a JSON list"
        ) from error


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}
    except FileNotFoundError as error:
        raise ValueError(
            f"{str(path)!r} does not exist; expected a prepared dataset (stage `prepare` writes it)"
        ) from error
    except (SafetensorError, OSError) as error:
        raise ValueError(
            f"{str(path)!r} cannot be read as a prepared dataset ({error}); "
            "expected a safetensors file"
        ) from error
