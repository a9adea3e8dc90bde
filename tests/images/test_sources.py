import gzip
import hashlib
import io
import json
import os
import pickle
import resource
import struct
import tarfile
import urllib.error
import urllib.request
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file
from sklearn.datasets import load_digits

from momos.images.dataset import (
    TENSORS,
    dataset_digest,
    dataset_summary,
    load_dataset,
    save_dataset,
)
from momos.images.sources import TORCHVISION, read_dataset

SETTINGS = {
    "path": None,
    "download": False,
    "test_fraction": None,
    "validation_fraction": 0.1,
    "split_seed": 0,
}
DIGITS = SETTINGS | {"test_fraction": 0.2}
IMAGES = SETTINGS | {"validation_fraction": 0.5}


@pytest.fixture(scope="module")
def digits():
    return read_dataset("digits", **DIGITS)


# --- settings


@pytest.mark.parametrize("source", ["cifar100", "", "Digits"])
def test_unknown_source(source):
    with pytest.raises(
        ValueError,
        match=rf"data\.source.*digits, cifar10, mnist, fashion_mnist, images.*{source!r}",
    ):
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


def write_cifar10(root, monkeypatch):
    """20 images in each of the six batch files; torchvision's checksums are replaced by those of
    these files.
    """
    from torchvision.datasets import CIFAR10

    folder = root / CIFAR10.base_folder
    folder.mkdir(parents=True)
    images = np.random.default_rng(0).integers(0, 256, (120, 3072), dtype=np.uint8)
    labels = np.arange(120) % 10
    sums = {}
    for position in range(6):
        part = slice(20 * position, 20 * position + 20)
        name = f"data_batch_{position + 1}" if position < 5 else "test_batch"
        (folder / name).write_bytes(
            pickle.dumps({"data": images[part], "labels": labels[part].tolist()})
        )
        sums[name] = hashlib.md5((folder / name).read_bytes()).hexdigest()
    names = [f"class{label}" for label in range(10)]
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": names}))
    meta = CIFAR10.meta | {"md5": hashlib.md5((folder / "batches.meta").read_bytes()).hexdigest()}
    monkeypatch.setattr(
        CIFAR10, "train_list", [[name, sums[name]] for name in sums if name != "test_batch"]
    )
    monkeypatch.setattr(CIFAR10, "test_list", [["test_batch", sums["test_batch"]]])
    monkeypatch.setattr(CIFAR10, "meta", meta)
    return images.reshape(120, 3, 32, 32), labels


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
    images, labels = write_cifar10(tmp_path, monkeypatch)
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
    message = rf"data\.source '{source}'.*data\.path.*{tmp_path.name}.*no network.*expected network access.*copy.*'images'"
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
    write_cifar10(tmp_path, monkeypatch)
    (tmp_path / "cifar-10-batches-py/data_batch_3").write_bytes(b"damaged")
    with pytest.raises(FileNotFoundError, match=r"data\.path.*no intact copy.*cifar10"):
        read_dataset("cifar10", **SETTINGS | {"path": tmp_path})


# --- images: archives and folders


def picture(shade, *, size=(6, 4), mode="RGB", form="PNG"):
    """Bytes of an image of one shade, width x height."""
    out = io.BytesIO()
    color = {"RGB": (shade, 255 - shade, 7), "RGBA": (shade, 1, 2, 3), "LA": (shade, 3)}.get(
        mode, shade
    )
    Image.new(mode, size, color).save(out, form)
    return out.getvalue()


def tree(per_class=4, **options):
    """Two classes, name -> bytes, in no particular order; the shade of an image tells which it is."""
    names = [
        f"{split}/{name}/{i}.png"
        for i in range(per_class)
        for split in ("test", "train")
        for name in ("cat", "ant")
    ]
    return {name: picture(shade, **options) for shade, name in enumerate(names)}


def write_folder(path, files):
    for name, content in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(content)
    return path


def tar_member(name, content=b"", **fields):
    member = tarfile.TarInfo(name)
    member.size = len(content)
    for key, value in fields.items():
        setattr(member, key, value)
    return member, io.BytesIO(content)


def write_tar(path, files, *, mode="w", extra=()):
    with tarfile.open(path, mode) as tar:
        for member in [tar_member(name, content) for name, content in files.items()] + list(extra):
            tar.addfile(*member)
    return path


