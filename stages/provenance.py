"""Stage `provenance`: the machine, commit and versions of a report.

usage: provenance.py RESULTS_JSON REQUIREMENTS_TXT OUT_JSON
"""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from momos.compute import device
from momos.files import atomic
from momos.provenance import rounding
from momos.provenance.collect import collect_provenance, pinned_packages


def main(results_json: Path, requirements: Path, out: Path) -> None:
    settings = atomic.read_json(results_json)["settings"]
    packages = pinned_packages(requirements)
    atomic.write_json(
        out, collect_provenance(settings, packages, fingerprint_of(settings["train"]))
    )


def fingerprint_of(train: Mapping[str, Any]) -> str | None:
    """None where the trainings' device is missing: they were run elsewhere."""
    try:
        chosen = device.prepare_device(train["device"], train["num_threads"], train["precision"])
    except ValueError as error:
        print(f"provenance: {error}; how it rounds is not known", file=sys.stderr)
        return None
    return rounding.fingerprint(chosen)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:4]))
