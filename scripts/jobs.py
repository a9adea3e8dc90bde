"""The argument --jobs of scripts that run several things side by side."""

import argparse
import os

JOBS = "MOMOS_JOBS"  # environment: the number where --jobs is not given


def add_jobs(parser: argparse.ArgumentParser, what: str = "stages") -> None:
    """Add the argument. what: runs side by side, for the help."""
    parser.add_argument(
        "--jobs",
        type=num_jobs,
        default=os.environ.get(JOBS) or "2",
        help=f"{what} side by side (default: {JOBS}, or 2)",
    )


def num_jobs(text: str) -> int:
    """The count in the argument --jobs. Raises ArgumentTypeError for anything else."""
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(
            f"jobs (--jobs or {JOBS}) must be 1 or more processes, got {text!r}"
        )
    return int(text)
