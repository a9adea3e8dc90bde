"""Sections on which no result depends, and so no stage: where stages run, and tracking."""

import re
from dataclasses import dataclass
from typing import ClassVar

from momos.settings import Settings, require

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
