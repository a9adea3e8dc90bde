"""The trainings of params.yaml without DVC, for a machine that has none: several side by side, as
far as the minutes reach.

usage: trainings.py PREPARED.safetensors FOLDER [--jobs 2] [--minutes 60]

Writes FOLDER/runs/MODEL/METHOD/SEED and FOLDER/costs/..., as stages/train.py writes them, and
FOLDER/provenance.json: the machine. Goes in the order of the grid, passes over what is finished,
and what the minutes cut off goes on from its last checkpoint in the next call, so a lent GPU is
used up to its last minute. Exit status 1 if a training failed; the others run nevertheless.
"""

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "src"))  # momos need not be installed

from momos import config
from momos.compute import device
from momos.files import atomic
from momos.provenance import collect as provenance  # noqa: E402
from momos.provenance import rounding

GRACE = 10.0  # seconds that a training has to end in when the time is over
POLL = 0.2  # seconds
PACKAGES = (
    "torch",
    "torchvision",
    "timm",
    "numpy",
    "numba",
    "scipy",
    "triton",
)  # whose versions results may depend on


@dataclass(frozen=True)
class Training:
    """One run, its files below `folder`."""

    run: config.Run
    folder: Path
    seeds: tuple[int, ...]  # that are trained together, by whichever is started first

    @property
    def name(self) -> str:
        return f"{self.run.model}/{self.run.method}/{self.run.seed}"

    @property
    def cost(self) -> Path:
        """Written last: with it the training is finished."""
        return self.run.folder(self.folder / "costs") / "cost.json"

    @property
    def shared(self) -> str:
        return (
            f", its part of {len(self.seeds)} seeds trained together" if len(self.seeds) > 1 else ""
        )

    def joins(self, other: "Training") -> bool:
        return (self.run.model, self.run.method, self.seeds) == (
            other.run.model,
            other.run.method,
            other.seeds,
        )

    def command(self, prepared: Path) -> list[str]:
        run = self.run
        found = [
            sys.executable,
            str(ROOT / "stages" / "train.py"),
            run.model,
            run.method,
            str(run.seed),
            str(prepared),
        ]
        found += [str(run.folder(self.folder / "runs")), str(self.cost)]
        if run.grid == "ablation":
            found += [
                "--block-size",
                str(run.settings.block_size),
                "--capacity",
                str(run.settings.capacity),
            ]
        return found


def train(
    waiting: Sequence[Training], prepared: Path, *, jobs: int, seconds: float
) -> tuple[list[str], list[str]]:
    """Names of what failed, and of what the time did not reach. Prints a line as each training
    ends.
    """
    end, waiting, failed = time.monotonic() + seconds, list(waiting), []
    running: dict[Training, subprocess.Popen] = {}
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(
            filter(None, [str(ROOT / "src"), os.environ.get("PYTHONPATH")])
        )
    }
    while (waiting or running) and time.monotonic() < end:
        free = (each for each in list(waiting) if not any(map(each.joins, running)))
        while len(running) < jobs and (each := next(free, None)):
            waiting.remove(each)
            running[each] = subprocess.Popen(each.command(prepared), env=environment)
        time.sleep(POLL)
        for each in [each for each, process in running.items() if process.poll() is not None]:
            status = running.pop(each).returncode
            took = (
                f"{atomic.read_json(each.cost)['seconds']:.0f} s{each.shared}"
                if status == 0
                else f"failed with status {status}"
            )
            print(f"{each.name}: {took}", flush=True)
            failed += [each.name] * (status != 0)
    stop(list(running.values()))
    return failed, [each.name for each in (*running, *waiting)]


def stop(processes: Sequence[subprocess.Popen]) -> None:
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
    sections = {
        "train": vars(config.load(config.Train)),
        "data": vars(config.load(config.Data)),
        "grid": vars(config.load(config.Grid)),
    }
    settings = config.load(config.Train)
    found = device.prepare_device(settings.device, settings.num_threads, settings.precision)
    return provenance.collect(sections, PACKAGES, rounding.fingerprint(found))


def main() -> None:
    parser = argparse.ArgumentParser(usage=__doc__)
    parser.add_argument("prepared", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--minutes", type=float, default=60.0)
    args = parser.parse_args()
    start = time.monotonic()
    if not args.prepared.is_file():
        sys.exit(f"{args.prepared} is missing: expected what stages/prepare.py writes")
    try:
        stacks = config.load(config.Train)
        every = [
            Training(
                run, args.folder, stacks.together(run.seed) if run.grid == "main" else (run.seed,)
            )
            for run in config.runs()
        ]
        atomic.write_json(args.folder / "provenance.json", describe_machine())
    except ValueError as error:
        sys.exit(str(error))
    waiting = [each for each in every if not each.cost.is_file()]
    failed, left = train(
        waiting,
        args.prepared,
        jobs=args.jobs,
        seconds=60 * args.minutes - (time.monotonic() - start),
    )
    done = sum(each.cost.is_file() for each in every)
    print(f"{done} of {len(every)} trainings are finished" + "".join(f"; {what}: {', '.join(names)}" for what, names in
          (("failed", failed), ("not finished", left)) if names))  # fmt: skip
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
