"""What a long stage has finished so far: kept beside the outputs, taken up again after an interruption, removed at the end.

Parts are JSON files in a folder named after a hash of all that they depend on: the settings and inputs that the stage names, and the
sources of the library as loaded. So a part of other settings or of older code is never taken for this one's.
"""

import hashlib
import json
import shutil
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from momos import checkpoint

ROOT = Path("scratch")


class Scratch:
    """`with Scratch("llc", settings, inputs) as finished:`, then `finished(name, compute)` for each part."""

    def __init__(self, stage: str, depends: Mapping[str, Any], *inputs: Path) -> None:
        total = hashlib.sha256(json.dumps(depends, sort_keys=True, default=str).encode())
        for path in [*_sources(), *inputs]:
            total.update(hashlib.sha256(path.read_bytes()).digest())
        self.folder = ROOT / stage / total.hexdigest()[:24]

    def __enter__(self) -> Self:
        return self

    def __call__(self, name: str, compute: Callable[[], dict]) -> dict:
        """The part of that name: read if it is there, else computed and written."""
        path = self.folder / f"{name}.json"
        if path.is_file():
            return checkpoint.read_json(path)
        part = compute()
        checkpoint.write_json(path, part)
        return part

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if kind is None:
            shutil.rmtree(self.folder, ignore_errors=True)


def _sources() -> list[Path]:
    """Of every loaded module of the library, in the order of their names; the tracker changes no result."""
    loaded = sorted((name, module) for name, module in sys.modules.items() if name.split(".")[0] == "momos" and name != "momos.tracking")
    return [Path(module.__file__) for _, module in loaded if getattr(module, "__file__", None)]
