"""A page that its stages build from the synthetic study.

One small picture stands for every static figure: drawing them is tested elsewhere. How the machine
rounds is asked once a process.
"""

import functools
import json
import runpy
import shutil
from pathlib import Path

import pandas as pd
import pytest
from matplotlib.figure import Figure
from synthetic import PAPER, ROOT, Tree

from momos import config
from momos.provenance import rounding
from momos.report.shared import figures

FINGERPRINT = functools.cache(rounding.fingerprint)


def build(root: Path) -> Path:
    """The report's folder, index.html in it."""
    Tree(root)
    return build_report(root)


def build_report(root: Path, profile: str = "digits") -> Path:
    """The same of a study that is there. profile: under whose name it is reported."""
    names = ("data/imported", "digits.json", "runs/digits", "results/digits")
    arguments = (PAPER, *(root / name for name in names), root / "reports" / profile)
    reports = arguments[-1]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        patch.setattr(figures, "write_all", one_for_all)
        patch.setattr(rounding, "fingerprint", FINGERPRINT)
        _stage("report", *arguments)
        _write_costs(root, profile)
        _stage(
            "provenance",
            reports / "results.json",
            ROOT / "requirements.txt",
            reports / "provenance.json",
        )
    render(reports)
    return reports


def render(reports: Path, page: Path | None = None) -> Path:
    """The page of a report's folder, in that folder or elsewhere."""
    page = page or reports / "index.html"
    _stage("page", reports, ROOT / "dvc.yaml", page)
    return page


def _stage(name: str, *arguments: Path) -> None:
    runpy.run_path(str(ROOT / "stages" / f"{name}.py"))["main"](*arguments)


def one_for_all(drawn, folder: Path) -> None:
    """`figures.write_all` with one small picture in place of every figure."""
    with figures.style():
        figure = Figure(figsize=(4, 2))
        figure.subplots().plot([1, 2])
        figures.save(figure, folder, "blank")
    for name in drawn:
        for kind in figures.FORMATS:
            shutil.copy(folder / f"blank.{kind}", folder / f"{name}.{kind}")
    for kind in figures.FORMATS:
        (folder / f"blank.{kind}").unlink()
    (folder / "captions.json").write_text(
        json.dumps({name: drawing.caption for name, drawing in drawn.items()})
    )


def _write_costs(root: Path, profile: str = "digits") -> None:
    rows = [_cost(run) for run in config.runs(path=root / "params.yaml")]
    folder = root / "reports" / profile / "cost"
    folder.mkdir()
    pd.DataFrame(rows).to_csv(folder / "cost.csv", index=False)


def _cost(run: config.Run) -> dict:
    """Of one training: the MLP's ran on the CPU, all others on a GPU."""
    on_cpu = run.model == "mlp"
    return {
        "model": run.model,
        "method": run.method,
        "seed": run.seed,
        "grid": run.grid,
        "seconds": 36.0,
        "cpu_seconds": 30.0,
        "peak_memory_bytes": 2**30,
        "device": "cpu" if on_cpu else "NVIDIA H200",
        "num_epochs": 5,
        "peak_device_memory_bytes": None if on_cpu else 2**31,
    }
