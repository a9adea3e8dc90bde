"""Images of an archive or a folder, laid out as train|test/<class>/<name>."""

import bz2
import gzip
import io
import lzma
import os
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import NamedTuple

import numpy as np


class Pool(NamedTuple):
    """A source as read: images (N, C, H, W) uint8, labels (N,), indices of the test images, class
    names by label.
    """

    images: np.ndarray
    labels: np.ndarray
    test: np.ndarray
    classes: tuple[str, ...]


TAR_OPENERS = {
    ".tar": lambda raw: raw,
    ".tar.gz": gzip.open,
    ".tar.xz": lzma.open,
    ".tar.bz2": bz2.open,
}


IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")


DROPPINGS = (".DS_Store", "Thumbs.db", "desktop.ini")


LAYOUT = "train|test/<class>/<name>.jpg|jpeg|png, possibly below one top folder"
EXPECTED = f"an archive or a folder with {LAYOUT}"


# What the standard library raises on damaged archives, Pillow on damaged images, torchvision on
# damaged or unreachable data.
ARCHIVE_ERRORS = (
    tarfile.TarError, zipfile.BadZipFile, lzma.LZMAError, zlib.error, struct.error,
    EOFError, OSError, ValueError, IndexError, OverflowError, RuntimeError,
)  # fmt: skip


IMAGE_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    IndexError,
    TypeError,
    EOFError,
    struct.error,
    zlib.error,
)


class _Entry(NamedTuple):
    """One member of an archive: its name, "file", "folder" or "other" (links, devices), and a
    file's bytes.
    """

    name: str
    kind: str
    content: bytes = b""


def read_images(path: Path) -> Pool:
    """Images of an archive or a folder, laid out as LAYOUT; order: train, test, then by class and
    file name.

    Archives are read in memory, nothing is extracted. Droppings of operating systems (`.DS_Store`,
    `Thumbs.db`, `desktop.ini`, `._*`) are ignored; anything else that is no image, or lies
    elsewhere, is an error.
    """
    files = _index(path, _read_folder(path) if path.is_dir() else _read_archive(path))
    classes = _class_names(path, files)
    keys = sorted(files, key=lambda key: (key[0] == "test", key))
    images = _decode_all(path, [files[key] for key in keys])
    labels = np.array([classes.index(name) for _, name, _ in keys], dtype=np.int64)
    test = np.flatnonzero(np.array([split == "test" for split, _, _ in keys]))
    return Pool(images, labels, test, classes)


def _read_folder(path: Path) -> list[_Entry]:
    walk = os.walk(path, followlinks=True, onerror=_raise)
    found = (Path(folder) / name for folder, _, names in walk for name in names)
    return [
        _Entry(file.relative_to(path).as_posix(), "file", file.read_bytes())
        for file in sorted(found)
    ]


def _raise(error: OSError) -> None:
    raise error


def _read_archive(path: Path) -> list[_Entry]:
    suffixes = (*TAR_OPENERS, ".zip")
    suffix = next((suffix for suffix in suffixes if path.name.lower().endswith(suffix)), None)
    if not path.exists():
        raise FileNotFoundError(f"data.path {str(path)!r} does not exist; expected {EXPECTED}")
    if suffix is None:
        raise ValueError(
            f"data.path {str(path)!r} is neither a folder nor an archive ({', '.join(suffixes)})"
        )
    with open(path, "rb") as raw:
        try:
            return list(
                _zip_entries(raw) if suffix == ".zip" else _tar_entries(TAR_OPENERS[suffix](raw))
            )
        except ARCHIVE_ERRORS as error:
            raise ValueError(
                f"data.path {str(path)!r} is damaged or truncated ({error}); expected a {suffix} archive"
            ) from error


def _tar_entries(stream: io.BufferedIOBase) -> Iterator[_Entry]:
    """Members in order. `tarfile` takes a damaged header for the end, so the end mark (a block of
    zeros) is required here.
    """
    with stream, tarfile.open(fileobj=stream, mode="r:") as tar:
        for member in tar:
            if member.isreg():
                yield _Entry(member.name, "file", tar.extractfile(member).read())
            else:
                yield _Entry(member.name, "folder" if member.isdir() else "other")
        stream.seek(tar.offset)
        if stream.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
            raise tarfile.ReadError(f"no end mark at byte {tar.offset} of the uncompressed archive")
        while stream.read(
            1 << 20
        ):  # to the end of the compressed stream, where its checksum is verified
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
    """(split, class, file name) -> (name in the source, bytes). Raises on a name that escapes, a
    link, a file off the layout.
    """
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
            raise ValueError(
                f"data.path {str(path)!r}: unexpected file {entry.name!r}; expected {LAYOUT}"
            )
        if key in files:
            raise ValueError(
                f"data.path {str(path)!r}: {entry.name!r} appears twice; expected each file once"
            )
        files[key] = (entry.name, entry.content)
    return files


def _is_laid_out(key: tuple[str, ...]) -> bool:
    return (
        len(key) == 3
        and key[0] in ("train", "test")
        and PurePosixPath(key[2]).suffix.lower() in IMAGE_SUFFIXES
    )


def _check_entry(path: Path, entry: _Entry) -> None:
    parts = PureWindowsPath(entry.name)  # knows both separators and drive letters
    if parts.anchor or ".." in parts.parts:
        raise ValueError(
            f"data.path {str(path)!r}: member {entry.name!r} leads out of the archive; expected relative paths"
        )
    if entry.kind == "other":
        raise ValueError(
            f"data.path {str(path)!r}: member {entry.name!r} is a link or a device; expected plain files"
        )


def _is_dropping(name: str) -> bool:
    file = PurePosixPath(name).name
    return file in DROPPINGS or file.startswith("._")


def _class_names(path: Path, files: dict) -> tuple[str, ...]:
    """Class names of train and test, which must agree, sorted."""
    if not files:
        raise ValueError(f"data.path {str(path)!r} holds no image; expected {LAYOUT}")
    train, test = (
        {name for split, name, _ in files if split == part} for part in ("train", "test")
    )
    for part, absent in (("test", train - test), ("train", test - train)):
        if absent:
            raise ValueError(
                f"data.path {str(path)!r}: class {min(absent)!r} is missing from {part!r}; expected images of it"
            )
    return tuple(sorted(train))


def _decode_all(path: Path, files: list[tuple[str, bytes]]) -> np.ndarray:
    """(N, C, H, W) uint8, C = 1 (mode L) or 3 (RGB). Raises on an image whose size or mode is not
    the first one's.
    """
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
        raise ValueError(
            f"data.path {str(path)!r}: {name!r} is no readable image ({error}); expected JPEG or PNG"
        ) from error
    if mode not in ("L", "RGB"):
        raise ValueError(
            f"data.path {str(path)!r}: image {name!r} has mode {mode}; expected L (greyscale) or RGB"
        )
    return pixels[None] if mode == "L" else pixels.transpose(2, 0, 1)


def _describe(image: np.ndarray) -> str:
    channels, height, width = image.shape
    return f"{width}x{height} pixels in mode {'L' if channels == 1 else 'RGB'}"
