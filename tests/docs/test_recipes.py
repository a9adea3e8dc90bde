"""CONTRIBUTING.md's recipes, followed word for word in a copy of the working tree."""

import json
import re
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import pytest
from clones import Clone, merge

ROOT = Path(__file__).parents[2]
PLACE = re.compile(r"# (?P<file>\S+\.(?:py|yaml))(?:, (?P<place>[^\n]+))?\n")
SMALL = {
    "grid": {"methods": ["baseline", "momos_s4_c10"], "seeds": [0]},
    "ablation": {"models": []},
    "complexity": {"methods": ["baseline"]},
}
# What the clone's code says of the claim, on a study whose cells have the published numbers.
JUDGE = """
import json, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import synthetic
from momos.report.momos import claims
from momos.report.momos.evidence import Evidence
from momos.report.shared.claims import read_claims

cells = synthetic.evaluation()
evidence = Evidence(
    evaluation=cells, distortion=synthetic.distortion(cells), survey=synthetic.survey([0.9]),
    published=synthetic.published().assign(agrees=True), source="digits", epochs=15)
(claim,) = (claim for claim in read_claims(Path("data/paper")) if claim.id == "M18")
claims.JUDGES.require_same_claims(
    claim for claim in read_claims(Path("data/paper")) if claim.paper == claims.PAPER)
print(json.dumps(claims.judge_claim(claim, evidence)._asdict()))
"""
# A report and its page by the clone's code, of the synthetic study with one method more.
REPORT = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import pages, synthetic
from momos import config

class Study(synthetic.Tree):
    def _rows(self, run):
        if run.settings.family != "pruning":
            return super()._rows(run)
        cell = synthetic.published().iloc[0].copy()
        cell["model"], cell["accuracy_mean"] = run.model, 66.0
        row = synthetic._row(cell, run.seed, float(run.seed), "deployed")
        return [row | {"method": run.method, "grid": run.grid}]

settings = config.profile_settings("digits", synthetic.ROOT / "profiles")
settings["methods"]["pruned50"] = {"bits": 32, "pruned_share": 0.5}
config.profile_settings = lambda *_: settings
synthetic.TREE_METHODS = (*synthetic.TREE_METHODS, "pruned50")
pages.Tree = Study
pages.build(Path(sys.argv[2]))
"""


class Recipe(NamedTuple):
    """A section of the page."""

    files: list[tuple[str, str | None, str]]  # path, place in it (None: the whole file), text
    commands: list[str]


def recipe(heading: str) -> Recipe:
    sections = re.split(r"^### ", (ROOT / "CONTRIBUTING.md").read_text(), flags=re.M)
    (section,) = (section for section in sections if section.startswith(heading))
    blocks = re.findall(r"^```(\w+)\n(.*?)^```", section, re.M | re.S)
    files = []
    for text in (text for language, text in blocks if language != "bash"):
        first = PLACE.match(text)
        assert first, f"{heading}: a block that does not name its file"
        files.append((first["file"], first["place"], text))
    return Recipe(files, [text for language, text in blocks if language == "bash"])


def follow(clone: Clone, heading: str) -> set[str]:
    """Do what the section says -> the files that it touched, those of DVC's results apart."""
    before = status(clone)
    files, commands = recipe(heading)
    for name, place, text in files:
        path = clone.path / name
        if place is None:
            assert not path.exists(), f"{name} is new"
            path.write_text(text)
        else:
            path.write_text(inserted(path.read_text(), place, text.split("\n", 1)[1]))
    for command in commands:
        clone.run("bash", "-ec", command)
    return status(clone) - before - {"dvc.lock"}


def inserted(old: str, place: str, text: str) -> str:
    """The file with the text at its end, or at the end of a YAML section."""
    if place == "at the end":
        return f"{old}\n\n{text}"
    section = place.removeprefix("at the end of ")
    head, rest = re.split(rf"(?<=^{section}:\n)", old, maxsplit=1, flags=re.M)
    end = re.search(r"^\S", rest, re.M)
    at = end.start() if end else len(rest)
    return head + rest[:at] + text + rest[at:]


def status(clone: Clone) -> set[str]:
    lines = clone.run("git", "status", "--porcelain", "-uall").splitlines()
    return {line[3:] for line in lines}


@pytest.fixture(scope="module")
def clone(tmp_path_factory, warm):
    """Stages are forks of one interpreter: their imports would take most of the time."""
    clone = Clone(tmp_path_factory.mktemp("recipes"))
    clone.write_params(merge(clone.params(), SMALL))
    clone.run(
        "git", "-c", "user.name=t", "-c", "user.email=t@example.org", "commit", "-qam", "small"
    )
    clone.env["PATH"] = warm.path
    return clone


def run_code(clone: Clone, code: str, *arguments: object) -> str:
    """What Python code prints, as a file: that a fork can take."""
    path = clone.path.with_name("code.py")
    path.write_text(code)
    return clone.run("python", str(path), str(ROOT / "tests"), *map(str, arguments))


def evaluation(clone: Clone) -> pd.DataFrame:
    path = clone.path / "results" / "micro" / "mlp" / "evaluation.csv"
    return pd.read_csv(path).set_index(["method", "seed"])


@pytest.mark.stress
def test_a_compressor_is_one_file(clone):
    touched = follow(clone, "A compressor")
    assert touched == {"src/momos/complexity/compressors/deflate.py", "params.yaml"}
    ratios = evaluation(clone)
    assert {"gzip", "deflate", "deflate_binary"} <= {*ratios} and "zstd" not in ratios
    assert (ratios.deflate > ratios.gzip).all(), "the same code in a shorter container"


def test_a_new_kind_of_method_is_one_file_and_a_line(clone):
    touched = follow(clone, "A new kind of method")
    assert touched - {"params.yaml"} == {"src/momos/methods/pruning.py"}
    runs = evaluation(clone)
    pruned, baseline = runs.loc[("pruned50", 0)], runs.loc[("baseline", 0)]
    assert pruned.sparsity == pytest.approx(0.5, abs=1e-3) and baseline.sparsity == 0
    assert 1.8 < pruned.rac < 32 / 17 + 0.01 and pruned.lower_complexity


@pytest.mark.stress
def test_a_new_kind_of_method_is_in_every_table_and_on_the_page(clone, tmp_path):
    """It needs the recipe before."""
    run_code(clone, REPORT, tmp_path)
    reports = tmp_path / "reports" / "digits"
    for name in ("tables/table1.md", "tables/complexity.md", "tables/packing.md", "index.html"):
        assert "Pruned 50 %" in (reports / name).read_text(), name
    cells = json.loads((reports / "results.json").read_text())["cells"]
    values = {cell["id"]: cell["value"] for cell in cells}
    assert values["table1/mlp/pruned50/test_accuracy_last"] == pytest.approx(66.5)


def test_a_claim_is_an_entry_and_a_function(clone):
    touched = follow(clone, "A claim")
    assert touched == {"data/paper/claims.yaml", "src/momos/report/momos/claims.py"}
    judgement = json.loads(run_code(clone, JUDGE))
    assert judgement["verdict"] == "SUPPORTED"
    assert judgement["measured"].startswith("largest 14.30")
