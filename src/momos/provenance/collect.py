"""Where and with what a report was made.

None of it is the same on another machine, so it stands in a file of its own.
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

# Paths that results follow from: a change there makes a commit "dirty".
DECIDES = ("src", "stages", "params.yaml", "dvc.yaml", "requirements.txt", "data/paper")


def collect_provenance(
    settings: Mapping[str, Any], packages: Sequence[str], rounding: str | None = None
) -> dict[str, Any]:
    """The content of provenance.json.

    settings: those of the results, hashed as canonical JSON. packages: names of distributions; one
    that is not installed has the version None. rounding: `momos.provenance.rounding.fingerprint`.
    """
    canonical = json.dumps(settings, sort_keys=True, separators=(",", ":"))
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "git": commit_state(),
        "params_sha256": hashlib.sha256(canonical.encode()).hexdigest(),
        "python": platform.python_version(),
        "system": platform.platform(),
        "cpu": cpu_model(),
        "cores": os.cpu_count(),
        "memory_bytes": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
        "gpus": gpu_names(),
        "rounding": rounding,
        "packages": {name: package_version(name) for name in packages},
    }


def pinned_packages(requirements: Path) -> list[str]:
    """The names that requirements.txt pins, in its order.

    Raises ValueError for a file that pins nothing.
    """
    names = re.findall(r"^([A-Za-z0-9._-]+)==", requirements.read_text(), re.M)
    if not names:
        raise ValueError(f"{requirements}: expected lines like name==version, found none")
    return names


def commit_state() -> dict[str, Any] | None:
    """The commit, and whether anything that decides results differs from it (dirty).

    In a copy that git ignores, as in scratch/, the state of the working tree that it is a copy of.
    None outside a repository or without git.
    """
    try:
        commit = _run_git("rev-parse", "HEAD").strip()
        top = _run_git("rev-parse", "--show-toplevel").rstrip("\n") if _is_ignored() else "."
        changes = _run_git("-C", top, "status", "--porcelain", "--", *DECIDES).strip()
    except (FileNotFoundError, subprocess.CalledProcessError):
        return None
    return {"commit": commit, "dirty": bool(changes)}


def cpu_model() -> str:
    """The processor's name in /proc/cpuinfo, or Python's name for it where there is none."""
    path = Path("/proc/cpuinfo")
    if path.is_file():
        model = re.search(r"^model name\s*:\s*(.+)$", path.read_text(), re.M)
        if model:
            return model.group(1)
    return platform.processor() or platform.machine()


def gpu_names() -> list[str]:
    import torch

    return [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]


def package_version(name: str) -> str | None:
    """None for a distribution that is not installed."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _is_ignored() -> bool:
    """Whether git ignores the working directory."""
    command = ["git", "check-ignore", "--quiet", "."]
    return subprocess.run(command, capture_output=True).returncode == 0


def _run_git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], check=True, capture_output=True, text=True).stdout
