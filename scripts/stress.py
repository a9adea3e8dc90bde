"""`make stress`: kill stages at random moments, and see each study end with the same bytes.

usage: stress.py [--kills N] [--terms N] [--seed SEED]

A small profile runs whole in a folder of its own. Then one training is killed N times (SIGKILL to
it and to DVC): while it reads data, within an epoch, in a projection, while it writes a checkpoint,
while it saves its results. Survey, LLC and language model get SIGTERM. After each interruption
`dvc repro` runs without the run-cache. Every output's hash in dvc.lock, the report's among them,
must then be that of the undisturbed run.

How a moment is met: DVC's `python` is this script. It runs the stage and tells when a function is
called for the n-th time. The signal comes after a random delay. The stage's own code knows nothing
of it.
"""

import argparse
import collections
import contextlib
import importlib
import os
import random
import re
import runpy
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from copies import copy_files, merged

from momos import config
from momos.config.numbers import write_yaml

ROOT = Path(__file__).resolve().parents[1]
# Environment of the victim, in names that a fork of the warm interpreter takes over.
FIFO, HOOK, HOLD = "MOMOS_STRESS_FIFO", "MOMOS_STRESS_HOOK", "MOMOS_STRESS_HOLD"
APART = ("cost", "provenance", "index.html")  # outputs that no two runs share
LEFT_OUT = ("reports/", "tests/", "dvc.lock")  # of the copy
EPOCHS, LM_STEPS, CHAINS = 6, 12, 2
SURVEYED = ["test_resnet", "test_convnext", "test_vit"]
CHANGES = {
    "profile": "stress",
    "train": {"epochs": EPOCHS, "checkpoint_seconds": 0},
    "models": {"mlp": {"kwargs": {"hidden_layers": 2, "width": 64}, "epochs": None}},
    "grid": {
        "models": ["mlp"],
        "methods": ["baseline", "momos_s4_c10"],
        "seeds": [0],
        "more_seeds_of": [],
    },
    "ablation": {"models": []},
    "complexity": {"methods": []},
    "survey": {
        "untrained": SURVEYED,
        "source": "none",
        "path": None,
        "init_seeds": [0],
        "compressors": ["gzip"],
    },
    "report": {"picture_method": "momos_s4_c10", "picture_size": 16},
    "language": {"batch_size": 4, "warmup_steps": 2, "num_held_out": 4},
    "language_models": {
        "neox": {
            "kwargs": {
                "hidden_size": 16,
                "num_hidden_layers": 3,
                "num_attention_heads": 2,
                "intermediate_size": 32,
            },
            "steps": [3, 6, 9, LM_STEPS],
        }
    },
    "slt": {"seeds": [1], "schemes": ["quantization_max"], "fit_steps": [3, LM_STEPS]},
    "compressibility": {"num_sequences": 4, "max_n_q": 9},
    "llc": {
        "num_chains": CHAINS,
        "num_burnin_steps": 1,
        "batch_size": 2,
        "num_batches": 4,
        "num_probes": 2,
        "num_probe_batches": 1,
        "num_draws": {"neox": 4},
    },
    "tracking": {"enabled": False},
}


class Moment(NamedTuple):
    """A random time up to `delay` seconds after the n-th call of a function, n up to `calls`."""

    name: str
    function: str  # module:qualified.name
    calls: int
    delay: float


TRAINING = "train@mlp-momos_s4_c10-0"
KILLS = [
    Moment("data", "momos.images.dataset:load_dataset", 1, 0.05),
    Moment("epoch", "momos.training.loop:Training.steps", EPOCHS, 0.1),
    Moment("projection", "momos.methods.mosaic:project_", EPOCHS, 0.01),
    Moment("checkpoint write", "momos.resume.checkpoints:Checkpoints.save", EPOCHS, 0.02),
    Moment("final save", "momos.files.run_folder:save_weights", 3, 0.01),
]
TERMS = {
    "survey": Moment("survey", "momos.survey.run:measure_candidate", len(SURVEYED), 0.5),
    "llc@neox-1": Moment("llc", "momos.slt.llc.estimator:_Run.chain", 4 * CHAINS, 0.1),
    "language@neox-1": Moment("language model", "momos.language.training:_update", LM_STEPS, 0.02),
}


