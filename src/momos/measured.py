"""What measuring a run came to, kept in `scratch/measured/`: a later stage takes it from there.

A stage measures all runs of a model. When one method changes, DVC runs the stage again, and with
this only the runs of that method are measured again. An entry is named after a hash of all that a
measurement depends on: the run's files, the images, the settings that the stage names, the device
with its threads, the library's code as loaded, the stage's script, and the versions of other
libraries. So an entry is never out of date, and what it holds is exactly what measuring would give.

Entries are small files, written whole or not at all, so that stages side by side can share them.
Each begins with a checksum: a damaged entry is reported on stderr and measured again. Of each stage
the MOST entries that were used last are kept. To measure everything again, remove the folder.
"""

import hashlib
import importlib
import json
import os
import platform
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Self

import torch

from momos.config.running import repository
from momos.files import atomic
from momos.files.droppings import files_below
from momos.resume import scratch

MOST = 4000  # entries of a stage; each has a few kilobytes
# Settings count by their values; tracker and clocks change no result.
UNRELATED = ("momos.config", "momos.settings", "momos.tracking", "momos.compute.cost")
MORE_LIBRARIES = ("pybdm", "safetensors", "zstandard")  # beside those of every scratch file
PLAIN = (str, int, float, bool, type(None))  # types whose JSON is read back as it was
Row = dict[str, Any]


class Measured:
    """One stage's measurements, taken from where they are kept or made.

    Use: `with Measured(Path(__file__), settings, data_file) as measured:`, then for each run
    `measured(folder, about_the_run, measure)`.
    """

    def __init__(
        self,
        script: Path,
        depends: Mapping[str, Any],
        *inputs: Path,
        device: torch.device | None = None,
        later: Iterable[str] = (),
    ) -> None:
        """script: of the stage; it names the entries' folder. depends, inputs: settings and files
        that all measurements depend on. device: that they are made on. later: modules of the
        library that are imported only while something is measured, which LAZY does not cover.
        """
        for name in later:
            importlib.import_module(name)
        self.folder = shared_root() / "measured" / script.stem
        self.code = scratch.sources(UNRELATED)
        versions = {name: scratch.version(name) for name in MORE_LIBRARIES}
        common = [depends, versions, _machine(device), str(torch.get_num_threads())]
        self.common = scratch.key_of({"common": common}, [*self.code, script, *inputs])

    def __enter__(self) -> Self:
        return self

    def __call__(self, run: Path, about: object, measure: Callable[[], list[Row]]) -> list[Row]:
        """The rows of one run: kept ones, or those of `measure`, which are kept from then on.

        run: its folder, of which every file counts but what systems leave there. about: what else
        the rows depend on, as text that is the same in each process. Raises TypeError for a cell
        that is none of PLAIN.
        """
        path = self.folder / f"{self._key(run, about)}.rows"
        text = _read(path)
        if text is None:
            text = _as_text(measure())
            if self._all_code_counts():
                atomic.write_text(path, f"{_checksum(text)}\n{text}")
        else:
            os.utime(path)  # it was used now
        return json.loads(text)

    def __exit__(self, kind: type[BaseException] | None, *about: object) -> None:
        drop_oldest(self.folder, MOST)

    def _key(self, run: Path, about: object) -> str:
        total = hashlib.sha256(f"{self.common}{about!r}".encode())
        for path in files_below(run):
            total.update(f"\0{path.relative_to(run).as_posix()}\0".encode())
            total.update(hashlib.sha256(path.read_bytes()).digest())
        return total.hexdigest()[:32]

    def _all_code_counts(self) -> bool:
        """Whether all of the library's modules that are loaded by now are in the hash."""
        missed = set(scratch.sources(UNRELATED)) - set(self.code)
        for path in sorted(missed):
            print(
                f"not kept, because it was imported while measuring: {path.name}; "
                f"name it in `later` of the stage {self.folder.name}",
                file=sys.stderr,
            )
        return not missed


def shared_root() -> Path:
    """The folder `scratch` that the repository's workspaces share."""
    return repository() / scratch.ROOT


def drop_oldest(folder: Path, most: int) -> None:
    """Remove all entries but the `most` that were used last. Others may do the same meanwhile."""
    entries = []
    for path in folder.glob("*.rows"):
        try:
            entries.append((path.stat().st_mtime, path))
        except FileNotFoundError:  # another process removed it
            continue
    for _, path in sorted(entries, reverse=True)[most:]:
        path.unlink(missing_ok=True)


def _machine(device: torch.device | None) -> list[str]:
    """What rounding depends on: kind of the processor, its vector instructions, the GPU."""
    machine = [platform.machine(), torch.backends.cpu.get_cpu_capability(), str(device)]
    if device is not None and device.type == "cuda":
        machine.append(torch.cuda.get_device_name(device))
    return machine


def _as_text(rows: list[Row]) -> str:
    """Rows in JSON, every digit of a number included. Raises TypeError, see PLAIN."""
    for row in rows:
        for name, value in row.items():
            if not isinstance(value, PLAIN):
                expected = "text, a number, true, false or None of Python's own"
                raise TypeError(f"{name} must be {expected}, got {type(value)}: {value!r}")
    return json.dumps(rows)


def _read(path: Path) -> str | None:
    """The text of an entry; None if there is none, or if it is damaged, which is told on stderr."""
    try:
        checksum, _, text = path.read_bytes().decode(errors="replace").partition("\n")
    except FileNotFoundError:
        return None
    if checksum == _checksum(text):
        return text
    print(f"{path} is damaged: its run is measured again", file=sys.stderr)
    return None


def _checksum(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
