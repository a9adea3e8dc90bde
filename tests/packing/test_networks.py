"""The networks of reports/networks: they decode, and answer what their table says."""

from pathlib import Path

import pandas as pd
import pytest
import ship
from command import ran, refused
from source_files import ROOT

from momos import models, packing
from momos.config import overlays
from momos.files import atomic, run_folder
from momos.images.dataset import save_dataset
from momos.methods.mosaic import trainable
from momos.raw.sources import read_dataset

pytestmark = pytest.mark.usefixtures("one_thread")
FOLDER = ROOT / ship.FOLDER
ROWS = {row["name"]: row for row in pd.read_csv(ROOT / ship.TABLE).to_dict("records")}
LARGEST = {"mlp": 450_000, "resnet20": 100_000}  # bytes


def prepared(profile: str, out: Path) -> Path:
    """The profile's data set; the test is skipped where its images are not at hand."""
    names = ("source", "path", "download", "test_fraction", "validation_fraction", "split_seed")
    data = overlays.read_settings(ROOT / "profiles" / f"{profile}.yaml")["data"]
    settings = {name: data[name] for name in names}
    if settings["path"] is not None:
        settings["path"] = ROOT / settings["path"]
        if not settings["path"].exists():
            pytest.skip(f"NOT RUN: nothing is in {data['path']}")
    save_dataset(read_dataset(**settings), out)
    return out


def test_every_folder_is_in_the_table():
    assert {path.name for path in FOLDER.iterdir() if path.is_dir()} == set(ROWS)


@pytest.mark.parametrize("name", ROWS)
def test_file_decodes_to_the_weights_of_the_table(name):
    row, file, about = ROWS[name], FOLDER / name / ship.MODEL, run_folder.load_run(FOLDER / name)
    tensors = packing.read_tensors(file)
    assert ship.digest(tensors) == row["sha256"]
    assert file.stat().st_size == row["file_bytes"] <= LARGEST[row["model"]]
    assert sum(tensor.nbytes for tensor in tensors.values()) == row["plain_bytes"]
    weights = trainable(models.restore(about, tensors))
    assert sum(weight.numel() for weight in weights.values()) == row["num_weights"]
    assert {
        key: about[key] for key in ("model", "profile", "method", "seed")
    }.items() <= row.items()


@pytest.mark.parametrize("name", ROWS)
def test_file_answers_as_its_table_says(name, tmp_path, capsys):
    row, file = ROWS[name], FOLDER / name / ship.MODEL
    images = prepared(row["profile"], tmp_path / "images.safetensors")
    said = ran(capsys, "verify", file, "--images", images).splitlines()
    shown, num = f"{100 * row['test_accuracy']:.2f}", row["num_test_images"]
    assert said[1:] == [f"accuracy {shown} % on {num} test images of {images}"]


def test_other_images_and_other_networks_are_told(tmp_path, capsys):
    file = FOLDER / "digits_resnet20" / ship.MODEL
    images = prepared("digits", tmp_path / "images.safetensors")
    about = atomic.read_json(file.parent / run_folder.RUN)

    def described(**changes) -> Path:
        atomic.write_json(tmp_path / run_folder.RUN, about | changes)
        return tmp_path

    command = ("verify", file, "--images", images, "--about")
    said = ran(capsys, *command, described(data_sha256="0"))
    assert said.splitlines()[1].endswith("which is other data than in its training")
    said = refused(capsys, *command, described(in_channels=3))
    assert f"{images} has in_channels 1: expected 3" in said
    said = refused(capsys, *command, described(arch="mlp"))
    assert "weights do not fit mlp" in said and "Traceback" not in said
    assert f"{tmp_path / 'gone' / run_folder.RUN}" in refused(capsys, *command, tmp_path / "gone")
    said = refused(capsys, "verify", file, "--about", tmp_path)
    assert f"--about {tmp_path}: expected --images" in said


def test_a_run_is_shipped(tmp_path, monkeypatch):
    """The script, on the file that stands there: what it writes again is the same."""
    row, run = ROWS["digits_resnet20"], tmp_path / "run"
    images = prepared("digits", tmp_path / "images.safetensors")
    tensors = packing.read_tensors(FOLDER / "digits_resnet20" / ship.MODEL)
    run_folder.save_weights(run, "last", tensors)
    about = atomic.read_json(FOLDER / "digits_resnet20" / run_folder.RUN)
    atomic.write_json(run / run_folder.RUN, about)
    monkeypatch.setattr(ship, "FOLDER", tmp_path / "networks")
    again = ship.ship("digits_resnet20", run, run, images, "last")
    assert again == row | {"baseline_test_accuracy": row["test_accuracy"]}
    shipped, known = tmp_path / "networks/digits_resnet20", FOLDER / "digits_resnet20"
    assert (shipped / ship.MODEL).read_bytes() == (known / ship.MODEL).read_bytes()
    atomic.write_json(run / run_folder.RUN, about | {"data_sha256": "0"})
    with pytest.raises(ValueError, match="expected the data set that"):
        ship.ship("digits_resnet20", run, run, images, "last")
