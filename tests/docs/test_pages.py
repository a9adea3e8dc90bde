"""The pages: what they link to and which commands they name, and what their code does."""

import ast
import re
import shlex
import shutil
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch
import yaml
from torch import nn

from momos import cli, config, models, unpack
from momos.config import overlays
from momos.files import atomic, run_folder

ROOT = Path(__file__).parents[2]
DOCS = sorted((ROOT / "docs").glob("*.md"))
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *DOCS,
    *sorted((ROOT / "data").glob("*/README.md")),
]
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]
CODE = re.compile(r"^```(\w*)\n(.*?)^```", re.M | re.S)


def blocks(page: Path, language: str) -> list[str]:
    """The code blocks of one language."""
    return [text for name, text in CODE.findall(page.read_text()) if name == language]


def anchors(page: Path) -> set[str]:
    """What `page.md#ANCHOR` may name: the headings as GitHub writes them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.M)
    return {re.sub(r"[^\w\- ]", "", name).strip().lower().replace(" ", "-") for name in headings}


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_what_a_page_links_to_is_there(page):
    text = CODE.sub("", page.read_text())
    links = re.findall(r"\]\(([^)\s]+)\)", text)
    for link in links:
        if link.startswith("http"):
            continue
        name, _, anchor = link.partition("#")
        target = page.parent / name if name else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_the_make_targets_and_scripts_of_a_page_exist(page):
    text = page.read_text()
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.M))
    assert set(re.findall(r"(?:`|^|&& )make ([a-z]+)", text, re.M)) <= targets
    for script in re.findall(r"\b(?:scripts|stages|benchmarks|tests|src)/[\w/]+\.py\b", text):
        assert (ROOT / script).exists() or f"# {script}" in text, script
    for module in re.findall(r"-m (benchmarks(?:\.\w+)?)", text):
        assert (ROOT / (module.replace(".", "/") + ".py")).exists() or module == "benchmarks"
    for module in re.findall(r"`momos\.([\w.]+)`", text):
        names = module.split(".")
        paths = [ROOT / "src/momos" / "/".join(names[:end]) for end in range(1, len(names) + 1)]
        assert any(path.is_dir() or path.with_suffix(".py").exists() for path in paths), module


SETTINGS = yaml.safe_load((ROOT / "params.yaml").read_text())


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_the_settings_and_stages_of_a_page_exist(page):
    text = page.read_text()
    for section, key in re.findall(r"[`' ]([a-z]+)\.([a-z_]+)(?:[:=]|`)", text):
        known = {*SETTINGS.get(section, {key: None}), "csv"}
        assert key in known, f"{section}.{key}"
    for stage, model, method, seed in re.findall(r"\b(\w+)@(\w+)-(\w+)-(\d)\b", text):
        assert stage in ("train",) and model in SETTINGS["models"]
        assert method in SETTINGS["methods"] and int(seed) in SETTINGS["grid"]["seeds"]


def test_the_profile_that_a_page_shows_is_complete_and_right(tmp_path):
    (profile,) = blocks(ROOT / "docs" / "profiles.md", "yaml")
    shutil.copytree(ROOT / "profiles", tmp_path / "profiles")
    path = tmp_path / re.findall(r"profiles/\w+\.yaml", profile)[0]
    path.write_text(profile)
    settings = overlays.read_settings(path)
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(settings))
    config.check(tmp_path / "params.yaml")
    assert set(settings) == set(SETTINGS) and settings["train"]["epochs"] == 5
    assert set(settings["models"]) == {"mlp"} and settings["methods"] == SETTINGS["methods"]


@pytest.mark.parametrize("page", DOCS, ids=[page.name for page in DOCS])
def test_a_page_says_first_whom_it_is_for(page):
    heading, paragraph = page.read_text().split("\n\n")[:2]
    assert heading.startswith("# ") and paragraph.startswith("This page is for readers who")


def test_every_page_is_reached_from_the_readme():
    readme = (ROOT / "README.md").read_text()
    assert [page.name for page in DOCS if f"(docs/{page.name})" not in readme] == []


def test_the_pictures_parts_are_in_it():
    tree = ElementTree.parse(ROOT / "docs" / "picture.svg")
    words = " ".join(tree.getroot().itertext())
    for name in ("MLP", "ResNet20", "Tiny-ViT", "quantised (QAT)", "MoMos, blocks of 4"):
        assert name in words
    assert "prefers-color-scheme:dark" in words


def test_the_readmes_training_loop_ends_with_a_mosaic_on_disk(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (code,) = blocks(ROOT / "README.md", "python")
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 8))
    trained = []

    def num_distinct() -> tuple[int, int]:
        found = torch.cat([weight.reshape(-1, 4) for weight in model.parameters()])
        return len(found.unique(dim=0)), round(0.01 * len(found))

    def train_one_step(model: nn.Module, batch: int, optimizer: torch.optim.Optimizer) -> None:
        trained.append(num_distinct())
        optimizer.zero_grad()
        model(torch.randn(16, 64)).square().mean().backward()
        optimizer.step()

    given = {"model": model, "optimizer": torch.optim.SGD(model.parameters(), 0.1)}
    exec(code, given | {"num_epochs": 4, "batches": range(3), "train_one_step": train_one_step})
    assert [distinct <= allowed for distinct, allowed in trained] == 6 * [False] + 6 * [True]
    distinct, allowed = num_distinct()
    assert distinct <= allowed
    twin = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 8))
    unpack("model.momos", twin)
    assert all(map(torch.equal, twin.parameters(), model.parameters()))


def save_run(folder: Path, in_channels: int) -> None:
    """A run folder of an untrained ResNet20, with what the `momos` command reads of it."""
    weights = models.build("resnet20", 10, in_channels=in_channels, image_size=8).state_dict()
    for which in run_folder.WEIGHTS:
        run_folder.save_weights(folder, which, weights)
    about = {"arch": "resnet20", "arch_kwargs": {}, "num_classes": 10, "in_channels": in_channels}
    about |= {"image_size": 8, "block_size": 2, "slicing": "tensor"}
    atomic.write_json(folder / "run.json", dict.fromkeys(run_folder.RUN_KEYS) | about)


@pytest.mark.parametrize("name", ["README.md", "docs/getting-started.md", "docs/packing.md"])
def test_the_momos_commands_of_a_page_work(name, tmp_path, monkeypatch, capsys):
    lines = "\n".join(blocks(ROOT / name, "bash")).splitlines()
    commands = [line for line in lines if line.startswith("momos ")]
    assert commands
    monkeypatch.chdir(tmp_path)
    for method in ("momos_s4_c1", "momos_s2_c1"):
        save_run(tmp_path / "runs/digits/resnet20" / method / "0", in_channels=1)
    colour = models.build("resnet20", 10, in_channels=3, image_size=32).state_dict()
    atomic.save_tensors(tmp_path / "model.safetensors", colour)
    for command in commands:
        assert cli.main(shlex.split(command)[1:]) == 0, capsys.readouterr().err
    shown = capsys.readouterr().out
    for text in blocks(ROOT / name, "text"):
        for line in text.splitlines():
            assert re.search(rf"^{line.split()[0]} ", shown, re.M), line


def test_the_measure_that_a_page_adds_measures():
    """The tour of tests/docs/test_extending.py adds it to a whole study."""
    (code,) = blocks(ROOT / "docs" / "extending.md", "python")
    names: dict = {}
    exec(code, names)
    assert names["metric"]({"a": torch.tensor([1.0, -2.0]), "b": torch.tensor([[-6.0]])}) == 3.0


def test_python_blocks_are_python():
    for page in PAGES:
        for code in blocks(page, "python"):
            ast.parse(code)
