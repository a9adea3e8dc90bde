"""Stage `page`: everything in one file to open in a browser.   usage: page.py REPORTS_DIR DVC_YAML
OUT_HTML
"""

import sys
from pathlib import Path

import yaml

from momos.files import atomic
from momos.page import render as page


def main(reports_dir: Path, pipeline: Path, out: Path) -> None:
    stages = yaml.safe_load(pipeline.read_text())["stages"]
    atomic.write_text(out, page.render(page.Sources(reports_dir, stages)))


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:4]))
