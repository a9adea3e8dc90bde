"""Stage `report`: what people read about the MoMos study.

usage: report.py PAPER_DIR IMPORTED_DIR DATA_JSON RUNS_DIR RESULTS_DIR REPORTS_DIR
"""

import sys
from pathlib import Path

from momos import config
from momos.files import atomic
from momos.report.momos import document, figure_list, page, study, table_list
from momos.report.shared import figures, imported


def main(paper: Path, imports: Path, data: Path, runs: Path, results: Path, out: Path) -> None:
    listed = config.runs()
    sources = imported.load(imports, config.load(config.Report).imported or (), listed)
    shown = study.build(
        out.name,
        settings=read_settings(sources),
        data=atomic.read_json(data),
        runs=listed,
        imports=sources,
        paper_dir=paper,
        runs_dir=runs,
        results_dir=results,
    )
    numbers = document.document(shown, paper_dir=paper.as_posix(), results_dir=results.as_posix())
    tables, drawings = table_list.tables(shown), figure_list.drawings(shown)
    atomic.write_text(out / "results.json", document.text(numbers))
    table_list.write_all(tables, out / "tables")
    table_list.write_rows(shown, out / "tables")
    figures.write_all(drawings, out / "figures")
    atomic.write_text(out / "claims.md", page.claims_page(shown))
    atomic.write_json(out / "metrics.json", document.family_means(shown))
    atomic.write_text(out / "README.md", page.page(shown, tables, drawings))


def read_settings(sources: list[imported.Import]) -> dict[str, dict]:
    """Section of params.yaml -> its settings; those of the models and methods that are shown."""
    grid = config.load(config.Grid)
    sections = (
        config.load(config.Data),
        config.load(config.Augment),
        config.load(config.Train),
        config.load(config.Mosaic),
        config.load(config.Quantize),
        grid,
        config.load(config.Ablation),
        config.load(config.Evaluate),
        config.load(config.Survey),
        config.load(config.Report),
    )
    models, methods = study.names_shown(grid.models, grid.methods, sources)
    return {section.section: vars(section) for section in sections} | {
        "models": {name: vars(config.load(config.Model, name)) for name in models},
        "methods": {name: config.load_method(name).settings for name in methods},
    }


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:7]))