def write_zip(path, files):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def write(path, files):
    if path.name.endswith(".zip"):
        return write_zip(path, files)
    if ".tar" in path.name:
        return write_tar(path, files, mode="w:" + path.name.rpartition(".tar")[2].lstrip("."))
    return write_folder(path, files)


def read_images(path, **changes):
    return read_dataset("images", **IMAGES | {"path": path} | changes)


CONTAINERS = ["a.tar", "a.tar.gz", "a.tar.xz", "a.tar.bz2", "a.zip"]


@pytest.mark.parametrize("top", ["", "top/", "train/", "./"])
@pytest.mark.parametrize("form", [*CONTAINERS, "folder"])
def test_images_from_every_container(tmp_path, form, top):
    files = tree()
    path = write(tmp_path / form, {top + name: content for name, content in files.items()})
    dataset = read_images(path)
    assert dataset.images.shape == (16, 3, 4, 6) and dataset.images.dtype == torch.uint8
    assert dataset.classes == ("ant", "cat") and dataset.source == "images"
    order = [
        f"{split}/{name}/{i}.png"
        for split in ("train", "test")
        for name in ("ant", "cat")
        for i in range(4)
    ]
    shades = [list(files).index(name) for name in order]
    assert dataset.images[:, 0, 0, 0].tolist() == shades
    assert dataset.images[:, 1, -1, -1].tolist() == [255 - shade for shade in shades]
    assert dataset.labels.tolist() == [0] * 4 + [1] * 4 + [0] * 4 + [1] * 4
    assert dataset.test.tolist() == list(range(8, 16))
    assert (
        sorted(dataset.train.tolist() + dataset.validation.tolist()) == list(range(8))
        and len(dataset.validation) == 4
    )


def test_archives_and_folders_of_one_image_set_have_one_digest(tmp_path):
    files = tree()
    backwards = dict(reversed(files.items()))
    paths = [
        write(tmp_path / "a.tar.xz", files),
        write(tmp_path / "b.zip", backwards),
        write(tmp_path / "c", files),
    ]
    assert len({dataset_digest(read_images(path)) for path in paths}) == 1


def test_jpeg_png_and_capital_suffixes(tmp_path):
    files = {}
    for split in ("train", "test"):
        for name in ("a", "b"):
            images = {"1.jpg": "JPEG", "2.JPEG": "JPEG", "3.png": "PNG", "4.PNG": "PNG"}
            files |= {
                f"{split}/{name}/{file}": picture(90, form=form) for file, form in images.items()
            }
    dataset = read_images(write_zip(tmp_path / "a.zip", files))
    assert len(dataset.images) == 16
    assert (dataset.images[:, 0].int() - 90).abs().max() <= 2


def test_greyscale_images_have_one_channel(tmp_path):
    dataset = read_images(write_tar(tmp_path / "a.tar", tree(mode="L")))
    assert dataset.images.shape == (16, 1, 4, 6)


def test_droppings_and_folders_are_ignored(tmp_path):
    files = tree()
    droppings = {
        name: b"x"
        for name in (
            ".DS_Store",
            "train/cat/Thumbs.db",
            "__MACOSX/train/cat/._1.png",
            "test/desktop.ini",
        )
    }
    with_folder = write_tar(
        tmp_path / "a.tar", files | droppings, extra=[tar_member("train/cat", type=tarfile.DIRTYPE)]
    )
    assert dataset_digest(read_images(with_folder)) == dataset_digest(
        read_images(write_tar(tmp_path / "b.tar", files))
    )


