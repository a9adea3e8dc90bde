"""Run the trainings of params.yaml without DVC, for a machine that has none.

usage: trainings.py PREPARED.safetensors FOLDER [--jobs 2] [--minutes 60]

Writes FOLDER/runs/MODEL/METHOD/SEED and FOLDER/costs/..., as stages/train.py writes them, and the
machine's description, FOLDER/provenance.json. Several trainings run side by side, in the order of
the grid; finished ones are passed over. A training that the minutes cut off resumes from its last
checkpoint in the next call, so a lent GPU is used up to its last minute. Exit status 1 if a
training failed; the others run nevertheless.
"""

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jobs import add_jobs

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "src"))  # momos need not be installed

from momos import config  # noqa: E402 (needs the line above)
from momos.compute import device  # noqa: E402
from momos.files import atomic  # noqa: E402
from momos.provenance import collect, rounding  # noqa: E402

GRACE = 10.0  # seconds that a training has to end in when the time is over
POLL = 0.2  # seconds
# Packages on whose versions results may depend.
PACKAGES = ("torch", "torchvision", "timm", "numpy", "numba", "scipy", "triton")


@dataclass(frozen=True)
class PlannedTraining:
    """One run, with its files below `folder`."""

    run: config.Run
    folder: Path
    seeds: tuple[int, ...]  # trained together, by whichever is started first

    @property
    def name(self) -> str:
        return f"{self.run.model}/{self.run.method}/{self.run.seed}"

    @property
    def cost(self) -> Path:
        """The file that is written last: with it the training is finished."""
        return self.run.folder(self.folder / "costs") / "cost.json"

    @property
    def stack(self) -> tuple[str, str, tuple[int, ...]]:
        """What the trainings of one stack have in common."""
        return self.run.model, self.run.method, self.seeds

    def command(self, prepared: Path) -> list[str]:
        """The stage's command line, as in dvc.yaml. prepared: the images."""
        run = self.run
        command = [sys.executable, str(ROOT / "stages" / "train.py")]
        command += [run.model, run.method, str(run.seed), str(prepared)]
        command += [str(run.folder(self.folder / "runs")), str(self.cost)]
        if run.grid == "ablation":
            command += ["--block-size", str(run.settings.block_size)]
            command += ["--capacity", str(run.settings.capacity)]
        return command

    def remove_unfinished(self) -> None:
        """Remove files that a process was writing when it was killed."""
        for folder in (self.run.folder(self.folder / "runs"), self.cost.parent):
            for unfinished in folder.glob(".*.tmp"):
                unfinished.unlink()

    def outcome(self, status: int) -> str:
        """What a reader is told when its process has ended."""
        if status != 0:
            return f"{self.name}: failed with status {status}"
        together = len(self.seeds)
        shared = f", its part of {together} seeds trained together" if together > 1 else ""
        return f"{self.name}: {atomic.read_json(self.cost)['seconds']:.0f} s{shared}"


def train(
    waiting: Sequence[PlannedTraining], prepared: Path, *, jobs: int, seconds: float
) -> tuple[list[str], list[str]]:
    """Run trainings side by side until all have ended or the time is over.

    Prints a line as each one ends. Returns the names of those that failed, and of those that the
    time did not reach.
    """
    end = time.monotonic() + seconds
    failed: list[str] = []
    waiting, running = list(waiting), dict[PlannedTraining, subprocess.Popen[bytes]]()
    while (waiting or running) and time.monotonic() < end:
        start_next(waiting, running, prepared, jobs)
        time.sleep(POLL)
        for training in [one for one, process in running.items() if process.poll() is not None]:
            status = running.pop(training).returncode
            print(training.outcome(status), flush=True)
            failed += [training.name] * (status != 0)
    stop(list(running.values()))
    return failed, [training.name for training in (*running, *waiting)]


def start_next(
    waiting: list[PlannedTraining],
    running: dict[PlannedTraining, subprocess.Popen[bytes]],
    prepared: Path,
    jobs: int,
) -> None:
    """Move trainings from `waiting` to `running`, up to `jobs`, none whose stack is running."""
    path = os.pathsep.join(filter(None, [str(ROOT / "src"), os.environ.get("PYTHONPATH")]))
    for training in list(waiting):
        if len(running) >= jobs:
            return
        if training.stack not in {other.stack for other in running}:
            waiting.remove(training)
            training.remove_unfinished()
            running[training] = subprocess.Popen(
                training.command(prepared), env=os.environ | {"PYTHONPATH": path}
            )


def stop(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    """End processes: SIGTERM first, SIGKILL after GRACE seconds."""
    for process in processes:
        process.terminate()
    end = time.monotonic() + GRACE
    for process in processes:
        try:
            process.wait(max(end - time.monotonic(), 0))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def describe_machine() -> dict:
    """What provenance.json says: versions, hardware, settings, and how the device rounds."""
    settings = config.load(config.Train)
    sections = {
        "train": vars(settings),
        "data": vars(config.load(config.Data)),
        "grid": vars(config.load(config.Grid)),
    }
    chosen = device.prepare_device(settings.device, settings.num_threads, settings.precision)
    return collect.collect_provenance(sections, PACKAGES, rounding.fingerprint(chosen))


def list_trainings(folder: Path) -> list[PlannedTraining]:
    """All trainings of params.yaml. Raises ValueError naming a wrong setting."""
    stacks = config.load(config.Train)
    return [
        PlannedTraining(
            run, folder, stacks.together(run.seed) if run.grid == "main" else (run.seed,)
        )
        for run in config.runs()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(usage=__doc__)
    parser.add_argument("prepared", type=Path)
    parser.add_argument("folder", type=Path)
    add_jobs(parser, "trainings")
    parser.add_argument("--minutes", type=float, default=60.0)
    args = parser.parse_args()
    start = time.monotonic()
    if not args.prepared.is_file():
        sys.exit(f"{args.prepared} is missing: expected what stages/prepare.py writes")
    try:
        trainings = list_trainings(args.folder)
        atomic.write_json(args.folder / "provenance.json", describe_machine())
    except ValueError as error:
        sys.exit(str(error))
    waiting = [training for training in trainings if not training.cost.is_file()]
    seconds = 60 * args.minutes - (time.monotonic() - start)
    failed, left = train(waiting, args.prepared, jobs=args.jobs, seconds=seconds)
    done = sum(training.cost.is_file() for training in trainings)
    parts = [f"{done} of {len(trainings)} trainings are finished"]
    parts += [f"failed: {', '.join(failed)}"] * bool(failed)
    parts += [f"not finished: {', '.join(left)}"] * bool(left)
    print("; ".join(parts))
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
