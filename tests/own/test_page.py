"""docs/own-network.md, run from top to bottom as a reader would."""

import importlib.util
import re
import shlex
from pathlib import Path

import pytest
import torch
import yaml

from momos import cli, unpack
from momos.complexity.code_length import rac

pytestmark = pytest.mark.usefixtures("one_thread")
PAGE = Path(__file__).parents[2] / "docs" / "own-network.md"
CODE = re.findall(r"^```(\w*)\n(.*?)^```", PAGE.read_text(), re.M | re.S)
CALLBACKS = {"lightning": "lightning", "transformers": "accelerate"}


def test_the_page_runs_from_top_to_bottom(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    for language, text in CODE:
        if language == "bash":
            for line in text.splitlines():
                if line.startswith("momos "):
                    assert cli.main(shlex.split(line)[1:]) == 0, capsys.readouterr().err
        elif not any(f"momos.own.{name}" in text for name in CALLBACKS):
            exec(text, names)
        if "accuracy" in text:
            check_the_mosaic(names, tmp_path, capsys.readouterr().out)
    unpack(tmp_path / "better.momos", names["model"])
    images, labels = names["images"][1500:], names["labels"][1500:]
    assert (names["model"](images).argmax(1) == labels).float().mean() > 0.85
    assert names["mosaic"].report().rac > 10 and names["mosaic"].applied.is_tied
    assert {path.name for path in tmp_path.iterdir()} == {
        "better.momos", "checkpoint.pt", "digits.momos", "digits.safetensors", "quantised.momos",
    }  # fmt: skip


def check_the_mosaic(names, folder, shown):
    """By the formula of the paper, by the file, and by what the network can."""
    assert names["accuracy"] > 0.85
    sizes = [weight.numel() for weight in names["model"].parameters()]
    report = names["mosaic"].report()
    num_blocks = sum(-(-size // 2) for size in sizes)
    assert report.rac == rac(sum(sizes), num_blocks, 2, num_blocks // 10)
    assert f"'rac': {report.rac}" in shown and report.num_steps == 15 * 30
    assert (folder / "digits.momos").stat().st_size < 1.1 * 4 * sum(sizes) / report.rac
    twin = torch.nn.Sequential(torch.nn.Linear(64, 128), torch.nn.ReLU(), torch.nn.Linear(128, 10))
    unpack(folder / "digits.momos", twin)
    assert all(map(torch.equal, twin.parameters(), names["model"].parameters()))


@pytest.mark.parametrize("name", CALLBACKS)
def test_the_callbacks_of_the_page_are_there(name):
    if importlib.util.find_spec(CALLBACKS[name]) is None:
        pytest.skip(f"{CALLBACKS[name]} is not installed")
    (code,) = [text for _, text in CODE if f"momos.own.{name}" in text]
    exec(code, names := {})
    assert names["callback"].settings == {"block_size": 2, "capacity": 0.1}


def test_the_recipe_of_the_page_on_mosaics_ends_with_a_mosaic():
    page = PAGE.with_name("mosaics.md").read_text()
    (code,) = re.findall(r"^```python\n(.*?)^```", page, re.M | re.S)
    names: dict = {}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        exec(code, names)
    mosaic, model = names["mosaic"], names["model"]
    assert mosaic.applied.is_tied and mosaic.report().distortion == 0
    whole = [w.detach().reshape(-1)[: w.numel() // 4 * 4] for w in model.parameters()]
    assert len(torch.cat(whole).view(-1, 4).unique(dim=0)) <= mosaic.report().num_motifs
    (entry,) = re.findall(r"^```yaml\n(.*?)^```", page, re.M | re.S)
    shown = yaml.safe_load(entry)["methods"]
    settings = yaml.safe_load((PAGE.parents[1] / "params.yaml").read_text())
    assert shown == {"momos_best": settings["methods"]["momos_best"]}
