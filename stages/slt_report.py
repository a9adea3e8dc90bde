"""Stage `slt_report`: compressibility against the local learning coefficient, as people read it.

usage: slt_report.py PAPER_DIR SLT_DIR VERDICTS.json NUMBERS.csv REPORT_DIR
"""

import sys
from pathlib import Path

from momos import checkpoint, config, published, singular, singular_numbers, singular_report


def main(paper_dir: Path, slt_dir: Path, verdicts_json: Path, numbers_csv: Path, out_dir: Path) -> None:
    slt, images = config.load(config.Slt), config.load(config.Complexity)
    others = (config.load(config.Text), config.load(config.Language), config.load(config.Compressibility), config.load(config.Llc))
    results = singular.read(slt_dir, slt)
    wanted = [claim for claim in published.read_claims(paper_dir) if claim["id"] in singular.CLAIMS]
    study = singular_report.Study(
        name=out_dir.parent.name,
        results=results,
        complexity=singular.read_complexity(slt_dir / "images", config.load(config.Grid).models),
        verdicts=singular.judge(wanted, results),
        text=checkpoint.read_json(slt_dir / "text.json"),
        settings=(slt, *others, images),
    )
    singular_report.write(study, out_dir)
    checkpoint.write_text(verdicts_json, singular.verdicts_json(study.verdicts))
    found = singular_numbers.numbers(results, study.complexity, slt_dir, out_dir)
    checkpoint.write_text(numbers_csv, found.to_csv(index=False))


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:6]))
