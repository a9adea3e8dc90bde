"""`make quick`: a complete page from a workspace of its own, and nothing else in the clone changes.

With a profile that is smaller still, and still takes a minute of a core: `make stress` runs these
tests. CI runs the real one, and asks git whether the clone is as before. Without git it runs in
`make stress` alone.
"""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from clones import Clone, merge
from copies import files_of, update_files
from spread import FEWER

from momos import config

ROOT = Path(__file__).parents[2]
SECTIONS = [
    "verdict", "tables", "front", "figures", "measures", "singular", "claims", "cost",
    "environment", "pipeline", "numbers",
]  # fmt: skip


class QuickClone(Clone):
    """A clone whose profile `quick` takes a few seconds.

    Its folder has an unusual name, there is no home, and the folder for temporary files is deep.
    """

    def __init__(self, path):
        super().__init__(path)
        deep = path.parent / ("t" * 120)
        deep.mkdir()
        self.env |= {"HOME": str(path / "README.md" / "home"), "TMPDIR": str(deep)}
        for name in [name for name in self.env if name.startswith("XDG_")]:
            del self.env[name]
        small = merge(merge(self.params(), FEWER), {"profile": "quick"})
        (path / "profiles" / "quick.yaml").write_text(yaml.safe_dump(small, sort_keys=False))
        (path / "dvc.lock").write_text("schema: '2.0'\nstages: {}\n")

    def quick(self, *, check=True):
        return self.run("python", "scripts/quick.py", check=check)

    def state(self):
        """The bytes of all files outside scratch/ and the environment's caches."""
        return {
            str(path.relative_to(self.path)): path.read_bytes()
            for path in self.path.rglob("*")
            if path.is_file() and not {"scratch", ".git", "__pycache__"} & set(path.parts)
        }


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    return QuickClone(tmp_path_factory.mktemp("quick") / "my clone (2) ü")


@pytest.mark.stress
def test_the_page_is_complete_and_the_clone_stays_as_it_is(clone):
    before, git = clone.state(), clone.run("git", "status", "--porcelain", "-uall")
    out = clone.quick()
    page = "scratch/quick/reports/quick/index.html"
    assert f"\n{page} is the page" in out
    assert re.search(r"^  MLP: Baseline \d+\.\d % at 1\.0, MoMos s=4, C=10 % \d", out, re.M), out
    assert "NOT RUN" in out.split("Claims: ")[1]
    assert clone.state() == before, "params.yaml, dvc.lock and reports among them"
    assert clone.run("git", "status", "--porcelain", "-uall") == git
    text = (clone.path / page).read_text()
    assert [name for name in SECTIONS if f'id="{name}"' not in text] == []
    assert "Table 1" in text and "neox" in text and "test_resnet" in text and ".momos" in text
    assert not list(clone.path.glob("mlflow*"))


@pytest.mark.stress
def test_a_second_run_runs_no_stage_and_an_edit_those_that_it_concerns(clone):
    assert "All stages are up to date.\n" in clone.quick()
    lock = clone.path / "scratch" / "quick" / "dvc.lock"
    before = yaml.safe_load(lock.read_text())["stages"]
    edited = clone.path / "src/momos/page/templates/page.html"
    edited.write_text(edited.read_text().replace("<main", "<!-- another word --><main", 1))
    assert "Up to 1 stages to run" in clone.quick()
    after = yaml.safe_load(lock.read_text())["stages"]
    assert [stage for stage in after if after[stage] != before[stage]] == ["page"]
    page = clone.path / "scratch/quick/reports/quick/index.html"
    assert "<!-- another word -->" in page.read_text()


@pytest.mark.stress
def test_it_works_without_git(clone):
    """As from the archive that a code host offers. Nothing is left of git."""
    (clone.path / "data" / "raw" / "mine.png").write_text("git would ignore it")
    shutil.rmtree(clone.path / ".git")
    assert "All stages are up to date.\n" in clone.quick()
    assert not (clone.path / "scratch/quick/data/raw/mine.png").exists()


def test_a_wrong_profile_stops_it_before_any_work(clone):
    profile = clone.path / "profiles" / "quick.yaml"
    right = profile.read_text()
    profile.write_text(right.replace("epochs:", "epohcs:"))
    assert "epohcs" in clone.quick(check=False)
    profile.write_text(right)


def test_the_profile_has_a_part_of_everything():
    settings = config.profile_settings("quick", ROOT / "profiles")
    assert settings["profile"] == "quick" and settings["grid"]["seeds"] == [0]
    families = {re.match("[a-z]+", method)[0] for method in settings["grid"]["methods"]}
    assert families == {"baseline", "qat", "momos"} and len(settings["grid"]["models"]) == 2
    for section, key in (
        ("ablation", "models"), ("slt", "models"), ("slt", "schemes"), ("complexity", "methods"),
        ("survey", "untrained"), ("pack", "seeds"),
    ):  # fmt: skip
        assert settings[section][key], f"{section}.{key}"


# --- copies of the working tree


@pytest.fixture
def tree(tmp_path):
    root = tmp_path / "tree"
    for name, text in {
        ".gitignore": "/out/\n*.log\n/data/*\n!/data/README.md\n__pycache__/\n",
        "a.py": "a", "b.log": "b", "out/c": "c", "data/README.md": "d", "data/image": "e",
        "src/.gitignore": "*.tmp\n!keep.log\n", "src/x.py": "x", "src/y.tmp": "y",
        "src/keep.log": "k", "src/__pycache__/x.pyc": "z", "src/out/f": "f", "né w.py": "n",
    }.items():  # fmt: skip
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


KEPT = {
    ".gitignore", "a.py", "data/README.md", "src/.gitignore", "src/x.py", "src/keep.log",
    "src/out/f", "né w.py",
}  # fmt: skip


def test_without_git_the_same_files_are_found_as_with_it(tree):
    assert set(files_of(tree)) == KEPT
    subprocess.run(["git", "init", "-q"], cwd=tree, check=True)
    assert set(files_of(tree)) == KEPT
    # In a folder of somebody else's repository, git would list that one's files.
    assert set(files_of(tree / "src")) == {".gitignore", "x.py", "keep.log", "out/f"} | {
        "__pycache__/x.pyc"
    }
    assert set(files_of(tree, ("src/", "a"))) == {".gitignore", "data/README.md", "né w.py"}


def test_a_copy_follows_its_original(tree, tmp_path):
    copy = tmp_path / "copy"
    update_files(tree, copy)
    (copy / "made here").write_text("m")
    untouched = (copy / "a.py").stat().st_mtime_ns
    (tree / "a.py").touch()
    (tree / "src" / "x.py").write_text("another")
    (tree / "src" / "keep.log").unlink()
    (tree / "src" / "keep.log").mkdir()
    (tree / "src" / "keep.log" / "inner").write_text("i")
    update_files(tree, copy)
    assert (copy / "a.py").stat().st_mtime_ns == untouched, "the same text: DVC need not hash it"
    assert (copy / "src" / "x.py").read_text() == "another"
    assert (copy / "src" / "keep.log" / "inner").read_text() == "i"
    assert (copy / "made here").read_text() == "m"
