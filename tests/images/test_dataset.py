"""The prepared file: what is saved comes back, and what is damaged is named."""

import gzip
import json
import resource

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from momos.images.dataset import (
    TENSORS,
    dataset_digest,
    dataset_summary,
    load_dataset,
    save_dataset,
)
from momos.raw.sources import read_dataset

DIGITS = {
    "path": None,
    "download": False,
    "test_fraction": 0.2,
    "validation_fraction": 0.1,
    "split_seed": 0,
}


@pytest.fixture(scope="module")
def digits():
    return read_dataset("digits", **DIGITS)


def test_saved_and_loaded_is_the_same(tmp_path, digits):
    path = tmp_path / "new/folder/digits.safetensors"
    save_dataset(digits, path)
    loaded = load_dataset(path)
    for name in TENSORS:
        ours, theirs = getattr(loaded, name), getattr(digits, name)
        assert ours.dtype == theirs.dtype and torch.equal(ours, theirs)
    assert loaded.classes == digits.classes and loaded.source == digits.source
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_file_is_plain_safetensors_with_the_digest_in_its_metadata(tmp_path, digits):
    save_dataset(digits, tmp_path / "d.safetensors")
    with safe_open(tmp_path / "d.safetensors", framework="np") as file:
        assert file.metadata() == {
            "classes": json.dumps(list("0123456789")),
            "source": "digits",
            "sha256": dataset_digest(digits),
        }
        assert np.array_equal(file.get_tensor("images"), digits.images.numpy())


def test_file_has_the_same_bytes_every_time(tmp_path, digits):
    """safetensors 0.8 orders metadata at random, anew in each call: this many calls show it."""
    part = digits._replace(images=digits.images[:8].contiguous())
    written = set()
    for _ in range(40):
        save_dataset(part, tmp_path / "d.safetensors")
        written.add((tmp_path / "d.safetensors").read_bytes())
    assert len(written) == 1


def test_digest_sees_every_part_but_the_source(digits):
    swapped = digits.images.clone()
    swapped[0], swapped[1] = digits.images[1], digits.images[0]
    others = [
        digits._replace(images=swapped),
        digits._replace(images=digits.images.reshape(1797, 1, 4, 16)),
        digits._replace(images=digits.images.view(torch.int8)),
        digits._replace(labels=digits.labels.roll(1)),
        digits._replace(train=digits.train[1:]),
        digits._replace(train=digits.validation, validation=digits.train),
        digits._replace(test=digits.test.flip(0)),
        digits._replace(classes=(*digits.classes[:-1], "nine")),
    ]
    assert len({dataset_digest(other) for other in [digits, *others]}) == len(others) + 1
    assert dataset_digest(digits._replace(source="other")) == dataset_digest(digits)
    assert dataset_digest(digits._replace(images=digits.images.clone())) == dataset_digest(digits)


def test_summary_counts_images_by_split_and_class(digits):
    summary = json.loads(json.dumps(dataset_summary(digits)))
    assert summary["source"] == "digits" and summary["sha256"] == dataset_digest(digits)
    assert summary["image_shape"] == [1, 8, 8] and summary["classes"] == list("0123456789")
    assert summary["sizes"] == {
        split: len(getattr(digits, split)) for split in ("train", "validation", "test")
    }
    labels = digits.labels.tolist()
    for split, counts in summary["class_counts"].items():
        indices = getattr(digits, split).tolist()
        assert counts == {
            name: sum(labels[i] == int(name) for i in indices) for name in "0123456789"
        }


def test_load_missing_file(tmp_path):
    with pytest.raises(
        ValueError, match=r"none\.safetensors' does not exist; expected a prepared dataset"
    ):
        load_dataset(tmp_path / "none.safetensors")


def test_load_damaged_file(tmp_path, digits):
    path = tmp_path / "d.safetensors"
    save_dataset(digits, path)
    whole = path.read_bytes()
    end = 8 + int.from_bytes(whole[:8], "little")
    for length in (0, 7, 50, end, end + 1000, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=r"d\.safetensors"):
            load_dataset(path)
    for position in (end, end + 5000, len(whole) - 1):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 1]) + whole[position + 1 :])
        with pytest.raises(ValueError, match=r"d\.safetensors' is damaged: sha256 .*; expected"):
            load_dataset(path)


@pytest.mark.parametrize(
    "change", [{"sha256": "0" * 64}, {"classes": '["x"]'}, {"classes": "no json"}, {"classes": "5"}]
)
def test_load_file_with_changed_metadata(tmp_path, digits, change):
    metadata = {
        "classes": json.dumps(digits.classes),
        "source": "digits",
        "sha256": dataset_digest(digits),
    } | change
    save_file(
        {name: getattr(digits, name) for name in TENSORS}, tmp_path / "d.safetensors", metadata
    )
    with pytest.raises(ValueError, match=r"d\.safetensors' is damaged"):
        load_dataset(tmp_path / "d.safetensors")


def test_load_foreign_files(tmp_path, digits):
    save_file({"weight": torch.zeros(3)}, tmp_path / "weights.safetensors")
    save_file({name: getattr(digits, name) for name in TENSORS}, tmp_path / "bare.safetensors")
    for name in ("weights", "bare"):
        with pytest.raises(ValueError, match=rf"{name}\.safetensors' is no prepared dataset"):
            load_dataset(tmp_path / f"{name}.safetensors")
    (tmp_path / "text").write_bytes(gzip.compress(b"x" * 1000))
    for path in (tmp_path / "text", tmp_path):
        with pytest.raises(ValueError, match="cannot be read as a prepared dataset"):
            load_dataset(path)


def test_save_where_nothing_can_be_written(tmp_path, digits):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OSError, match=r"cannot write the prepared dataset.*d\.safetensors"):
        save_dataset(digits, tmp_path / "file/d.safetensors")
    (tmp_path / "taken").mkdir()
    with pytest.raises(OSError, match=r"cannot write the prepared dataset.*taken"):
        save_dataset(digits, tmp_path / "taken")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["file", "taken"]


def test_save_on_a_full_disk_leaves_the_earlier_file_alone(tmp_path, digits):
    path = tmp_path / "d.safetensors"
    path.write_text("earlier")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(
        resource.RLIMIT_FSIZE, (50_000, limits[1])
    )  # the kernel refuses larger files, as a full disk does
    try:
        with pytest.raises(OSError, match=r"cannot write the prepared dataset.*d\.safetensors"):
            save_dataset(digits, path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [file.name for file in tmp_path.iterdir()] == [
        "d.safetensors"
    ] and path.read_text() == "earlier"
