"""Images of an archive or a folder that is laid out as train|test/<class>/<name>.

Names are compared in Unicode's composed form (NFC): macOS writes an accent apart from its letter,
other systems don't, and a class is the same class from both.
"""

import bz2
import gzip
import lzma
import os
import stat
import struct
import tarfile
import unicodedata
import zipfile
import zlib
from collections.abc import Callable, Collection, Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import IO, BinaryIO, NamedTuple, cast

import numpy as np

from momos.files.droppings import is_dropping
from momos.raw.pictures import Fit, decode_all
from momos.settings import advice

# How the bytes of a compressed tar archive are read, by suffix
TAR_OPENERS: dict[str, Callable[[BinaryIO], IO[bytes]]] = {
    ".tar": lambda raw: raw,
    ".tar.gz": lambda raw: cast(IO[bytes], gzip.open(raw)),
    ".tar.xz": lambda raw: cast(IO[bytes], lzma.open(raw)),
    ".tar.bz2": lambda raw: cast(IO[bytes], bz2.open(raw)),
}
TAR_OPENERS = {
    f".t{kind}": TAR_OPENERS[f".tar.{kind}"] for kind in ("gz", "xz", "bz2")
} | TAR_OPENERS
MOST_BYTES = 2**28  # of a member: what unpacks to more is no image
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")
LAYOUT = "train|test/<class>/<name>.jpg|jpeg|png, possibly below one top folder"
EXPECTED = f"an archive or a folder with {LAYOUT}"
# What the standard library raises on damaged archives
ARCHIVE_ERRORS = (
    tarfile.TarError,
    zipfile.BadZipFile,
    lzma.LZMAError,
    zlib.error,
    struct.error,
    EOFError,
    OSError,
    ValueError,
    IndexError,
    OverflowError,
    RuntimeError,
)


class Pool(NamedTuple):
    """All images of a source, before validation images are drawn."""

    images: np.ndarray  # (num_images, channels, height, width) uint8
    labels: np.ndarray  # (num_images,) int64
    test: np.ndarray  # ascending indices of the test images
    classes: tuple[str, ...]  # class names by label


class _Key(NamedTuple):
    """Where an image belongs: train or test, its class, its file name."""

    split: str
    label: str
    name: str


class _Entry(NamedTuple):
    """One member of an archive or file of a folder."""

    name: str
    kind: str  # "file", "folder", "large" (more than MOST_BYTES) or "other" (links, devices)
    content: bytes = b""  # of a file


def read_images(path: Path, fit: Fit | None = None) -> Pool:
    """Read the images of an archive or a folder that is laid out as LAYOUT.

    fit: how images of several sizes become squares of one; None: they have one size. They are
    ordered by split (train, test), class and file name. Archives are read in memory; nothing is
    extracted. Files that operating systems leave (`momos.files.droppings`) are ignored.

    Raises ValueError naming the file for anything else that is no image or lies elsewhere, for
    images of different sizes or modes, and for a damaged archive; FileNotFoundError where nothing
    is at `path`.
    """
    files = _index(path, _read_folder(path) if path.is_dir() else _read_archive(path))
    classes = _class_names(path, files)
    keys = sorted(files, key=lambda key: (key.split == "test", key))
    images = decode_all(path, [files[key] for key in keys], fit)
    labels = np.array([classes.index(key.label) for key in keys], dtype=np.int64)
    test = np.flatnonzero(np.array([key.split == "test" for key in keys]))
    return Pool(images, labels, test, classes)


def read_files(path: Path, names: Collection[str]) -> dict[str, bytes]:
    """Read the files of these names: of a folder itself, or of an archive at any depth.

    The result has their bytes by name, and lacks the names that are not there. Raises ValueError
    for a damaged archive, a link in it, and a name that it has twice.
    """
    if path.is_dir():
        return {name: (path / name).read_bytes() for name in names if (path / name).is_file()}
    files: dict[str, bytes] = {}
    for entry in _read_archive(path):
        _check_entry(path, entry)
        name = PurePosixPath(entry.name).name
        if entry.kind == "folder" or is_dropping(entry.name) or name not in names:
            continue
        if name in files:
            raise _twice(path, entry.name)
        files[name] = entry.content
    return files


def _read_folder(path: Path) -> list[_Entry]:
    walk = os.walk(path, followlinks=True, onerror=_raise)
    files = (Path(folder) / name for folder, _, names in walk for name in names)
    return [
        _Entry(file.relative_to(path).as_posix(), "file", file.read_bytes())
        for file in sorted(files)
    ]


def _raise(error: OSError) -> None:
    raise error


