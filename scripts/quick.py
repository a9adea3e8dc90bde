"""`make quick`: the whole pipeline in a few minutes, in a workspace of its own.

usage: quick.py [--jobs N]

The workspace is scratch/quick: a copy of the working tree with the settings of profiles/quick.yaml,
and a params.yaml, dvc.lock, cache and reports of its own. So nothing else in the clone changes, and
git is not needed. The workspace is kept: the next `make quick` copies what was edited since, and
runs the stages that this concerns.
"""

import argparse
import json
import os
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import repro
import scm
from copies import update_files
from jobs import add_jobs
from locks import write_at_once

from momos.config import overlays

PROFILE = "quick"
WORKSPACE = Path("scratch/quick")
REPORT = WORKSPACE / "reports" / PROFILE
LEFT_OUT = (".github/", "benchmarks/", "docs/", "dvc.lock", "params.yaml", "reports/", "tests/")
# DVC without git, and with a cache of its own even where the machine's settings name a shared one.
DVC_SETTINGS = "[core]\n    no_scm = true\n[cache]\n    dir = cache\n"
# Environment variables, and what they name in the workspace. No settings of the user's are read.
PLACES = {
    "PYTHONPATH": "src",
    "DVC_SITE_CACHE_DIR": ".dvc/site",
    "DVC_GLOBAL_CONFIG_DIR": ".dvc/user",
}


def fill(root: Path, folder: Path) -> None:
    """Make or update the workspace: root's files, the profile as params.yaml, DVC's settings.

    Raises ValueError for a profile that is no overlay on its base.
    """
    settings = overlays.complete_text(root / "profiles" / f"{PROFILE}.yaml")
    update_files(root, folder, LEFT_OUT)
    write_if_other(folder / "params.yaml", settings)
    write_if_other(folder / ".dvc" / "config.local", DVC_SETTINGS)


def write_if_other(path: Path, text: str) -> None:
    """Write a file, or leave it untouched if it has this text."""
    if not path.is_file() or path.read_text(encoding="utf-8") != text:
        write_at_once(path, text)


def enter(folder: Path) -> None:
    """Go to the workspace, whose code all stages import from here on, and which holds all state."""
    os.chdir(folder)
    os.environ |= {name: str(folder / place) for name, place in PLACES.items()}


def run(jobs: int) -> int:
    """Update the workspace, run its stages and say what the page shows. Returns the exit code."""
    root, start = Path.cwd(), time.monotonic()
    fill(root, root / WORKSPACE)
    enter(root / WORKSPACE)
    try:
        scm.drop_torn_lock(Path.cwd())
        repro.check_params()
        code = repro.reproduce(jobs)
    finally:
        os.chdir(root)
    if code == 0:
        print("\n".join(summary(REPORT, time.monotonic() - start)))
    return code


def summary(report: Path, seconds: float) -> list[str]:
    """Where the page is, and in a few lines what it shows. report: the folder of the page."""
    # Not by momos.files.atomic, which imports torch: two seconds where nothing is to be done.
    results = json.loads((report / "results.json").read_text(encoding="utf-8"))
    verdicts = Counter(claim["verdict"] for claim in results["claims"])
    return [
        f"\n{report / 'index.html'} is the page ({repro.clock(seconds)}); open it in a browser.",
        "Test accuracy, and how many times smaller the description of the weights is:",
        *(f"  {results['names']['models'][model]}: {row}" for model, row in rows(results).items()),
        f"Claims: {', '.join(f'{count} {verdict}' for verdict, count in verdicts.most_common())}.",
        "One seed and few epochs settle none of them: `make repro` runs the study.",
    ]


def rows(results: dict[str, Any]) -> dict[str, str]:
    """The cells of Table 1 that were run, one line per model."""
    cells = {cell["id"]: cell["value"] for cell in results["cells"] if cell["table"] == "table1"}
    grid, names = results["settings"]["grid"], results["names"]["methods"]
    return {
        model: ", ".join(
            f"{names[method]['label']} {cells[f'table1/{model}/{method}/test_accuracy_last']:.1f} %"
            f" at {cells[f'table1/{model}/{method}/rac']:.1f}"
            for method in grid["methods"]
        )
        for model in grid["models"]
    }


def command_line() -> argparse.Namespace:
    """The arguments of this script."""
    parser = argparse.ArgumentParser(description="Run the whole pipeline in a few minutes.")
    add_jobs(parser)
    return parser.parse_args()


def main() -> int:
    arguments = command_line()
    return repro.alone("quick", Path(f"{WORKSPACE}.lock"), lambda: run(arguments.jobs))


if __name__ == "__main__":
    sys.exit(main())
