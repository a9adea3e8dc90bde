"""The second paper's numbers for results.json, one value of one seed a row.

They are of training steps (LLC, its rivals, critical values), of fits, and of image classifiers.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from momos import config
from momos.report.slt.fits import fits
from momos.report.slt.results import SltResults

COLUMNS = ["table", "model", "method", "measure", "seed", "value", "unit", "source", "stage"]
UNITS = {"init_loss": "nats", "entropy_bytes": "bytes"}
PER_STEP = ("llc_mean", "llc_corrected", "llc_quadratic", "init_loss", "hessian_trace")
# of stage `rivals`
RIVALS = ("l2_norm", "stable_rank", "bdm_1d_z", "bdm_2d_z", "planes_z", "entropy_bytes")
PER_IMAGE_MODEL = ("llc_mean", "hessian_trace")
PER_FIT = ("r2", "spearman", "slope")


def numbers(
    results: SltResults, complexity: pd.DataFrame, slt_dir: Path, report_dir: Path
) -> pd.DataFrame:
    """Collect all numbers -> frame with COLUMNS.

    complexity: a row per image classifier; the folders only name the sources.
    """
    rows = [
        *_step_rows(results, slt_dir),
        *_fit_rows(results, report_dir),
        *_image_rows(complexity, slt_dir),
    ]
    return pd.DataFrame(rows, columns=COLUMNS)


def _step_rows(results: SltResults, slt_dir: Path) -> Iterator[tuple]:
    """What was measured at each step of a training; the method is the step."""
    if not results.runs:
        return
    folder = f"{slt_dir.as_posix()}/measures"
    for row in results.llc.to_dict("records"):
        source = f"{folder}/{row['model']}/*/llc/llc.csv"
        step = f"step{row['step']}"
        yield from _rows("slt_checkpoints", row, step, PER_STEP, source, "llc")
        source = f"{slt_dir.as_posix()}/rivals/{row['model']}.csv"
        yield from _rows("slt_checkpoints", row, step, RIVALS, source, "rivals")
    for scheme in results.settings.schemes:
        name = config.CRITICAL[scheme]
        for row in results.values(scheme, name).to_dict("records"):
            source = f"{folder}/{row['model']}/*/{scheme}/critical.csv"
            step = f"step{row['step']}"
            yield from _rows("slt_checkpoints", row, step, [name], source, "compressibility")


def _fit_rows(results: SltResults, report_dir: Path) -> Iterator[tuple]:
    """Linear fits of critical values; the method is the scheme, and what it is fitted on."""
    source = f"{report_dir.as_posix()}/tables/fits.csv"
    for row in fits(results).to_dict("records") if results.runs else ():
        scheme = row["scheme"] + ("_bits" if row["fitted"] == "log2" else "")
        yield from _rows("slt_fits", row, f"{scheme}_on_{row['on']}", PER_FIT, source, "slt_report")


def _image_rows(complexity: pd.DataFrame, slt_dir: Path) -> Iterator[tuple]:
    measures = [*PER_IMAGE_MODEL, *(name for name in complexity if name.startswith("critical_n_q"))]
    for row in complexity.to_dict("records"):
        source = f"{slt_dir.as_posix()}/images/{row['model']}.csv"
        yield from _rows("slt_images", row, row["method"], measures, source, "complexity")


def _rows(
    table: str,
    row: Mapping[str, Any],
    method: str,
    measures: Sequence[str],
    source: str,
    stage: str,
) -> Iterator[tuple]:
    for name in measures:
        if name in row:
            about = (table, row["model"], method, name, row["seed"])
            yield *about, row[name], UNITS.get(name, ""), source, stage
