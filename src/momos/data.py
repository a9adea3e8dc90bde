"""Datasets as uint8 tensors with fixed split indices, kept in one safetensors file.

The splits (method A9): test is the source's own test set (digits has none: a stratified share of each class), validation is a
uniform draw from the rest with a fixed seed. Both draws come from one numpy `RandomState`, whose stream never changes between
numpy releases, so a seed means the same split everywhere.
"""

import bz2
import gzip
import hashlib
import io
import json
import lzma
import os
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from http.client import HTTPException
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import NamedTuple

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_safetensors
from torch import Tensor

TORCHVISION = {"cifar10": "CIFAR10", "mnist": "MNIST", "fashion_mnist": "FashionMNIST"}
SOURCES = ("digits", *TORCHVISION, "images")
SPLITS = ("train", "validation", "test")
TENSORS = ("images", "labels", *SPLITS)
METADATA = ("classes", "source", "sha256")

TAR_OPENERS = {".tar": lambda raw: raw, ".tar.gz": gzip.open, ".tar.xz": lzma.open, ".tar.bz2": bz2.open}
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")
DROPPINGS = (".DS_Store", "Thumbs.db", "desktop.ini")
LAYOUT = "train|test/<class>/<name>.jpg|jpeg|png, possibly below one top folder"

# What the standard library raises on damaged archives, Pillow on damaged images, torchvision on damaged or unreachable data.
ARCHIVE_ERRORS = (
    tarfile.TarError, zipfile.BadZipFile, lzma.LZMAError, zlib.error, struct.error,
    EOFError, OSError, ValueError, IndexError, OverflowError, RuntimeError,
)  # fmt: skip
IMAGE_ERRORS = (OSError, SyntaxError, ValueError, IndexError, TypeError, EOFError, struct.error, zlib.error)
LOADER_ERRORS = (
    OSError, HTTPException, RuntimeError, ValueError, TypeError, AssertionError, KeyError, IndexError, EOFError, zlib.error,
)  # fmt: skip


class Dataset(NamedTuple):
    """Images (N, C, H, W) uint8, labels (N,) int64, ascending int64 indices of each split, class names by label, source."""

    images: Tensor
    labels: Tensor
    train: Tensor
    validation: Tensor
    test: Tensor
    classes: tuple[str, ...]
    source: str


class _Pool(NamedTuple):
    """A source as read: images (N, C, H, W) uint8, labels (N,), indices of the test images, class names by label."""

    images: np.ndarray
    labels: np.ndarray
    test: np.ndarray
    classes: tuple[str, ...]


class _Entry(NamedTuple):
    """One member of an archive: its name, "file", "folder" or "other" (links, devices), and a file's bytes."""

    name: str
    kind: str
    content: bytes = b""


def read(
    source: str,
    *,
    path: str | Path | None,
    download: bool,
    test_fraction: float | None,
    validation_fraction: float,
    split_seed: int,
) -> Dataset:
    """One of SOURCES with its splits.

    `path` is the folder of torchvision's copy (cifar10, mnist, fashion_mnist) or the archive or folder of `images`; `digits` is
    bundled with scikit-learn. `download` lets torchvision fetch what is not there. `test_fraction` is used by `digits` alone:
    the others bring a test set. `validation_fraction` is a share of the images outside the test set.

    ValueError: unknown source, missing or unusable setting, damaged or unsuitable data, a split that lacks a class.
    FileNotFoundError: nothing at `path`. OSError: download failed.
    """
    if source not in SOURCES:
        raise ValueError(f"data.source must be one of {', '.join(SOURCES)}, got {source!r}")
    rng = np.random.RandomState(split_seed)
    if source == "digits":
        pool = _read_digits(test_fraction, rng)
    elif path is None:
        raise ValueError(f"data.path is missing: data.source {source!r} needs {_expected_at_path(source)}")
    elif source == "images":
        pool = _read_images(Path(path))
    else:
        pool = _read_torchvision(source, Path(path), download)
    train, validation = _draw_validation(pool, validation_fraction, rng)
    dataset = Dataset(*map(torch.from_numpy, (pool.images, pool.labels, train, validation, pool.test)), pool.classes, source)
    _check_splits(dataset)
    return dataset


def _expected_at_path(source: str) -> str:
    return f"an archive or a folder with {LAYOUT}" if source == "images" else "the folder of torchvision's copy"


