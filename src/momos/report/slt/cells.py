"""The second paper's numbers for results.json, one value of one seed a row: checkpoints, fits,
image classifiers.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import pandas as pd

from momos.report.slt import claims as singular
from momos.slt.schemes import CRITICAL

COLUMNS = ["table", "model", "method", "measure", "seed", "value", "unit", "source", "stage"]
UNITS = {"init_loss": "nats"}
PER_CHECKPOINT = ("llc_mean", "init_loss", "hessian_trace")
PER_IMAGE_MODEL = ("llc_mean", "hessian_trace")
PER_FIT = ("r2", "spearman", "slope")


def numbers(
    results: singular.Results, complexity: pd.DataFrame, slt_dir: Path, report_dir: Path
) -> pd.DataFrame:
    """complexity: a row per image classifier. The folders only name the sources. -> frame with
    COLUMNS.
    """
    rows = [
        *_checkpoints(results, slt_dir),
        *_fits(results, report_dir),
        *_images(complexity, slt_dir),
    ]
    return pd.DataFrame(rows, columns=COLUMNS)


def _checkpoints(results: singular.Results, slt_dir: Path) -> Iterator[tuple]:
    """Where each run stands at each checkpoint; the method is the step."""
    if not results.runs:
        return
    for row in results.llc.to_dict("records"):
        source = f"{slt_dir.as_posix()}/measures/{row['model']}/*/llc/llc.csv"
        yield from _rows(
            "slt_checkpoints", row, f"step{row['step']}", PER_CHECKPOINT, source, "llc"
        )
    for scheme in results.settings.schemes:
        for row in (
            results.points(scheme).rename(columns={"value": CRITICAL[scheme]}).to_dict("records")
        ):
            source = f"{slt_dir.as_posix()}/measures/{row['model']}/*/{scheme}/critical.csv"
            yield from _rows(
                "slt_checkpoints",
                row,
                f"step{row['step']}",
                [CRITICAL[scheme]],
                source,
                "compressibility",
            )


def _fits(results: singular.Results, report_dir: Path) -> Iterator[tuple]:
    """Linear fits of critical values; the method is the scheme, and what it is fitted on."""
    source = f"{report_dir.as_posix()}/tables/fits.csv"
    for row in singular.fits(results).to_dict("records") if results.runs else ():
        scheme = row["scheme"] + ("_bits" if row["fitted"] == "log2" else "")
        yield from _rows("slt_fits", row, f"{scheme}_on_{row['on']}", PER_FIT, source, "slt_report")


def _images(complexity: pd.DataFrame, slt_dir: Path) -> Iterator[tuple]:
    measures = [*PER_IMAGE_MODEL, *(name for name in complexity if name.startswith("critical_n_q"))]
    for row in complexity.to_dict("records"):
        yield from _rows(
            "slt_images",
            row,
            row["method"],
            measures,
            f"{slt_dir.as_posix()}/images/{row['model']}.csv",
            "complexity",
        )


def _rows(
    table: str, row: dict, method: str, measures: Sequence[str], source: str, stage: str
) -> Iterator[tuple]:
    for measure in measures:
        if measure in row:
            yield (
                table,
                row["model"],
                method,
                measure,
                row["seed"],
                row[measure],
                UNITS.get(measure, ""),
                source,
                stage,
            )
