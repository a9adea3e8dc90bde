"""Both papers' measures along image trainings: frames for a figure and for tables.

along: a row per model, method, seed and step, as stage `complexity` writes it.
"""

import pandas as pd

from momos.report.slt.rivals import PREDICTORS, equal_step

RUN = ["model", "method", "seed"]
# Column -> name for readers, in the figure's order; critical n_q and PREDICTORS follow
MEASURES = {
    "val_accuracy": "validation accuracy",
    "init_loss": "training loss",
    "rac": "RAC",
}


def measures(along: pd.DataFrame, n_q: str) -> pd.DataFrame:
    """RUN, step, and a column per measure under its name for readers. n_q: of critical n_q.

    LLC is the one without the sampler's bias, the quadratic prediction with the gradient's part.
    """
    frame = along.assign(
        llc_mean=along.llc_corrected.fillna(along.llc_mean),
        llc_quadratic=along.llc_quadratic + along.llc_gradient,
    )
    names = MEASURES | {n_q: "critical n_q"} | PREDICTORS
    known = {column: name for column, name in names.items() if column in frame}
    return frame[[*RUN, "step", *known]].rename(columns=known)


def correlations(along: pd.DataFrame, n_q: str) -> pd.DataFrame:
    """Pearson's correlations of all measures at equal step, a row per measure.

    Each value is taken less the mean over all runs, of every model and method, at its step.
    """
    return equal_step(measures(along, n_q).drop(columns=RUN)).reset_index(names="measure")


def at_the_end(along: pd.DataFrame, n_q: str) -> pd.DataFrame:
    """What a run came to at its last kept step, a row per model and method: means over seeds.

    times_quadratic is the LLC over its quadratic prediction: 1 where the loss is quadratic around
    the weights, more where directions that look flat or steep from there are not.
    """
    last = along[along.step == along.groupby("model").step.transform("max")]
    frame = measures(last, n_q).drop(columns="seed")
    means = frame.groupby(["model", "method"], sort=False).mean().reset_index()
    seeds = last.groupby(["model", "method"], sort=False).seed.nunique().to_numpy()
    ratio = means["LLC"] / means["quadratic prediction of the LLC"]
    columns = ["model", "method", "step"]
    means.insert(len(columns), "num_seeds", seeds)
    means.insert(len(columns) + 1, "times_quadratic", ratio)
    return means
