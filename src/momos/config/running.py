"""Sections on which no result depends, and so no stage: where stages run, and tracking."""

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from momos.settings import Settings, require

REPOSITORY = "MOMOS_REPOSITORY"  # environment: the repository that a workspace is of
PLAIN = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.,-]*")  # of partitions, several with commas


@dataclass(frozen=True, kw_only=True)
class Sweep(Settings):
    """The machines on which `make sweep` runs stages."""

    section: ClassVar[str] = "sweep"
    remote: str | None  # a DVC remote that each result is pushed to
    partition: str | None  # SLURM's; null: the default one
    minutes: int  # time limit of one stage's job; longer than the time between two checkpoints
    cpus: int  # of each job
    gpus: int  # of each job
    memory_gb: float  # of each job
    attempts: int  # of a job that times out or ends without a result

    def check(self, where: str) -> None:
        for key in ("minutes", "cpus", "attempts"):
            require(getattr(self, key) >= 1, f"{where}.{key}", "1 or more", getattr(self, key))
        require(self.gpus >= 0, f"{where}.gpus", "0 or more", self.gpus)
        require(self.memory_gb > 0, f"{where}.memory_gb", "positive", self.memory_gb)
        for key in ("remote", "partition"):
            name = getattr(self, key)
            plain = name is None or PLAIN.fullmatch(name)
            require(plain, f"{where}.{key}", "a name or null", name)


@dataclass(frozen=True, kw_only=True)
class Tracking(Settings):
    """MLflow: whether trainings are recorded, and under which experiment."""

    section: ClassVar[str] = "tracking"
    enabled: bool
    experiment: str


def repository() -> Path:
    """Return the repository's root, also in a workspace in which its stages run.

    `make sweep` and `make exp` name it in MOMOS_REPOSITORY. The workspaces of `dvc exp run --temp`
    and of DVC's queue lie in its folder `.dvc/tmp/exps`.
    """
    if named := os.environ.get(REPOSITORY):
        return Path(named)
    for folder in Path.cwd().resolve().parents:
        if folder.parts[-3:] == (".dvc", "tmp", "exps"):
            return folder.parents[2]
    return Path()
