"""The study of one profile: what the stages wrote, judged, as its report shows it."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from momos.config import Run
from momos.report.momos import packing, readings
from momos.report.momos.claims import judge, read_singular
from momos.report.momos.comparison import compare_accuracy, reproduction_claim
from momos.report.momos.evidence import Evidence
from momos.report.momos.pictures import Pictures, read_pictures
from momos.report.shared import imported, published, results
from momos.report.shared.claims import Claim, read_claims

TABLE2_MODEL = "mobilevit"
PAPER_SOURCE = published.SETTING["data"]["source"]
Settings = Mapping[str, Mapping[str, Any]]  # section of params.yaml -> key -> value


@dataclass(frozen=True)
class Study:
    """Everything that the report shows."""

    name: str  # of the profile
    results: results.Results
    check: pd.DataFrame  # `read_published`
    comparison: pd.DataFrame  # `compare_accuracy`
    readings: pd.DataFrame  # `readings.compare`; empty for other images than the paper's
    claims: Sequence[Claim]  # of both papers
    verdicts: pd.DataFrame  # `claims.judge`
    pictures: Pictures
    data: Mapping[str, Any]  # the summary that `prepare` wrote
    settings: Settings  # also models and methods: name -> settings
    imported: Sequence[Mapping[str, Any]]  # `imported.origin` of each
    departures: tuple[str, ...]  # settings that are not the paper's

    @cached_property
    def cells(self) -> pd.DataFrame:
        """The main grid's means over seeds (`results.cells`)."""
        return results.cells(self.results.evaluation)


def build(
    name: str,
    *,
    settings: Settings,
    data: Mapping[str, Any],
    runs: Sequence[Run],
    imports: Sequence[imported.Import],
    paper_dir: Path,
    runs_dir: Path,
    results_dir: Path,
) -> Study:
    """Read what the stages wrote, judge the claims, and put the study together.

    name: of the profile; settings: section -> key -> value, beside the sections of the report also
    models and methods; data: the summary that `prepare` wrote; runs: those of params.yaml. Raises
    ValueError for imports of other images or settings, and naming what is missing or damaged.
    """
    models, methods, train = settings["models"], settings["methods"], settings["train"]
    imported.check(imports, data["sha256"], settings, models, methods)
    departures = published.departures(settings, models) + imported.departures(imports)
    measured = results.read_results(results_dir, runs_dir, runs, imports)
    evaluation = packing.with_measured_rac(measured.evaluation, measured.packing)
    measured = measured._replace(evaluation=evaluation)
    claims, check = read_claims(paper_dir), read_published(paper_dir, evaluation)
    evidence = Evidence(
        evaluation=evaluation,
        distortion=measured.distortion,
        survey=measured.survey,
        published=check,
        source=settings["data"]["source"],
        epochs=max(model.get("epochs") or train["epochs"] for model in models.values()),
        departures=departures,
        singular=read_singular(results_dir / "slt_verdicts.json"),
    )
    return Study(
        name=name,
        results=measured,
        check=check,
        comparison=compare_accuracy(evidence, reproduction_claim(claims)),
        readings=readings.compare(
            evaluation[evaluation.model.map(lambda _: evidence.source == PAPER_SOURCE)],
            measured.methods,
            check,
            reproduction_claim(claims),
        ),
        claims=claims,
        verdicts=judge(claims, evidence),
        pictures=read_pictures(runs_dir, runs, settings),
        data=data,
        settings=settings,
        imported=[imported.origin(source) for source in imports],
        departures=departures,
    )


def names_shown(
    models: Iterable[str], methods: Iterable[str], imports: Sequence[imported.Import]
) -> tuple[list[str], list[str]]:
    """Names of the models and of the main grid's methods that the report shows, each once.

    models, methods: those of the profile's own grid; the imports' follow.
    """
    others = [run for source in imports for run in source.runs]
    return (
        list(dict.fromkeys([*models, *(run.model for run in others)])),
        list(dict.fromkeys([*methods, *(run.method for run in others if run.grid == "main")])),
    )


def read_published(folder: Path, evaluation: pd.DataFrame) -> pd.DataFrame:
    """Read the published cells and check their RAC; a row per cell.

    Beside the columns of `published.rac_check` it has title, label, and of the same cell in the
    main grid num_weights_here and rac_here (NaN where the grid lacks it). folder: data/paper.
    """
    check = published.rac_check(published.read_tables(folder))
    labels = [published.method_of(row).label for row in check.itertuples()]
    check = check.assign(title=check.model.map(results.TITLES), label=labels)
    here = evaluation[(evaluation.grid == "main") & (evaluation.weights == "deployed")]
    here = here.drop_duplicates(["model", "label"])[["model", "label", "num_weights", "rac"]]
    return check.merge(
        here, how="left", on=["model", "label"], suffixes=("", "_here"), validate="one_to_one"
    )
