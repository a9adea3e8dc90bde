"""Compare the report's numbers with the expected ones (`make regress`), or make them the expected
ones (`make bless`).

usage: regress.py [--bless] [--all]

Reads reports/<profile>/results.json (and from provenance.json how its machine rounds) and
reports/expected/<profile>.json of the profile in params.yaml. Exit status: 0 nothing broke, 1 a
number left its tolerance or is gone, 2 there is nothing to compare.
"""

import argparse
import sys
from pathlib import Path

import pandas as pd

from momos import config, regression
from momos.files import atomic

ALIKE = "The expected numbers are of a machine that rounds like this one: without a change of code or settings all of them are the same."
ELSEWHERE = "The expected numbers are of a machine that rounds otherwise: trained networks differ, and bands are wider (momos.regression)."


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
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
        profile = config.profile()
        report = Path("reports") / profile
        results = read(report / "results.json", "make repro")
        rounding = read(report / "provenance.json", "make repro").get("rounding")
        fresh = regression.bless(results, rounding)
        path = Path("reports") / "expected" / f"{profile}.json"
        expected = {"profile": profile, "rounding": rounding, "data": {}, "cells": {}, "claims": {}}
        if path.is_file() or not arguments.bless:
            expected = read(path, "make bless")
        moved = regression.compare(expected, fresh)
    except ValueError as error:
        print(f"regress: {error}", file=sys.stderr)
        return 2
    print(ALIKE if regression.rounds_alike(expected, fresh) else ELSEWHERE, end="\n\n")
    print(page(moved, everything=arguments.all))
    if arguments.bless:
        atomic.write_json(path, fresh)
        print(f"{path} now expects the numbers of this report.")
        return 0
    return int(regression.failed(moved))


def read(path: Path, makes_it: str) -> dict:
    if not path.is_file():
        raise ValueError(f"{path} is missing (`{makes_it}` writes it)")
    return atomic.read_json(path)


def page(moved: pd.DataFrame, *, everything: bool) -> str:
    """The table of what moved, failures first, then the counts and the verdict."""
    order = [
        regression.REGRESSION,
        regression.MISSING,
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
    counts = ", ".join(f"{(moved.verdict == verdict).sum()} {verdict}" for verdict in order)
    verdict = "REGRESSION" if regression.failed(moved) else "no regression"
    return f"{table}\n\n{counts}: {verdict}.".lstrip()


def text(value: object) -> str:
    if value is None or value != value:  # NaN
        return ""
    return f"{value:.6g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    sys.exit(main())
