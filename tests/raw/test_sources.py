"""Sources of images, and the splits that are drawn from them."""

import os
import struct
import urllib.error
import urllib.request

import numpy as np
import pytest
import torch
from cifar10_copies import write_pickles
from sklearn.datasets import load_digits

from momos.raw.sources import TORCHVISION, read_dataset

SETTINGS = {
    "path": None,
    "download": False,
    "test_fraction": None,
    "validation_fraction": 0.1,
    "split_seed": 0,
}
DIGITS = SETTINGS | {"test_fraction": 0.2}


@pytest.fixture(scope="module")
def digits():
    return read_dataset("digits", **DIGITS)


# --- settings


@pytest.mark.parametrize("source", ["cifar100", "", "Digits"])
def test_unknown_source(source):
    known = "digits, modular_addition, cifar10, mnist, fashion_mnist, images"
    with pytest.raises(ValueError, match=rf"data\.source.*{known}.*{source!r}"):
        read_dataset(source, **DIGITS)


@pytest.mark.parametrize("source", ["cifar10", "mnist", "fashion_mnist", "images"])
def test_path_is_needed(source):
    with pytest.raises(ValueError, match=rf"data\.path is missing.*{source}"):
        read_dataset(source, **SETTINGS)


def test_digits_need_a_test_fraction():
    with pytest.raises(ValueError, match=r"data\.test_fraction is missing.*digits"):
        read_dataset("digits", **SETTINGS)


# --- digits and the splits


def test_digits_are_scikit_learns_scaled_to_bytes(digits):
    pixels, labels = load_digits(return_X_y=True)
    assert digits.images.shape == (1797, 1, 8, 8) and digits.images.dtype == torch.uint8
    assert digits.labels.dtype == torch.int64 and np.array_equal(digits.labels.numpy(), labels)
    for level in range(17):
        expected = int(level * 255 / 16 + 0.5)
        assert set(digits.images.numpy().reshape(1797, 64)[pixels == level]) == {expected}
    assert digits.classes == tuple("0123456789") and digits.source == "digits"


def test_digits_splits_are_a_stratified_fifth_and_a_tenth_of_the_rest(digits):
    counts = torch.bincount(digits.labels)
    assert torch.equal(torch.bincount(digits.labels[digits.test]), (counts * 0.2).round().long())
    rest = 1797 - len(digits.test)
    assert len(digits.validation) == round(rest / 10)
    assert len(digits.train) + len(digits.validation) == rest


def test_splits_are_ascending_and_together_every_image_once(digits):
    parts = (digits.train, digits.validation, digits.test)
    for part in parts:
        assert part.dtype == torch.int64 and torch.equal(part, part.sort().values)
    assert torch.equal(torch.cat(parts).sort().values, torch.arange(1797))


def test_splits_depend_on_the_seed_alone(digits):
    np.random.seed(99)
    again, other = (
        read_dataset("digits", **DIGITS),
        read_dataset("digits", **DIGITS | {"split_seed": 1}),
    )
    assert torch.equal(again.validation, digits.validation) and torch.equal(again.test, digits.test)
    assert not torch.equal(other.validation, digits.validation) and not torch.equal(
        other.test, digits.test
    )


def test_splits_never_change(digits):
    """Recorded once: other indices would make every earlier result incomparable."""
    assert digits.test[:8].tolist() == [3, 7, 13, 19, 36, 38, 43, 48]
    assert digits.validation[:8].tolist() == [12, 25, 26, 34, 39, 73, 116, 142]


def test_test_set_does_not_depend_on_the_validation_fraction(digits):
    other = read_dataset("digits", **DIGITS | {"validation_fraction": 0.3})
    assert torch.equal(other.test, digits.test) and len(other.validation) > len(digits.validation)


def test_reading_leaves_global_random_states_alone():
    before = torch.get_rng_state(), np.random.get_state()
    read_dataset("digits", **DIGITS)
    assert torch.equal(before[0], torch.get_rng_state())
    assert all(np.array_equal(a, b) for a, b in zip(before[1], np.random.get_state(), strict=True))


@pytest.mark.parametrize(
    ("fraction", "split"), [(0.001, "validation"), (0.0, "validation"), (1.0, "train")]
)
def test_a_split_without_one_of_the_classes(fraction, split):
    with pytest.raises(
        ValueError, match=rf"class '\d' has no image.*split '{split}'.*data\.validation_fraction"
    ):
        read_dataset("digits", **DIGITS | {"validation_fraction": fraction})


