"""Stage `slt_report`: compressibility against the local learning coefficient, as people read it.

usage: slt_report.py PAPER_DIR IMPORTED_DIR SLT_DIR VERDICTS.json NUMBERS.csv REPORT_DIR
"""

import sys
from pathlib import Path

import pandas as pd

from momos import config
from momos.files import atomic
from momos.report.shared import imported
from momos.report.shared.claims import read_claims
from momos.report.slt import cells, claims, page
from momos.report.slt.results import read_complexity, read_results
from momos.report.slt.study import SltStudy


def main(
    paper_dir: Path,
    imported_dir: Path,
    slt_dir: Path,
    verdicts_json: Path,
    numbers_csv: Path,
    out_dir: Path,
) -> None:
    slt = config.load(config.Slt)
    others = (
        config.load(config.Text),
        config.load(config.Language),
        config.load(config.Compressibility),
        config.load(config.Llc),
        config.load(config.Rivals),
        config.load(config.Complexity),
    )
    results = read_results(slt_dir, slt)
    imports = imported.load(imported_dir, config.load(config.Report).imported or ())
    own, quantised, along = (
        read_complexity(slt_dir / name, config.load(config.Grid).models)
        for name in ("images", "quantised", "along")
    )
    study = SltStudy(
        name=out_dir.parent.name,
        results=results,
        complexity=pd.concat([own, imported.complexity(imports)], ignore_index=True),
        quantised=quantised,
        along=along,
        verdicts=claims.judge(read_claims(paper_dir), results),
        text=atomic.read_json(slt_dir / "text.json"),
        settings=(slt, *others),
    )
    page.write(study, out_dir)
    atomic.write_text(verdicts_json, claims.verdicts_json(study.verdicts))
    numbers = cells.numbers(results, study.complexity, slt_dir, out_dir)
    atomic.write_text(numbers_csv, numbers.to_csv(index=False))


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:7]))
