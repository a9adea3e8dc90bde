"""`momos verify-report`: the numbers of a report, derived again from the tables beside it."""

import argparse
import sys
from pathlib import Path

DESCRIPTION = (
    "Derive every number of results.json again that follows from the committed tables "
    "(FOLDER/tables/*.csv) and from the published ones. Nothing is trained. The exit status is 1, "
    "and each cell that differs is named, if one does."
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
    except (KeyError, TypeError, AttributeError) as error:
        what = "results.json and tables/*.csv that belong together"
        message = f"{arguments.report} lacks {error}: expected a report's folder, with {what}"
        raise ValueError(message) from error
    for line in found.differing:
        print(f"momos: {line}", file=sys.stderr)
    left = ", ".join(f"{count} of {table}" for table, count in found.not_derived.items())
    beside = f"; not derived, for the report lacks their rows: {left}" if left else ""
    if found.newer:
        named = ", ".join(f"{count} of {measure}" for measure, count in found.newer.items())
        beside += f"; derived, but not in this older report: {named}"
    differing = f"{len(found.differing)} differ" if found.differing else "none differs"
    print(f"{found.num_derived} numbers follow from the tables, {differing}{beside}")
    return DIFFERS if found.differing else 0
