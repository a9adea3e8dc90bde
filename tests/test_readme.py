"""README.md: its numbers are the blessed and the measured ones, and none stands outside the blocks
that are made from them.
"""

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


def test_the_numbers_are_those_of_the_files():
    assert rewrite(ROOT, "--check") == 0, "README.md is behind: make readme"


def test_another_number_in_a_file_is_another_number_here(tmp_path):
    made_from = [
        "benchmarks/results.json",
        "benchmarks/survey.json",
        "reports/expected/digits.json",
        "reports/cifar10/results.json",
    ]
    made_from += ["reports/cifar10_resnet20/results.json"]
    for name in ("README.md", "docs/performance.md", *made_from):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    expected = tmp_path / "reports" / "expected" / "digits.json"
    expected.write_text(expected.read_text().replace('"SUPPORTED"', '"NOT RUN"'))
    assert rewrite(tmp_path, "--check") == 1
    assert rewrite(tmp_path) == 0 and rewrite(tmp_path, "--check") == 0
    after = (tmp_path / "README.md").read_text()
    assert "0 supported" in after and "0 supported" not in README
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
