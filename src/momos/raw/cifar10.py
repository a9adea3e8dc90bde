"""CIFAR-10 as its authors publish it: binary files, which are read here, and Python pickles.

A binary file has 10,000 records of 3,073 bytes: the label, then 32 x 32 pixels row by row, all red
ones, all green ones, all blue ones. torchvision reads the pickles. Both kinds have the same images
in the same order.
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from momos.raw.archives import Pool, read_files

FOLDER = "cifar-10-batches-bin"
ARCHIVE = "cifar-10-binary.tar.gz"  # of that folder
PICKLES = "cifar-10-batches-py"  # torchvision's folder
COPIES = f"{FOLDER}, {ARCHIVE} or torchvision's {PICKLES}"
# MD5 of the official binary files, in the order of their images; the last one is the test set.
SUMS = {
    "data_batch_1.bin": "5dd7e06a14cb22eb9f671a540d1b7c25",
    "data_batch_2.bin": "5ea93a67294ea407fff1d09f752e9692",
    "data_batch_3.bin": "942cd6a4bcdd0dd3c604fbe906cb4421",
    "data_batch_4.bin": "ae636b3ba5c66a11e91e8cb52e771fcb",
    "data_batch_5.bin": "53f37980c15c3d472c316c40844f3f0d",
    "test_batch.bin": "803d5f7f4d78ea53de84dbe85f74fb6d",
}
NUM_RECORDS = 10_000  # of each file
IMAGE_SHAPE = (3, 32, 32)
RECORD_BYTES = 1 + 3 * 32 * 32
NAMES = "batches.meta.txt"  # one class name a line; a copy may lack it
CLASSES = (
    "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
)  # fmt: skip


def find_binary(path: Path) -> Path | None:
    """Find the folder or archive with the binary files: `path` itself, or FOLDER or ARCHIVE in it.

    FOLDER comes before ARCHIVE, from which it is unpacked. None: `path` has no binary files.
    Raises ValueError where torchvision's pickles lie beside them.
    """
    itself = path.is_file() or any((path / name).exists() for name in SUMS)
    inside = (path / FOLDER, path / ARCHIVE)
    place = path if itself else next((place for place in inside if place.exists()), None)
    if place is not None and (path / PICKLES).exists():
        kind = "the binary files" if itself else place.name
        raise ValueError(
            f"data.path {str(path)!r} holds two copies of CIFAR-10, {kind} and {PICKLES}; "
            "expected one of them"
        )
    return place


def read_binary(place: Path) -> Pool:
    """Read the binary files of a folder or an archive: the training images, then the test images.

    Images (60000, 3, 32, 32) and labels are the same bytes in the same order as torchvision's.
    The class names are those of NAMES, or CLASSES where that file is missing.

    Raises FileNotFoundError naming a missing file; ValueError naming a file that has another size
    or MD5 than the official one, or a label above 9, and for a damaged archive.
    """
    files = read_files(place, (*SUMS, NAMES))
    absent = [name for name in SUMS if name not in files]
    if absent:
        raise FileNotFoundError(
            f"data.path {str(place)!r} lacks {', '.join(absent)}; "
            f"expected the official binary files {', '.join(SUMS)}"
        )
    batches = [_records(place, name, files[name]) for name in SUMS]
    classes = _class_names(place, files[NAMES]) if NAMES in files else CLASSES
    images = np.concatenate([batch[:, 1:] for batch in batches]).reshape(-1, *IMAGE_SHAPE)
    labels = np.concatenate([batch[:, 0] for batch in batches]).astype(np.int64)
    test = np.arange(len(labels) - NUM_RECORDS, len(labels))
    return Pool(images, labels, test, classes)


def _records(place: Path, name: str, content: bytes) -> np.ndarray:
    """One file as (NUM_RECORDS, RECORD_BYTES) uint8, its size, sum and labels checked."""
    where = f"data.path {str(place)!r}: {name}"
    expected = NUM_RECORDS * RECORD_BYTES
    if len(content) != expected:
        num_records, rest = divmod(len(content), RECORD_BYTES)
        raise ValueError(
            f"{where} has {len(content)} bytes ({num_records} records and {rest} bytes); "
            f"expected {expected} ({NUM_RECORDS} records of {RECORD_BYTES} bytes)"
        )
    flaw = _wrong_sum({name: content}, {name: SUMS[name]})
    if flaw:
        raise ValueError(f"data.path {str(place)!r}: {flaw}")
    records = np.frombuffer(content, np.uint8).reshape(NUM_RECORDS, RECORD_BYTES)
    wrong = np.flatnonzero(records[:, 0] >= len(CLASSES))
    if len(wrong):
        raise ValueError(
            f"{where}: record {wrong[0]} (of 0 to {NUM_RECORDS - 1}) has label "
            f"{records[wrong[0], 0]}; expected 0 to {len(CLASSES) - 1}"
        )
    return records


def _wrong_sum(files: Mapping[str, bytes], sums: Mapping[str, str]) -> str | None:
    """Name the first file with another MD5 than its own in `sums`, with both values."""
    for name, expected in sums.items():
        found = hashlib.md5(files[name]).hexdigest()
        if found != expected:
            return f"{name} has MD5 {found}; expected {expected}, the official file's"
    return None


def _class_names(place: Path, content: bytes) -> tuple[str, ...]:
    lines = content.decode("latin-1").splitlines()
    names = tuple(line.strip() for line in lines if line.strip())
    if len(names) != len(CLASSES) or len(set(names)) != len(CLASSES):
        raise ValueError(
            f"data.path {str(place)!r}: {NAMES} has the class names {list(names)}; "
            f"expected {len(CLASSES)} different ones, one a line"
        )
    return names


def flaw_of_pickles(path: Path) -> str | None:
    """Say why torchvision finds no intact pickles in `path`: a file that is missing or damaged.

    None: all of them have their sums, so the reason is another one.
    """
    from torchvision.datasets import CIFAR10

    folder = path / PICKLES
    if not folder.is_dir():
        return f"nothing named {PICKLES} in it"
    sums = dict([*CIFAR10.train_list, *CIFAR10.test_list])
    sums[CIFAR10.meta["filename"]] = CIFAR10.meta["md5"]
    files = read_files(folder, tuple(sums))
    absent = [name for name in sums if name not in files]
    return f"{PICKLES} lacks {', '.join(absent)}" if absent else _wrong_sum(files, sums)