def _read_archive(path: Path) -> list[_Entry]:
    suffixes = (*TAR_OPENERS, ".zip")
    suffix = next((suffix for suffix in suffixes if path.name.lower().endswith(suffix)), None)
    if not path.exists():
        missing = f"data.path {str(path)!r} does not exist; expected {EXPECTED}"
        raise FileNotFoundError(missing + advice(path))
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
                f"data.path {str(path)!r} is damaged or truncated ({error}); "
                f"expected a {suffix} archive"
            ) from error


def _tar_entries(stream: IO[bytes]) -> Iterator[_Entry]:
    """Members in their order. Raises tarfile.ReadError without an end mark (a block of zeros).

    `tarfile` itself takes a damaged header for the end of the archive.
    """
    with stream, tarfile.open(fileobj=stream, mode="r:") as tar:
        for member in tar:
            file = tar.extractfile(member) if member.isreg() else None
            if member.size > MOST_BYTES:
                yield _Entry(member.name, "large")
            elif file is not None:
                yield _Entry(member.name, "file", file.read())
            else:
                yield _Entry(member.name, "folder" if member.isdir() else "other")
        stream.seek(tar.offset)
        if stream.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
            raise tarfile.ReadError(f"no end mark at byte {tar.offset} of the uncompressed archive")
        # The checksum of a compressed stream is verified at its end.
        while stream.read(1 << 20):
            pass


def _zip_entries(raw: BinaryIO) -> Iterator[_Entry]:
    with zipfile.ZipFile(raw) as archive:
        for member in archive.infolist():
            is_link = stat.S_ISLNK(member.external_attr >> 16)
            kind = "folder" if member.is_dir() else "other" if is_link else "file"
            kind = "large" if member.file_size > MOST_BYTES else kind
            content = archive.read(member) if kind == "file" else b""
            yield _Entry(member.filename, kind, content)


def _index(path: Path, entries: list[_Entry]) -> dict[_Key, tuple[str, bytes]]:
    """Name in the source and bytes of each image, by its place in the layout.

    Raises ValueError for a name that leads out of the source, a link, and a file off the layout.
    """
    files: dict[_Key, tuple[str, bytes]] = {}
    tops = set()
    for entry in entries:
        _check_entry(path, entry)
        if entry.kind == "folder" or is_dropping(entry.name):
            continue
        parts = PurePosixPath(entry.name).parts
        top, place = parts[:-3], parts[-3:]
        tops.add(top)
        if len(tops) > 1 or len(top) > 1 or not _is_laid_out(place):
            raise ValueError(
                f"data.path {str(path)!r}: unexpected file {entry.name!r}; expected {LAYOUT}"
            )
        key = _Key(*(unicodedata.normalize("NFC", part) for part in place))
        if key in files:
            twin = files[key][0]
            form = "" if twin == entry.name else f" (as {twin!r}, in another Unicode form)"
            raise _twice(path, entry.name, form)
        files[key] = (entry.name, entry.content)
    return files


def _twice(path: Path, name: str, form: str = "") -> ValueError:
    return ValueError(
        f"data.path {str(path)!r}: {name!r} appears twice{form}; expected each file once"
    )


def _is_laid_out(place: tuple[str, ...]) -> bool:
    return (
        len(place) == 3
        and place[0] in ("train", "test")
        and PurePosixPath(place[2]).suffix.lower() in IMAGE_SUFFIXES
    )


def _check_entry(path: Path, entry: _Entry) -> None:
    parts = PureWindowsPath(entry.name)  # knows both separators and drive letters
    if parts.anchor or ".." in parts.parts:
        raise ValueError(
            f"data.path {str(path)!r}: member {entry.name!r} leads out of the archive; "
            "expected relative paths"
        )
    if entry.kind == "large":
        raise ValueError(
            f"data.path {str(path)!r}: member {entry.name!r} unpacks to more than "
            f"{MOST_BYTES >> 20} MiB; expected images"
        )
    if entry.kind == "other":
        raise ValueError(
            f"data.path {str(path)!r}: member {entry.name!r} is a link or a device; "
            "expected plain files"
        )


def _class_names(path: Path, files: dict[_Key, tuple[str, bytes]]) -> tuple[str, ...]:
    """Sorted class names. Raises ValueError unless train and test have the same classes."""
    if not files:
        raise ValueError(f"data.path {str(path)!r} holds no image; expected {LAYOUT}")
    train, test = ({key.label for key in files if key.split == part} for part in ("train", "test"))
    for part, absent, there in (("test", train - test, test), ("train", test - train, train)):
        if absent:
            alike = [name for name in there if name.casefold() == min(absent).casefold()]
            meant = f" (which has {alike[0]!r})" if alike else ""
            raise ValueError(
                f"data.path {str(path)!r}: class {min(absent)!r} is missing from {part!r}{meant}; "
                "expected images of it"
            )
    return tuple(sorted(train))
