"""The tables of the report: what readers see, the numbers behind it, and the caption.

A new table is one function that makes its text and one entry of `tables`.
"""

from pathlib import Path
from typing import NamedTuple

import pandas as pd

from momos.files import atomic
from momos.report.momos import packing, points, readings, survey
from momos.report.momos.study import TABLE2_MODEL, Study
from momos.report.shared import results
from momos.report.shared import tables as rendering

TABLE1 = (
    "Table 1. Test accuracy (%, mean ± sample standard deviation over seeds; of the last weights,"
    " which the published tables show, and of those with the lowest validation loss), relative"
    " algorithmic compression (RAC) by Eq. 21 and as the weights' bytes in an entropy-coded .momos"
    " file have it, and 1-D BDM ratio of the deployed weights to initial ones (the mean of"
    " several initialisations, where they were measured; in brackets: of the latent weights behind"
    " quantised ones). Planes: the same ratio for the eight bit planes of the weights."
)
TABLE2 = "Table 2. As Table 1, for MobileViT."
COMPLEXITY = (
    "Algorithmic complexity of the weights' signs: BDM against the mean of several initialisations,"
    " its distance from that in their standard deviations (z), against the run's own initialisation"
    " (MoMos, Eq. 22), on pybdm's scale of 0 to 1, and against the same bits shuffled within each"
    " tensor. Planes: BDM of the weights' eight bit planes, between the percentiles 0.05 and 99.95"
    " of each tensor. Means over seeds."
)
COMPRESSORS = (
    "Raw / compressed bytes of the float32 weights and of their packed signs. Means over seeds."
)
RAC_CHECK = (
    "Published RAC against Eq. 21 with the published model's number of weights (MobileViT's is"
    " assumed), and the RAC of the models trained here."
)
COMPARISON = (
    "Published test accuracy (%) and BDM ratio beside those measured here (last weights; BDM of"
    " latent weights, as published)."
)
ZOO = (
    "Complexity of trained against initial weights by source, family, size and recipe: medians with"
    " 95 % bootstrap intervals, and the share of models with a 1-D ratio below 1, with"
    " Clopper-Pearson's. Runs that started from the same weights count once, with their mean."
    " Below chance: models whose z lies where one of a thousand initialisations does."
    " Against the shuffled control (signs permuted within each tensor) what lies below 1 is order"
    " among the signs, not a share of positive ones other than one half. `untrained`:"
    " initialisations alone. Planes: BDM of the eight bit planes of weights quantised uniformly"
    " between the percentiles 0.05 and 99.95 of each tensor."
)
ZOO_NETWORKS = (
    "Networks that other people trained. Below 1 because of (percent of the initial 1-D BDM, which"
    " add up to what the ratio lacks to 1): the share of ones, order within rows, order among rows."
    " Left out: tensors of the file that are no weights. Notes: what its manifest says, such as"
    " batch norm folded into convolutions, and tied or transposed weights."
    f" {survey.NOT_RUN}: the weights were out of reach."
)
ZOO_AGREEMENT = (
    "Which measures agree: Spearman's rank correlation over the models of a source, with 95 %"
    " intervals of a bootstrap over initialisations, of eight or more. BDM and bit planes against"
    " initial weights; compressors as compressed / raw bytes."
)
READINGS = (
    "Readings of the paper: how many published numbers each explains, those that explain most first"
    " and the authors' present code. An accuracy is explained within claim M16's tolerance (of one"
    " seed alone, two published deviations times sqrt(1 + 1/3)), a BDM ratio within 0.01 or two of"
    " our standard errors. Only what was run is counted, and no accuracy whose published standard"
    " error exceeds 3 points."
)
READINGS_CELLS = (
    "Every published accuracy (%) and BDM ratio beside what each reading gives, means over seeds; *"
    " where it explains the published number. Patience: with the weights at which 20 epochs without"
    " a lower validation loss would have ended the training."
)
CAPACITY = (
    "Validation accuracy (%) of the last weights by block size and capacity (Figures 4 and B.2), as"
    " the paper shows it; claim M9 is judged on test accuracy."
)
PACKING = (
    "Kilobytes of the deployed model as a file: safetensors and compressors of it, and .momos"
    " without loss, beside the bound that Eq. 8 sets for the weights alone. Means over the seeds"
    " packed so. Test accuracy is that of Table 1, measured after decoding."
)
PACKING_LOSSY = (
    "Kilobytes of entropy-coded .momos files and, in brackets, test accuracy (%) measured after"
    " decoding: motifs at fewer bits; rarely used motifs pruned; motifs trained again, mosaic"
    " fixed; all three. Means over the seeds packed so. In the last column: the smallest whose"
    " accuracy on validation images is at most half a point below that without loss."
)


class Table(NamedTuple):
    """One table of the report."""

    text: pd.DataFrame  # to show
    numbers: pd.DataFrame  # behind it
    caption: str


