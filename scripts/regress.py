"""`make regress`: compare the report's numbers with the expected ones; `make bless`: expect them.

usage: regress.py [--bless] [--all]

Reads reports/<profile>/results.json (and from provenance.json how its machine rounds) and
reports/expected/<profile>.json of the profile in params.yaml. Exit status: 0 nothing broke, 1 a
number left its tolerance or is gone, 2 there is nothing to compare.
"""

import argparse
import sys
from pathlib import Path

import pandas as pd

from momos import config
from momos.files import atomic
from momos.report import regression

ALIKE = (
    "The expected numbers are of a machine that rounds like this one:"
    " without a change of code or settings all of them are the same."
)
ELSEWHERE = (
    "The expected numbers are of a machine that rounds otherwise:"
    " trained networks differ, and bands are wider (momos.report.regression)."
)


def main() -> int:
    parser = argparse.ArgumentParser(description="Compare the report's numbers with expected ones.")
    parser.add_argument(
        "--bless",
        action="store_true",
        help="make the report's numbers the expected ones, and print what changes",
    )
    parser.add_argument(
        "--all", action="store_true", help="print the numbers that stayed the same, too"
    )
    arguments = parser.parse_args()
    try:
        return compare(bless=arguments.bless, everything=arguments.all)
    except ValueError as error:
        print(f"regress: {error}", file=sys.stderr)
        return 2


def compare(*, bless: bool, everything: bool) -> int:
    """Print what moved, and write the new expectations if `bless`. Returns the exit status.

    Raises ValueError if there is nothing to compare.
    """
    profile = config.profile()
    report, path = Path("reports") / profile, Path("reports") / "expected" / f"{profile}.json"
    results = read_numbers(report / "results.json", "make repro")
    rounding = read_numbers(report / "provenance.json", "make repro").get("rounding")
    fresh = regression.bless(results, rounding)
    expected: dict = {"profile": profile, "rounding": rounding}
    expected |= {"data": {}, "cells": {}, "claims": {}}
    if path.is_file() or not bless:
        expected = read_numbers(path, "make bless")
    moved = regression.compare(expected, fresh)
    print(ALIKE if regression.rounds_alike(expected, fresh) else ELSEWHERE, end="\n\n")
    print(page(moved, everything=everything))
    if bless:
        atomic.write_json(path, fresh)
        print(f"{path} now expects the numbers of this report.")
        return 0
    return int(regression.failed(moved))


def read_numbers(path: Path, makes_it: str) -> dict:
    """The file's contents. Raises ValueError naming the command that makes a missing file."""
    if not path.is_file():
        raise ValueError(f"{path} is missing (`{makes_it}` writes it)")
    return atomic.read_json(path)


def page(moved: pd.DataFrame, *, everything: bool) -> str:
    """A table of what moved, failures first, then the counts and the verdict."""
    order = [
        regression.REGRESSION,
        regression.MISSING,
        regression.NOT_RUN,
        regression.NEW,
        regression.MOVED,
        regression.SAME,
    ]
    shown = moved if everything else moved[moved.verdict != regression.SAME]
    shown = shown.sort_values("verdict", key=lambda column: column.map(order.index), kind="stable")
    table = (
        shown.rename(columns={"id": "number"})
        .map(text)
        .to_markdown(index=False, disable_numparse=True)
        if len(shown)
        else ""
    )
    numbers = {verdict: int((moved.verdict == verdict).sum()) for verdict in order}
    if not numbers[regression.NOT_RUN]:  # as a rule every weight file is within reach
        del numbers[regression.NOT_RUN]
    counts = ", ".join(f"{number} {verdict}" for verdict, number in numbers.items())
    verdict = "REGRESSION" if regression.failed(moved) else "no regression"
    return f"{table}\n\n{counts}: {verdict}.".lstrip()


def text(value: object) -> str:
    """A cell of the table."""
    if value is None or value != value:  # NaN
        return ""
    return f"{value:.6g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    sys.exit(main())