# --- the victim


def tell_when_called(function: str, number: int, hold: float) -> None:
    """Make the function's call of that number write a byte to the FIFO and wait `hold` seconds."""
    module, _, path = function.partition(":")
    owner: object = importlib.import_module(module)
    *parents, name = path.split(".")
    for parent in parents:
        owner = getattr(owner, parent)
    original: Callable[..., object] = getattr(owner, name)
    calls = iter(range(1, sys.maxsize))

    # Any: it takes what the function takes.
    def wrapped(*args: Any, **kwargs: Any) -> object:
        if next(calls) == number:
            Path(os.environ[FIFO]).write_bytes(b".")
            time.sleep(hold)
        return original(*args, **kwargs)

    setattr(owner, name, wrapped)


def be_victim(script: str, *arguments: str) -> None:
    """Run `python SCRIPT ARGUMENTS` with the hook that the environment names."""
    function, _, number = os.environ[HOOK].rpartition("#")
    tell_when_called(function, int(number), float(os.environ[HOLD]))
    sys.argv = [script, *arguments]
    runpy.run_path(script, run_name="__main__")


# --- whoever kills it


def interrupt(
    command: list[str],
    function: str,
    number: int,
    delay: float | None,
    signal_number: int,
    *,
    cwd: Path,
    env: dict[str, str],
) -> None:
    """Start the command, and send a signal to its process group at a call of the function.

    number: of the call, from 1. delay: seconds after the call begins; None: at the call, which
    waits for the signal. Raises SystemExit with what was printed if the command ends before.
    """
    with tempfile.TemporaryDirectory(prefix="momos-") as folder:
        fifo, log = Path(folder) / "fifo", Path(folder) / "log"
        os.mkfifo(fifo)
        reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
        hold = "60" if delay is None else "0"
        hook = {FIFO: str(fifo), HOOK: f"{function}#{number}", HOLD: hold}
        with log.open("w") as out:
            process = subprocess.Popen(
                command,
                cwd=cwd,
                env=env | hook,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        while not select.select([reader], [], [], 0.5)[0] and process.poll() is None:
            pass
        time.sleep(delay or 0.0)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal_number)
        os.close(reader)
        if process.wait() != -signal_number:
            ended = f"ended before it was killed, with {process.returncode}"
            raise SystemExit(f"{function} {number}: {ended}\n{log.read_text()}")


