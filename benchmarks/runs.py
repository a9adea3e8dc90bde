"""A row of a table for every MoMos run in full precision that a folder of runs has of seed 0."""

import sys
from collections.abc import Callable
from pathlib import Path

import pandas as pd


def paths(usage: str | None, count: int) -> list[Path]:
    """The command line's paths. Ends with the usage, a module's docstring, unless so many came."""
    given = sys.argv[1:]
    if len(given) != count:
        sys.exit(f"expected {count} paths, got {given}\n\n{usage}")
    return [Path(path) for path in given]


def write_table(runs: Path, out: Path, row: Callable[[Path, int], dict]) -> None:
    """Write the table to `out` as CSV, and print it.

    runs: runs/<profile>. row: folder of a run and its block size -> columns.
    """
    rows = []
    for folder in sorted(runs.glob("*/momos_s*_c*/0")):
        model, method = folder.parts[-3:-1]
        if not method.endswith("qat8"):
            rows.append(
                {"model": model, "method": method} | row(folder, int(method.split("_")[1][1:]))
            )
    frame = pd.DataFrame(rows).round(3)
    frame.to_csv(out, index=False)
    print(frame.to_markdown(index=False))