def _draw_validation(pool: _Pool, fraction: float, rng: np.random.RandomState) -> tuple[np.ndarray, np.ndarray]:
    """Indices (train, validation), both ascending: a uniform draw without replacement from the images outside the test set."""
    rest = np.setdiff1d(np.arange(len(pool.labels)), pool.test)
    drawn = rng.permutation(len(rest))[: round(fraction * len(rest))]
    return np.delete(rest, drawn), np.sort(rest[drawn])


def _check_splits(dataset: Dataset) -> None:
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


def _read_digits(test_fraction: float | None, rng: np.random.RandomState) -> _Pool:
    """scikit-learn's 1,797 8x8 digits, 0..16 scaled to 0..255. Test: `test_fraction` of each class, rounded, drawn uniformly."""
    from sklearn.datasets import load_digits

    if test_fraction is None:
        raise ValueError("data.test_fraction is missing: data.source 'digits' has no test set of its own; expected e.g. 0.2")
    images, labels = load_digits(return_X_y=True)
    images = np.rint(images.reshape(-1, 1, 8, 8) * (255 / 16)).astype(np.uint8)
    labels = labels.astype(np.int64)
    return _Pool(images, labels, _draw_stratified(labels, test_fraction, rng), tuple("0123456789"))


def _draw_stratified(labels: np.ndarray, fraction: float, rng: np.random.RandomState) -> np.ndarray:
    """Ascending indices of round(fraction * count) members of each class, without replacement."""
    members = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    drawn = [rng.permutation(group)[: round(fraction * len(group))] for group in members]
    return np.sort(np.concatenate(drawn))


# --- torchvision


def _read_torchvision(source: str, path: Path, download: bool) -> _Pool:
    """Training images, then the official test images, each in their original order."""
    from torchvision import datasets

    loader = getattr(datasets, TORCHVISION[source])
    try:
        parts = [loader(root=path, train=train, download=download) for train in (True, False)]
    except LOADER_ERRORS as error:
        raise _loader_error(source, path, download, error) from error
    images = np.concatenate([np.asarray(part.data) for part in parts])
    images = images[:, None] if images.ndim == 3 else images.transpose(0, 3, 1, 2)  # (N, H, W) or (N, H, W, C) -> (N, C, H, W)
    labels = np.concatenate([np.asarray(part.targets, dtype=np.int64) for part in parts])
    test = np.arange(len(parts[0].data), len(labels))
    return _Pool(np.ascontiguousarray(images), labels, test, tuple(parts[0].classes))


def _loader_error(source: str, path: Path, download: bool, error: BaseException) -> OSError:
    cause = " ".join(str(error).split())  # torchvision's messages have several lines
    if not download:
        return FileNotFoundError(
            f"data.path {str(path)!r} holds no intact copy of data.source {source!r} ({cause}); expected torchvision's files "
            "in that folder, or data.download: true with network access"
        )
    return OSError(
        f"data.source {source!r} could not be downloaded into data.path {str(path)!r} ({cause}); expected network access and "
        "a writable folder, or an existing copy in that folder, or data.source 'images' with an archive of your own"
    )


# --- images: archive or folder


def _read_images(path: Path) -> _Pool:
    """Images of an archive or a folder, laid out as LAYOUT; order: train, test, then by class and file name.

    Archives are read in memory, nothing is extracted. Droppings of operating systems (`.DS_Store`, `Thumbs.db`, `desktop.ini`,
    `._*`) are ignored; anything else that is no image, or lies elsewhere, is an error.
    """
    files = _index(path, _read_folder(path) if path.is_dir() else _read_archive(path))
    classes = _class_names(path, files)
    keys = sorted(files, key=lambda key: (key[0] == "test", key))
    images = _decode_all(path, [files[key] for key in keys])
    labels = np.array([classes.index(name) for _, name, _ in keys], dtype=np.int64)
    test = np.flatnonzero(np.array([split == "test" for split, _, _ in keys]))
    return _Pool(images, labels, test, classes)


def _read_folder(path: Path) -> list[_Entry]:
    walk = os.walk(path, followlinks=True, onerror=_raise)
    found = (Path(folder) / name for folder, _, names in walk for name in names)
    return [_Entry(file.relative_to(path).as_posix(), "file", file.read_bytes()) for file in sorted(found)]


def _raise(error: OSError) -> None:
    raise error


