"""Stage `provenance`: the machine, commit and versions of a report.   usage: provenance.py
RESULTS_JSON REQUIREMENTS_TXT OUT_JSON
"""

import sys
from pathlib import Path

from momos.compute import device
from momos.files import atomic
from momos.provenance import collect as provenance
from momos.provenance import rounding


def main(results_json: Path, requirements: Path, out: Path) -> None:
    settings = atomic.read_json(results_json)["settings"]
    atomic.write_json(
        out,
        provenance.collect(
            settings, provenance.pinned(requirements), how_it_rounds(settings["train"])
        ),
    )


def how_it_rounds(train: dict) -> str | None:
    """None where the trainings' device is missing: they were run elsewhere."""
    try:
        found = device.prepare_device(train["device"], train["num_threads"], train["precision"])
    except ValueError as error:
        print(f"provenance: {error}; how it rounds is not known", file=sys.stderr)
        return None
    return rounding.fingerprint(found)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:4]))
