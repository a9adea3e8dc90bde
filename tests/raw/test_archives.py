"""Images of archives and folders: the same from each container; damage and surprises are named."""

import io
import os
import tarfile
import zipfile

import pytest
import torch
from PIL import Image

from momos.images.dataset import dataset_digest
from momos.raw import archives
from momos.raw.sources import read_dataset

IMAGES = {
    "path": None,
    "download": False,
    "test_fraction": None,
    "validation_fraction": 0.5,
    "split_seed": 0,
}


def picture(shade, *, size=(6, 4), mode="RGB", form="PNG"):
    """Bytes of an image of one shade, width x height."""
    out = io.BytesIO()
    color = {"RGB": (shade, 255 - shade, 7), "RGBA": (shade, 1, 2, 3), "LA": (shade, 3)}.get(
        mode, shade
    )
    Image.new(mode, size, color).save(out, form)
    return out.getvalue()


def tree(per_class=4, **options):
    """Two classes, name -> bytes, in no particular order; the shade of an image names it."""
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


@pytest.mark.parametrize("kind", ["gz", "xz", "bz2"])
def test_a_tar_archive_has_a_short_ending_too(tmp_path, kind):
    path = write_tar(tmp_path / f"a.T{kind.upper()}", tree(), mode=f"w:{kind}")
    assert len(read_images(path).images) == 16


@pytest.mark.parametrize("form", ["a.zip", "a.tar.gz"])
def test_what_unpacks_to_more_than_an_image_is_refused_unread(tmp_path, form, monkeypatch):
    monkeypatch.setattr(archives, "MOST_BYTES", 2**20)
    path = write(tmp_path / form, tree() | {"train/cat/9.png": bytes(2**20 + 1)})
    with pytest.raises(ValueError, match=r"'train/cat/9.png' unpacks to more than 1 MiB"):
        read_images(path)


def test_a_class_in_other_letters_is_named(tmp_path):
    files = {name.replace("test/cat", "test/Cat"): content for name, content in tree().items()}
    with pytest.raises(ValueError, match=r"class 'cat' is missing from 'test' \(which has 'Cat'\)"):
        read_images(write(tmp_path / "a", files))


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
    "content",
    [
        b"",
        b"text",
        picture(1)[:-30],
        picture(1)[:50],
        picture(1, form="GIF"),
        picture(1, form="JPEG")[:100],
    ],
    ids=["empty", "text", "cut", "cut early", "gif", "cut jpeg"],
)
def test_file_that_is_no_image(tmp_path, content):
    with pytest.raises(
        ValueError,
        match=r"data\.path.*a\.tar.*'test/cat/1\.png' is no readable image.*expected JPEG or PNG",
    ) as refused:
        read_images(write_tar(tmp_path / "a.tar", tree() | {"test/cat/1.png": content}))
    assert " object at 0x" not in str(refused.value)


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