def _read_archive(path: Path) -> list[_Entry]:
    suffixes = (*TAR_OPENERS, ".zip")
    suffix = next((suffix for suffix in suffixes if path.name.lower().endswith(suffix)), None)
    if not path.exists():
        raise FileNotFoundError(f"data.path {str(path)!r} does not exist; expected {_expected_at_path('images')}")
    if suffix is None:
        raise ValueError(f"data.path {str(path)!r} is neither a folder nor an archive ({', '.join(suffixes)})")
    with open(path, "rb") as raw:
        try:
            return list(_zip_entries(raw) if suffix == ".zip" else _tar_entries(TAR_OPENERS[suffix](raw)))
        except ARCHIVE_ERRORS as error:
            raise ValueError(f"data.path {str(path)!r} is damaged or truncated ({error}); expected a {suffix} archive") from error


def _tar_entries(stream: io.BufferedIOBase) -> Iterator[_Entry]:
    """Members in order. `tarfile` takes a damaged header for the end, so the end mark (a block of zeros) is required here."""
    with stream, tarfile.open(fileobj=stream, mode="r:") as tar:
        for member in tar:
            if member.isreg():
                yield _Entry(member.name, "file", tar.extractfile(member).read())
            else:
                yield _Entry(member.name, "folder" if member.isdir() else "other")
        stream.seek(tar.offset)
        if stream.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
            raise tarfile.ReadError(f"no end mark at byte {tar.offset} of the uncompressed archive")
        while stream.read(1 << 20):  # to the end of the compressed stream, where its checksum is verified
            pass


def _zip_entries(raw: io.BufferedIOBase) -> Iterator[_Entry]:
    with zipfile.ZipFile(raw) as archive:
        for member in archive.infolist():
            if member.is_dir():
                yield _Entry(member.filename, "folder")
            elif stat.S_ISLNK(member.external_attr >> 16):
                yield _Entry(member.filename, "other")
            else:
                yield _Entry(member.filename, "file", archive.read(member))


def _index(path: Path, entries: list[_Entry]) -> dict[tuple[str, str, str], tuple[str, bytes]]:
    """(split, class, file name) -> (name in the source, bytes). Raises on a name that escapes, a link, a file off the layout."""
    files: dict[tuple[str, str, str], tuple[str, bytes]] = {}
    tops = set()
    for entry in entries:
        _check_entry(path, entry)
        if entry.kind == "folder" or _is_dropping(entry.name):
            continue
        parts = PurePosixPath(entry.name).parts
        top, key = parts[:-3], parts[-3:]
        tops.add(top)
        if len(tops) > 1 or len(top) > 1 or not _is_laid_out(key):
            raise ValueError(f"data.path {str(path)!r}: unexpected file {entry.name!r}; expected {LAYOUT}")
        if key in files:
            raise ValueError(f"data.path {str(path)!r}: {entry.name!r} appears twice; expected each file once")
        files[key] = (entry.name, entry.content)
    return files


def _is_laid_out(key: tuple[str, ...]) -> bool:
    return len(key) == 3 and key[0] in ("train", "test") and PurePosixPath(key[2]).suffix.lower() in IMAGE_SUFFIXES


def _check_entry(path: Path, entry: _Entry) -> None:
    parts = PureWindowsPath(entry.name)  # knows both separators and drive letters
    if parts.anchor or ".." in parts.parts:
        raise ValueError(f"data.path {str(path)!r}: member {entry.name!r} leads out of the archive; expected relative paths")
    if entry.kind == "other":
        raise ValueError(f"data.path {str(path)!r}: member {entry.name!r} is a link or a device; expected plain files")


def _is_dropping(name: str) -> bool:
    file = PurePosixPath(name).name
    return file in DROPPINGS or file.startswith("._")


def _class_names(path: Path, files: dict) -> tuple[str, ...]:
    """Class names of train and test, which must agree, sorted."""
    if not files:
        raise ValueError(f"data.path {str(path)!r} holds no image; expected {LAYOUT}")
    train, test = ({name for split, name, _ in files if split == part} for part in ("train", "test"))
    for part, absent in (("test", train - test), ("train", test - train)):
        if absent:
            raise ValueError(f"data.path {str(path)!r}: class {min(absent)!r} is missing from {part!r}; expected images of it")
    return tuple(sorted(train))


def _decode_all(path: Path, files: list[tuple[str, bytes]]) -> np.ndarray:
    """(N, C, H, W) uint8, C = 1 (mode L) or 3 (RGB). Raises on an image whose size or mode is not the first one's."""
    first = _decode(path, *files[0])
    images = np.empty((len(files), *first.shape), dtype=np.uint8)
    for position, (name, content) in enumerate(files):
        image = _decode(path, name, content)
        if image.shape != first.shape:
            raise ValueError(
                f"data.path {str(path)!r}: image {name!r} is {_describe(image)}; expected {_describe(first)} like the first, "
                f"{files[0][0]!r}"
            )
        images[position] = image
    return images


