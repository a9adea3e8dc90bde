"""CIFAR-10 from its official binary files: what torchvision's pickles give, every flaw named."""

import io
import os
import re
import tarfile
import urllib.error
import urllib.request

import cifar10_copies as copies
import numpy as np
import pytest

from momos.images.dataset import dataset_digest, dataset_summary
from momos.raw import cifar10
from momos.raw.sources import read_dataset

FILES = [*(f"data_batch_{number}.bin" for number in range(1, 6)), "test_batch.bin"]
FORMS = ["folder", "parent", "archive", "archive's parent", "flat archive"]
OFFICIAL = "airplane automobile bird cat deer dog frog horse ship truck"


def read(path, **changes):
    settings = {
        "path": path,
        "download": False,
        "test_fraction": None,
        "validation_fraction": 0.4,
        "split_seed": 0,
    }
    return read_dataset("cifar10", **settings | changes)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Where the binary files lie, inside the folder that settings name."""
    return copies.write_binary(tmp_path / "cifar" / "cifar-10-batches-bin", monkeypatch)


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    def refuse(*_, **__):
        raise urllib.error.URLError("no network")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)


def archive(path, folder, *, top="cifar-10-batches-bin/", extra=()):
    """The official archive's layout, with what macOS and the authors put beside the batches."""
    with tarfile.open(path, "w:gz") as tar:
        tar.add(folder, top or ".", recursive=False)
        for file in sorted(folder.iterdir()):
            tar.add(file, top + file.name)
        for name, content in ((top + "readme.html", b"<p>"), (top + "._test_batch.bin", b"\0")):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
        for member in extra:
            tar.addfile(member)
    return path


# --- the same data set from every form


@pytest.mark.parametrize("download", [False, True])
@pytest.mark.parametrize(
    "form", ["folder", "parent", "archive", "archive's parent", "flat archive"]
)
def test_binary_files_give_the_bytes_that_pickles_give(
    tmp_path, folder, monkeypatch, form, download
):
    images, labels = copies.write_pickles(tmp_path / "pickles", monkeypatch)
    if "archive" in form:
        (tmp_path / "there").mkdir()
        path = tmp_path / "there" / "cifar-10-binary.tar.gz"
        archive(path, folder, top="./" if form == "flat archive" else "cifar-10-batches-bin/")
    else:
        path = folder
    found = read(str(path.parent if "parent" in form else path), download=download)
    expected = read(tmp_path / "pickles", download=download)
    for name, value in expected._asdict().items():
        other = getattr(found, name)
        same = other == value
        assert same if isinstance(same, bool) else same.all(), name
    assert found.images.dtype == expected.images.dtype and found.images.is_contiguous()
    assert dataset_digest(found) == dataset_digest(expected)
    assert dataset_summary(found) == dataset_summary(expected)
    assert np.array_equal(found.images, images) and np.array_equal(found.labels, labels)
    assert found.test.tolist() == list(range(100, 120)) and len(found.validation) == 40


def test_a_pixel_is_where_the_format_says(folder):
    """A record: label, 1,024 red bytes row by row, 1,024 green ones, 1,024 blue ones."""
    raw = (folder / "data_batch_2.bin").read_bytes()[3 * 3073 : 4 * 3073]
    dataset = read(folder)
    image = dataset.images[20 + 3]
    assert dataset.labels[20 + 3] == raw[0]
    for channel, row, column in ((0, 0, 0), (1, 2, 5), (2, 31, 30)):
        assert image[channel, row, column] == raw[1 + 1024 * channel + 32 * row + column]


def test_class_names_are_the_official_ones_where_their_file_is_missing(folder):
    (folder / "batches.meta.txt").unlink()
    assert read(folder).classes == tuple(OFFICIAL.split())


def test_unpacked_files_come_before_their_archive(folder):
    (folder.parent / "cifar-10-binary.tar.gz").write_bytes(b"cut")
    assert len(read(folder.parent).labels) == 120


@pytest.mark.parametrize("name", ["._data_batch_1.bin", "Thumbs.db", "readme.html"])
def test_other_files_in_the_folder_change_nothing(folder, name):
    digest = dataset_digest(read(folder))
    (folder / name).write_bytes(b"x")
    assert dataset_digest(read(folder)) == digest


def test_the_sums_belong_to_different_files_in_the_right_order():
    assert list(cifar10.SUMS) == FILES
    assert len(set(cifar10.SUMS.values())) == 6
    assert all(re.fullmatch("[0-9a-f]{32}", value) for value in cifar10.SUMS.values())
    assert cifar10.NUM_RECORDS == 10_000 and cifar10.RECORD_BYTES == 3073


