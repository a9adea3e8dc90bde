"""`momos compare`: its numbers against those of `momos measure`, its page, and bad input."""

import html
import json
import re
from urllib.parse import unquote

import pytest
import torch
from command import measured, ran, refused, saved
from torch import nn

from momos import pack, project_
from momos.cli.several import _against

FEW = ("--init-seeds", 4)


def network(seed: int, shift: float = 0.05) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Linear(24, 32), nn.BatchNorm1d(32), nn.Linear(32, 8))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += shift
    return model


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A baseline, the same as a mosaic, and three checkpoints of another training."""
    monkeypatch.chdir(tmp_path)
    model = network(0)
    saved(tmp_path / "base.safetensors", model.state_dict())
    project_(model, 2, capacity=0.05, generator=torch.Generator().manual_seed(0))
    pack(model, tmp_path / "small.momos", 2, level="entropy")
    saved(tmp_path / "small.pt", model.state_dict())
    (tmp_path / "training").mkdir()
    for step in (0, 20, 100):
        state = network(1, step / 1000).state_dict()
        saved(tmp_path / "training" / f"step{step}.safetensors", state)
    return tmp_path


def compared(capsys, *arguments):
    return json.loads(ran(capsys, "compare", *arguments, *FEW, "--json"))


def test_each_file_has_the_numbers_that_measure_gives(folder, capsys):
    rows = compared(capsys, "base.safetensors", "small.momos", "--compressors", "gzip,bz2")
    assert not (folder / "comparison.html").exists()
    for row, file in zip(rows, ("base.safetensors", "small.pt"), strict=True):
        alone = measured(capsys, file, *FEW, "--compressors", "gzip")
        for name in ("bdm_1d", "bdm_2d", "planes"):
            for key in (name, f"{name}_ratio", f"{name}_z"):
                assert row[key] == pytest.approx(alone[key], rel=1e-9), key
        assert row["weight_bytes"] / row["gzip_bytes"] == pytest.approx(alone["gzip"], rel=1e-3)
        assert (row["num_weights"], row["num_tensors"]) == (alone["num_weights"], 6)
    assert rows[1]["file_bytes"] == (folder / "small.momos").stat().st_size
    assert "bz2_bytes" in rows[0] and "zstd_bytes" not in rows[0]


def test_layers_are_measured_by_themselves(folder, capsys):
    """A layer has the numbers of a file that holds it alone."""
    base, small = compared(capsys, "base.safetensors", "small.momos")
    values = network(0)[0].weight.detach()
    layer = next(row for row in base["layers"] if row["name"] == "0.weight")
    assert (layer["shape"], layer["distinct_values"]) == ([32, 24], len(values.unique()))
    alone = measured(capsys, saved(folder / "one.pt", {"0.weight": values}), *FEW)
    assert layer["bdm_1d"] == pytest.approx(alone["bdm_1d"])
    few = next(row for row in small["layers"] if row["name"] == "0.weight")
    assert few["distinct_values"] < layer["distinct_values"] / 4
    assert few["zstd_bits_per_weight"] < layer["zstd_bits_per_weight"] / 2
    bias = next(row for row in base["layers"] if row["name"] == "2.bias")
    assert bias["bdm_1d_z"] is None, "eight weights make no block of twelve"
    norm = next(row for row in base["layers"] if row["name"] == "1.bias")
    assert norm["bdm_1d_ratio"] > 0 and norm["bdm_1d_z"] is None, "fresh ones are all the same"


@pytest.mark.parametrize("value", [36.93, 1 / 3, 1e9 / 7])
def test_equal_fresh_weights_have_no_deviation(value):
    """Their mean may be rounded, and differ from each of them."""
    fresh = [{"a": {"bdm_1d": value}}] * 3
    assert _against({"a": {"bdm_1d": 40.0}}, fresh, "a")["bdm_1d_z"] is None
    fresh[0] = {"a": {"bdm_1d": value * (1 + 1e-9)}}
    assert _against({"a": {"bdm_1d": 40.0}}, fresh, "a")["bdm_1d_z"] is not None


def test_a_folder_of_checkpoints_is_a_training_in_the_order_of_its_steps(folder, capsys):
    (folder / "training" / "._step20.safetensors").write_bytes(b"what macOS leaves behind")
    (folder / "training" / "__MACOSX").mkdir()
    saved(folder / "training" / "__MACOSX" / "step30.safetensors", network(1).state_dict())
    rows = compared(capsys, "training")
    assert [(row["series"], row["step"]) for row in rows] == [
        ("training", 0), ("training", 20), ("training", 100),
    ]  # fmt: skip
    for step in (5, 11):  # as a trainer leaves them: a folder each
        (folder / "hf" / f"checkpoint-{step}").mkdir(parents=True)
        saved(folder / "hf" / f"checkpoint-{step}" / "model.safetensors", network(2).state_dict())
    assert [row["step"] for row in compared(capsys, "hf")] == [5, 11]


def test_the_page_shows_all_files_and_needs_nothing_else(folder, capsys):
    (folder / "<b>.safetensors").write_bytes((folder / "base.safetensors").read_bytes())
    saved(folder / "other.pt", {"far.weight": torch.randn(9, 9)})
    files = ["<b>.safetensors", "small.momos", "training", "other.pt"]
    out = ran(capsys, "compare", *files, *FEW, "--page", "page.html")
    lines = out.splitlines()
    assert len(lines) == 1 + 6 + 1 and lines[0].startswith("file") and lines[-1].startswith("page")
    text = (folder / "page.html").read_text()
    for line in lines[1:-1]:
        cells = line.split()
        assert all(cell in text for cell in cells[1:])
    assert "&lt;b&gt;.safetensors" in text and "<b>" not in text
    assert not re.findall(r"(?:src|href)=.?(?!data:)\w+", text.replace("href='#", ""))
    assert "Along the training (training)" in text and "in one shape: 0.bias" in text
    assert ran(capsys, "compare", *files[1:3], *FEW) and (folder / "comparison.html").is_file()
    first = (folder / "comparison.html").read_bytes()
    ran(capsys, "compare", *files[1:3], *FEW)
    assert (folder / "comparison.html").read_bytes() == first
    assert first.count(b"<figure>") == 3
    uris = re.findall('<img src="data:image/svg.xml,([^"]+)', html.unescape(first.decode()))
    assert len(uris) == 3 + 2 + 2, "ratio, z and bytes; z and bits by layer; two layers' corners"
    widths = [float(re.findall(r"width='([\d.]+)pt'", unquote(uri))[0]) for uri in uris]
    assert max(widths) < 72 * 5, "in a row on a laptop, and legible one below the other on a phone"


def test_bad_input_is_named(folder, capsys):
    (folder / "empty").mkdir()
    for arguments, message in (
        (["base.safetensors"], "base.safetensors is one model: expected two or more"),
        (["base.safetensors", "gone.pt"], "gone.pt is missing"),
        (["base.safetensors", "empty"], "empty holds no weights: expected a model"),
        (["base.safetensors", "small.momos", "--page", "a.txt"], "a.txt: expected a name ending"),
        (["base.safetensors", "small.momos", "--compressors", "zip"], "unknown compressor 'zip'"),
        (["base.safetensors", "small.momos", "--init", "ones"], "ones"),
        (["base.safetensors", "small.momos", "--kinds", "{"], "--kinds must be a JSON list"),
    ):
        assert message in refused(capsys, "compare", *arguments), arguments
