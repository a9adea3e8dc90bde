"""Sections that no result depends on: how stages are spread, and what MLflow is told."""

from dataclasses import dataclass
from typing import ClassVar

from momos.settings import Settings, require


@dataclass(frozen=True, kw_only=True)
class Sweep(Settings):
    """Where `make sweep` runs stages. No result depends on it, so no stage does either."""

    section: ClassVar[str] = "sweep"
    remote: str | None  # a DVC remote that each result is pushed to
    partition: str | None  # SLURM's; null: the default one
    minutes: int  # of one stage's job, between two checkpoints at the least
    cpus: int  # from here on of each job
    gpus: int
    memory_gb: float
    attempts: int

    def check(self, where: str) -> None:
        for key in ("minutes", "cpus", "attempts"):
            require(getattr(self, key) >= 1, f"{where}.{key}", "1 or more", getattr(self, key))
        require(self.gpus >= 0, f"{where}.gpus", "0 or more", self.gpus)
        require(self.memory_gb > 0, f"{where}.memory_gb", "positive", self.memory_gb)
        for key in ("remote", "partition"):
            require(
                getattr(self, key) != "", f"{where}.{key}", "a name or null", getattr(self, key)
            )


@dataclass(frozen=True, kw_only=True)
class Tracking(Settings):
    """MLflow. No result depends on it, so no stage does either."""

    section: ClassVar[str] = "tracking"
    enabled: bool
    experiment: str