# --- what is wrong is named, with the file, the value and what was expected


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("form", ["folder", "archive"])
def test_a_changed_byte(tmp_path, folder, form, name):
    expected = cifar10.SUMS[name]
    content = bytearray((folder / name).read_bytes())
    content[-1] ^= 1
    (folder / name).write_bytes(content)
    path = folder if form == "folder" else archive(tmp_path / "a.tar.gz", folder)
    with pytest.raises(ValueError) as caught:
        read(path)
    place = f"data.path {str(path)!r}: {name} has MD5 {copies.md5(folder / name)}; "
    assert str(caught.value).startswith(f"{place}expected {expected}")


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (-3073, "58387 bytes (19 records and 0 bytes)"),
        (-1, "61459 bytes (19 records and 3072 bytes)"),
        (3073, "64533 bytes (21 records and 0 bytes)"),
        (-61460, "0 bytes (0 records and 0 bytes)"),
    ],
)
def test_a_batch_of_another_size(folder, monkeypatch, change, found):
    """Told before its sum, which says less."""
    content = (folder / "data_batch_4.bin").read_bytes()
    (folder / "data_batch_4.bin").write_bytes((content + bytes(3073))[: len(content) + change])
    copies.trust(folder, monkeypatch)
    expected = "expected 61460 (20 records of 3073 bytes)"
    with pytest.raises(ValueError, match=re.escape(f"data_batch_4.bin has {found}; {expected}")):
        read(folder)


def test_nine_thousand_nine_hundred_and_ninety_nine_records(folder, monkeypatch):
    monkeypatch.setattr(cifar10, "NUM_RECORDS", 10_000)
    (folder / "data_batch_1.bin").write_bytes(bytes(3073 * 9999))
    message = "data_batch_1.bin has 30726927 bytes (9999 records and 0 bytes); expected 30730000"
    with pytest.raises(ValueError, match=re.escape(message)):
        read(folder)


@pytest.mark.parametrize("label", [10, 255])
def test_a_label_that_no_class_has(folder, monkeypatch, label):
    content = bytearray((folder / "test_batch.bin").read_bytes())
    content[7 * 3073] = label
    (folder / "test_batch.bin").write_bytes(content)
    copies.trust(folder, monkeypatch)
    message = f"test_batch.bin: record 7 (of 0 to 19) has label {label}; expected 0 to 9"
    with pytest.raises(ValueError, match=re.escape(message)):
        read(folder)


@pytest.mark.parametrize("download", [False, True])
@pytest.mark.parametrize("form", ["folder", "parent", "archive"])
def test_missing_batches(tmp_path, folder, form, download):
    for name in ("data_batch_3.bin", "test_batch.bin"):
        (folder / name).unlink()
    place = {"folder": folder, "parent": folder.parent}.get(form)
    path = place or archive(tmp_path / "a.tar.gz", folder)
    message = r"data\.path .* lacks data_batch_3\.bin, test_batch\.bin; expected the official"
    with pytest.raises(FileNotFoundError, match=message):
        read(path, download=download)


@pytest.mark.parametrize(
    "names", [b"", b"one\ntwo\n", b"cat\n" * 10, OFFICIAL.replace(" ", "\n").encode() + b"\nyak\n"]
)
def test_class_names_that_are_not_ten(folder, names):
    (folder / "batches.meta.txt").write_bytes(names)
    with pytest.raises(ValueError, match=r"batches\.meta\.txt has the class names .*expected 10"):
        read(folder)


@pytest.mark.parametrize("download", [False, True])
@pytest.mark.parametrize("form", ["folder", "archive", "files"])
def test_both_copies(tmp_path, monkeypatch, form, download):
    where = tmp_path / "data"
    copies.write_pickles(where, monkeypatch)
    folder = copies.write_binary(tmp_path / "cifar-10-batches-bin", monkeypatch)
    named = {"folder": "cifar-10-batches-bin", "archive": r"cifar-10-binary\.tar\.gz"}
    if form == "folder":
        folder.rename(where / folder.name)
    elif form == "archive":
        archive(where / "cifar-10-binary.tar.gz", folder)
    else:
        for file in folder.iterdir():
            file.rename(where / file.name)
    kind = named.get(form, "the binary files")
    message = rf"data\.path .*two copies.*{kind} and cifar-10-batches-py; expected one of them"
    with pytest.raises(ValueError, match=message):
        read(where, download=download)


