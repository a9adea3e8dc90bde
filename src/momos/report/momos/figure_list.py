"""The figures of the report, in reading order.

A new figure is one function of `momos.report.shared.figures` and one entry of `drawings`.
"""

from functools import partial

from momos.report.momos import packing, points
from momos.report.momos.study import Study
from momos.report.shared import figures
from momos.report.shared.figures import Drawing

FIGURE1 = (
    "Figure 1. Weights of `{}` of {}: values (one scale, which ends at the 99th percentile), signs,"
    " and how often the block of each weight occurs in the tensor."
)
FIGURE2 = (
    "Figure 2. 1-D BDM of trained weights relative to the same architecture at initialisation:"
    " the runs of this pipeline by model, models from elsewhere against their number of weights;"
    " untrained ones are the control, the lowest are named, checkpoints of one training count once"
    " in the title. Below: medians of the same ratio by bit plane, and"
    " checkpoints along a training, where any were surveyed."
)
FIGURE3 = (
    "Figure 3 ({}). Relative distortion of the projection (solid, left) and validation loss"
    " (dashed, right); means over seeds."
)
FIGURE_B1 = "Figure B.1 ({}). As Figure 3, for every MoMos configuration."
FIGURE4 = (
    "Figures 4 and B.2 ({}). Validation accuracy of the last weights against capacity; seed {},"
    " the baseline's too. Claim M9 is judged on test accuracy."
)
ACCURACY_RAC = (
    "Accuracy against relative algorithmic compression (RAC), with sample standard deviations over"
    " seeds. The lower row, hollow, has the published points on axes of their own."
)
ACCURACY_BYTES = (
    "Test accuracy after decoding against bytes on disk: entropy-coded .momos files, with sample"
    " standard deviations over seeds. Hollow: MoMos with motifs refitted, pruned and at few bits,"
    " of the seeds packed so."
)
TRAINING = (
    "Training curves. Validation loss and accuracy, means over seeds: baseline, each method's"
    " mildest and harshest settings."
)


def drawings(study: Study) -> dict[str, Drawing]:
    """List the figures by file name, in reading order; those whose runs this profile has."""
    return {
        **_weight_drawings(study),
        "figure2": Drawing(FIGURE2, lambda: figures.survey(study.results.survey)),
        **_distortion_drawings(study),
        **_capacity_drawings(study),
        "accuracy_rac": Drawing(
            ACCURACY_RAC,
            lambda: figures.compression(
                points.measured_points(study), points.published_points(study)
            ),
        ),
        "accuracy_bytes": Drawing(
            ACCURACY_BYTES,
            lambda: figures.sizes(
                packing.accuracy_points(study.results.packing, study.results.methods),
                hollow=packing.LOSSY_SERIES,
            ),
        ),
        "training": Drawing(TRAINING, lambda: figures.training(points.training_curves(study))),
    }


def _weight_drawings(study: Study) -> dict[str, Drawing]:
    weights, repeats = study.pictures
    if not weights:
        return {}
    report = study.settings["report"]
    caption = FIGURE1.format(report["picture_tensor"], report["picture_model"])
    return {"figure1": Drawing(caption, lambda: figures.weights(weights, repeats))}


def _distortion_drawings(study: Study) -> dict[str, Drawing]:
    """Figure 3 of one model's extreme capacities, and Figure B.1 of every model."""
    of_model = dict(list(points.distortion_curves(study).groupby("model", sort=False)))
    momos = {name: part[part.family == "momos"] for name, part in of_model.items()}
    momos = {name: part for name, part in momos.items() if len(part)}
    listed = {}
    if momos:
        first = momos.get(study.settings["report"]["picture_model"], next(iter(momos.values())))
        chosen = points.extreme_capacities(first)
        caption = FIGURE3.format(chosen.title.iloc[0])
        listed["figure3"] = Drawing(caption, partial(figures.distortion, chosen, columns=2))
    for name, part in of_model.items():
        caption = FIGURE_B1.format(part.title.iloc[0])
        draw = partial(figures.distortion, part, columns=4)
        listed[f"figure_b1_{name}"] = Drawing(caption, draw)
    return listed


def _capacity_drawings(study: Study) -> dict[str, Drawing]:
    evaluation, listed = study.results.evaluation, {}
    rows = points.capacity_points(evaluation)
    for (model, title), part in rows.groupby(["model", "title"], sort=False):
        seeds = points.ablation_seeds(evaluation, model)
        caption = FIGURE4.format(title, ", ".join(map(str, seeds)))
        level = points.baseline_level(evaluation, model)
        draw = partial(figures.capacity, part, level, title)
        listed[f"figure4_{model}"] = Drawing(caption, draw)
    return listed
