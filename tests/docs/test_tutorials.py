"""docs/tutorials, each run from top to bottom as a reader would, and the first as a notebook."""

import csv
import json
import re
import shlex

import pytest
from source_files import ROOT

from momos import cli

pytestmark = pytest.mark.usefixtures("one_thread")
FOLDER = ROOT / "docs" / "tutorials"
PAGES = sorted(path.stem for path in FOLDER.glob("*.md"))
CODE = re.compile(r"^```(\w+)\n(.*?)^```", re.M | re.S)


def code_of(page: str) -> list[tuple[str, str]]:
    return CODE.findall((FOLDER / f"{page}.md").read_text())


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """A function that runs a page in an empty folder and returns what it prints."""
    monkeypatch.chdir(tmp_path)

    def run(page: str) -> str:
        names: dict = {}
        for language, text in code_of(page):
            if language == "bash":
                for line in text.splitlines():
                    assert line.startswith("momos "), line
                    assert cli.main(shlex.split(line)[1:]) == 0, capsys.readouterr().err
            else:
                exec(text, names)
        return capsys.readouterr().out

    return run


def number(pattern: str, text: str) -> float:
    (found,) = re.findall(pattern, text)
    return float(found)


def test_all_tutorials_are_run_here_and_linked():
    assert PAGES == ["compare", "language-model", "new-method", "own-loop"]
    own = (ROOT / "docs" / "own-network.md").read_text()
    assert all(f"(tutorials/{page}.md)" in own for page in PAGES)
    for page in PAGES:
        text = (FOLDER / f"{page}.md").read_text()
        assert text.split("\n\n")[1].startswith("This page is for readers who")
        for link in re.findall(r"\]\(([^)#\s]+)\)", text):
            assert (FOLDER / link).exists(), link


def test_own_loop(run, tmp_path):
    out = run("own-loop")
    assert number(r"accuracy (\S+)", out) > 0.8
    num_weights, num_blocks = 64 * 64 + 64 + 64 * 10 + 10, 2405
    bits = 240 * 2 * 32 + num_blocks * 8
    assert number(r"RAC (\S+),", out) == pytest.approx(32 * num_weights / bits, abs=0.01)
    assert "240 motifs for 2405 blocks" in out and "equal: True" in out
    assert (tmp_path / "digits.momos").stat().st_size < (tmp_path / "digits.pt").stat().st_size / 2


def test_the_notebook_is_the_first_tutorial_with_its_outputs():
    cells = json.loads((FOLDER / "own-loop.ipynb").read_text())["cells"]
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    expected = [
        re.sub(r"^(?=momos )", "!", text, flags=re.M).rstrip() for _, text in code_of("own-loop")
    ]
    assert code == expected
    outputs = "".join(
        "".join(output.get("text", "")) for cell in cells for output in cell.get("outputs", [])
    )
    assert not [output for cell in cells for output in cell.get("outputs", []) if "ename" in output]
    assert number(r"accuracy (\S+)", outputs) > 0.8 and "equal: True" in outputs
    assert all(cell["execution_count"] for cell in cells if cell["cell_type"] == "code")


def test_compare(run, tmp_path):
    out = run("compare")
    assert "compared.html has the layers" in out and "training/step40.pt" in out
    assert (tmp_path / "training.html").read_text().count("<figure>") == 3
    small = next(line for line in out.splitlines() if line.startswith("mosaic.momos"))
    trained = next(line for line in out.splitlines() if line.startswith("trained.pt"))
    assert float(small.split()[7]) < float(trained.split()[7]), "the ratio of BDM 1-D"


def test_language_model(run, tmp_path):
    out = run("language-model")
    with (tmp_path / "compressibility" / "critical.csv").open(newline="") as file:
        first, second = csv.DictReader(file)
    assert first["status"] == second["status"] == "found"
    assert int(first["value"]) >= int(second["value"]) >= 3
    assert "layer norms are folded" in out and re.search(r"^llc \S+, deviation", out, re.M)
    assert (tmp_path / "own" / "curve.png").exists()


def test_new_method(run):
    out = run("new-method")
    assert number(r"accuracy (\S+),", out) > 0.5 and "% zeros" in out
    assert number(r"^RAC (\S+)$", out.splitlines()[1]) == pytest.approx(32 / 17, abs=0.1)
    assert "zstd" in out
