"""Beyond Figure 2: the survey by family, size and training recipe, and which measures agree.

Frames go in, frames come out. `survey` is that of `results.Results`: a row per model with source,
family, group, tags, num_weights, the BDM columns of `complexity.measure` and each compressor's
ratio.
"""

import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd

from momos.report.shared import tables
from momos.report.shared.results import CONTROL, OWN_SOURCE
from momos.report.shared.statistics import (
    clopper_pearson,
    prediction_bound,
    rank_correlation_intervals,
)
from momos.report.shared.verdicts import NOT_RUN

# The survey's word for timm's own weights, and the report's for all the other people's.
TIMM, ELSEWHERE = "timm", "elsewhere"
OUT_OF_REACH = "NotFetched"  # beginning of what `momos.survey` says of weights that are
RARE = 0.001  # probability that an initialisation lies below the bound of z (method A11)
TASK = re.compile(r"\((.+)\)$")  # at the end of a family: carn (super-resolution)
HASH = r"\b([0-9a-f]{8})[0-9a-f]{56}\b"  # SHA-256: readers see its beginning
# tensors of a file that are no weights, by the column that counts them
NO_WEIGHTS = {"num_buffers": "buffers", "num_tied": "tied copies", "num_beside": "others"}
BASELINE = "Baseline"  # the group of methods that neither quantise nor share weights
SIZES = (0, 1e6, 5e6, 25e6, 1e8, np.inf)
SIZE_NAMES = ("below 1 M", "1 M to 5 M", "5 M to 25 M", "25 M to 100 M", "above 100 M")
SMALLEST_GROUP = 3  # models; smaller families and recipes are pooled
NUM_RESAMPLES = 2000
# Words of timm's tags that name training data: in1k, in21k, laion2b, lvd142m ..
DATA = re.compile(
    r"in\d+k|inat\d+|webli|laion\w*|openai|metaclip\w*|datacomp\w*|dfn\w*|lvd\d+m|yfcc\w*"
    r"|jft|ig1b|merged2b|m38m|cc12m"
)
ABOUT = ("source", "num_models", "measure")  # the first columns of `agreement`
ENDS = ("_low", "_high")  # behind a measure's name: of its interval
VALUES = {
    "ratio_1d": "bdm_1d_ratio",
    "ratio_2d": "bdm_2d_ratio",
    "ratio_planes": "planes_ratio",
    "shuffled_1d": "against_shuffled_1d",
    "shuffled_2d": "against_shuffled_2d",
}


def initializations(models: pd.DataFrame) -> pd.DataFrame:
    """Join the runs that started from the same initialisation: a row each, numbers averaged.

    Own runs of one model and seed start from the same weights, whatever their method: they are one
    pair. So are the checkpoints of one training. models: rows of `survey`; of models from elsewhere
    those without a series have an initialisation each.
    """
    starts = np.array([str(_start(model)) for model in models.itertuples()], dtype=object)
    groups = models.groupby(starts, sort=False)
    numbers = [name for name in models if pd.api.types.is_float_dtype(models[name])]
    whole = groups[numbers].count().eq(groups.size(), axis=0)  # pandas leaves out missing values
    means = groups[numbers].mean().where(whole)
    return groups.first().assign(**means).reset_index(drop=True)


def _start(model: Any) -> tuple:
    """What a row's initialisation is known by: equal for rows that have the same."""
    if model.source == OWN_SOURCE:
        return model.source, model.family, int(model.seed)
    series = getattr(model, "series", "")
    if isinstance(series, str) and series:
        return "checkpoints of", series  # each of them has a source of its own
    return model.source, model.name


def pairs(survey: pd.DataFrame) -> pd.DataFrame:
    """The pairs of Figure 2's claim, a row each: of own runs the baselines, or without any all."""
    is_own = survey.source == OWN_SOURCE
    is_baseline = is_own & (survey.group == BASELINE)
    return initializations(survey[~is_own | is_baseline] if is_baseline.any() else survey)


def origins(survey: pd.DataFrame) -> pd.Series:
    """Where each model is from: this pipeline, untrained, timm, or elsewhere."""
    known = survey.source.isin((OWN_SOURCE, CONTROL, TIMM))
    return survey.source.where(known, ELSEWHERE)