def tables(study: Study) -> dict[str, Table]:
    """List the tables by file name; those whose runs this profile has."""
    cells, measured = study.cells, study.results
    compressors = study.settings["evaluate"]["compressors"]
    zoo = survey.group_statistics(measured.survey, seed=study.settings["survey"]["seed"])
    agreement = survey.agreement(measured.survey, seed=study.settings["survey"]["seed"])
    networks = survey.networks(measured.survey, measured.not_surveyed)
    return {
        **_main_tables(cells),
        "complexity": Table(rendering.complexity_table(cells), cells, COMPLEXITY),
        "compressors": Table(rendering.compressor_table(cells, compressors), cells, COMPRESSORS),
        "rac_check": Table(rendering.rac_table(study.check), study.check, RAC_CHECK),
        "comparison": Table(
            rendering.comparison_table(study.comparison), study.comparison, COMPARISON
        ),
        "zoo": Table(survey.group_table(zoo), zoo, ZOO),
        **(
            {"zoo_networks": Table(survey.network_table(networks), networks, ZOO_NETWORKS)}
            if len(networks)
            else {}
        ),
        "zoo_agreement": Table(survey.agreement_table(agreement), agreement, ZOO_AGREEMENT),
        **_reading_tables(study),
        **_packing_tables(measured.packing),
        **_capacity_tables(measured.evaluation),
    }


def _main_tables(cells: pd.DataFrame) -> dict[str, Table]:
    parts = {
        "table1": (cells[cells.model != TABLE2_MODEL], TABLE1),
        "table2": (cells[cells.model == TABLE2_MODEL], TABLE2),
    }
    return {
        name: Table(rendering.main_table(part), part, caption)
        for name, (part, caption) in parts.items()
        if len(part)
    }


def _reading_tables(study: Study) -> dict[str, Table]:
    rows = study.readings
    if not len(rows):
        return {}
    counted = readings.explained(rows)
    cells = readings.cells_table(rows, results.TITLES, readings.labels(study.check))
    return {
        "readings": Table(readings.counts_table(counted), counted, READINGS),
        "readings_cells": Table(cells, rows, READINGS_CELLS),
    }


def _packing_tables(rows: pd.DataFrame) -> dict[str, Table]:
    listed = {"packing": Table(packing.lossless_table(rows), packing.mean_sizes(rows), PACKING)}
    text = packing.lossy_table(rows)
    if text is not None:
        lossy = rows[rows.coding.isin(packing.lossy_codings(rows))]
        listed["packing_lossy"] = Table(text, packing.mean_sizes(lossy), PACKING_LOSSY)
    return listed


def _capacity_tables(evaluation: pd.DataFrame) -> dict[str, Table]:
    rows = points.capacity_points(evaluation)
    if not len(rows):
        return {}
    return {"capacity": Table(rendering.capacity_table(rows), rows, CAPACITY)}


def write_all(listed: dict[str, Table], folder: Path) -> None:
    """Write every table as .md, .html, .tex, and its numbers as .csv."""
    for name, (text, numbers, caption) in listed.items():
        atomic.write_text(folder / f"{name}.md", rendering.markdown(text, caption))
        atomic.write_text(folder / f"{name}.html", rendering.html(text, caption))
        atomic.write_text(folder / f"{name}.tex", rendering.latex(text, caption, name))
        _write_csv(folder, name, numbers)


def write_rows(study: Study, folder: Path) -> None:
    """Write the rows behind tables and figures as .csv.

    They are claims.csv; runs.csv, a row a run; survey.csv, a row a pair of Figure 2; training.csv
    and distortion.csv for `dvc plots`. packing_runs.csv, distortion_runs.csv and singular.csv
    hold what means hide, so that results.json can be verified (`momos.report.momos.verify`).
    """
    measured = study.results
    _write_csv(folder, "packing_runs", measured.packing)
    _write_csv(folder, "distortion_runs", points.distortion_at_ends(measured.distortion))
    _write_csv(folder, "singular", measured.singular)
    _write_csv(folder, "claims", study.verdicts)
    _write_csv(folder, "runs", measured.evaluation)
    surveyed = pd.concat([measured.survey, measured.not_surveyed], ignore_index=True)
    _write_csv(folder, "survey", surveyed)
    plotted = {
        "training": (measured.history, ["val_loss", "val_accuracy"]),
        "distortion": (measured.distortion, ["relative_distortion"]),
    }
    for name, (rows, columns) in plotted.items():
        means = points.curves(rows[rows.grid == "main"], columns)
        _write_csv(folder, name, means[["model", "method", "epoch", "num_seeds", *columns]])


def _write_csv(folder: Path, name: str, frame: pd.DataFrame) -> None:
    atomic.write_text(folder / f"{name}.csv", frame.to_csv(index=False))
