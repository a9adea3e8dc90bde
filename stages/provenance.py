"""Stage `provenance`: the machine, commit and versions of a report.   usage: provenance.py RESULTS_JSON REQUIREMENTS_TXT OUT_JSON"""

import sys
from pathlib import Path

from momos import checkpoint, provenance


def main(results_json: Path, requirements: Path, out: Path) -> None:
    settings = checkpoint.read_json(results_json)["settings"]
    checkpoint.write_json(out, provenance.collect(settings, provenance.pinned(requirements)))


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:4]))