def is_below_chance(models: pd.DataFrame) -> pd.Series:
    """Whether z lies where an initialisation rarely does (True, False); None without z."""
    number = pd.Series(np.nan, index=models.index)
    for column in ("num_initial", "num_initializations"):
        number = number.fillna(models[column]) if column in models else number
    z = models.bdm_1d_z if "bdm_1d_z" in models else number * np.nan
    told = [
        bool(value < -prediction_bound(int(count), RARE)) if count >= 2 and value == value else None
        for value, count in zip(z, number, strict=True)
    ]
    return pd.Series(told, index=models.index, dtype=object)


def elsewhere_text(trained: pd.DataFrame) -> str:
    """How many networks of other people, timm's apart, lie below 1; nothing without any.

    trained: rows of `survey` that somebody trained.
    """
    others = pairs(trained[origins(trained) == ELSEWHERE])
    if others.empty:
        return ""
    below, total = int((others.bdm_1d_ratio < 1).sum()), len(others)
    low, high = clopper_pearson(below, total)
    told = [state for state in is_below_chance(others) if state is not None]
    planes = _column(others, "planes_ratio").dropna()
    return (
        f"Networks that other people trained, not {TIMM}'s: {below} of {total} below 1 (95 %"
        f" interval {low:.3f} to {high:.3f}), {sum(told)} of {len(told)} below chance;"
        f" by bit planes {int((planes < 1).sum())} of {len(planes)} below 1."
    )


def group_statistics(survey: pd.DataFrame, *, seed: int) -> pd.DataFrame:
    """Summarise the survey: a row per source and group of its models.

    A row has num_models; medians of the BDM ratios, of bit planes too, and of BDM against the
    shuffled control, each with a 95 % interval (<name>_low, <name>_high; percentile bootstrap,
    seeded); and the share of models below 1 in 1-D with Clopper-Pearson's interval;
    num_below_chance of num_with_z. Runs that started from the same initialisation count as one
    model, with their mean. Own runs are grouped by model and method, other people's by family,
    task, size, training recipe and the data of that, each where something is known of it.
    """
    against = {
        f"against_shuffled_{n}d": survey[f"bdm_{n}d"] / survey[f"bdm_{n}d_shuffled"] for n in (1, 2)
    }
    rows = []
    whole = survey.assign(planes_ratio=_column(survey, "planes_ratio"), **against)
    for source, models in whole.groupby(origins(survey), sort=False):
        for by, names in _groupings(str(source), models):
            parts = models.groupby(names.to_numpy(), sort=True)
            rows += [
                {"source": source, "by": by, "group": name} | _summary(initializations(part), seed)
                for name, part in parts
            ]
    return pd.DataFrame(rows)


def _groupings(source: str, models: pd.DataFrame) -> Iterator[tuple[str, pd.Series]]:
    """(what the models are grouped by, each one's group) for every grouping of a source."""
    yield "all", pd.Series("all", index=models.index)
    if source == OWN_SOURCE:
        yield "model", models.title
        yield "method", models.group
    elif source != CONTROL:
        yield "family", _pooled(models.family)
        tasks = _tasks(models)
        if tasks.any():
            yield "task", _pooled(tasks.where(tasks != "", "none named"))
        yield "size", size_class(models.num_weights)
        if models.tags.map(_words).map(len).any():
            yield "recipe", _pooled(models.tags.map(recipe))
            yield "data", _pooled(models.tags.map(training_data))


def size_class(num_weights: pd.Series) -> pd.Series:
    """The size in words, of each number of weights."""
    return pd.cut(num_weights, SIZES, labels=SIZE_NAMES, right=False).astype(str)


def _tasks(models: pd.DataFrame) -> pd.Series:
    """Each model's task; without one what stands in brackets behind its family, or nothing."""
    in_brackets = models.family.astype(str).str.extract(TASK, expand=False)
    return _texts(models, "task").fillna(in_brackets).fillna("")


def recipe(tag: str) -> str:
    """What stands before the data in timm's tag, or all of it: a1_in1k -> a1, augreg -> augreg."""
    words = _words(tag)
    first = next((place for place, word in enumerate(words) if DATA.fullmatch(word)), len(words))
    return "_".join(words[:first]) or "none named"


def training_data(tag: str) -> str:
    """The training data in timm's tag, in order: augreg_in21k_ft_in1k -> in21k, in1k."""
    return ", ".join(word for word in _words(tag) if DATA.fullmatch(word)) or "none named"


def _words(tag: str) -> list[str]:
    return tag.split("_") if isinstance(tag, str) else []


def _pooled(names: pd.Series) -> pd.Series:
    """Join small groups into one."""
    return names.where(names.map(names.value_counts()) >= SMALLEST_GROUP, "others")


