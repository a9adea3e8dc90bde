"""`make mutants`: break a formula, rerun a tiny study, and see `make regress` turn red.

usage: mutants.py [NAME ...]

A copy of the working tree gets a profile of a few seconds, whose unbroken numbers are blessed. Then
each mutant makes one deliberate mistake in one line of a copy, two of them side by side. Exit
status 1 if the unbroken code is not green, or if a mutant is: then a broken number would have gone
unnoticed.
"""

import copy
import functools
import json
import os
import queue
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from copies import copy_files, merged

from momos import config
from momos.config.numbers import write_yaml

ROOT = Path(__file__).parents[1]
CHANGES = {
    "profile": "mutants",
    "train": {"epochs": 2, "batch_size": 256},
    "models": {"mlp": {"kwargs": {"hidden_layers": 2, "width": 32}, "epochs": None}},
    # Of 16 weights: most blocks go to zero.
    "methods": {
        "qat3": {"bits": 3},
        "momos_s16_c10": {"bits": 32, "block_size": 16, "capacity": 0.10},
    },
    "grid": {
        "models": ["mlp"],
        "methods": ["baseline", "qat3", "momos_s16_c10"],
        "seeds": [0, 1],
        "more_seeds_of": [],
    },
    "ablation": {"models": []},
    "survey": {"untrained": ["test_resnet"], "source": "none", "path": None, "init_seeds": [0]},
    "report": {"picture_method": "momos_s16_c10", "picture_size": 16},
    "tracking": {"enabled": False},
}
# Stages of the second paper: the first one's report does without.
SKIPPED = (
    "text", "language", "compressibility", "llc", "rivals", "complexity", "slt_report",
)  # fmt: skip
LEFT_OUT = ("reports/", "tests/", "docs/", "dvc.lock")  # of the copy
# regress.py compares no figure, and drawing them is a quarter of such a study's time.
RUN_ALL = """
import json, runpy, sys
from momos.report.shared import figures
figures.write_all = lambda drawings, folder: None
for command in json.load(sys.stdin):
    sys.argv = command
    runpy.run_path(command[0], run_name="__main__")
"""


class Mutant(NamedTuple):
    """A mistake: `wrong` in place of `right`."""

    file: str
    right: str  # stands there once
    wrong: str


LIBRARY = "src/momos/"
MUTANTS = {
    "RAC, motifs cost one weight each": Mutant(
        f"{LIBRARY}methods/momos.py", "in codebooks) * self.block_size", "in codebooks)"
    ),
    "BDM, repetitions are free": Mutant(
        f"{LIBRARY}complexity/bdm.py", "table[present] + np.log2(counts[present])", "table[present]"
    ),
    "projection, no zero block": Mutant(
        f"{LIBRARY}methods/mosaic.py",
        "drawn]) if force_zero else",
        "drawn]) if not force_zero else",
    ),
    "QAT, a level too many in the scale": Mutant(
        f"{LIBRARY}methods/quantize.py", "-low, high) / levels", "-low, high) / (levels + 1)"
    ),
    "data, another split": Mutant(
        "params.yaml", "fraction: 0.1\n  split_seed: 0", "fraction: 0.1\n  split_seed: 1"
    ),
}


