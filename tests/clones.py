"""A copy of the working tree as a repository of its own, with a profile that runs in seconds."""

import contextlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from copies import copy_files
from copies import merged as merge
from warm import FOLDER, Warm

from momos import config

ROOT = Path(__file__).parents[1]
MICRO = {
    "profile": "micro",
    "train": {"epochs": 2, "batch_size": 256},
    "models": {"mlp": {"kwargs": {"hidden_layers": 2, "width": 16}, "epochs": None}},
    "grid": {
        "models": ["mlp"],
        "methods": ["baseline", "qat4", "momos_s4_c10"],
        "seeds": [0, 1],
        "more_seeds_of": [],
        "more_seeds": [],
    },
    "ablation": {"models": ["mlp"], "block_sizes": [8], "capacities": [0.5], "seeds": [0]},
    "survey": {"untrained": ["test_resnet"], "source": "none", "path": None, "init_seeds": [0]},
    "pack": {
        "seeds": [1]
    },  # not that of the tour (docs/extending.md): its lossy levels take minutes
    "report": {"picture_method": "momos_s4_c10", "picture_size": 16},
    # `make track` is what is tried here; imports of MLflow in every training would take minutes.
    "tracking": {"enabled": False},
    "language": {"batch_size": 4, "warmup_steps": 2, "num_held_out": 4},
    "language_models": {
        "neox": {
            "kwargs": {
                "hidden_size": 16,
                "num_hidden_layers": 3,
                "num_attention_heads": 2,
                "intermediate_size": 32,
            },
            "steps": [2, 4, 6, 8],
        }
    },
    "slt": {"seeds": [1], "schemes": ["quantization_max", "pruning"], "fit_steps": [2, 8]},
    "compressibility": {
        "num_sequences": 4,
        "max_n_q": 9,
        "retraining_steps": 2,
        "num_coarse_heads": 2,
        "pruning_steps": 1,
    },
    "llc": {
        "num_chains": 2,
        "num_burnin_steps": 1,
        "batch_size": 2,
        "num_batches": 4,
        "num_probes": 2,
        "num_probe_batches": 1,
        "num_lanczos_steps": 2,
        "num_draws": {"neox": 4},
        "sweep": [
            {
                "nbeta": 300.0,
                "localization": 1000.0,
                "lr": 1e-5,
                "num_burnin_steps": 1,
                "num_draws": 4,
            }
        ],
        "sweep_steps": [8],
    },
    "complexity": {
        "num_images": 64,
        "num_burnin_steps": 1,
        "num_draws": 4,
        "num_probes": 1,
        "num_probe_batches": 1,
    },
}


# Settings of each repository: `dvc exp run` asks git who commits, and the home may not say it.
AUTHOR = {"user.name": "test", "user.email": "test@example.org", "commit.gpgsign": "false"}
# Variables that differ from test to test, some from an import of scikit-learn or a call of
# torch.compile on: no fork could take them over.
VARYING = (
    "PYTEST_CURRENT_TEST", "KMP_DUPLICATE_LIB_OK", "KMP_INIT_AT_FORK", "TORCHINDUCTOR_CACHE_DIR",
    "_TORCHINDUCTOR_PYOBJECT_TENSOR_DATA_PTR",
)  # fmt: skip


def environment() -> dict[str, str]:
    """This process's environment, as it is for all tests."""
    return {name: value for name, value in os.environ.items() if name not in VARYING}


@contextlib.contextmanager
def warmed(hash_seed: int, kind: type[Warm] = Warm) -> Iterator[Warm]:
    """A warm interpreter for scripts that are started in `environment()`; nothing else finds it."""
    with contextlib.ExitStack() as stack:
        with pytest.MonkeyPatch.context() as patch:
            for name in VARYING:
                patch.delenv(name, raising=False)
            warm = stack.enter_context(kind(hash_seed=hash_seed))
            os.environ.pop(FOLDER, None)
        yield warm


def fork(warm: Warm) -> Path | str:
    """A Python whose scripts are forks, or the usual one where there is no warm interpreter."""
    return sys.executable if warm.folder is None else warm.folder / "python"


def own_dvc(path: Path) -> dict[str, str]:
    """Variables with which DVC reads no settings of the user's: a cache of theirs, say."""
    return {"DVC_NO_ANALYTICS": "1", "DVC_GLOBAL_CONFIG_DIR": str(path.parent / "no settings")}


def copy_compiled(path: Path) -> None:
    """Copy what Python and numba have compiled of this tree's code, which is valid in a copy, too:
    files keep their times there. Compiling it anew takes longer than a small stage.
    """
    for folder in ("src", "scripts", "stages"):
        for file in (ROOT / folder).rglob("__pycache__/*"):
            if file.suffix in (".pyc", ".nbi", ".nbc"):
                to = path / file.relative_to(ROOT)
                to.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(file, to)


class Clone:
    """A copy of the working tree as a repository of its own."""

    def __init__(self, path: Path):
        self.path = path
        copy_files(ROOT, path, ("reports/", "tests/", "dvc.lock"))
        copy_compiled(path)
        params = merge(config.profile_settings("digits", ROOT / "profiles"), MICRO)
        self.write_params(params)
        bin_dir = Path(sys.executable).parent
        self.env = environment() | {
            "PATH": f"{bin_dir}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(path / "src"),
            "MLFLOW_TRACKING_URI": f"sqlite:///{path}/mlflow.db",
            **own_dvc(path),
        }
        self.run("git", "init", "-q")
        for key, value in AUTHOR.items():
            self.run("git", "config", key, value)
        self.run("git", "-c", "core.autocrlf=false", "add", "-A")
        self.run("git", "commit", "-qm", "micro")

    def run(self, *command: str, check: bool = True) -> str:
        done = subprocess.run(
            command,
            cwd=self.path,
            env=self.env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert done.returncode == 0 or not check, done.stdout
        return done.stdout

    @contextlib.contextmanager
    def without_drawing(self) -> Iterator[None]:
        """Its reports write empty pictures: drawing figures is half of a small study's time."""
        path = self.path / "src/momos/report/shared/figures.py"
        drawn = "save(drawings[name].draw(), "
        text = path.read_text()
        assert text.count(drawn) == 1
        path.write_text(text.replace(drawn, 'save(Figure(layout="none"), '))
        yield
        path.write_text(text)

    def write_params(self, params: dict) -> None:
        (self.path / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))

    def params(self) -> dict:
        return yaml.safe_load((self.path / "params.yaml").read_text())

    def stale(self) -> set[str]:
        """Stages that `dvc repro` would run."""
        return set(re.findall(r"Running stage '([^']+)'", self.run("dvc", "repro", "--dry")))

    def hashes(self) -> dict[str, str]:
        """The md5 of each output in dvc.lock, without costs, provenance and their page."""
        apart = ("cost", "provenance", "index.html")
        stages = yaml.safe_load((self.path / "dvc.lock").read_text())["stages"].values()
        outs = [out for stage in stages for out in stage.get("outs", [])]
        return {
            out["path"]: out["md5"]
            for out in outs
            if not any(name in out["path"] for name in apart)
        }
