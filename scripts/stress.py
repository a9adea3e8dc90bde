"""`make stress`: stages are killed at random moments, and each time `dvc repro` ends with the bytes
of the undisturbed run.

usage: stress.py [--kills N] [--terms N] [--seed SEED]

A small profile runs whole in a folder of its own. Then one training is killed (SIGKILL to it and to
DVC) N times: while it reads data, within an epoch, in a projection, while it writes a checkpoint,
while it saves its results; and survey, LLC and language model get SIGTERM. After each, `dvc repro`
without the run-cache; then every output's hash in dvc.lock, the report's among them, is what it
was.

How a moment is met: DVC's `python` is this script, which runs the stage and tells when a function
is called for the n-th time; the kill comes after a random delay. The stage's own code knows nothing
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
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import yaml

ROOT = Path(__file__).resolve().parents[1]
FIFO, HOOK, HOLD = "STRESS_FIFO", "STRESS_HOOK", "STRESS_HOLD"  # environment of the victim
APART = ("cost", "provenance", "index.html")  # outputs that no two runs share
EPOCHS, LM_STEPS, CHAINS = 6, 12, 2
SURVEYED = ["test_resnet", "test_convnext", "test_vit"]
CHANGES = {
    "profile": "stress",
    "train": {"epochs": EPOCHS, "checkpoint_seconds": 0},
    "models": {"mlp": {"kwargs": {"hidden_layers": 2, "width": 64}}},
    "grid": {"models": ["mlp"], "methods": ["baseline", "momos_s4_c10"], "seeds": [0]},
    "ablation": {"models": []},
    "complexity": {"methods": []},
    "survey": {"untrained": SURVEYED, "init_seeds": [0], "compressors": ["gzip"]},
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
    }
    | {"num_draws": {"neox": 4}},
    "tracking": {"enabled": False},
}


class Moment(NamedTuple):
    """Up to `delay` seconds after the n-th call of a function begins, n up to `calls`."""

    name: str
    function: str  # module:qualified.name
    calls: int
    delay: float


TRAINING = "train@mlp-momos_s4_c10-0"
KILLS = [
    Moment("data", "momos.images.dataset:load", 1, 0.05),
    Moment("epoch", "momos.training.loop:Training.steps", EPOCHS, 0.1),
    Moment("projection", "momos.training.loop:project_", EPOCHS, 0.01),
    Moment("checkpoint write", "momos.resume.checkpoints:Checkpoints.save", EPOCHS, 0.02),
    Moment("final save", "momos.files.run_folder:save_weights", 3, 0.01),
]
TERMS = {
    "survey": Moment("survey", "momos.survey.run:measured", len(SURVEYED), 0.5),
    "llc@neox-1": Moment("llc", "momos.slt.llc.estimator:_Run.chain", 4 * CHAINS, 0.1),
    "language@neox-1": Moment("language model", "momos.language.neox:_update", LM_STEPS, 0.02),
}


# --- the victim


def tell_when_called(function: str, number: int, hold: float) -> None:
    """Wraps the function: a byte into the FIFO at its call of that number, which then waits `hold`
    seconds.
    """
    module, _, path = function.partition(":")
    owner = importlib.import_module(module)
    *parents, name = path.split(".")
    for parent in parents:
        owner = getattr(owner, parent)
    original, calls = getattr(owner, name), iter(range(1, sys.maxsize))

    def wrapped(*args, **kwargs):
        if next(calls) == number:
            Path(os.environ[FIFO]).write_bytes(b".")
            time.sleep(hold)
        return original(*args, **kwargs)

    setattr(owner, name, wrapped)


def be_victim(script: str, *arguments: str) -> None:
    """`python SCRIPT ARGUMENTS`, with the hook that the environment names."""
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
    how: int,
    *,
    cwd: Path,
    env: dict[str, str],
) -> None:
    """Starts the command, and sends it and all its children a signal that many seconds after the
    n-th call of the function begins.

    delay: None: right at the call, which waits for the signal. Raises SystemExit with what was
    printed if the command ends before.
    """
    with tempfile.TemporaryDirectory(prefix="momos-") as folder:
        fifo, log = Path(folder) / "fifo", Path(folder) / "log"
        os.mkfifo(fifo)
        reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
        env = env | {
            FIFO: str(fifo),
            HOOK: f"{function}#{number}",
            HOLD: "60" if delay is None else "0",
        }
        with log.open("w") as out:
            process = subprocess.Popen(
                command,
                cwd=cwd,
                env=env,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        while not select.select([reader], [], [], 0.5)[0] and process.poll() is None:
            pass
        time.sleep(delay or 0.0)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, how)
        os.close(reader)
        if process.wait() != -how:
            raise SystemExit(
                f"{function} {number}: ended before it was killed, with {process.returncode}\n{log.read_text()}"
            )


class Workplace:
    """A copy of the working tree as a repository of its own, with the small profile."""

    def __init__(self, path: Path) -> None:
        self.path = path
        files = ["git", "ls-files", "-co", "--exclude-standard", "-z"]
        listed = subprocess.run(files, cwd=ROOT, stdout=subprocess.PIPE, check=True, text=True)
        for name in filter(None, listed.stdout.split("\0")):
            if (
                (ROOT / name).is_file()
                and not name.startswith(("reports/", "tests/"))
                and name != "dvc.lock"
            ):
                (path / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, path / name)
        params = merged(yaml.safe_load((ROOT / "profiles" / "digits.yaml").read_text()), CHANGES)
        (path / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
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
        self.run("git", "init", "-q")
        self.run("git", "add", "-A")
        self.run(
            "git",
            "-c",
            "user.name=stress",
            "-c",
            "user.email=stress@localhost",
            "commit",
            "-qm",
            "stress",
        )

    def run(self, *command: str) -> str:
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
        """The stage is run as if it had never been, and killed -> at which call."""
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
        found = self.hashes()
        if different := sorted(
            path for path in expected | found if expected.get(path) != found.get(path)
        ):
            raise SystemExit(f"{stage}: other bytes after the interruption: {', '.join(different)}")

    def hashes(self) -> dict[str, str]:
        """md5 of every output in dvc.lock that has to be the same."""
        stages = yaml.safe_load((self.path / "dvc.lock").read_text())["stages"].values()
        outs = [out for stage in stages for out in stage.get("outs", [])]
        return {
            out["path"]: out["md5"]
            for out in outs
            if not any(name in out["path"] for name in APART)
        }

    def kept(self) -> int:
        """Files from which the next attempt goes on."""
        return sum(path.is_file() for path in (self.path / "scratch").rglob("[!.]*"))


def merged(base: dict, changes: dict) -> dict:
    return base | {
        key: merged(base[key], value) if isinstance(value, dict) else value
        for key, value in changes.items()
    }


def stress(
    stage: str, moments: list[Moment], signal_number: int, workplace: Workplace, rng: random.Random
) -> None:
    """One interruption for each of the moments."""
    counts, with_kept, expected = (
        collections.Counter(moment.name for moment in moments),
        0,
        workplace.hashes(),
    )
    for done, moment in enumerate(moments, 1):
        met = workplace.interrupt(stage, moment, signal_number, rng)
        kept = workplace.kept()
        with_kept += kept > 0
        workplace.finish(stage, expected)
        if left := workplace.kept():
            raise SystemExit(f"{stage}: {left} files of it are left in scratch/ at its end")
        print(
            f"{stage} {done}/{len(moments)}: {signal.Signals(signal_number).name} at {met}, {kept} files kept; same bytes",
            flush=True,
        )
    told = ", ".join(f"{number} at {name}" for name, number in counts.items())
    print(
        f"{stage}: {len(moments)} interruptions ({told}), {with_kept} of them had something to go on from\n",
        flush=True,
    )


def main(kills: int, terms: int, seed: int) -> None:
    rng, start = random.Random(seed), time.monotonic()
    with tempfile.TemporaryDirectory(prefix="momos-stress-") as folder:
        workplace = Workplace(Path(folder))
        ran = re.findall(r"Running stage", workplace.run("dvc", "repro"))
        num_outputs = len(workplace.hashes())
        print(
            f"undisturbed: {len(ran)} stages, {num_outputs} outputs to compare, {time.monotonic() - start:.0f} s\n",
            flush=True,
        )
        stress(
            TRAINING,
            [KILLS[number % len(KILLS)] for number in range(kills)],
            signal.SIGKILL,
            workplace,
            rng,
        )
        for stage, moment in TERMS.items():
            stress(stage, [moment] * terms, signal.SIGTERM, workplace, rng)
    print(
        f"{kills + 3 * terms} interruptions in {time.monotonic() - start:.0f} s (seed {seed}): all ended with the same bytes"
    )


if __name__ == "__main__":
    if sys.argv[1:2] == ["--victim"]:
        be_victim(*sys.argv[2:])
    else:
        parser = argparse.ArgumentParser(usage=__doc__)
        for name, default in (("kills", 20), ("terms", 5), ("seed", 0)):
            parser.add_argument(f"--{name}", type=int, default=default)
        main(**vars(parser.parse_args()))
