"""A small DVC repository for tests of `make sweep`: trivial stages, the project's own scripts.

It records which process ran which stage, with which GPU, and whether it was a fork of the warm
interpreter.
"""

import atexit
import contextlib
import functools
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import yaml
from clones import AUTHOR, Clone, merge, own_dvc
from warm import LIBRARIES

from momos import config

ROOT = Path(__file__).parents[1]
programs = Path(sys.executable).parent  # of Repositories; those of fixture `warm` where it is used
STAGE = """
import json, os, pathlib, sys, time
name, out = sys.argv[1:3]
settings = pathlib.Path("behaviour.txt").read_text().split()
ids = ("SLURM_ARRAY_JOB_ID", "SLURM_ARRAY_TASK_ID")
job = "_".join(os.environ[key] for key in ids if key in os.environ)
about = {"stage": name, "gpu": os.environ.get("CUDA_VISIBLE_DEVICES"), "job": job}
about |= {"pid": os.getpid(), "cwd": os.getcwd(), "warm": "torch" in sys.modules}
with open(os.environ["TRACE"], "a") as trace:
    trace.write(json.dumps(about) + "\\n")
if f"sleep:{name}" in settings:
    time.sleep(300)
if f"die:{name}" in settings:
    os.kill(os.getpid(), 9)
if f"fail:{name}" in settings:
    sys.exit(f"{name} can't")
pathlib.Path(out).parent.mkdir(parents=True, exist_ok=True)
files = [path for folder in sys.argv[3:] for path in pathlib.Path(folder).rglob("*")]
texts = sorted(path.read_text() for path in files if path.is_file())
pathlib.Path(out).write_text(name + "".join(texts))
"""
# What a server of warm.py can have in place of the libraries that take seconds to import.
STAND_INS = f"""
import sys, types
for name in {sorted({*LIBRARIES} - {"numpy"})}:
    sys.modules[name] = types.ModuleType(name)
sys.modules["torch"].cuda = types.SimpleNamespace(is_initialized=lambda: False)
sys.modules["torch"].default_generator = types.SimpleNamespace(seed=lambda: None)
"""
IGNORED = ("/scratch/", "/data/", "/runs/", "/results/", "__pycache__/")


def pipeline(models: str, seeds: int) -> dict:
    """The stages of dvc.yaml. models: a letter each."""
    cell = "runs/${item.model}/${item.seed}"
    return {
        "prepare": {
            "cmd": "python stage.py prepare data/prepared data/raw",
            "deps": ["data/raw"],
            "outs": ["data/prepared"],
        },
        "train": {
            "matrix": {"model": list(models), "seed": list(range(seeds))},
            "cmd": f"python stage.py ${{item.model}}${{item.seed}} {cell} data/prepared",
            "deps": ["data/prepared"],
            "outs": [cell],
        },
        "measure": {
            "matrix": {"model": list(models)},
            "cmd": "python stage.py measure-${item.model} results/${item.model} runs/${item.model}",
            "deps": ["runs/${item.model}"],
            "outs": ["results/${item.model}"],
        },
        "report": {
            "cmd": "python stage.py report report.md results",
            "deps": ["results"],
            "outs": [{"report.md": {"cache": False}}],
        },
    }


def heed_ctrl_c() -> None:
    """Let a new process end at Ctrl-C, and when its terminal goes.

    Background jobs of a shell ignore the one, what runs under nohup the other, and so would the
    processes that they start.
    """
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


