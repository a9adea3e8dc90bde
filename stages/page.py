"""Stage `page`: the report in one file.   usage: page.py REPORTS_DIR DVC_YAML OUT_HTML"""

import sys
from pathlib import Path

import yaml

from momos.files import atomic
from momos.page.render import render_page
from momos.page.report_folder import ReportFolder


def main(reports_dir: Path, pipeline: Path, out: Path) -> None:
    stages = yaml.safe_load(pipeline.read_text())["stages"]
    atomic.write_text(out, render_page(ReportFolder(reports_dir, stages)))


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:4]))
