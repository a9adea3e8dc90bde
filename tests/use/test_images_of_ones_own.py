"""What people's own images are like: few, of several sizes, turned, from other systems."""

import io
import json
import unicodedata
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from staged import Project

from momos.files import run_folder
from momos.images.dataset import load_dataset

pytestmark = pytest.mark.usefixtures("one_thread")

OWN = {
    "source": "images",
    "path": "data/raw/mine",
    "test_fraction": None,
    "validation_fraction": 0.5,
}
CLASSES = ("ant", "bee")


def picture(shade: int, size: tuple[int, int] = (8, 8), **options) -> bytes:
    """A ramp from the left to the right, in PNG or what the options say."""
    width, height = size
    ramp = np.linspace(shade, shade + 60, width).astype(np.uint8)
    out = io.BytesIO()
    Image.fromarray(np.tile(ramp, (height, 1))).save(out, **({"format": "PNG"} | options))
    return out.getvalue()


def put(files: dict[str, bytes], root: str = "data/raw/mine") -> None:
    for name, content in files.items():
        path = Path(root) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def images(num_train: int = 4, num_test: int = 2, classes=CLASSES, **options) -> dict[str, bytes]:
    return {
        f"{split}/{name}/{i}.png": picture(40 * label + 10 * i, **options)
        for split, number in (("train", num_train), ("test", num_test))
        for label, name in enumerate(classes)
        for i in range(number)
    }


@pytest.fixture
def project(tmp_path, monkeypatch):
    return Project(tmp_path, monkeypatch, {"data": OWN})


def test_fewer_training_images_than_a_batch_of_complexity(project):
    """Four images, batches of 32: the stage divided by no batch at all."""
    project.write({"complexity": {"methods": ["baseline"], "batch_size": 32}})
    put(images())
    project.prepare()
    project.train()
    runs, evaluation = "runs/micro/mlp", "results/micro/mlp/evaluation.csv"
    project.stage("evaluate", "mlp", "data.safetensors", runs, evaluation)
    outs = ("measured.csv", "along.csv", "quantised.csv")
    project.stage("complexity", "mlp", "data.safetensors", runs, evaluation, *outs)
    row = pd.read_csv("measured.csv").iloc[0]
    assert np.isfinite(row.llc_mean) and row.method == "baseline"


def test_a_phones_images_stand_upright(project):
    """EXIF says by how much a viewer turns an image; the pixels lie on their side."""
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise
    put(images(size=(4, 6)))
    for name in images():
        with Image.open(Path("data/raw/mine") / name) as upright:
            lying = upright.transpose(Image.Transpose.ROTATE_90)
        lying.save(Path("data/raw/mine") / name, exif=exif)
    project.prepare()
    dataset = load_dataset("data.safetensors")
    assert dataset.images.shape[1:] == (1, 6, 4)
    ramp = dataset.images[0, 0, 0].int().diff()
    assert (ramp > 0).all() and (dataset.images[0, 0] == dataset.images[0, 0, :1]).all()


@pytest.mark.parametrize("way", ["crop", "resize"])
def test_images_of_several_sizes_become_squares(project, way):
    sizes = [(8, 8), (16, 8), (9, 30), (40, 40)]
    mixed = {name: picture(60, sizes[i % 4]) for i, name in enumerate(images())}
    put(mixed)
    with pytest.raises(ValueError, match=r"16x8 pixels.*expected 8x8 pixels.*data\.fit brings"):
        project.prepare()
    project.write({"data": {"fit": way, "fit_size": 8}})
    project.prepare()
    dataset = load_dataset("data.safetensors")
    assert dataset.images.shape == (12, 1, 8, 8)
    wide = dataset.images[1, 0, 0].int()  # 16 x 8: its middle half, or all of it
    low, high = (75, 105) if way == "crop" else (62, 118)
    assert abs(int(wide[0]) - low) <= 3 and abs(int(wide[-1]) - high) <= 3


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"fit": "crop"}, "data.fit_size must be 1 or more pixels, got None"),
        ({"fit": "crop", "fit_size": 0}, "data.fit_size must be 1 or more pixels, got 0"),
        ({"fit_size": 8}, "data.fit_size must be null where data.fit is null, got 8"),
        ({"fit": "pad", "fit_size": 8}, "data.fit must be one of 'crop', 'resize' or null"),
    ],
)
def test_half_a_setting_is_refused(project, changes, expected):
    project.write({"data": changes})
    with pytest.raises(ValueError) as error:
        project.prepare()
    assert expected in str(error.value)


