"""The machine: what it is, and the most that one of its cores does."""

import contextlib
import importlib.metadata
import os
import platform
import subprocess
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import torch

LIBRARIES = ("torch", "torchvision", "numpy", "numba", "scipy", "pybdm", "pillow", "timm")
PRODUCTS = {
    "float32 MKL": torch.float32,
    "float32 oneDNN": torch.float32,
    "bfloat16": torch.bfloat16,
}


def product(*, kind: str, size: int) -> Callable[[], object]:
    """A matrix product of size x size."""
    left, right = torch.randn(2, size, size).to(PRODUCTS[kind]).unbind()
    if kind == "float32 oneDNN":
        return lambda: torch.ops.mkldnn._linear_pointwise(left, right, None, "none", [], "")
    out = torch.empty_like(left)
    return lambda: torch.mm(left, right, out=out)


def copy(*, megabytes: int) -> Callable[[], object]:
    """Reads and writes so much memory."""
    source = torch.ones(megabytes * 2**20 // 4)
    target = torch.ones_like(source)
    return lambda: target.copy_(source)


def describe() -> dict:
    """For the results: hardware, system, versions, commit and date."""
    return {
        "cpu": _field("/proc/cpuinfo", "model name") or platform.processor(),
        "cores": os.cpu_count(),
        "mhz": float(_field("/proc/cpuinfo", "cpu MHz") or 0) or None,
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "system": platform.platform(),
        "python": platform.python_version(),
        **{library: _version(library) for library in LIBRARIES},
        "commit": _git("rev-parse", "HEAD"),
        "uncommitted_changes": bool(
            _git("status", "--porcelain", "--", "src", "benchmarks", "profiles")
        ),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _field(file: str, name: str) -> str | None:
    with contextlib.suppress(OSError):
        for line in Path(file).read_text().splitlines():
            if line.startswith(name):
                return line.partition(":")[2].strip()
    return None


def _version(library: str) -> str | None:
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        return importlib.metadata.version(library)
    return None


def _git(*arguments: str) -> str | None:
    with contextlib.suppress(OSError, subprocess.CalledProcessError):
        command = ["git", "-C", str(Path(__file__).parent.parent), *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
    return None
