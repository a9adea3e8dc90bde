"""A small project in a folder of a test's own, whose stages run in this process by their commands.

It has the micro profile of `clones`. A stage that fails raises what the user would see.
"""

import os
import runpy
import sys
from pathlib import Path
from typing import Any

import yaml
from clones import MICRO, merge

from momos import config

ROOT = Path(__file__).parents[1]
ONE_RUN = {
    "grid": {
        "models": ["mlp"],
        "methods": ["baseline"],
        "seeds": [0],
        "more_seeds_of": [],
        "more_seeds": [],
    },
    "ablation": {"models": []},
    "report": {"picture_method": "baseline"},
}


class Project:
    """changes: settings other than the micro profile's."""

    def __init__(self, folder: Path, monkeypatch: Any, changes: dict | None = None) -> None:
        self.folder, self.monkeypatch = folder, monkeypatch
        digits = config.profile_settings("digits", ROOT / "profiles")
        self.params = merge(merge(digits, MICRO), ONE_RUN)
        self.write(changes or {})
        monkeypatch.chdir(folder)

    def write(self, changes: dict) -> None:
        self.params = merge(self.params, changes)
        (self.folder / "params.yaml").write_text(yaml.safe_dump(self.params, sort_keys=False))

    def stage(self, name: str, *arguments: object) -> None:
        """Run `python stages/NAME.py ARGUMENTS`."""
        with self.monkeypatch.context() as patch:
            patch.setattr(sys, "argv", [f"stages/{name}.py", *map(os.fspath, map(str, arguments))])
            runpy.run_path(str(ROOT / "stages" / f"{name}.py"), run_name="__main__")

    def prepare(self) -> None:
        self.stage("prepare", "data.safetensors", "data.json")

    def train(self, model: str = "mlp", method: str = "baseline") -> Path:
        """Train seed 0 -> the run's folder."""
        folder = Path("runs/micro") / model / method / "0"
        self.stage("train", model, method, 0, "data.safetensors", folder, "cost.json")
        return folder