def test_sums_are_all_pairs_once_and_their_classes_are_even():
    """Each image says which pair it is, and its label is what the pair adds up to."""
    sums = read_dataset(
        "modular_addition", **DIGITS | {"test_fraction": 0.3, "validation_fraction": 0.3}
    )
    assert sums.images.shape == (47 * 47, 1, 10, 10) and sums.classes[-1] == "46"
    assert set(sums.images.unique().tolist()) == {0, 255}
    places = sums.images.flatten(1).nonzero()[:, 1].view(-1, 2).tolist()
    found = {(a, b - 47): label for (a, b), label in zip(places, sums.labels.tolist(), strict=True)}
    assert found == {(a, b): (a + b) % 47 for a in range(47) for b in range(47)}
    assert torch.bincount(sums.labels[sums.test]).tolist() == [14] * 47
    again = read_dataset(
        "modular_addition", **DIGITS | {"test_fraction": 0.3, "validation_fraction": 0.3}
    )
    assert torch.equal(again.train, sums.train)


# --- torchvision: tiny copies in the original file formats


def write_idx(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    header = struct.pack(">HBB", 0, 8, array.ndim) + struct.pack(f">{array.ndim}I", *array.shape)
    path.write_bytes(header + array.astype(np.uint8).tobytes())


def write_mnist(root, name):
    """200 training and 20 test images of 28x28 in MNIST's own format; returns (images, labels)."""
    images = np.random.default_rng(0).integers(0, 256, (220, 28, 28), dtype=np.uint8)
    labels = np.arange(220) % 10
    raw = root / name / "raw"
    for prefix, part in (("train", slice(0, 200)), ("t10k", slice(200, 220))):
        write_idx(raw / f"{prefix}-images-idx3-ubyte", images[part])
        write_idx(raw / f"{prefix}-labels-idx1-ubyte", labels[part])
    return images, labels


@pytest.fixture
def no_network(monkeypatch):
    def refuse(*_, **__):
        raise urllib.error.URLError("no network")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)


@pytest.mark.parametrize("download", [False, True])
@pytest.mark.parametrize(
    ("source", "folder"), [("mnist", "MNIST"), ("fashion_mnist", "FashionMNIST")]
)
def test_local_copy_of_mnist(tmp_path, no_network, source, folder, download):
    images, labels = write_mnist(tmp_path, folder)
    dataset = read_dataset(
        source, **SETTINGS | {"path": tmp_path, "validation_fraction": 0.5, "download": download}
    )
    assert np.array_equal(dataset.images.numpy(), images[:, None]) and np.array_equal(
        dataset.labels.numpy(), labels
    )
    assert dataset.test.tolist() == list(range(200, 220)) and len(dataset.validation) == 100
    assert len(dataset.classes) == 10 and dataset.source == source


@pytest.mark.parametrize("download", [False, True])
def test_local_copy_of_cifar10(tmp_path, no_network, monkeypatch, download):
    images, labels = write_pickles(tmp_path, monkeypatch)
    dataset = read_dataset(
        "cifar10",
        **SETTINGS | {"path": str(tmp_path), "validation_fraction": 0.4, "download": download},
    )
    assert dataset.images.is_contiguous() and np.array_equal(dataset.images.numpy(), images)
    assert np.array_equal(dataset.labels.numpy(), labels)
    assert dataset.test.tolist() == list(range(100, 120)) and len(dataset.validation) == 40
    assert dataset.classes == tuple(f"class{label}" for label in range(10))


@pytest.mark.parametrize("source", list(TORCHVISION))
def test_no_local_copy(tmp_path, source):
    with pytest.raises(
        FileNotFoundError, match=rf"data\.path.*{tmp_path.name}.*{source}.*data\.download"
    ) as caught:
        read_dataset(source, **SETTINGS | {"path": tmp_path})
    assert caught.value.__cause__ is not None


@pytest.mark.parametrize("source", list(TORCHVISION))
def test_no_network(tmp_path, no_network, source):
    message = (
        rf"data\.source '{source}'.*data\.path.*{tmp_path.name}.*no network.*"
        r"expected network access.*copy.*'images'"
    )
    with pytest.raises(OSError, match=message) as caught:
        read_dataset(source, **SETTINGS | {"path": tmp_path, "download": True})
    assert caught.value.__cause__ is not None


def test_download_into_a_file(tmp_path, no_network):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OSError, match=r"data\.source 'mnist'.*writable folder"):
        read_dataset("mnist", **SETTINGS | {"path": tmp_path / "file", "download": True})


def test_damaged_local_copies(tmp_path, monkeypatch):
    write_mnist(tmp_path, "MNIST")
    file = tmp_path / "MNIST/raw/train-images-idx3-ubyte"
    for content in (b"", file.read_bytes()[:1000], os.urandom(100)):
        file.write_bytes(content)
        with pytest.raises(FileNotFoundError, match=r"data\.path.*no intact copy.*mnist"):
            read_dataset("mnist", **SETTINGS | {"path": tmp_path})
    write_pickles(tmp_path, monkeypatch)
    (tmp_path / "cifar-10-batches-py/data_batch_3").write_bytes(b"damaged")
    with pytest.raises(FileNotFoundError, match=r"data\.path.*no intact copy.*cifar10"):
        read_dataset("cifar10", **SETTINGS | {"path": tmp_path})
