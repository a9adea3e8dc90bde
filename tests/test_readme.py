"""README.md is short, and its numbers are the blessed and the measured ones.

None stands outside the blocks that are made from them.
"""

import json
import re
import runpy
import shutil
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
VERSIONS = {"3.11"}  # of Python


def rewrite(folder: Path, *arguments: str) -> int | str:
    """The script as a process would run it, without a process's imports -> what it exits with."""
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as ended:
        patch.chdir(folder)
        patch.setattr(sys, "argv", ["readme.py", *arguments])
        patch.setattr(sys, "path", [*sys.path])  # which it adds to
        runpy.run_path(str(ROOT / "scripts" / "readme.py"), run_name="__main__")
    return ended.value.code


def test_it_is_short_and_begins_with_a_command():
    assert len(README.split()) <= 1000
    before, *_ = README.partition("make repro")
    assert len(before.split()) <= 150
    assert "img.shields.io" not in README


def test_the_numbers_are_those_of_the_files():
    assert rewrite(ROOT, "--check") == 0, "a page is behind: make readme"


MADE_FROM = (
    "benchmarks/packing.csv",
    "benchmarks/results.json",
    "benchmarks/survey.json",
    "data/paper/claims.yaml",
    "docs",
    "README.md",
    "reports/cifar10/results.json",
    "reports/cifar10/tables/claims.csv",
    "reports/cifar10_resnet20/results.json",
    "reports/digits/slt/tables/answers.csv",
    "reports/digits/tables/runs.csv",
    "reports/expected",
    "reports/networks/networks.csv",
    "reports/readings/tables/claims.csv",
    "reports/readings/tables/comparison.csv",
    "reports/readings/tables/readings.csv",
    "reports/readings/tables/readings_cells.csv",
    "reports/zoo/tables/zoo.csv",
    "reports/zoo/tables/zoo_networks.csv",
)


def test_another_number_in_a_file_is_another_number_here(tmp_path):
    for name in MADE_FROM:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, tmp_path / name)
    expected = tmp_path / "reports" / "expected" / "digits.json"
    expected.write_text(expected.read_text().replace('"SUPPORTED"', '"NOT RUN"'))
    assert rewrite(tmp_path, "--check") == 1
    assert rewrite(tmp_path) == 0 and rewrite(tmp_path, "--check") == 0
    after = (tmp_path / "README.md").read_text()
    assert "claims: 0 supported" in after and "claims: 0 supported" not in README
    document = json.loads(expected.read_text())
    document["cells"]["table1/mlp/qat4/test_accuracy_last"]["value"] = 33.0
    expected.write_text(json.dumps(document))
    before = (tmp_path / "docs" / "picture.svg").read_text()
    assert rewrite(tmp_path, "--check") == 1 and rewrite(tmp_path) == 0
    assert (tmp_path / "docs" / "picture.svg").read_text() != before
    (tmp_path / "README.md").write_text("<!-- numbers: nothing -->\n<!-- end -->\n")
    with pytest.raises(ValueError, match="nothing makes the block 'nothing'"):
        runpy.run_path(str(ROOT / "scripts" / "readme.py"))["rendered"](
            (tmp_path / "README.md").read_text()
        )


def test_no_result_stands_outside_the_blocks():
    """Decimals, percentages and shares; code, links and the blocks themselves aside."""
    text = re.sub(
        r"<!-- numbers: .*?<!-- end -->|```.*?```|`[^`\n]*`|!?\[[^\]]*\]\([^)]*\)",
        " ",
        README,
        flags=re.S,
    )
    found = set(re.findall(r"\d+\.\d+|\d+(?:\.\d+)? ?%|\d+ of (?:the )?\d+", text))
    assert found <= VERSIONS, found - VERSIONS