@pytest.mark.parametrize("there", [True, False])
def test_neither_copy(tmp_path, there):
    path = tmp_path if there else tmp_path / "absent"
    with pytest.raises(FileNotFoundError) as caught:
        read(path)
    assert str(path) in str(caught.value) and "data.download: true" in str(caught.value)
    for name in ("cifar-10-batches-bin", "cifar-10-binary.tar.gz", "cifar-10-batches-py"):
        assert name in str(caught.value)


def test_neither_copy_in_dvcs_copy_of_the_repository(tmp_path, monkeypatch):
    """`dvc exp run --temp` leaves data/raw behind, and the message says what helps."""
    inside = tmp_path / ".dvc" / "tmp" / "exps" / "tmpabc"
    inside.mkdir(parents=True)
    monkeypatch.chdir(inside)
    with pytest.raises(FileNotFoundError, match=r"add `-C data/raw/cifar` to `dvc exp run`"):
        read("data/raw/cifar")


@pytest.mark.parametrize("length", [0, 100, 0.5, -20])
def test_a_cut_archive(tmp_path, folder, length):
    path = archive(tmp_path / "cifar-10-binary.tar.gz", folder)
    content = path.read_bytes()
    path.write_bytes(content[: int(length * len(content)) if 0 < length < 1 else length])
    with pytest.raises(ValueError, match=r"cifar-10-binary\.tar\.gz.*damaged or truncated"):
        read(path.parent / path.name)


def test_a_batch_twice_in_the_archive(tmp_path, folder):
    twin = tarfile.TarInfo("again/test_batch.bin")
    path = archive(tmp_path / "cifar-10-binary.tar.gz", folder, extra=[twin])
    with pytest.raises(ValueError, match=r"'again/test_batch\.bin' appears twice"):
        read(path)


def test_a_link_in_the_archive(tmp_path, folder):
    (folder / "data_batch_5.bin").unlink()
    link = tarfile.TarInfo("cifar-10-batches-bin/data_batch_5.bin")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/hostname"
    path = archive(tmp_path / "cifar-10-binary.tar.gz", folder, extra=[link])
    with pytest.raises(ValueError, match=r"data_batch_5\.bin' is a link or a device"):
        read(path)


def test_a_file_that_is_no_archive(tmp_path):
    (tmp_path / "cifar.bin").write_bytes(b"x")
    with pytest.raises(ValueError, match=r"cifar\.bin' is neither a folder nor an archive"):
        read(tmp_path / "cifar.bin")


# --- torchvision's copy: its own error names no file


@pytest.mark.parametrize("name", ["data_batch_3", "test_batch", "batches.meta"])
def test_a_damaged_pickle_is_named(tmp_path, monkeypatch, name):
    copies.write_pickles(tmp_path, monkeypatch)
    file = tmp_path / "cifar-10-batches-py" / name
    expected = copies.md5(file)
    file.write_bytes(b"damaged")
    with pytest.raises(FileNotFoundError) as caught:
        read(tmp_path)
    assert f"{name} has MD5 {copies.md5(file)}; expected {expected}" in str(caught.value)


def test_a_missing_pickle_is_named(tmp_path, monkeypatch):
    copies.write_pickles(tmp_path, monkeypatch)
    (tmp_path / "cifar-10-batches-py" / "data_batch_2").unlink()
    with pytest.raises(FileNotFoundError, match=r"\(cifar-10-batches-py lacks data_batch_2\)"):
        read(tmp_path)


# --- the real one


@pytest.mark.skipif("MOMOS_CIFAR10" not in os.environ, reason="MOMOS_CIFAR10 names no folder")
def test_the_official_files():
    """Channel means and deviations in float64, of the 50,000 training images."""
    dataset = read(os.environ["MOMOS_CIFAR10"], validation_fraction=0.05)
    assert dataset.classes == tuple(OFFICIAL.split())
    assert dataset.labels[:50_000].bincount().tolist() == [5_000] * 10
    assert dataset.labels[dataset.test].bincount().tolist() == [1_000] * 10
    pixels = dataset.images[:50_000].numpy()
    mean = pixels.mean((0, 2, 3), dtype=np.float64) / 255
    deviation = pixels.std((0, 2, 3), dtype=np.float64) / 255
    assert np.abs(mean - [0.49139968, 0.48215841, 0.44653091]).max() < 1e-8
    assert np.abs(deviation - [0.24703223, 0.24348513, 0.26158784]).max() < 1e-8
