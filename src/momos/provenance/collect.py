"""Where and with what a report was made: none of it is the same on another machine, so it stands in
a file of its own.
"""

import hashlib
import json
import os
import platform
import re
import subprocess
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

DECIDES = (
    "src",
    "stages",
    "params.yaml",
    "dvc.yaml",
    "requirements.txt",
    "data/paper",
)  # what results follow from


def collect(
    settings: Mapping[str, Any], packages: Sequence[str], rounding: str | None = None
) -> dict[str, Any]:
    """settings: of the results, hashed as canonical JSON. packages: names of distributions; one
    that is not there has no version. rounding: as `momos.provenance.rounding` has it.
    """
    canonical = json.dumps(settings, sort_keys=True, separators=(",", ":"))
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "git": git(),
        "params_sha256": hashlib.sha256(canonical.encode()).hexdigest(),
        "python": platform.python_version(),
        "system": platform.platform(),
        "cpu": cpu_model(),
        "cores": os.cpu_count(),
        "memory_bytes": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
        "gpus": gpus(),
        "rounding": rounding,
        "packages": {name: version(name) for name in packages},
    }


def pinned(requirements: Path) -> list[str]:
    """The names that requirements.txt pins, in its order. Raises ValueError for a file that pins
    nothing.
    """
    names = re.findall(r"^([A-Za-z0-9._-]+)==", requirements.read_text(), re.M)
    if not names:
        raise ValueError(f"{requirements}: expected lines like name==version, found none")
    return names


def git() -> dict[str, Any] | None:
    """The commit, and whether anything that decides results differs from it; None outside a
    repository or without git.
    """
    try:
        commit = _git("rev-parse", "HEAD").strip()
        return {
            "commit": commit,
            "dirty": bool(_git("status", "--porcelain", "--", *DECIDES).strip()),
        }
    except (FileNotFoundError, subprocess.CalledProcessError):
        return None


def cpu_model() -> str:
    """As the kernel names it, where it has /proc/cpuinfo."""
    path = Path("/proc/cpuinfo")
    found = (
        re.search(r"^model name\s*:\s*(.+)$", path.read_text(), re.M) if path.is_file() else None
    )
    return found.group(1) if found else platform.processor() or platform.machine()


def gpus() -> list[str]:
    import torch

    return [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]


def version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], check=True, capture_output=True, text=True).stdout
