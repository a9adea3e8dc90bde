"""What a long stage has finished so far: kept beside the outputs, taken up again after an
interruption, removed at the end.

Parts are JSON files in a folder named after a hash of all that they depend on: the settings and
inputs that the stage names, and the sources of the library as loaded, and the versions of what it
computes with. So a part of other settings or of older code is never taken for this one's.
"""

import hashlib
import json
import platform
import shutil
import sys
from collections.abc import Callable, Mapping
from importlib import metadata, util
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from momos.files import atomic

ROOT = Path("scratch")
# modules of the library that are imported when they are first needed
LAZY = ("momos.images.pixels", "momos.methods.kdtree")
LIBRARIES = ("numba", "numpy", "scipy", "timm", "torch", "transformers")


class Scratch:
    """`with Scratch("llc", settings, inputs) as finished:`, then `finished(name, compute)` for each
    part.
    """

    def __init__(self, stage: str, depends: Mapping[str, Any], *inputs: Path) -> None:
        self.folder = ROOT / stage / key(depends, *inputs)

    def __enter__(self) -> Self:
        return self

    def __call__(self, name: str, compute: Callable[[], dict]) -> dict:
        """The part of that name: read if it is there, else computed and written."""
        path = self.folder / f"{name}.json"
        if path.is_file():
            return atomic.read_json(path)
        part = compute()
        atomic.write_json(path, part)
        return part

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            shutil.rmtree(self.folder, ignore_errors=True)


def key(depends: Mapping[str, Any], *inputs: Path) -> str:
    """A name for the work of these settings on these files, by this code with these libraries."""
    versions = {name: _version(name) for name in LIBRARIES} | {"python": platform.python_version()}
    total = hashlib.sha256(json.dumps([depends, versions], sort_keys=True, default=str).encode())
    for path in [*_sources(), *inputs]:
        total.update(hashlib.sha256(path.read_bytes()).digest())
    return total.hexdigest()[:24]


def _version(name: str) -> str | None:
    """None: not there. A machine that trains image classifiers needs no transformers."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _sources() -> list[Path]:
    """Of every loaded module of the library, and of those that are loaded later, by name; the
    tracker changes no result.
    """
    loaded = {
        name: module.__file__
        for name, module in sys.modules.items()
        if name.split(".")[0] == "momos" and _has_file(module)
    }
    files = loaded | {name: util.find_spec(name).origin for name in LAZY}
    return [Path(files[name]) for name in sorted(files) if not name.startswith("momos.tracking")]


def _has_file(module: Any) -> bool:
    return getattr(module, "__file__", None) is not None