def _decode(path: Path, name: str, content: bytes) -> np.ndarray:
    """One JPEG or PNG as (C, H, W) uint8."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(content), formats=("JPEG", "PNG")) as image:
            mode, pixels = image.mode, np.asarray(image)
    except (*IMAGE_ERRORS, Image.DecompressionBombError) as error:
        raise ValueError(f"data.path {str(path)!r}: {name!r} is no readable image ({error}); expected JPEG or PNG") from error
    if mode not in ("L", "RGB"):
        raise ValueError(f"data.path {str(path)!r}: image {name!r} has mode {mode}; expected L (greyscale) or RGB")
    return pixels[None] if mode == "L" else pixels.transpose(2, 0, 1)


def _describe(image: np.ndarray) -> str:
    channels, height, width = image.shape
    return f"{width}x{height} pixels in mode {'L' if channels == 1 else 'RGB'}"


# --- the prepared file


def digest(dataset: Dataset) -> str:
    """SHA-256 (hex) over name, dtype, shape and bytes of every tensor, and the class names; the source's name takes no part."""
    sha = hashlib.sha256(json.dumps(dataset.classes).encode())
    for name in TENSORS:
        array = np.ascontiguousarray(getattr(dataset, name).numpy())
        sha.update(json.dumps([name, str(array.dtype), array.shape]).encode())
        sha.update(array.data)
    return sha.hexdigest()


def summary(dataset: Dataset) -> dict:
    """What a reader wants to know, ready for JSON: source, sha256, image_shape [C, H, W], classes, sizes and counts by split."""
    return {
        "source": dataset.source,
        "sha256": digest(dataset),
        "image_shape": list(dataset.images.shape[1:]),
        "classes": list(dataset.classes),
        "sizes": {split: len(getattr(dataset, split)) for split in SPLITS},
        "class_counts": {split: _class_counts(dataset, split) for split in SPLITS},
    }


def save(dataset: Dataset, path: str | Path) -> None:
    """One safetensors file, the same bytes for the same dataset; the file appears whole or not at all.

    OSError: cannot be written (names `path`).
    """
    path = Path(path)
    metadata = {"classes": json.dumps(dataset.classes), "source": dataset.source, "sha256": digest(dataset)}
    header, body = _serialise({name: getattr(dataset, name).contiguous() for name in TENSORS}, metadata)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as file:
            file.write(header)
            file.write(body)
        os.replace(temporary, path)
    except OSError as error:
        raise OSError(error.errno, f"cannot write the prepared dataset ({error.strerror})", str(path)) from error
    finally:
        if temporary.is_file():
            temporary.unlink()


def _serialise(tensors: dict[str, Tensor], metadata: dict[str, str]) -> tuple[bytes, memoryview]:
    """Header and body of the safetensors file, with the header's keys sorted: the library orders metadata at random."""
    raw = memoryview(to_safetensors(tensors, metadata))
    end = 8 + int.from_bytes(raw[:8], "little")
    header = json.dumps(json.loads(bytes(raw[8:end])), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)  # the format aligns its body to 8 bytes
    return len(header).to_bytes(8, "little") + header, raw[end:]


def load(path: str | Path) -> Dataset:
    """The dataset that `save` wrote. ValueError: file missing, damaged, of another kind, or not the recorded digest."""
    tensors, metadata = _open(Path(path))
    if set(tensors) != set(TENSORS) or not set(METADATA) <= set(metadata):
        raise ValueError(f"{str(path)!r} is no prepared dataset: holds {sorted(tensors)}; expected {TENSORS} and {METADATA}")
    dataset = Dataset(**tensors, classes=_parse_classes(path, metadata["classes"]), source=metadata["source"])
    if digest(dataset) != metadata["sha256"]:
        raise ValueError(f"{str(path)!r} is damaged: sha256 {digest(dataset)}; expected {metadata['sha256']} as recorded in it")
    return dataset


def _parse_classes(path: str | Path, text: str) -> tuple[str, ...]:
    try:
        return tuple(json.loads(text))
    except (ValueError, TypeError) as error:
        raise ValueError(f"{str(path)!r} is damaged: its class names are {text!r}; expected a JSON list") from error


def _open(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}
    except FileNotFoundError as error:
        raise ValueError(f"{str(path)!r} does not exist; expected a prepared dataset (stage `prepare` writes it)") from error
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{str(path)!r} cannot be read as a prepared dataset ({error}); expected a safetensors file") from error