@functools.cache
def fresh(*options: str) -> Path:
    """A folder in which `dvc init` has run, to be copied: the commands take seconds.

    options: of `dvc init`.
    """
    folder = Path(tempfile.mkdtemp(prefix="momos-fresh-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    dvc = str(programs / "dvc")
    commands = [["git", "init", "-q"]] * ("--no-scm" not in options)
    commands += [["git", "config", *setting] for setting in AUTHOR.items() if commands]
    commands += [[dvc, "init", "-q", *options]]
    for command in commands:
        subprocess.run(command, cwd=folder, env=os.environ | own_dvc(folder), check=True)
    settings = folder / ".dvc" / "config"
    off = ("analytics", "check_update", "autostage")
    lines = [settings.read_text() or "[core]\n", *(f"    {name} = false\n" for name in off)]
    settings.write_text("".join(lines))  # as `dvc config core.NAME false` does
    return folder


class Repository:
    """The repository. models: a letter each. seeds: trainings of each. sweep: settings."""

    def __init__(self, path: Path, models: str = "mn", seeds: int = 2, **sweep: object) -> None:
        self.path, self.trace = path, path.parent / f"{path.name}.trace"
        path.mkdir()
        for folder in ("scripts", "src/momos"):
            compiled = shutil.ignore_patterns("__pycache__")
            shutil.copytree(ROOT / folder, path / folder, ignore=compiled)
        params = config.profile_settings("digits", ROOT / "profiles")
        params["tracking"]["enabled"] = False
        params["sweep"] |= {"cpus": 1, "memory_gb": 0.5} | sweep
        for name, text in {
            "params.yaml": yaml.safe_dump(params),
            "stage.py": STAGE,
            "dvc.yaml": yaml.safe_dump({"stages": pipeline(models, seeds)}),
            "behaviour.txt": "",
            ".gitignore": "".join(f"{name}\n" for name in IGNORED),
            ".dvcignore": "/scratch\n",
        }.items():
            (path / name).write_text(text)
        (path / "data" / "raw" / "folder").mkdir(parents=True)
        (path / "data" / "raw" / "folder" / "file").write_text("raw")
        self.env = os.environ | {
            "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
            "TRACE": str(self.trace),
            **own_dvc(path),
            "MOMOS_WARM": "0",  # these stages import nothing; test_warm.py tries it with
        }
        self.env |= {"PYTHONPATH": str(path / "src")}
        self.env.pop("CUDA_VISIBLE_DEVICES", None)
        shutil.copytree(fresh(), path, dirs_exist_ok=True)
        self.commit()

    def commit(self) -> None:
        self.run("git", "add", "-A")
        self.run("git", "commit", "-qm", "small")

    def run(self, *command: str, check: bool = True, **env: str) -> str:
        how = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "timeout": 300}
        done = subprocess.run(command, cwd=self.path, env=self.env | env, **how)
        assert done.returncode == 0 or not check, done.stdout
        return done.stdout

    def start(self, script: str, *arguments: str, **env: str) -> subprocess.Popen:
        command = [str(programs / "python"), f"scripts/{script}.py", *arguments]
        how = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        return subprocess.Popen(
            command, cwd=self.path, env=self.env | env, preexec_fn=heed_ctrl_c, **how
        )

    def sweep(self, jobs: int = 2, backend: str = "local", **env: str) -> tuple[int, str]:
        """Exit code and output."""
        with self.start("sweep", "--jobs", str(jobs), "--backend", backend, **env) as process:
            out, _ = process.communicate(timeout=900)
        return process.returncode, out

    def behave(self, *settings: str) -> None:
        """Say how stages that start from now on behave: `sleep:NAME`, `die:NAME`, `fail:NAME`."""
        (self.path / "behaviour.txt").write_text(" ".join(settings))

    def import_stand_ins(self) -> None:
        """Let a warm interpreter start at once, without the libraries that its forks don't use."""
        path, start = self.path / "scripts" / "warm.py", "def prepare() -> None:\n"
        text = path.read_text()
        assert text.count(start) == 1
        path.write_text(text.replace(start, f"{start}    exec({STAND_INS!r}, {{}})\n"))

    def starts(self) -> list[dict]:
        return (
            [json.loads(line) for line in self.trace.read_text().splitlines()]
            if self.trace.exists()
            else []
        )

    def ran(self) -> Counter:
        """The number of times that each stage's command has started."""
        return Counter(start["stage"] for start in self.starts())

    def locked(self) -> set[str]:
        lock = self.path / "dvc.lock"
        return set(yaml.safe_load(lock.read_text())["stages"]) if lock.exists() else set()

    def made(self) -> set[str]:
        """Stages whose result is there for other workers, in dvc.lock or not yet."""
        return {path.stem for path in (self.path / "scratch/sweep/entries").glob("*.yaml")}

    def report(self) -> str:
        return (self.path / "report.md").read_text()

    def wait_until(
        self, condition, process: subprocess.Popen | None = None, seconds: float = 120.0
    ) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline and (process is None or process.poll() is None), (
                process and process.communicate()
            )
            time.sleep(0.2)

    def left_running(self) -> list[int]:
        """Stage processes that still exist."""
        alive = []
        for start in self.starts():
            with contextlib.suppress(ProcessLookupError):
                os.kill(start["pid"], 0)
                alive.append(start["pid"])
        return alive


def interrupt(process: subprocess.Popen, number: int = signal.SIGINT) -> str:
    process.send_signal(number)
    return process.communicate(timeout=120)[0]


# --- the real pipeline

APART = ("cost", "index.html", "provenance.json")  # no two runs have the same
FEWER = {
    "grid": {"methods": ["baseline", "momos_s4_c10"]},
    "ablation": {"models": []},
    "slt": {"schemes": ["quantization_max"]},
    "sweep": {"cpus": 1, "memory_gb": 0.9},
}


def micro(path: Path) -> Clone:
    """A copy of the working tree with a micro profile of 16 stages."""
    clone = Clone(path)
    clone.write_params(merge(clone.params(), FEWER))
    return clone


def report_bytes(path: Path) -> dict[str, bytes]:
    """The report's files, without those that show what this run cost and where it was."""
    root = path / "reports" / "micro"
    files = [
        file
        for file in root.rglob("*")
        if file.is_file() and not file.relative_to(root).as_posix().startswith(APART)
    ]
    return {file.relative_to(root).as_posix(): file.read_bytes() for file in files}