def test_a_class_is_the_same_in_both_unicode_forms(project):
    """A folder that was copied from a Mac beside one that was not."""
    composed, apart = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))
    assert composed != apart
    files = images(classes=("ant", composed))
    put({name.replace(composed, apart) if "test" in name else name: files[name] for name in files})
    project.prepare()
    assert json.loads(Path("data.json").read_text())["classes"] == ["ant", composed]
    put({f"train/{apart}/0.png": picture(1)})
    with pytest.raises(ValueError, match="appears twice .*another Unicode form"):
        project.prepare()


DROPPINGS = (
    ".DS_Store",
    "train/ant/._0.png",
    "train/.directory",
    "test/bee/Thumbs.db",
    "test/bee/THUMBS.DB",
    "test/.ipynb_checkpoints/0-checkpoint.png",
    "train/ant/@eaDir/0.png/SYNOPHOTO_THUMB.jpg",
    "__MACOSX/train/ant/._0.png",
)


def test_what_systems_leave_behind_is_no_image(project):
    put(images())
    project.prepare()
    before = json.loads(Path("data.json").read_text())
    put(dict.fromkeys(DROPPINGS, b"left behind"))
    project.prepare()
    assert json.loads(Path("data.json").read_text()) == before


def test_what_systems_leave_behind_is_no_text(project):
    project.write(
        {"text": {"source": "files", "name": "data/raw/words", "sha256": None, "context": 8}}
    )
    put({"a.txt": b"all that was said " * 40, "b/c.txt": b"and more " * 40}, "data/raw/words")
    project.stage("text", "text.safetensors", "text.json")
    before = Path("text.json").read_text()
    put(dict.fromkeys(DROPPINGS, b"left behind"), "data/raw/words")
    project.stage("text", "text.safetensors", "text.json")
    assert Path("text.json").read_text() == before


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ({"arch": "test_vit", "image_size": 8}, "can't read 1 x 8 x 8 images"),
        ({"arch": "test_vit", "image_size": 16, "kwargs": {"num_heads": 0}}, "num_heads"),
        ({"arch": "test_resnet", "kwargs": {"features_only": True}}, "scores for two images"),
        ({"arch": "mlp", "kwargs": {"hidden_layers": -1}}, "hidden_layers must be 0 or more"),
    ],
    ids=["size", "kwargs", "output", "mlp"],
)
def test_a_network_that_cant_read_the_images_is_refused_before_training(project, model, expected):
    kwargs = {"kwargs": {}} | model
    project.write({"models": {"odd": {**project.params["models"]["mlp"], **kwargs}}})
    project.write({"grid": {"models": ["odd"]}, "report": {"picture_model": "odd"}})
    put(images())
    project.prepare()
    with pytest.raises(ValueError) as error:
        project.train("odd")
    assert expected in str(error.value)
    assert any(f"models.{name}" in str(error.value) for name in ("odd", model["arch"]))


def test_qat_by_type_leaves_tokens_and_positions_alone(project):
    """A class token, positional embeddings and LayerScale's factors are no module's weights."""
    vit = {"arch": "test_vit", "image_size": 16, "kwargs": {"init_values": 0.1}}
    project.write({"models": {"vit": {**project.params["models"]["mlp"], **vit}}})
    project.write({"grid": {"models": ["vit"], "methods": ["qat4"]}})
    project.write({"report": {"picture_model": "vit", "picture_method": "qat4"}})
    put(images())
    project.prepare()
    folder = project.train("vit", "qat4")
    from momos import config, models

    about = run_folder.load_run(folder)
    model = models.restore(about, run_folder.load_weights(folder, "last"))
    deployed = config.load_method("qat4").deployed(model, arch="test_vit")
    same = {
        name
        for (name, before), (_, after) in zip(
            model.named_parameters(), deployed.named_parameters(), strict=True
        )
        if torch.equal(before, after) and before.unique().numel() > 1
    }
    assert {"cls_token", "pos_embed", "blocks.0.ls1.gamma"} <= same
    assert "blocks.0.attn.qkv.weight" not in same