def _summary(models: pd.DataFrame, seed: int) -> dict[str, float]:
    below = int((models.bdm_1d_ratio < 1).sum())
    low, high = clopper_pearson(below, len(models))
    told = [state for state in is_below_chance(models) if state is not None]
    summary = {
        "num_below_chance": sum(told),
        "num_with_z": len(told),
        "num_models": len(models),
        "share_below": below / len(models),
        "share_below_low": low,
        "share_below_high": high,
    }
    for name, column in VALUES.items():
        values = models[column].to_numpy(float)
        low, high = median_interval(values, seed)
        summary |= {name: float(np.median(values)), f"{name}_low": low, f"{name}_high": high}
    return summary


def median_interval(values: np.ndarray, seed: int) -> tuple[float, float]:
    """95 % percentile bootstrap interval of the median; NaN for fewer than two values."""
    if len(values) < 2:
        return float("nan"), float("nan")
    draws = np.random.default_rng(seed).integers(len(values), size=(NUM_RESAMPLES, len(values)))
    low, high = np.percentile(np.median(values[draws], axis=1), (2.5, 97.5))
    return float(low), float(high)


def agreement(survey: pd.DataFrame, *, seed: int) -> pd.DataFrame:
    """Spearman's rank correlation of every two measures over the initialisations of a source.

    A row per source and measure, a column per measure: BDM ratios, and compressed / raw bytes of
    signs and of float32 weights. Larger means more complex in each. Behind them the ends of 95 %
    intervals, <measure>_low and <measure>_high: a bootstrap over initialisations, seeded.
    """
    parts = []
    for source, every in survey.groupby(origins(survey), sort=False):
        models = initializations(every) if source in (TIMM, ELSEWHERE) else every
        measures = proxies(models)
        matrix = measures.corr(method="spearman", min_periods=SMALLEST_GROUP)
        starts = [str(_start(model)) for model in models.itertuples()]
        ends = zip(ENDS, rank_correlation_intervals(measures, starts, seed=seed), strict=True)
        intervals = [
            pd.DataFrame(values, matrix.index, matrix.columns).add_suffix(end)
            for end, values in ends
        ]
        parts.append(
            pd.concat([matrix, *intervals], axis=1)
            .rename_axis("measure")
            .reset_index()
            .assign(source=source, num_models=len(models))
        )
    frame = pd.concat(parts, ignore_index=True)
    shown = _measure_columns(frame)
    return frame[[*ABOUT, *shown, *(f"{name}{end}" for name in shown for end in ENDS)]]


def _measure_columns(agreement: pd.DataFrame) -> list[str]:
    return [name for name in agreement if name not in ABOUT and not name.endswith(ENDS)]


def proxies(survey: pd.DataFrame) -> pd.DataFrame:
    """The measures by readers' names; a compressor that was not run is left out."""
    columns = {"BDM 1-D": survey.bdm_1d_ratio, "BDM 2-D": survey.bdm_2d_ratio}
    if "planes_ratio" in survey and survey.planes_ratio.notna().any():
        columns["bit planes"] = survey.planes_ratio
    names = [name.removesuffix("_binary") for name in survey.columns if name.endswith("_binary")]
    columns |= {f"{name}, signs": 1 / survey[f"{name}_binary"] for name in names}
    return pd.DataFrame(columns | {f"{name}, weights": 1 / survey[name] for name in names})


def not_fetched(not_surveyed: pd.DataFrame) -> pd.DataFrame:
    """Models whose weights were out of reach. not_surveyed: that of `results.Results`."""
    if "error" not in not_surveyed:  # nothing was surveyed
        return not_surveyed
    return not_surveyed[not_surveyed.error.astype(str).str.startswith(OUT_OF_REACH)]


def shares(models: pd.DataFrame) -> pd.DataFrame:
    """What a 1-D BDM ratio below 1 is made of, in percent of initial BDM; the three add up.

    ones: the share of positive signs, which bits shuffled within each tensor keep. within_rows: the
    order that a tensor with permuted rows keeps beyond that. among_rows: the rest, which the order
    of rows makes. Negative where a control is simpler than what has more order.
    """
    initial = _column(models, "bdm_1d_initial")
    steps = [initial, *(_column(models, f"bdm_1d_{name}") for name in ("shuffled", "permuted"))]
    steps.append(_column(models, "bdm_1d"))
    names = ("ones", "within_rows", "among_rows")
    pairs = zip(names, steps[:-1], steps[1:], strict=True)
    return pd.DataFrame({name: 100 * (before - after) / initial for name, before, after in pairs})


