"""`momos verify-report`: the numbers of a report, derived again from the tables beside it."""

import argparse
import csv
import sys
from pathlib import Path

DESCRIPTION = (
    "Derive every number of results.json again that follows from the committed tables "
    "(FOLDER/tables/*.csv) and from the published ones, and compare its claims with claims.csv. "
    "Nothing is trained. The exit status is 1, and each cell that differs is named, if one does."
)
DIFFERS = 1


def add_commands(commands: "argparse._SubParsersAction") -> None:
    """Add `verify-report` to the parser of the command."""
    parser = commands.add_parser(
        "verify-report", help="derive a report's numbers from its tables", description=DESCRIPTION
    )
    parser.add_argument("report", type=Path, metavar="FOLDER", help="reports/PROFILE")
    parser.add_argument(
        "--data",
        type=Path,
        metavar="FOLDER",
        help="with the published tables in paper/ (default: data beside reports)",
    )
    parser.set_defaults(run=_run_verify)


def _run_verify(arguments: argparse.Namespace) -> int:
    from momos.report.momos.verify import verify

    data = arguments.data or arguments.report.resolve().parent.parent / "data"
    try:
        found = verify(arguments.report, data / "paper", data / "imported")
        differing = [*found.differing, *_claims_that_differ(arguments.report)]
    except (KeyError, TypeError, AttributeError) as error:
        what = "results.json and tables/*.csv that belong together"
        message = f"{arguments.report} lacks {error}: expected a report's folder, with {what}"
        raise ValueError(message) from error
    for line in differing:
        print(f"momos: {line}", file=sys.stderr)
    left = ", ".join(f"{count} of {table}" for table, count in found.not_derived.items())
    beside = f"; not derived, for the report lacks their rows: {left}" if left else ""
    if found.newer:
        named = ", ".join(f"{count} of {measure}" for measure, count in found.newer.items())
        beside += f"; derived, but not in this older report: {named}"
    how_many = f"{len(differing)} differ" if differing else "none differs"
    print(f"{found.num_derived} numbers follow from the tables, {how_many}{beside}")
    return DIFFERS if differing else 0


def _claims_that_differ(report: Path) -> list[str]:
    """A line for each part of a claim, such as its verdict, that is another in claims.csv."""
    from momos.files import atomic

    with (report / "tables" / "claims.csv").open(newline="") as file:
        judged = {row["id"]: row for row in csv.DictReader(file)}
    claims = {claim["id"]: claim for claim in atomic.read_json(report / "results.json")["claims"]}
    lines = [f"claim {name}: only one of both has it" for name in claims.keys() ^ judged.keys()]
    for name in (name for name in judged if name in claims):
        for key, text in judged[name].items():
            if (told := claims[name].get(key) or "") != text:
                lines.append(f"claim {name}: {key} is {told!r}, claims.csv has {text!r}")
    return lines