def test_nothing_is_written_beside_the_archive(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = write_tar(tmp_path / "a.tar.gz", tree(), mode="w:gz")
    read_images(path)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("form", [*CONTAINERS, "folder"])
def test_missing_archive(tmp_path, form):
    with pytest.raises(
        FileNotFoundError,
        match=rf"data\.path.*{form}.*does not exist; expected an archive or a folder",
    ):
        read_images(tmp_path / form)


def test_not_an_archive_by_name(tmp_path):
    (tmp_path / "a.rar").write_bytes(b"Rar!")
    with pytest.raises(
        ValueError, match=r"data\.path.*a\.rar.*\.tar, \.tar\.gz, \.tar\.xz, \.tar\.bz2, \.zip"
    ):
        read_images(tmp_path / "a.rar")


@pytest.mark.parametrize("content", [b"", b"not an archive", bytes(range(256)) * 20])
@pytest.mark.parametrize("form", CONTAINERS)
def test_archive_of_other_content(tmp_path, form, content):
    (tmp_path / form).write_bytes(content)
    with pytest.raises(ValueError, match=rf"data\.path.*{form}.*damaged or truncated"):
        read_images(tmp_path / form)


@pytest.mark.parametrize("form", CONTAINERS)
def test_archive_truncated_anywhere(tmp_path, form):
    """Also between two members of a tar, where `tarfile` itself sees nothing wrong."""
    path = write(tmp_path / form, tree(1))
    whole = path.read_bytes()
    needed = len(whole) if form != "a.tar" else len(whole.rstrip(b"\0")) + 512
    for length in [
        *range(0, needed - 1, max(1, needed // 60)),
        needed - 1 if form != "a.tar" else needed - 512,
    ]:
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=rf"{form}.*damaged or truncated"):
            read_images(path)


def test_tar_with_a_damaged_header_between_members(tmp_path):
    path = write_tar(tmp_path / "a.tar", tree(2))
    content = bytearray(path.read_bytes())
    content[content.index(b"train/cat/1.png")] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"a\.tar.*damaged or truncated"):
        read_images(path)


@pytest.mark.parametrize("form", ["a.tar.gz", "a.tar.xz", "a.tar.bz2", "a.zip"])
def test_archive_with_one_changed_byte(tmp_path, form):
    """Never another dataset than the one stored: an error, or (where the byte does not matter) the
    same images.
    """
    path = write(tmp_path / form, tree())
    whole, expected = path.read_bytes(), dataset_digest(read_images(path))
    errors = 0
    for position in range(0, len(whole), max(1, len(whole) // 80)):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 0x55]) + whole[position + 1 :])
        try:
            assert dataset_digest(read_images(path)) == expected
        except ValueError as error:
            assert form in str(error)
            errors += 1
    assert errors > 30


@pytest.mark.parametrize(
    "name",
    [
        "../evil.png",
        "/etc/evil.png",
        "train/../../evil.png",
        "C:/evil.png",
        "train\\..\\..\\evil.png",
        "..",
    ],
)
@pytest.mark.parametrize("form", ["a.tar", "a.zip"])
def test_member_that_leads_out(tmp_path, form, name):
    path = write(tmp_path / form, tree(1) | {name: picture(1)})
    with pytest.raises(ValueError, match=r"a\.(tar|zip).*evil\.png|'\.\.'") as caught:
        read_images(path)
    assert "leads out of the archive" in str(caught.value)


def test_folder_member_that_leads_out(tmp_path):
    path = write_tar(
        tmp_path / "a.tar", tree(1), extra=[tar_member("../outside", type=tarfile.DIRTYPE)]
    )
    with pytest.raises(ValueError, match=r"'\.\./outside' leads out"):
        read_images(path)


@pytest.mark.parametrize(
    "kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE]
)
def test_tar_with_a_link_or_a_device(tmp_path, kind):
    extra = [tar_member("train/cat/9.png", type=kind, linkname="/etc/passwd")]
    with pytest.raises(ValueError, match=r"'train/cat/9\.png' is a link or a device"):
        read_images(write_tar(tmp_path / "a.tar", tree(1), extra=extra))


def test_zip_with_a_link(tmp_path):
    path = write_zip(tmp_path / "a.zip", tree(1))
    link = zipfile.ZipInfo("train/cat/9.png")
    link.external_attr = 0o120777 << 16
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(link, "/etc/passwd")
    with pytest.raises(ValueError, match=r"'train/cat/9\.png' is a link or a device"):
        read_images(path)


def test_member_twice(tmp_path):
    with pytest.raises(ValueError, match=r"'train/cat/0\.png' appears twice"):
        read_images(
            write_tar(
                tmp_path / "a.tar", tree(1), extra=[tar_member("train/cat/0.png", picture(5))]
            )
        )


@pytest.mark.parametrize("form", ["a.tar.gz", "folder"])
@pytest.mark.parametrize(
    "name",
    [
        "README.md",
        "train/a/notes.txt",
        "train/a/b/1.png",
        "val/a/1.png",
        "train/1.png",
        "x/y/train/a/1.png",
        "x/train/a/1.png",
    ],
)
def test_file_off_the_layout(tmp_path, form, name):
    with pytest.raises(
        ValueError,
        match=rf"data\.path.*unexpected file '{name}'; expected train\|test/<class>/<name>",
    ):
        read_images(write(tmp_path / form, tree(1) | {name: picture(1)}))


def test_no_images_at_all(tmp_path):
    (tmp_path / "folder").mkdir()
    for path in (
        tmp_path / "folder",
        write_tar(tmp_path / "a.tar", {}),
        write_zip(tmp_path / "a.zip", {".DS_Store": b""}),
    ):
        with pytest.raises(ValueError, match=r"data\.path.*holds no image; expected train\|test"):
            read_images(path)


@pytest.mark.parametrize(("lacking", "other"), [("test", "train"), ("train", "test")])
def test_class_missing_from_one_side(tmp_path, lacking, other):
    with pytest.raises(ValueError, match=rf"data\.path.*class 'bee' is missing from '{lacking}'"):
        read_images(
            write_tar(
                tmp_path / "a.tar", tree() | {f"{other}/bee/{i}.png": picture(1) for i in range(4)}
            )
        )


@pytest.mark.parametrize("split", ["train", "test"])
def test_one_side_missing(tmp_path, split):
    files = {name: content for name, content in tree().items() if not name.startswith(split)}
    with pytest.raises(ValueError, match=rf"class 'ant' is missing from '{split}'"):
        read_images(write_tar(tmp_path / "a.tar", files))


def test_image_of_another_size(tmp_path):
    files = tree() | {"train/cat/2.png": picture(1, size=(5, 4))}
    with pytest.raises(
        ValueError,
        match=r"'train/cat/2\.png' is 5x4 pixels in mode RGB; expected 6x4 pixels.*'train/ant/0",
    ):
        read_images(write_tar(tmp_path / "a.tar", files))


def test_image_of_another_mode(tmp_path):
    files = tree() | {"train/cat/2.png": picture(1, mode="L")}
    with pytest.raises(
        ValueError,
        match=r"'train/cat/2\.png' is 6x4 pixels in mode L; expected 6x4 pixels in mode RGB",
    ):
        read_images(write_tar(tmp_path / "a.tar", files))


@pytest.mark.parametrize("mode", ["RGBA", "P", "1", "LA", "I;16"])
def test_image_of_an_unsupported_mode(tmp_path, mode):
    files = tree() | {"train/cat/2.png": picture(1, mode=mode)}
    with pytest.raises(
        ValueError, match=rf"'train/cat/2\.png' has mode {mode}; expected L \(greyscale\) or RGB"
    ):
        read_images(write_tar(tmp_path / "a.tar", files))


@pytest.mark.parametrize(
    "content", [b"", b"text", picture(1)[:-30], picture(1)[:50], picture(1, form="GIF"), picture(1, form="JPEG")[:100]],
    ids=["empty", "text", "cut", "cut early", "gif", "cut jpeg"],
)  # fmt: skip
def test_file_that_is_no_image(tmp_path, content):
    with pytest.raises(
        ValueError,
        match=r"data\.path.*a\.tar.*'test/cat/1\.png' is no readable image.*expected JPEG or PNG",
    ):
        read_images(write_tar(tmp_path / "a.tar", tree() | {"test/cat/1.png": content}))


def test_too_few_images_for_a_validation_set(tmp_path):
    with pytest.raises(ValueError, match=r"no image.*split 'validation'"):
        read_images(write_tar(tmp_path / "a.tar", tree()), validation_fraction=0.1)


@pytest.mark.skipif(
    "MOMOS_IMAGE_ARCHIVE" not in os.environ, reason="MOMOS_IMAGE_ARCHIVE names no archive"
)
def test_an_archive_of_your_own():
    dataset = read_images(os.environ["MOMOS_IMAGE_ARCHIVE"], validation_fraction=0.05)
    outside_test = len(dataset.labels) - len(dataset.test)
    assert len(dataset.validation) == round(0.05 * outside_test)
    assert dataset.images.float().std() > 1


# --- the prepared file


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
