"""Finished parts of a long stage: kept in `scratch/`, used after an interruption, then removed.

Parts are JSON files. Their folder is named after a hash of all that they depend on: settings and
inputs that the stage names, the library's source files, and the versions of other libraries. A part
of other settings or of other code is thus never used.
"""

import hashlib
import json
import platform
import shutil
import sys
from collections.abc import Callable, Iterable, Mapping
from importlib import metadata, util
from pathlib import Path
from typing import Any, Self

from momos.files import atomic

ROOT = Path("scratch")
# Packages of which some modules are imported inside functions, when they are first needed. All of
# their files count, whether they are loaded or not.
LAZY = ("momos.compute", "momos.images", "momos.methods")
LIBRARIES = ("numba", "numpy", "scipy", "timm", "torch", "transformers")
UNRELATED = ("momos.tracking",)  # it changes no result


class Scratch:
    """A stage's finished parts. They are removed at the end of a `with` block without an error.

    Use: `with Scratch("llc", settings, file) as finished:`, then `finished(name, compute)` for each
    part. depends, inputs: settings and files that the parts depend on.
    """

    def __init__(self, stage: str, depends: Mapping[str, Any], *inputs: Path) -> None:
        self.folder = ROOT / stage / key(depends, *inputs)

    def __enter__(self) -> Self:
        return self

    def __call__(self, name: str, compute: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """The part of that name, read if it is there, else computed and written."""
        path = self.folder / f"{name}.json"
        if path.is_file():
            return atomic.read_json(path)
        part = compute()
        atomic.write_json(path, part)
        return part

    def __exit__(self, kind: type[BaseException] | None, *about: object) -> None:
        if kind is None:
            shutil.rmtree(self.folder, ignore_errors=True)


def key(depends: Mapping[str, Any], *inputs: Path) -> str:
    """A hash of settings, input files, the library's code, and the versions of other libraries."""
    return key_of(depends, [*sources(), *inputs])


def key_of(depends: Mapping[str, Any], files: Iterable[Path]) -> str:
    """A hash of settings, files, and the versions of other libraries: 24 hexadecimal digits."""
    versions = {name: version(name) for name in LIBRARIES} | {"python": platform.python_version()}
    total = hashlib.sha256(json.dumps([depends, versions], sort_keys=True, default=str).encode())
    for path in files:
        total.update(hashlib.sha256(path.read_bytes()).digest())
    return total.hexdigest()[:24]


def version(name: str) -> str | None:
    """The installed version, or None: not every machine needs every library."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def sources(unrelated: tuple[str, ...] = UNRELATED) -> list[Path]:
    """Files of every loaded module of the library, and all files of the packages in LAZY.

    unrelated: packages and modules that are left out.
    Raises ModuleNotFoundError for a name in LAZY that is no package.
    """
    loaded = {
        name: getattr(module, "__file__", None)
        for name, module in sys.modules.items()
        if name.split(".")[0] == "momos"
    }
    found = {name: Path(file).resolve() for name, file in loaded.items() if file is not None}
    for name in LAZY:
        package = util.find_spec(name)
        if package is None or package.origin is None:
            raise ModuleNotFoundError(f"scratch.LAZY names {name}, which is no package")
        folder = Path(package.origin).resolve().parent
        found |= {f"{name}.{path.stem}": path for path in folder.glob("*.py")}
    return sorted({path for name, path in found.items() if not name.startswith(unrelated)})
