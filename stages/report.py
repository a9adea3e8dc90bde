"""Stage `report`: what people read about the MoMos study.

usage: report.py PAPER_DIR IMPORTED_DIR DATA_JSON RUNS_DIR RESULTS_DIR REPORTS_DIR
"""

import sys
from pathlib import Path

from momos import config
from momos.files import atomic
from momos.report.momos import document, figure_list, page, study, table_list
from momos.report.shared import figures, imported

SECTIONS = (
    config.Data,
    config.Augment,
    config.Train,
    config.Mosaic,
    config.Quantize,
    config.Grid,
    config.Ablation,
    config.Evaluate,
    config.Survey,
    config.Report,
)


def main(
    paper_dir: Path,
    imported_dir: Path,
    data_json: Path,
    runs_dir: Path,
    results_dir: Path,
    reports_dir: Path,
) -> None:
    runs = config.runs()
    imports = imported.load(imported_dir, config.load(config.Report).imported or (), runs)
    shown = study.build(
        reports_dir.name,
        settings=read_settings(imports),
        data=atomic.read_json(data_json),
        runs=runs,
        imports=imports,
        paper_dir=paper_dir,
        runs_dir=runs_dir,
        results_dir=results_dir,
    )
    numbers = document.document(
        shown, paper_dir=paper_dir.as_posix(), results_dir=results_dir.as_posix()
    )
    tables, drawings = table_list.tables(shown), figure_list.drawings(shown)
    atomic.write_text(reports_dir / "results.json", document.text(numbers))
    table_list.write_all(tables, reports_dir / "tables")
    table_list.write_rows(shown, reports_dir / "tables")
    figures.write_all(drawings, reports_dir / "figures")
    atomic.write_text(reports_dir / "claims.md", page.claims_page(shown))
    atomic.write_json(reports_dir / "metrics.json", document.family_means(shown))
    atomic.write_text(reports_dir / "README.md", page.page(shown, tables, drawings))


def read_settings(imports: list[imported.Import]) -> dict[str, dict]:
    """Section of params.yaml -> its settings; those of the models and methods that are shown."""
    grid = config.load(config.Grid)
    models, methods = study.names_shown(grid.models, grid.methods, imports)
    sections = {section.section: vars(config.load(section)) for section in SECTIONS}
    return sections | {
        "models": {name: vars(config.load(config.Model, name)) for name in models},
        "methods": {name: config.load_method(name).settings for name in methods},
    }


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:7]))