class Copy:
    """The working tree in a folder of its own, as a repository of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        copy_files(ROOT, folder, LEFT_OUT)
        params = merged(config.profile_settings("digits", ROOT / "profiles"), CHANGES)
        (folder / "params.yaml").write_text(write_yaml(params), encoding="utf-8")
        subprocess.run(["git", "init", "-q"], cwd=folder, check=True)
        # Provenance says that the machine is the same, so that bands are narrow.
        self.commands = commands(folder, "provenance")

    def again(self, folder: Path) -> "Copy":
        """Another one, with what is blessed and compiled in this one."""
        shutil.copytree(self.folder, folder)
        other = copy.copy(self)
        other.folder = folder
        return other

    def study(self) -> None:
        """Run every stage up to the report's numbers, in one process: imports take longest."""
        for name in ("results", "reports/mutants", "runs", "data/prepared", "scratch"):
            shutil.rmtree(self.folder / name, ignore_errors=True)
        self.python("-c", RUN_ALL, text=json.dumps(self.commands), check=True)

    def regress(self, *arguments: str) -> tuple[int, str]:
        """Exit status and page of scripts/regress.py."""
        done = self.python("scripts/regress.py", *arguments)
        return done.returncode, done.stdout

    def python(
        self, *arguments: str, text: str = "", check: bool = False
    ) -> subprocess.CompletedProcess[str]:
        """Run this Python in the copy. Raises RuntimeError if `check` and it fails."""
        environment = os.environ | {
            "PYTHONPATH": str(self.folder / "src"),
            "MLFLOW_TRACKING_URI": f"sqlite:///{self.folder}/mlflow.db",
        }
        done = subprocess.run(
            [sys.executable, *arguments],
            cwd=self.folder,
            env=environment,
            input=text,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        if check and done.returncode:
            raise RuntimeError(f"the study of the mutants' profile failed:\n{done.stdout}")
        return done

    def replace(self, file: str, old: str, new: str) -> None:
        """Replace a text in a file. Raises ValueError unless `old` stands there once."""
        text = (self.folder / file).read_text()
        if text.count(old) != 1:
            found = f"expected {old!r} once, found it {text.count(old)} times"
            raise ValueError(f"{file}: {found}: the mutant needs a new place")
        (self.folder / file).write_text(text.replace(old, new))


def commands(folder: Path, target: str) -> list[list[str]]:
    """Commands of the target's stage and of all before it but SKIPPED: [script, argument, ..]."""
    import networkx
    from dvc.repo import Repo

    with Repo(str(folder)) as repo:
        graph = repo.index.graph  # from a stage to those it needs
        last = next(stage for stage in graph if stage.name == target)
        needed = graph.subgraph({last, *networkx.descendants(graph, last)})
        ordered = networkx.lexicographical_topological_sort(
            needed.reverse(), key=lambda stage: stage.name
        )
        return [
            stage.cmd.split()[1:]
            for stage in ordered
            if stage.name.partition("@")[0] not in SKIPPED
        ]


def main(names: list[str]) -> int:
    unknown = [name for name in names if name not in MUTANTS]
    if unknown:
        raise SystemExit(
            f"unknown mutant {', '.join(unknown)}: expected some of {'; '.join(MUTANTS)}"
        )
    survivors = []
    names = ["nothing broken", *(names or MUTANTS)]
    with tempfile.TemporaryDirectory(prefix="momos-mutants-") as folder:
        first = Copy(Path(folder) / "0")
        first.study()
        first.regress("--bless")
        free = queue.SimpleQueue[Copy]()
        free.put(first)
        free.put(first.again(Path(folder) / "1"))
        with ThreadPoolExecutor(free.qsize()) as pool:
            attempts = pool.map(functools.partial(attempt, free), names)
            for name, (right, line) in zip(names, attempts, strict=True):
                print(line, flush=True)
                survivors += [] if right else [name]
    if survivors:
        print(f"`make regress` does not tell right from wrong: {'; '.join(survivors)}")
    return int(bool(survivors))


def attempt(free: "queue.SimpleQueue[Copy]", name: str) -> tuple[bool, str]:
    """Run the study in a copy that is free, with the mistake of that name if it is one's.

    Returns whether regress.py says what it should, and a line for the user.
    """
    where, mutant, start = free.get(), MUTANTS.get(name), time.monotonic()
    try:
        if mutant:
            where.replace(mutant.file, mutant.right, mutant.wrong)
        try:
            where.study()
            code, page = where.regress()
        finally:
            if mutant:
                where.replace(mutant.file, mutant.wrong, mutant.right)
    finally:
        free.put(where)
    right, counts = code == (1 if mutant else 0), page.strip().splitlines()[-1]
    seconds = time.monotonic() - start
    return right, f"{'ok ' if right else 'BAD'} {name}: {counts} ({seconds:.0f} s)"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
