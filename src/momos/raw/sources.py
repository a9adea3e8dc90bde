"""Where images come from: digits, sums, known data sets, archives and folders (method A9).

The test set is the source's own. Digits and sums have none: a share of each class is drawn. The
validation set is drawn uniformly from the rest. Both draws come from one numpy `RandomState`, whose
stream never changes between numpy releases, so a seed means the same split everywhere.
"""

import zlib
from http.client import HTTPException
from pathlib import Path

import numpy as np
import torch

from momos.images.dataset import Dataset, check_splits
from momos.raw import cifar10, modular
from momos.raw.archives import EXPECTED, Pool, advice, read_images
from momos.raw.pictures import Fit

TORCHVISION = {"cifar10": "CIFAR10", "mnist": "MNIST", "fashion_mnist": "FashionMNIST"}
BUNDLED = ("digits", "modular_addition")  # nothing has to be fetched, and no test set is given
SOURCES = (*BUNDLED, *TORCHVISION, "images")
# What torchvision raises on damaged or unreachable data
LOADER_ERRORS = (
    OSError,
    HTTPException,
    RuntimeError,
    ValueError,
    TypeError,
    AssertionError,
    KeyError,
    IndexError,
    EOFError,
    zlib.error,
)


def read_dataset(
    source: str,
    *,
    path: str | Path | None,
    download: bool,
    test_fraction: float | None,
    validation_fraction: float,
    split_seed: int,
    fit: Fit | None = None,
) -> Dataset:
    """Read one of SOURCES and draw its splits.

    path: the folder of torchvision's copy (cifar10, mnist, fashion_mnist), or the archive or folder
    of `images`. Of cifar10 also its official binary files: their folder, their archive, or a folder
    in which one of these lies. `digits`, bundled with scikit-learn, and `modular_addition`, which
    `momos.raw.modular` makes, need none.
    download: let torchvision fetch what is not there.
    test_fraction: for these two alone; the others bring a test set.
    validation_fraction: a share of the images outside the test set.
    fit: of `images`, how all of them are brought to one size.

    Raises ValueError for an unknown source, a missing or unusable setting, damaged or unsuitable
    data, and a split that lacks a class; FileNotFoundError where nothing is at `path`; OSError
    where a download failed.
    """
    if source not in SOURCES:
        raise ValueError(f"data.source must be one of {', '.join(SOURCES)}, got {source!r}")
    rng = np.random.RandomState(split_seed)
    if source in BUNDLED:
        pool = _read_bundled(source, test_fraction, rng)
    elif path is None:
        raise ValueError(
            f"data.path is missing: data.source {source!r} needs {_expected_at_path(source)}"
        )
    elif source == "images":
        pool = read_images(Path(path), fit)
    else:
        pool = _read_known(source, Path(path), download)
    train, validation = _draw_validation(pool, validation_fraction, rng)
    dataset = Dataset(
        images=torch.from_numpy(pool.images),
        labels=torch.from_numpy(pool.labels),
        train=torch.from_numpy(train),
        validation=torch.from_numpy(validation),
        test=torch.from_numpy(pool.test),
        classes=pool.classes,
        source=source,
    )
    check_splits(dataset)
    return dataset


def _expected_at_path(source: str) -> str:
    expected = {"images": EXPECTED, "cifar10": f"a folder with {cifar10.COPIES}"}
    return expected.get(source, "the folder of torchvision's copy")


def _draw_validation(
    pool: Pool, fraction: float, rng: np.random.RandomState
) -> tuple[np.ndarray, np.ndarray]:
    """Ascending indices (train, validation) of the images outside the test set.

    Validation images are drawn uniformly and without replacement.
    """
    rest = np.setdiff1d(np.arange(len(pool.labels)), pool.test)
    drawn = rng.permutation(len(rest))[: round(fraction * len(rest))]
    return np.delete(rest, drawn), np.sort(rest[drawn])


def _read_bundled(source: str, test_fraction: float | None, rng: np.random.RandomState) -> Pool:
    """Digits or sums. The test set is a uniform draw of `test_fraction` of each class, rounded."""
    if test_fraction is None:
        raise ValueError(
            f"data.test_fraction is missing: data.source {source!r} has no test set of its own; "
            "expected e.g. 0.2"
        )
    images, labels = _digits() if source == "digits" else modular.pairs()
    classes = tuple(map(str, range(int(labels.max()) + 1)))
    return Pool(images, labels, _draw_stratified(labels, test_fraction, rng), classes)


def _digits() -> tuple[np.ndarray, np.ndarray]:
    """scikit-learn's 1,797 8x8 digits, with values 0..16 scaled to 0..255, and their labels."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    images = np.rint(images.reshape(-1, 1, 8, 8) * (255 / 16)).astype(np.uint8)
    return images, labels.astype(np.int64)


def _draw_stratified(labels: np.ndarray, fraction: float, rng: np.random.RandomState) -> np.ndarray:
    """Ascending indices of round(fraction * size) images drawn from each class."""
    members = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    drawn = [rng.permutation(group)[: round(fraction * len(group))] for group in members]
    return np.sort(np.concatenate(drawn))


def _read_known(source: str, path: Path, download: bool) -> Pool:
    """CIFAR-10's official binary files where they are; else what torchvision reads or fetches."""
    binary = cifar10.find_binary(path) if source == "cifar10" else None
    if binary is not None:
        return cifar10.read_binary(binary)
    return _read_torchvision(source, path, download)


def _read_torchvision(source: str, path: Path, download: bool) -> Pool:
    """Training images, then the official test images, both in their original order."""
    from torchvision import datasets

    loader = getattr(datasets, TORCHVISION[source])
    try:
        parts = [loader(root=path, train=train, download=download) for train in (True, False)]
    except LOADER_ERRORS as error:
        raise _loader_error(source, path, download, error) from error
    images = np.concatenate([np.asarray(part.data) for part in parts])
    # (N, H, W) or (N, H, W, C) -> (N, C, H, W)
    images = images[:, None] if images.ndim == 3 else images.transpose(0, 3, 1, 2)
    labels = np.concatenate([np.asarray(part.targets, dtype=np.int64) for part in parts])
    test = np.arange(len(parts[0].data), len(labels))
    return Pool(np.ascontiguousarray(images), labels, test, tuple(parts[0].classes))


def _loader_error(source: str, path: Path, download: bool, error: BaseException) -> OSError:
    cause = " ".join(str(error).split())  # torchvision's messages have several lines
    copies = cifar10.COPIES if source == "cifar10" else "torchvision's files"
    if not download:
        flaw = cifar10.flaw_of_pickles(path) if source == "cifar10" else None
        return FileNotFoundError(
            f"data.path {str(path)!r} holds no intact copy of data.source {source!r} "
            f"({flaw or cause}); expected {copies} in that folder, "
            f"or data.download: true with network access{advice(path)}"
        )
    return OSError(
        f"data.source {source!r} could not be downloaded into data.path {str(path)!r} ({cause}); "
        f"expected network access and a writable folder, or an existing copy in that folder "
        f"({copies}), or data.source 'images' with an archive of your own"
    )
