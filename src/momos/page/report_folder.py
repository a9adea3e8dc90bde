"""The report's folder and dvc.yaml, as the page reads them."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from momos.files import atomic
from momos.files.droppings import files_below

TEXTS = {"name", "title", "group"}  # a model from elsewhere may be called 7, 1e5 or nan


@dataclass(frozen=True)
class ReportFolder:
    """A report's folder: results.json, provenance.json, tables, figures, cost; slt where it ran.

    Each file is read once, when it is first asked for. A missing or damaged one raises ValueError
    that names it.
    """

    path: Path
    pipeline: Mapping[str, Any]  # the stages of dvc.yaml by name

    @cached_property
    def results(self) -> dict[str, Any]:
        return with_decisions(atomic.read_json(self.path / "results.json"))

    @cached_property
    def provenance(self) -> dict[str, Any]:
        return atomic.read_json(self.path / "provenance.json")

    @cached_property
    def costs(self) -> pd.DataFrame:
        return self.table("cost/cost.csv")

    @cached_property
    def cells(self) -> dict[str, dict[str, Any]]:
        """The numbers of results.json by their ids (table/model/method/measure)."""
        return {cell["id"]: cell for cell in self.results["cells"]}

    def table(self, name: str) -> pd.DataFrame:
        path = self.path / name
        if not path.is_file():
            raise ValueError(
                f"{path} is missing: expected a table written by an earlier stage (run `dvc repro`)"
            )
        frame = pd.read_csv(path)
        texts = pd.read_csv(path, dtype=str, keep_default_na=False)
        for column in TEXTS & set(frame.columns):
            frame[column] = texts[column].where(texts[column] != "")
        return frame

    def labels(self, model: str, method: str) -> dict[str, str]:
        """What readers see in place of a model's and a method's name, and the method's group."""
        names = self.results["names"]
        about = names["methods"][method]
        return {
            "model": names["models"][model],
            "method": about["label"],
            "group": about["group"],
        }

    def other_files(self) -> list[str]:
        """What the page links to: the report's files, relative to the page; no droppings."""
        kinds = (".md", ".tex", ".csv", ".json", ".pdf", ".svg", ".html")
        page = self.path / "index.html"
        paths = [path for path in files_below(self.path) if path.suffix in kinds and path != page]
        return [path.relative_to(self.path).as_posix() for path in paths]


def with_decisions(results: dict[str, Any]) -> dict[str, Any]:
    """Add what results.json lacks if it was written before verdicts were decided or not.

    Its claims then are not decided, none is counted apart, and one sentence says so.
    """
    if "findings" in results:
        return results
    counts = results["counts"]["claims"]
    given = ", ".join(f"{count} {name}" for name, count in counts.items())
    sentence = f"Verdicts: {given}. This report does not say which of them chance could turn."
    claims = [{"decided": "", "interval": "", "also": ""} | claim for claim in results["claims"]]
    added = {"decided": {}, "apart": {}} | results["counts"]
    return results | {"findings": [sentence], "claims": claims, "counts": added}
