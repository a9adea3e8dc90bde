"""Stage `slt_report`: compressibility against the local learning coefficient, as people read it.

usage: slt_report.py PAPER_DIR IMPORTED_DIR SLT_DIR VERDICTS.json NUMBERS.csv REPORT_DIR
"""

import sys
from pathlib import Path

import pandas as pd

from momos import config
from momos.files import atomic
from momos.report.shared import imported, published
from momos.report.slt import cells as singular_numbers
from momos.report.slt import claims as singular
from momos.report.slt import page as singular_report


def main(
    paper_dir: Path,
    imported_dir: Path,
    slt_dir: Path,
    verdicts_json: Path,
    numbers_csv: Path,
    out_dir: Path,
) -> None:
    slt, images = config.load(config.Slt), config.load(config.Complexity)
    others = (
        config.load(config.Text),
        config.load(config.Language),
        config.load(config.Compressibility),
        config.load(config.Llc),
    )
    results = singular.read(slt_dir, slt)
    wanted = [claim for claim in published.read_claims(paper_dir) if claim["id"] in singular.CLAIMS]
    models = config.load(config.Grid).models
    imports = imported.load(imported_dir, config.load(config.Report).imported or ())
    measured = [singular.read_complexity(slt_dir / "images", models), imported.complexity(imports)]
    study = singular_report.Study(
        name=out_dir.parent.name,
        results=results,
        complexity=pd.concat(measured, ignore_index=True),
        verdicts=singular.judge(wanted, results),
        text=atomic.read_json(slt_dir / "text.json"),
        settings=(slt, *others, images),
    )
    singular_report.write(study, out_dir)
    atomic.write_text(verdicts_json, singular.verdicts_json(study.verdicts))
    found = singular_numbers.numbers(results, study.complexity, slt_dir, out_dir)
    atomic.write_text(numbers_csv, found.to_csv(index=False))


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:7]))