class Workplace:
    """A copy of the working tree as a repository of its own, with the small profile."""

    def __init__(self, path: Path) -> None:
        self.path = path
        copy_files(ROOT, path, LEFT_OUT)
        params = merged(config.profile_settings("digits", ROOT / "profiles"), CHANGES)
        (path / "params.yaml").write_text(write_yaml(params), encoding="utf-8")
        search = [str(Path(sys.executable).parent), os.environ["PATH"]]
        self.env = os.environ | {
            "PYTHONPATH": str(path / "src"),
            "PATH": os.pathsep.join(search),
            "DVC_NO_ANALYTICS": "1",
        }
        self.victim = path / "victim" / "python"
        self.victim.parent.mkdir()
        self.victim.write_text(
            f'#!/bin/sh\nexec {sys.executable} {ROOT}/scripts/stress.py --victim "$@"\n'
        )
        self.victim.chmod(0o755)
        identity = ["-c", "user.name=stress", "-c", "user.email=stress@localhost"]
        self.run("git", "init", "-q")
        self.run("git", "add", "-A")
        self.run("git", *identity, "commit", "-qm", "stress")

    def run(self, *command: str) -> str:
        """What the command prints. Raises SystemExit with it if the command fails."""
        done = subprocess.run(
            command,
            cwd=self.path,
            env=self.env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        if done.returncode:
            raise SystemExit(f"{' '.join(command)} failed:\n{done.stdout}")
        return done.stdout

    def interrupt(self, stage: str, moment: Moment, signal_number: int, rng: random.Random) -> str:
        """Run the stage as if it had never run, and kill it -> at which call."""
        path = self.path / "dvc.lock"
        lock = yaml.safe_load(path.read_text())
        del lock["stages"][stage]  # else DVC takes its outputs from the cache
        path.write_text(yaml.safe_dump(lock, sort_keys=False))
        env = self.env | {"PATH": os.pathsep.join([str(self.victim.parent), self.env["PATH"]])}
        command = ["dvc", "repro", "--single-item", "--no-run-cache", stage]
        number, delay = rng.randint(1, moment.calls), rng.uniform(0, moment.delay)
        interrupt(command, moment.function, number, delay, signal_number, cwd=self.path, env=env)
        return f"{moment.name} {number}"

    def finish(self, stage: str, expected: dict[str, str]) -> None:
        """Raises SystemExit unless the stage ran again and all outputs are as expected."""
        out = self.run("dvc", "repro", "--no-run-cache")
        if f"Running stage '{stage}'" not in out:
            raise SystemExit(f"{stage} was not run again:\n{out}")
        hashes = self.hashes()
        if different := sorted(
            path for path in expected | hashes if expected.get(path) != hashes.get(path)
        ):
            raise SystemExit(f"{stage}: other bytes after the interruption: {', '.join(different)}")

    def hashes(self) -> dict[str, str]:
        """The md5 of every output in dvc.lock that has to be the same."""
        stages = yaml.safe_load((self.path / "dvc.lock").read_text())["stages"].values()
        outs = [out for stage in stages for out in stage.get("outs", [])]
        same = [out for out in outs if not any(name in out["path"] for name in APART)]
        return {out["path"]: out["md5"] for out in same}

    def kept(self) -> int:
        """The number of files from which the next attempt resumes."""
        scratch = self.path / "scratch"
        files = [path.relative_to(scratch) for path in scratch.rglob("[!.]*") if path.is_file()]
        return sum(file.parts[0] != "measured" for file in files)  # measurements stay on purpose


def stress(
    stage: str, moments: list[Moment], signal_number: int, workplace: Workplace, rng: random.Random
) -> None:
    """Interrupt the stage once at each of the moments. Raises SystemExit at other bytes."""
    counts = collections.Counter(moment.name for moment in moments)
    with_kept, expected = 0, workplace.hashes()
    name = signal.Signals(signal_number).name
    for done, moment in enumerate(moments, 1):
        met = workplace.interrupt(stage, moment, signal_number, rng)
        kept = workplace.kept()
        with_kept += kept > 0
        workplace.finish(stage, expected)
        if left := workplace.kept():
            raise SystemExit(f"{stage}: {left} files of it are left in scratch/ at its end")
        outcome = f"{name} at {met}, {kept} files kept; same bytes"
        print(f"{stage} {done}/{len(moments)}: {outcome}", flush=True)
    told = ", ".join(f"{number} at {moment}" for moment, number in counts.items())
    print(
        f"{stage}: {len(moments)} interruptions ({told}),"
        f" {with_kept} of them had something to resume from\n",
        flush=True,
    )


def main(kills: int, terms: int, seed: int) -> None:
    rng, start = random.Random(seed), time.monotonic()
    with tempfile.TemporaryDirectory(prefix="momos-stress-") as folder:
        workplace = Workplace(Path(folder))
        ran = re.findall(r"Running stage", workplace.run("dvc", "repro"))
        print(
            f"undisturbed: {len(ran)} stages, {len(workplace.hashes())} outputs to compare,"
            f" {time.monotonic() - start:.0f} s\n",
            flush=True,
        )
        moments = [KILLS[number % len(KILLS)] for number in range(kills)]
        stress(TRAINING, moments, signal.SIGKILL, workplace, rng)
        for stage, moment in TERMS.items():
            stress(stage, [moment] * terms, signal.SIGTERM, workplace, rng)
    print(
        f"{kills + len(TERMS) * terms} interruptions in {time.monotonic() - start:.0f} s"
        f" (seed {seed}): all ended with the same bytes"
    )


if __name__ == "__main__":
    if sys.argv[1:2] == ["--victim"]:
        be_victim(*sys.argv[2:])
    else:
        parser = argparse.ArgumentParser(usage=__doc__)
        for name, default in (("kills", 20), ("terms", 5), ("seed", 0)):
            parser.add_argument(f"--{name}", type=int, default=default)
        main(**vars(parser.parse_args()))