def _texts(models: pd.DataFrame, name: str) -> pd.Series:
    """A column of texts, missing ones None, all of them where the table has no such column."""
    return pd.Series(models.get(name), index=models.index, dtype=object)


def _column(models: pd.DataFrame, name: str) -> pd.Series:
    """A column of numbers, NaN where the table has none."""
    return pd.Series(models.get(name), index=models.index, dtype=float)


def networks(survey: pd.DataFrame, not_surveyed: pd.DataFrame) -> pd.DataFrame:
    """Models of other people, a row each, those that were not measured last with their `error`."""
    others = survey[~survey.source.isin((OWN_SOURCE, CONTROL))]
    measured = pd.concat([others, shares(others)], axis=1)
    return pd.concat([measured, not_surveyed], ignore_index=True)


def network_table(models: pd.DataFrame) -> pd.DataFrame:
    """`networks` for readers. A model out of reach is NOT RUN; of a broken one it says why."""
    numbers = {
        "1-D ratio": ("bdm_1d_ratio", 3), "1-D z": ("bdm_1d_z", 1),
        "2-D ratio": ("bdm_2d_ratio", 3), "2-D z": ("bdm_2d_z", 1),
        "Planes ratio": ("planes_ratio", 3), "Planes z": ("planes_z", 1),
        "Ones": ("ones", 2), "Within rows": ("within_rows", 2), "Among rows": ("among_rows", 2),
    }  # fmt: skip
    texts = {
        title: [tables.number(value, digits) for value in _column(models, column)]
        for title, (column, digits) in numbers.items()
    }
    absent = set(not_fetched(models).index)
    states = ["measured" if pd.isna(one) else str(one) for one in models.error]
    states = [NOT_RUN if place in absent else state for place, state in enumerate(states)]
    about = {
        "Network": models.name,
        "Family": models.family,
        "Task": _tasks(models).replace("", None),
        "Source": models.source,
        "Licence": _texts(models, "licence"),
        "State": states,
        "Weights": [tables.thousands(value) for value in _column(models, "num_weights")],
    }
    form = {
        "Left out": [_left_out(row) for _, row in models.iterrows()],
        "Notes": _texts(models, "notes").str.replace(HASH, r"\1..", regex=True),
    }
    return pd.DataFrame(about | texts | form).fillna(tables.EMPTY)


def _left_out(model: pd.Series) -> str | None:
    """How many tensors of a file are no weights, and which: 3 buffers, 1 copy of another."""
    counts = {what: model.get(column) for column, what in NO_WEIGHTS.items()}
    parts = [f"{int(count)} {what}" for what, count in counts.items() if pd.notna(count) and count]
    return ", ".join(parts) or None


def group_table(groups: pd.DataFrame) -> pd.DataFrame:
    """`group_statistics` for readers."""

    def interval(name: str, digits: int = 3) -> list[str]:
        ends = zip(groups[name], groups[f"{name}_low"], groups[f"{name}_high"], strict=True)
        return [_interval(*numbers, digits) for numbers in ends]

    return pd.DataFrame({
        "Source": groups.source,
        "By": groups.by,
        "Group": groups.group,
        "Models": groups.num_models,
        "1-D ratio": interval("ratio_1d"),
        "2-D ratio": interval("ratio_2d"),
        "Planes ratio": interval("ratio_planes"),
        "Share below 1": interval("share_below", 2),
        "Below chance": [
            f"{row.num_below_chance} of {row.num_with_z}" if row.num_with_z else tables.EMPTY
            for row in groups.itertuples()
        ],
        "1-D / shuffled": interval("shuffled_1d"),
        "2-D / shuffled": interval("shuffled_2d"),
    })  # fmt: skip


def _interval(value: float, low: float, high: float, digits: int) -> str:
    ends = (
        "" if np.isnan(low) else f" ({tables.number(low, digits)} to {tables.number(high, digits)})"
    )
    return tables.number(value, digits) + ends


def agreement_table(agreement: pd.DataFrame) -> pd.DataFrame:
    """`agreement` for readers."""
    first = {
        "Source": agreement.source,
        "Models": agreement.num_models,
        "Measure": agreement.measure,
    }
    texts = {}
    for name in _measure_columns(agreement):
        numbers = (agreement[name + end] for end in ("", *ENDS))
        rows = zip(agreement.measure, *numbers, strict=True)
        texts[name] = [
            tables.number(value, 2) if measure == name else _interval(value, low, high, 2)
            for measure, value, low, high in rows
        ]
    return pd.DataFrame(first | texts)
