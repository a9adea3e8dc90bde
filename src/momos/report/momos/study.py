"""The report of one profile: measured results and the paper's numbers -> tables, figures, metrics
and a page to read.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from momos.config import Report, Run
from momos.files import atomic, run_folder
from momos.report.momos import packing as sizes
from momos.report.momos import survey as zoo_tables
from momos.report.shared import claims, figures, published, results, tables

TABLE2_MODEL = "mobilevit"
CAPTIONS = {
    "table1": "Table 1. Test accuracy (%, mean ± sample standard deviation over seeds; of the last weights, which the published tables "
    "show, and of those with the lowest validation loss), relative algorithmic compression (RAC) by Eq. 21 and as the weights' bytes in an "
    "entropy-coded .momos file have it, and 1-D BDM ratio of the deployed "
    "weights to their initialisation (in brackets: of the latent weights behind quantised ones).",
    "table2": "Table 2. As Table 1, for MobileViT.",
    "complexity": "Algorithmic complexity of the weights' signs: BDM against the initial weights, on pybdm's scale of 0 to 1, and against "
    "the same bits shuffled within each tensor. Means over seeds.",
    "compressors": "Raw / compressed bytes of the float32 weights and of their packed signs. Means over seeds.",
    "rac_check": "Published RAC against Eq. 21 with the published model's number of weights (MobileViT's is assumed), and the RAC of the "
    "models trained here.",
    "comparison": "Published test accuracy (%) and BDM ratio beside those measured here (last weights; BDM "
    "of latent weights, as published).",
    "zoo": "Complexity of trained against initial weights by source, family, size and recipe: medians with 95 % bootstrap intervals, and "
    "the share of models with a 1-D ratio below 1, with Wilson's. Against the shuffled control (signs permuted within each tensor) "
    "what lies below 1 is order among the signs, not a share of positive ones other than one half. `untrained`: initialisations alone.",
    "zoo_agreement": "Which measures agree: Spearman's rank correlation over the models of a source. BDM against initial weights; "
    "compressors as compressed / raw bytes.",
    "capacity": "Validation accuracy (%) of the last weights by block size and capacity (Figures 4 and B.2).",
    "packing": "Kilobytes of the deployed model as a file: safetensors and compressors of it, and .momos without loss, beside the bound "
    "that Eq. 8 sets for the weights alone. Means over the seeds packed so. Test accuracy is that of Table 1, measured after decoding.",
    "packing_lossy": "Kilobytes of entropy-coded .momos files and, in brackets, test accuracy (%) measured after decoding: motifs at fewer "
    "bits; rarely used motifs pruned; motifs trained again, mosaic fixed; all three. Means over the seeds packed so.",
}
FIGURE1 = (
    "Figure 1. Weights of `{}` of {}: values (one scale, which ends at the 99th percentile), signs, and how often the block of each "
    "weight occurs in the tensor."
)
FIGURE2 = (
    "Figure 2. 1-D BDM of trained weights relative to the same architecture at initialisation: the runs of this pipeline by model, models "
    "from elsewhere against their number of weights; untrained ones are the control."
)
FIGURE3 = "Figure 3 ({}). Relative distortion of the projection (solid, left) and validation loss (dashed, right); means over seeds."
FIGURE_B1 = "Figure B.1 ({}). As Figure 3, for every MoMos configuration."
FIGURE4 = "Figures 4 and B.2 ({}). Validation accuracy of the last weights against capacity; seed {}, the baseline's too."
ACCURACY_RAC = (
    "Accuracy against relative algorithmic compression (RAC), with sample standard deviations over seeds. The lower row, hollow, has the "
    "published points on axes of their own."
)
ACCURACY_BYTES = (
    "Test accuracy after decoding against bytes on disk: entropy-coded .momos files, with sample standard deviations over seeds. Hollow: "
    "MoMos with motifs refitted, pruned and at few bits, of the seeds packed so."
)
TRAINING = "Training curves. Validation loss and accuracy, means over seeds: baseline, each method's mildest and harshest settings."
BESIDE = """\
Beside this file, `index.html` is all of it in one page to open in a browser, and `results.json` has every number with its interval, the
published one, and the file and stage that it came from. What is here is the same bytes for the same inputs; what it cost (`cost/`) and
where it ran (`provenance.json`) are not, and `index.html` shows both."""
SATURATION = """\
BDM adds up, over the distinct blocks of 12 signs, each block's own complexity and log2 of how often it occurs. There are only 4,096
such blocks. Once a model is large enough to hold nearly all of them, the first part no longer changes and the second grows with the
logarithm of the counts: 1-D BDM saturates near 1.5e5 bits beyond about a million weights, and its ratio is then close to 1 whatever
training did. A ratio near 1 is therefore no evidence that nothing changed, and ratios of models of different size do not compare. The
complexity table has the 2-D variant (65,536 blocks of 4x4 signs), the normalised value, and the shuffled control beside it: what
remains below 1 against the control is order among the signs, and not just a share of positive weights other than one half."""


@dataclass(frozen=True)
class Study:
    """Everything that the report shows."""

    name: str  # of the profile
    results: results.Results
    check: pd.DataFrame  # `published.rac_check` with title, label, num_weights_here, rac_here
    comparison: pd.DataFrame  # `claims.compare_accuracy`
    verdicts: pd.DataFrame  # `claims.judge`
    pictures: dict[str, pd.DataFrame]  # Figure 1: title -> matrix of weights
    repeats: (
        dict[str, pd.DataFrame] | None
    )  # Figure 1: title -> how often each weight's block occurs
    data: Mapping[str, Any]  # the summary that `prepare` wrote
    settings: Mapping[str, Any]  # section of params.yaml -> what it holds
    imported: Sequence[Mapping[str, Any]]  # `imported.origin` of each
    departures: tuple[
        str, ...
    ]  # settings that are not the paper's: `published.departures`, `imported.departures`

    @property
    def cells(self) -> pd.DataFrame:
        return results.cells(self.results.evaluation)


def read_published(folder: Path, evaluation: pd.DataFrame) -> pd.DataFrame:
    """The published cells, their RAC checked, beside the RAC and the number of weights of the same
    cell in the main grid.
    """
    check = published.rac_check(published.read_tables(folder))
    names = [results.label(row.bits, row.block_size, row.capacity) for row in check.itertuples()]
    check = check.assign(title=check.model.map(results.TITLES), label=names)
    here = evaluation[(evaluation.grid == "main") & (evaluation.weights == "deployed")]
    here = here.drop_duplicates(["model", "label"])[["model", "label", "num_weights", "rac"]]
    return check.merge(
        here, how="left", on=["model", "label"], suffixes=("", "_here"), validate="one_to_one"
    )


def pictures(
    runs_dir: Path, runs: Sequence[Run], settings: Report, which: str
) -> dict[str, np.ndarray]:
    """Figure 1's tensor by title, whole: initial and trained (`which`: last, best) baseline, and
    trained with picture_method; first seed; nothing where the runs are imported, without weights.

    Raises ValueError naming report.picture_tensor if there is no such tensor.
    """
    mine = [run for run in runs if run.model == settings.picture_model and run.grid == "main"]
    if not mine:
        return {}
    chosen = next(run for run in mine if run.method == settings.picture_method)
    wanted = {"Initial": (chosen, "initial")}
    for run in mine:
        if (
            run.seed == chosen.seed
            and results.family(run.settings.bits, run.settings.block_size) == "baseline"
        ):
            wanted["Trained"] = (run, which)
    wanted[_label(chosen)] = (chosen, which)
    return {
        title: _tensor(run.folder(runs_dir), name, settings.picture_tensor)
        for title, (run, name) in wanted.items()
    }


def _label(run: Run) -> str:
    return results.label(
        run.settings.bits, run.settings.block_size, run.settings.capacity, run.settings.num_motifs
    )


def _tensor(folder: Path, which: str, name: str) -> np.ndarray:
    """A tensor of a run as a matrix (shape[0], rest)."""
    weights = run_folder.load_weights(folder, which)
    if name not in weights:
        raise ValueError(
            f"report.picture_tensor must be a tensor of {folder}, one of {', '.join(weights)}; got {name!r}"
        )
    tensor = weights[name].float().numpy()
    return tensor.reshape(len(tensor), -1) if tensor.ndim else tensor.reshape(1, 1)


def repeats(matrix: np.ndarray, block_size: int) -> np.ndarray:
    """How often the block of each weight occurs in the whole matrix, cut row after row into blocks
    as training does; same shape.

    A ragged last block is padded with zeros.
    """
    flat = matrix.ravel()
    blocks = np.pad(flat, (0, -len(flat) % block_size)).reshape(-1, block_size)
    _, which, count = np.unique(blocks, axis=0, return_inverse=True, return_counts=True)
    return np.repeat(count[which.ravel()], block_size)[: len(flat)].reshape(matrix.shape)


def crop(matrices: Mapping[str, np.ndarray], size: int) -> dict[str, pd.DataFrame]:
    """The top left corner of each, at most size x size."""
    return {title: pd.DataFrame(matrix[:size, :size]) for title, matrix in matrices.items()}


def curves(rows: pd.DataFrame, columns: list[str]) -> pd.DataFrame:
    """Means over seeds by epoch, up to the last epoch that every seed of a configuration reached."""
    keys = ["model", "title", "method", "label", "family", "grid", "block_size", "capacity"]
    last = rows.groupby(["model", "method", "seed"]).epoch.transform("max")
    shared = last.groupby([rows.model, rows.method]).transform("min")
    groups = rows[rows.epoch <= shared].groupby([*keys, "epoch"], sort=False, dropna=False)
    means = groups[columns].mean().assign(num_seeds=groups.seed.nunique()).reset_index()
    return means.astype({"epoch": int})


def capacity_points(evaluation: pd.DataFrame) -> pd.DataFrame:
    """Figure 4: ablation rows alone, means over its seeds; accuracy is validation accuracy of the
    last weights in percent.
    """
    rows = evaluation[evaluation.grid == "ablation"]
    points = rows.groupby(
        ["model", "title", "block_size", "capacity"], sort=False
    ).val_accuracy_last.mean()
    return points.mul(100).rename("accuracy").reset_index()


def baseline_level(evaluation: pd.DataFrame, model: str) -> float | None:
    """The main grid's baseline on the ablation's seeds, in percent; None if it was not run on any."""
    seeds = set(evaluation.seed[(evaluation.grid == "ablation") & (evaluation.model == model)])
    baseline = (
        (evaluation.family == "baseline")
        & (evaluation.model == model)
        & evaluation.seed.isin(seeds)
    )
    values = evaluation.val_accuracy_last[baseline & (evaluation.weights == "deployed")]
    return 100 * float(values.mean()) if len(values) else None


def write_tables(study: Study, folder: Path) -> None:
    """Every table as .md, .html, .tex and its numbers as .csv; runs.csv, a row a run; training.csv
    and distortion.csv for `dvc plots`; survey.csv, a row a pair of Figure 2.
    """
    for name, (shown, numbers) in _tables(study).items():
        atomic.write_text(folder / f"{name}.md", tables.markdown(shown, CAPTIONS[name]))
        atomic.write_text(folder / f"{name}.html", tables.html(shown, CAPTIONS[name]))
        atomic.write_text(folder / f"{name}.tex", tables.latex(shown, CAPTIONS[name], name))
        atomic.write_text(folder / f"{name}.csv", numbers.to_csv(index=False))
    atomic.write_text(folder / "claims.csv", study.verdicts.to_csv(index=False))
    atomic.write_text(folder / "runs.csv", study.results.evaluation.to_csv(index=False))
    surveyed = pd.concat([study.results.survey, study.results.not_surveyed], ignore_index=True)
    atomic.write_text(folder / "survey.csv", surveyed.to_csv(index=False))
    distortion = study.results.distortion
    plotted = {
        "training": (study.results.history, ["val_loss", "val_accuracy"]),
        "distortion": (distortion, ["relative_distortion"]),
    }
    for name, (rows, columns) in plotted.items():
        means = curves(rows[rows.grid == "main"], columns)
        atomic.write_text(
            folder / f"{name}.csv",
            means[["model", "method", "epoch", "num_seeds", *columns]].to_csv(index=False),
        )


def _tables(study: Study) -> dict[str, tuple[pd.DataFrame, pd.DataFrame]]:
    """Name -> (text to show, numbers behind it)."""
    cells, found = study.cells, {}
    for name, part in (
        ("table1", cells[cells.model != TABLE2_MODEL]),
        ("table2", cells[cells.model == TABLE2_MODEL]),
    ):
        if len(part):
            found[name] = (tables.main_table(part), part)
    found["complexity"] = (tables.complexity_table(cells), cells)
    found["compressors"] = (
        tables.compressor_table(cells, study.settings["evaluate"]["compressors"]),
        cells,
    )
    found["rac_check"] = (tables.rac_table(study.check), study.check)
    found["comparison"] = (tables.comparison_table(study.comparison), study.comparison)
    zoo = zoo_tables.groups(study.results.survey, seed=study.settings["survey"]["seed"])
    found["zoo"] = (zoo_tables.groups_table(zoo), zoo)
    agreement = zoo_tables.agreement(study.results.survey)
    found["zoo_agreement"] = (zoo_tables.agreement_table(agreement), agreement)
    packing = study.results.packing
    found["packing"] = (sizes.lossless_table(packing), sizes.cells(packing))
    lossy = sizes.lossy_table(packing)
    if lossy is not None:
        found["packing_lossy"] = (
            lossy,
            sizes.cells(packing[packing.coding.isin(sizes.lossy(packing))]),
        )
    points = capacity_points(study.results.evaluation)
    if len(points):
        found["capacity"] = (tables.capacity_table(points), points)
    return found


class Drawing(NamedTuple):
    caption: str
    draw: Callable[[], Figure]


def write_figures(study: Study, folder: Path) -> None:
    """Every figure as .png, .svg and .pdf, and their captions."""
    drawn = drawings(study)
    with figures.style():
        for name, drawing in drawn.items():
            figures.save(drawing.draw(), folder, name)
    atomic.write_json(
        folder / "captions.json", {name: drawing.caption for name, drawing in drawn.items()}
    )


def drawings(study: Study) -> dict[str, Drawing]:
    """File name -> caption and how to draw it, in reading order; those whose runs this profile has."""
    training = curves(study.results.history, ["val_loss", "val_accuracy"])
    tensor, model = (
        study.settings["report"]["picture_tensor"],
        study.settings["report"]["picture_model"],
    )
    figure1 = Drawing(
        FIGURE1.format(tensor, model), lambda: figures.weights(study.pictures, study.repeats)
    )
    return {
        **({"figure1": figure1} if study.pictures else {}),
        "figure2": Drawing(FIGURE2, lambda: figures.survey(study.results.survey)),
        **_distortion_drawings(study),
        **_capacity_drawings(study.results.evaluation),
        "accuracy_rac": Drawing(
            ACCURACY_RAC,
            lambda: figures.compression(_measured_points(study.cells), _published_points(study)),
        ),
        "accuracy_bytes": Drawing(
            ACCURACY_BYTES,
            lambda: figures.sizes(sizes.points(study.results.packing), hollow=sizes.LOSSY_SERIES),
        ),
        "training": Drawing(TRAINING, lambda: figures.training(_few(training))),
    }


def _distortion_drawings(study: Study) -> dict[str, Drawing]:
    rows = study.results.distortion
    main = curves(rows[rows.grid == "main"], ["relative_distortion", "val_loss"])
    parts = dict(list(main.groupby("model", sort=False)))
    alone = {
        name: part[part.family == "momos"]
        for name, part in parts.items()
        if (part.family == "momos").any()
    }
    found = {}
    if alone:
        first = study.settings["report"]["picture_model"]
        chosen = _extremes(alone.get(first, next(iter(alone.values()))))
        found["figure3"] = Drawing(
            FIGURE3.format(chosen.title.iloc[0]), partial(figures.distortion, chosen, columns=2)
        )
    for name, part in parts.items():
        found[f"figure_b1_{name}"] = Drawing(
            FIGURE_B1.format(part.title.iloc[0]), partial(figures.distortion, part, columns=4)
        )
    return found


def _capacity_drawings(evaluation: pd.DataFrame) -> dict[str, Drawing]:
    found = {}
    for (model, title), rows in capacity_points(evaluation).groupby(["model", "title"], sort=False):
        seeds = sorted(
            set(evaluation.seed[(evaluation.grid == "ablation") & (evaluation.model == model)])
        )
        caption = FIGURE4.format(title, ", ".join(map(str, seeds)))
        found[f"figure4_{model}"] = Drawing(
            caption, partial(figures.capacity, rows, baseline_level(evaluation, model), title)
        )
    return found


def _extremes(rows: pd.DataFrame) -> pd.DataFrame:
    """Of each block size, the methods of the largest and of the smallest capacity; those that state
    their number of motifs, all.
    """
    sizes = rows.groupby("block_size").capacity
    edge = (
        rows.capacity.eq(sizes.transform("max"))
        | rows.capacity.eq(sizes.transform("min"))
        | rows.capacity.isna()
    )
    return rows[edge]


def _few(rows: pd.DataFrame) -> pd.DataFrame:
    """Baseline, QAT at the most and the fewest bits, and MoMos at the largest and smallest capacity
    of each block size; in percent.
    """
    momos = _extremes(rows[rows.family == "momos"])
    qat = list(dict.fromkeys(rows.label[rows.family == "qat"]))
    kept = {*momos.label, *rows.label[rows.family == "baseline"], *qat[:1], *qat[-1:]}
    chosen = rows if rows.label.nunique() <= 8 else rows[rows.label.isin(kept)]
    return chosen.assign(val_accuracy=100 * chosen.val_accuracy)


def _measured_points(cells: pd.DataFrame) -> pd.DataFrame:
    deployed = cells[cells.weights == "deployed"]
    accuracy = {
        "accuracy": 100 * deployed.test_accuracy_last,
        "accuracy_std": 100 * deployed.test_accuracy_last_std,
    }
    return deployed.assign(**accuracy, series=_series(deployed))


def _published_points(study: Study) -> pd.DataFrame:
    rows = study.check[study.check.title.isin(study.results.evaluation.title)]
    return rows.assign(accuracy=rows.accuracy_mean, series=_series(rows))


def _series(rows: pd.DataFrame) -> list[str]:
    return [results.group(row.bits, row.block_size) for row in rows.itertuples()]


def metrics(study: Study) -> dict:
    """For `dvc metrics` and `dvc exp show`, which have a column for each: per model and family of
    methods the mean test accuracy of the last weights (percent) and the mean BDM ratio; counts of
    verdicts and of RAC cells. results.json has everything.
    """
    deployed = study.cells[study.cells.weights == "deployed"]
    models: dict[str, dict] = {}
    for (model, family), rows in deployed.groupby(["model", "family"], sort=False):
        means = {
            "accuracy": 100 * rows.test_accuracy_last.mean(),
            "bdm_ratio": rows.bdm_1d_ratio.mean(),
        }
        models.setdefault(model, {})[family] = {
            name: round(float(value), 4) for name, value in means.items() if pd.notna(value)
        }
    verdicts = {
        verdict.lower().replace(" ", "_"): number
        for verdict, number in claims.counts(study.verdicts).items()
    }
    return {
        "claims": verdicts,
        "rac_check": {"agree": int(study.check.agrees.sum()), "cells": len(study.check)},
        "models": models,
    }


def claims_page(study: Study) -> str:
    """claims.md"""
    shown = study.verdicts[
        ["id", "verdict", "claim", "measured", "threshold", "statistic", "where", "note"]
    ]
    counted = ", ".join(
        f"{number} {verdict}" for verdict, number in claims.counts(study.verdicts).items()
    )
    intro = (
        f"# The papers' claims, judged on profile `{study.name}`\n\n{counted}.\n\n"
        "Each verdict follows from the statistic and the threshold in `data/paper/claims.yaml`, fixed before anything was measured.\n"
        "NOT RUN: this profile lacks the runs. NOT COMPARABLE: other data or budget than the paper's, for absolute published values.\n"
    )
    return f"{intro}\n{tables.markdown(shown.rename(columns=str.capitalize))}"


def page(study: Study) -> str:
    """README.md of the report."""
    shown = _tables(study)
    main = [
        tables.markdown(shown[name][0], CAPTIONS[name])
        for name in ("table1", "table2")
        if name in shown
    ]
    parts = [
        f"# MoMos, profile `{study.name}`",
        _data_text(study.data),
        _imported_text(study.imported),
        BESIDE,
        "## Claims\n\n" + _verdicts_text(study.verdicts),
        "## Results\n\n"
        + "\n".join(main)
        + "\nThe same as [HTML](tables/table1.html) and [LaTeX](tables/table1.tex); "
        "[bytes on disk](tables/packing.md), [complexity](tables/complexity.md), [compressors](tables/compressors.md), "
        "[beside the published numbers](tables/comparison.md), "
        "[run by run](tables/runs.csv); [the survey of Figure 2](tables/zoo.md), [which measures agree](tables/zoo_agreement.md), "
        "[model by model](tables/survey.csv)." + _failures_text(study.results),
        "## Figures\n\n"
        + "\n\n".join(
            _figure_text(name, drawing.caption) for name, drawing in drawings(study).items()
        ),
        "## Published RAC against Eq. 21\n\n" + _rac_text(study.check),
        "## How to read the BDM ratio\n\n" + SATURATION + "\n\n" + _saturation_text(study.cells),
        "## Settings\n\n" + tables.markdown(_settings_table(study.settings)),
    ]
    return "\n\n".join(part.strip("\n") for part in parts if part) + "\n"


def _data_text(data: Mapping[str, Any]) -> str:
    sizes = ", ".join(f"{count:,} {split}" for split, count in data["sizes"].items())
    shape = " x ".join(map(str, data["image_shape"]))
    return (
        f"Data: `{data['source']}`, {len(data['classes'])} classes, images of {shape} (channels x height x width): {sizes}.\n"
        f"SHA-256 of images, labels and splits: `{data['sha256']}`."
    )


def _imported_text(imports: Sequence[Mapping[str, Any]]) -> str:
    if not imports:
        return ""
    return "Not run here but imported, as numbers:\n\n" + "\n".join(
        f"- {each['text']}" for each in imports
    )


def _verdicts_text(verdicts: pd.DataFrame) -> str:
    counted = pd.DataFrame(
        {"Verdict": claims.counts(verdicts).keys(), "Claims": claims.counts(verdicts).values()}
    )
    ids = [
        ", ".join(verdicts.id[verdicts.verdict == verdict]) or tables.EMPTY
        for verdict in counted.Verdict
    ]
    return (
        tables.markdown(counted.assign(Which=ids))
        + "\nEach with its statistic, threshold and numbers: [claims.md](claims.md)."
    )


def _failures_text(measured: results.Results) -> str:
    failed = measured.not_surveyed
    return (
        f" {len(failed)} surveyed models could not be measured; the last column of the latter says why."
        if len(failed)
        else ""
    )


def _figure_text(name: str, caption: str) -> str:
    return f"![{caption.split('. ')[0]}](figures/{name}.png)\n\n{caption} ([SVG](figures/{name}.svg), [PDF](figures/{name}.pdf))"


def _rac_text(check: pd.DataFrame) -> str:
    rows = []
    for title, cells in check.groupby("title", sort=False):
        momos = cells[cells.method == "momos"]
        pairs = zip(momos.rac, momos.rac_expected, momos.agrees, strict=True)
        differing = [
            f"{printed:.1f} ({expected:.2f})" for printed, expected, agrees in pairs if not agrees
        ]
        row = [
            title,
            tables.thousands(cells.num_weights.iloc[0]),
            f"{int(momos.agrees.sum())} of {len(momos)}",
            ", ".join(differing),
        ]
        rows.append(row)
    columns = [
        "Model",
        "Weights",
        "MoMos cells that follow",
        "Published (Eq. 21) where they differ",
    ]
    summary = tables.markdown(pd.DataFrame(rows, columns=columns))
    agree = f"{int(check.agrees.sum())} of {len(check)} published cells follow from Eq. 21 to the printed digit"
    return f"{agree}; baseline and QAT cells do so by definition. [All cells](tables/rac_check.md).\n\n{summary}"


def _saturation_text(cells: pd.DataFrame) -> str:
    first = cells[cells.weights == "deployed"].drop_duplicates("model")
    parts = [
        f"{row.title} {row.bdm_1d_initial:,.0f} bits ({int(row.num_weights):,} weights)"
        for row in first.itertuples()
    ]
    return f"1-D BDM of the initial weights here: {', '.join(parts)}."


def _settings_table(settings: Mapping[str, Any]) -> pd.DataFrame:
    rows = [
        (f"{section}.{key}", _plain(value))
        for section, values in settings.items()
        for key, value in values.items()
    ]
    return pd.DataFrame(rows, columns=["Setting", "Value"])


def _plain(value: Any) -> str:
    """As YAML's one-line style writes it."""
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_plain, value))}]"
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{key}: {_plain(part)}' for key, part in value.items())}}}"
    return (
        {None: "null", True: "true", False: "false"}[value]
        if value is None or isinstance(value, bool)
        else str(value)
    )
