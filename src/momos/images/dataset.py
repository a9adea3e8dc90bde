"""Datasets as uint8 tensors with fixed split indices, kept in one safetensors file.

The splits (method A9): test is the source's own test set (digits has none: a stratified share of
each class), validation is a uniform draw from the rest with a fixed seed. Both draws come from one
numpy `RandomState`, whose stream never changes between numpy releases, so a seed means the same
split everywhere.
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
    """Images (N, C, H, W) uint8, labels (N,) int64, ascending int64 indices of each split, class
    names by label, source.
    """

    images: Tensor
    labels: Tensor
    train: Tensor
    validation: Tensor
    test: Tensor
    classes: tuple[str, ...]
    source: str


def check_splits(dataset: Dataset) -> None:
    for split in SPLITS:
        counts = _class_counts(dataset, split)
        absent = [name for name, count in counts.items() if count == 0]
        if absent:
            raise ValueError(
                f"data.source {dataset.source!r}: class {absent[0]!r} has no image among the {sum(counts.values())} of split "
                f"{split!r}; expected every class in every split (see data.validation_fraction, data.test_fraction)"
            )


def _class_counts(dataset: Dataset, split: str) -> dict[str, int]:
    counts = torch.bincount(dataset.labels[getattr(dataset, split)], minlength=len(dataset.classes))
    return dict(zip(dataset.classes, counts.tolist(), strict=True))


# --- digits


# --- torchvision


# --- images: archive or folder


# --- the prepared file


def dataset_digest(dataset: Dataset) -> str:
    """SHA-256 (hex) over name, dtype, shape and bytes of every tensor, and the class names; the
    source's name takes no part.
    """
    sha = hashlib.sha256(json.dumps(dataset.classes).encode())
    for name in TENSORS:
        array = np.ascontiguousarray(getattr(dataset, name).numpy())
        sha.update(json.dumps([name, str(array.dtype), array.shape]).encode())
        sha.update(array.data)
    return sha.hexdigest()


def dataset_summary(dataset: Dataset) -> dict:
    """What a reader wants to know, ready for JSON: source, sha256, image_shape [C, H, W], classes,
    sizes and counts by split.
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
    """One safetensors file, the same bytes for the same dataset; the file appears whole or not at
    all.

    OSError: cannot be written (names `path`).
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
    """Header and body of the safetensors file, with the header's keys sorted: the library orders
    metadata at random.
    """
    raw = memoryview(to_safetensors(tensors, metadata))
    end = 8 + int.from_bytes(raw[:8], "little")
    header = json.dumps(
        json.loads(bytes(raw[8:end])), sort_keys=True, separators=(",", ":")
    ).encode()
    header += b" " * (-len(header) % 8)  # the format aligns its body to 8 bytes
    return len(header).to_bytes(8, "little") + header, raw[end:]


def load_dataset(path: str | Path) -> Dataset:
    """The dataset that `save` wrote. ValueError: file missing, damaged, of another kind, or not the
    recorded digest.
    """
    tensors, metadata = _open(Path(path))
    if set(tensors) != set(TENSORS) or not set(METADATA) <= set(metadata):
        raise ValueError(
            f"{str(path)!r} is no prepared dataset: holds {sorted(tensors)}; expected {TENSORS} and {METADATA}"
        )
    dataset = Dataset(
        **tensors, classes=_parse_classes(path, metadata["classes"]), source=metadata["source"]
    )
    if dataset_digest(dataset) != metadata["sha256"]:
        raise ValueError(
            f"{str(path)!r} is damaged: sha256 {dataset_digest(dataset)}; expected {metadata['sha256']} as recorded in it"
        )
    return dataset


def _parse_classes(path: str | Path, text: str) -> tuple[str, ...]:
    try:
        return tuple(json.loads(text))
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"{str(path)!r} is damaged: its class names are {text!r}; expected a JSON list"
        ) from error


def _open(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}
    except FileNotFoundError as error:
        raise ValueError(
            f"{str(path)!r} does not exist; expected a prepared dataset (stage `prepare` writes it)"
        ) from error
    except (SafetensorError, OSError) as error:
        raise ValueError(
            f"{str(path)!r} cannot be read as a prepared dataset ({error}); expected a safetensors file"
        ) from error
