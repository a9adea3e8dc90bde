"""The page docs/extending.md, followed word for word in a copy of the working tree."""

import json
import re
from pathlib import Path

import pytest
from clones import Clone, merge

ROOT = Path(__file__).parents[2]
# The page adds a method, a measure and a network: of what has nothing to do with them little is
# enough. The other files of tests try the language models, and every compressor.
SMALL = {
    "data": {"test_fraction": 0.1, "validation_fraction": 0.7},
    "train": {"epochs": 1},
    "evaluate": {"compressors": ["gzip"]},
    "pack": {"compressors": ["gzip"]},
    "complexity": {"methods": ["baseline"], "num_images": 32},
    "slt": {"models": []},
}


def tour() -> list[tuple[str, str]]:
    """The code blocks of docs/extending.md: (language, text)."""
    page = (ROOT / "docs" / "extending.md").read_text()
    return re.findall(r"^```(\w+)\n(.*?)^```", page, re.M | re.S)


def follow(clone: Clone, language: str, text: str) -> None:
    if language == "python":
        (clone.path / re.match(r"# (src/\S+\.py)\n", text).group(1)).write_text(text)
    elif language == "bash":
        clone.run("bash", "-ec", text)


@pytest.mark.stress
def test_the_page_on_extending_works_word_for_word(tmp_path, warm):
    """Its first command runs the study, too: nothing has been run before. So it takes minutes."""
    clone = Clone(tmp_path / "extending")
    clone.write_params(merge(clone.params(), SMALL))
    clone.env["PATH"] = warm.path
    *steps, last = tour()
    with clone.without_drawing():
        for step in steps:
            follow(clone, *step)
    assert last[0] == "bash", "it reports on all that was added"
    follow(clone, *last)
    cells = {
        cell["id"]: cell
        for cell in json.loads((clone.path / "reports" / "micro" / "results.json").read_text())[
            "cells"
        ]
    }
    assert (
        cells["table1/mlp/mine/rac"]["value"] > 2
        and cells["table1/mobile/mine/test_accuracy_last"]["num_seeds"] == 1
    )
    assert 0 < cells["metrics/mobile/baseline/mean_magnitude"]["value"] < 1
