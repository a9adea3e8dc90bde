"""Stage `report`: what people read.   usage: report.py PAPER_DIR IMPORTED_DIR DATA_JSON RUNS_DIR
RESULTS_DIR REPORTS_DIR
"""

import sys
from dataclasses import asdict
from pathlib import Path

from momos import config
from momos.files import atomic
from momos.report.momos import cells as numbers
from momos.report.momos import packing as sizes
from momos.report.momos import study as report
from momos.report.shared import claims, imported, published, results


def main(
    paper_dir: Path,
    imported_dir: Path,
    data_json: Path,
    runs_dir: Path,
    results_dir: Path,
    reports_dir: Path,
) -> None:
    runs = config.runs()
    data, train, mosaic = (
        config.load(config.Data),
        config.load(config.Train),
        config.load(config.Mosaic),
    )
    evaluate, shown = config.load(config.Evaluate), config.load(config.Report)
    grid, ablation, quantize = (
        config.load(config.Grid),
        config.load(config.Ablation),
        config.load(config.Quantize),
    )
    sections = (
        data,
        config.load(config.Augment),
        train,
        mosaic,
        quantize,
        grid,
        ablation,
        evaluate,
        config.load(config.Survey),
        shown,
    )
    settings = {section.section: asdict(section) for section in sections}
    imports, summary = (
        imported.load(imported_dir, shown.imported or (), runs),
        atomic.read_json(data_json),
    )
    other = [run for each in imports for run in each.runs]
    models = {
        name: asdict(config.load(config.Model, name))
        for name in dict.fromkeys([*grid.models, *(run.model for run in other)])
    }
    named = dict.fromkeys([*grid.methods, *(run.method for run in other if run.grid == "main")])
    methods = {name: asdict(config.load(config.Method, name)) for name in named}
    imported.check(imports, summary["sha256"], settings, models, methods)
    departures = published.departures(settings, models) + imported.departures(imports)

    measured = results.read(results_dir, runs_dir, runs, imports)
    measured = measured._replace(
        evaluation=sizes.with_measured_rac(measured.evaluation, measured.packing)
    )
    check = report.read_published(paper_dir, measured.evaluation)
    evidence = claims.Evidence(
        evaluation=measured.evaluation,
        distortion=measured.distortion,
        survey=measured.survey,
        published=check,
        source=data.source,
        epochs=train.epochs,
        departures=departures,
        singular=claims.read_singular(results_dir / "slt_verdicts.json"),
    )
    pictures = report.pictures(runs_dir, runs, shown, evaluate.checkpoint)
    method = config.load(config.Method, shown.picture_method)
    cut = (
        method.block_size if mosaic.slicing == "tensor" else None
    )  # cut from the whole model, blocks do not begin with the tensor
    repeats = (
        {title: report.repeats(matrix, cut) for title, matrix in pictures.items()} if cut else None
    )
    study = report.Study(
        name=reports_dir.name,
        results=measured,
        check=check,
        comparison=claims.compare_accuracy(evidence),
        verdicts=claims.judge(published.read_claims(paper_dir), evidence),
        pictures=report.crop(pictures, shown.picture_size),
        repeats=report.crop(repeats, shown.picture_size) if repeats else None,
        data=summary,
        settings=settings | {"models": models, "methods": methods},
        imported=[imported.origin(each) for each in imports],
        departures=departures,
    )
    written = numbers.document(
        study, paper_dir=paper_dir.as_posix(), results_dir=results_dir.as_posix()
    )
    atomic.write_text(reports_dir / "results.json", numbers.text(written))
    report.write_tables(study, reports_dir / "tables")
    report.write_figures(study, reports_dir / "figures")
    atomic.write_text(reports_dir / "claims.md", report.claims_page(study))
    atomic.write_json(reports_dir / "metrics.json", report.metrics(study))
    atomic.write_text(reports_dir / "README.md", report.page(study))


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
