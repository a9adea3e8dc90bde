"""Marks of stages that have taken their part of a training that serves several stages."""

import shutil
from pathlib import Path

ENDING = ".taken"  # of a mark: MEMBER.taken beside the checkpoints, which are NAME/KEY/..


def drop_taken(trainings: Path) -> None:
    """Remove checkpoints below a folder of which some stage has taken its part.

    Call it when no stage is left to run: if a stage is forced to run again, it trains for the
    others, too, and they never come.
    """
    for mark in list(trainings.rglob(f"*{ENDING}")):
        shutil.rmtree(mark.parents[1], ignore_errors=True)
