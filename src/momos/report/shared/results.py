"""What the measuring stages wrote, read back for the report.

The rows are exactly those of the runs that params.yaml lists, each of which must be there, and of
imported runs (`momos.report.shared.imported`), whose tables are read by the same code.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from momos.config import Run
from momos.files import run_folder
from momos.methods.method import Method
from momos.report.shared import imported
from momos.report.shared.imported import CONTROL, OWN_SOURCE

KEYS = ["model", "method", "seed", "weights"]
SETTINGS = [
    "title",
    "family",
    "label",
    "bits",
    "block_size",
    "capacity",
    "num_motifs",
    "num_blocks",
    "num_weights",
]
EVALUATION = {
    *KEYS,
    "grid",
    *SETTINGS[3:],
    "val_accuracy_best",
    "val_accuracy_last",
    "test_accuracy_best",
    "test_accuracy_last",
    "rac",
    "lower_complexity",
    "bdm_1d_ratio",
    "bdm_2d_ratio",
    "bdm_1d",
    "bdm_1d_shuffled",
    "bdm_2d",
    "bdm_2d_shuffled",
}
DISTORTION = {
    "model",
    "method",
    "seed",
    "grid",
    "epoch",
    "distortion",
    "relative_distortion",
    "val_loss",
    "best",
}
PACKING = {
    "model",
    "method",
    "seed",
    "coding",
    "num_weights",
    "bound_bytes",
    "file_bytes",
    "stored_bytes",
    "test_accuracy",
}
MOST_FAMILIES = 8  # that a figure can tell apart
SURVEY = {"name", "family", "source", "num_weights", "bdm_1d_ratio", "bdm_2d_ratio", "error"}
TEXTS = {"name", "family"}  # a model from elsewhere may be called 7, 1e5 or nan
SINGULAR = {"table", "model", "method", "measure", "seed", "value", "unit", "source", "stage"}
ALWAYS_PACKED = ("safetensors", "fixed", "entropy")  # codings that every packed run has
TITLES = {"mlp": "MLP", "resnet20": "ResNet20", "tiny_vit": "Tiny-ViT", "mobilevit": "MobileViT"}
# Against several initialisations; runs that were imported before these were measured lack them.
FRESH = ("num_initializations",) + tuple(
    f"bdm_{n}d_{name}" for n in (1, 2) for name in ("fresh_mean", "fresh_std", "ratio_own", "z")
)


class Results(NamedTuple):
    """Rows of the listed runs alone, in the order of params.yaml, then those of imported runs.

    Each frame names model, method and seed. It has `title`, `family` (baseline, qat, momos,
    momos+qat) and `label` for readers, and `imported`: the import that a row comes from, or an
    empty text. Accuracies lie in [0, 1].
    """

    evaluation: pd.DataFrame  # a row per run and view of its weights (deployed, latent)
    distortion: pd.DataFrame  # a row per epoch of every MoMos run
    history: pd.DataFrame  # a row per epoch of every run of the main grid
    # A row per model and its initialisation: own runs, untrained ones, models from elsewhere.
    # `group` is the group of the run's method, or the model's family.
    survey: pd.DataFrame
    not_surveyed: pd.DataFrame  # models that could not be measured, and why (`error`)
    # The second paper's numbers, a value a row (`momos.report.slt.cells`); empty without them.
    singular: pd.DataFrame
    packing: pd.DataFrame  # a row per run of the main grid and coding of it as a file
    methods: Mapping[str, Method]  # by name, those of all runs


def read_results(
    results_dir: Path, runs_dir: Path, runs: Sequence[Run], imports: Sequence[imported.Import] = ()
) -> Results:
    """Read the tables of the listed runs and of the imported ones.

    Raises ValueError naming the file for a missing file, column or run, and for a run that is there
    twice.
    """
    runs, imports = told_apart(runs, imports)
    places = [("", results_dir, runs)] if runs or not imports else []
    places += [(one.name, one.folder, one.runs) for one in imports]
    methods = {run.method: run.settings for _, _, mine in places for run in mine}
    evaluation = _joined((name, _evaluation(folder, mine)) for name, folder, mine in places)
    evaluation = against_shared_initializations(evaluation)
    zoo = _read_table(results_dir / "zoo.csv", SURVEY)
    histories = [("", _history(runs_dir, runs))] if runs or not imports else []
    histories += [(one.name, _imported_history(one)) for one in imports]
    return Results(
        evaluation=evaluation,
        distortion=_joined((name, _distortion(folder, mine)) for name, folder, mine in places),
        history=_joined(histories),
        survey=_survey(evaluation, zoo[zoo.error.isna()], methods),
        not_surveyed=zoo[zoo.error.notna()].reset_index(drop=True),
        singular=read_singular_numbers(results_dir / "slt_numbers.csv"),
        packing=_joined((name, _packing(folder, mine)) for name, folder, mine in places),
        methods=methods,
    )


def told_apart(
    runs: Sequence[Run], imports: Sequence[imported.Import] = ()
) -> tuple[list[Run], list[imported.Import]]:
    """Return the same runs with a label of its own for each method of a grid.

    A method with the settings of one before it gets its name behind its label.
    """
    owners: dict[tuple[str, str], str] = {}

    def apart(run: Run) -> Run:
        owner = owners.setdefault((run.grid, run.settings.label), run.method)
        if owner == run.method:
            return run
        return run._replace(settings=replace(run.settings, called=run.method))

    own = [apart(run) for run in runs]
    return own, [one._replace(runs=[apart(run) for run in one.runs]) for one in imports]


def cells(evaluation: pd.DataFrame, *, grid: str = "main") -> pd.DataFrame:
    """Average over seeds: a row per model, method and view of the weights.

    A row has the settings, num_seeds, every measure's mean and, as <measure>_std, its sample
    standard deviation (NaN for one seed). A mean over a missing value is missing.
    """
    rows = evaluation[evaluation.grid == grid]
    measures = [name for name in rows.columns if name not in {*KEYS, *SETTINGS, "grid", "imported"}]
    keys = [rows[name] for name in ("model", "method", "weights")]
    groups = rows[measures].astype(float).groupby(keys, sort=False)
    whole = groups.count().eq(groups.size(), axis=0)  # pandas leaves missing values out of means
    settings = rows[SETTINGS].groupby(keys, sort=False).nth(0).set_axis(whole.index)
    spread = groups.std(ddof=1).where(whole).add_suffix("_std")
    parts = [settings, groups.size().rename("num_seeds"), groups.mean().where(whole), spread]
    return pd.concat(parts, axis=1).copy().reset_index()  # a copy: pandas warns of many columns


def with_control(evaluation: pd.DataFrame) -> pd.DataFrame:
    """Add bdm_<n>d_against_shuffled, run by run.

    It is BDM relative to that of the same bits shuffled within each tensor.
    """
    return evaluation.assign(
        **{
            f"bdm_{n}d_against_shuffled": evaluation[f"bdm_{n}d"] / evaluation[f"bdm_{n}d_shuffled"]
            for n in (1, 2)
        }
    )


def with_own_ratio(evaluation: pd.DataFrame) -> pd.DataFrame:
    """Add FRESH to rows without them: their ratio is to the run's own initialisation."""
    absent = {name: np.nan for name in FRESH if name not in evaluation}
    own = {
        f"bdm_{n}d_ratio_own": evaluation[f"bdm_{n}d_ratio"]
        for n in (1, 2)
        if f"bdm_{n}d_ratio_own" in absent
    }
    return evaluation.assign(**(absent | own))


def against_shared_initializations(evaluation: pd.DataFrame) -> pd.DataFrame:
    """Compare a model's rows with the same initialisations, where any of its rows has some.

    Imported runs may have none; they have the architecture of the model's own runs. A model of
    which no run has some keeps the ratio to each run's own initialisation, and no z.
    """
    filled = evaluation.copy()
    shared = [name for name in FRESH if "ratio_own" not in name and not name.endswith("_z")]
    for name in shared:
        first = evaluation.groupby("model")[name].transform("first")
        filled[name] = evaluation[name].fillna(first)
    lacking = evaluation.num_initializations.isna() & filled.num_initializations.notna()
    for n in (1, 2):
        value, mean, std = (filled[f"bdm_{n}d{name}"] for name in ("", "_fresh_mean", "_fresh_std"))
        ratios = {"ratio": value / mean, "z": (value - mean) / std.where(std > 0)}
        for name, values in ratios.items():
            column = f"bdm_{n}d_{name}"
            filled[column] = filled[column].mask(lacking, values)
    return filled


def _joined(parts: Iterable[tuple[str, pd.DataFrame]]) -> pd.DataFrame:
    """Join frames of the same kind; rows of one model and method stand together.

    parts: the name of the import that a frame comes from, and the frame.
    """
    named = [frame.assign(imported=name) for name, frame in parts]
    frame = pd.concat([part for part in named if len(part)] or named[:1], ignore_index=True)
    if len(named) == 1:
        return frame
    order = dict.fromkeys(zip(frame.model, frame.method, strict=True))
    places = {key: place for place, key in enumerate(order)}
    cell = [places[key] for key in zip(frame.model, frame.method, strict=True)]
    return (
        frame.assign(cell=cell)
        .sort_values(["cell", "seed"], kind="stable", ignore_index=True)
        .drop(columns="cell")
    )


def _evaluation(folder: Path, runs: Sequence[Run]) -> pd.DataFrame:
    parts = []
    for model in _models(runs):
        path = folder / model / "evaluation.csv"
        wanted = [(run, view) for run in runs if run.model == model for view in _views(run)]
        keys = [(run.model, run.method, run.seed, view) for run, view in wanted]
        parts.append(_pick(_read_table(path, EVALUATION), path, keys, KEYS))
    frame = pd.concat(parts, ignore_index=True)
    lower = frame.lower_complexity.map(_as_number)
    return _described(with_own_ratio(with_control(frame.assign(lower_complexity=lower))), runs)


def _views(run: Run) -> list[str]:
    return ["deployed", "latent"] if run.settings.has_latent_weights else ["deployed"]


def _pick(
    frame: pd.DataFrame, path: Path, wanted: Iterable[tuple], keys: list[str]
) -> pd.DataFrame:
    """The wanted rows in their order. Raises ValueError for one that is not there once."""
    wanted = list(wanted)
    places: dict[tuple, list[int]] = {}
    for place, key in enumerate(frame[keys].itertuples(index=False, name=None)):
        places.setdefault(key, []).append(place)
    for key in wanted:
        if len(places.get(key, [])) != 1:
            name = ", ".join(f"{column} {value}" for column, value in zip(keys, key, strict=True))
            raise ValueError(
                f"{path}: expected one row for {name}, found {len(places.get(key, []))}"
                " (run `dvc repro`)"
            )
    return frame.iloc[[places[key][0] for key in wanted]].reset_index(drop=True)


def _distortion(folder: Path, runs: Sequence[Run]) -> pd.DataFrame:
    parts = []
    for model in _models(runs):
        path = folder / model / "distortion.csv"
        momos = [run for run in runs if run.model == model and run.settings.block_size]
        if momos:
            frame = _read_table(path, DISTORTION)
            parts += [_epochs(frame, path, run) for run in momos]
    if not parts:
        return pd.DataFrame(columns=sorted(DISTORTION | set(SETTINGS[:6])))
    return _described(pd.concat(parts, ignore_index=True), runs)


def _packing(folder: Path, runs: Sequence[Run]) -> pd.DataFrame:
    parts = []
    for model in _models(runs):
        path = folder / model / "packing.csv"
        frame = _read_table(path, PACKING)
        keys = [
            (run.model, run.method, run.seed)
            for run in runs
            if run.model == model and run.grid == "main"
        ]
        wanted = [(*key, coding) for key in keys for coding in ALWAYS_PACKED]
        _pick(frame, path, wanted, [*KEYS[:3], "coding"])
        parts += [
            frame[(frame.model == key[0]) & (frame.method == key[1]) & (frame.seed == key[2])]
            for key in keys
        ]
    return _described(pd.concat(parts, ignore_index=True), runs)


def _epochs(frame: pd.DataFrame, path: Path, run: Run) -> pd.DataFrame:
    """A run's rows in order. Raises ValueError unless it has a row per epoch."""
    of_run = (frame.model == run.model) & (frame.method == run.method) & (frame.seed == run.seed)
    rows = frame[of_run].sort_values("epoch")
    if rows.empty or rows.epoch.duplicated().any():
        name = f"model {run.model}, method {run.method}, seed {run.seed}"
        found = f"found {len(rows)} for {rows.epoch.nunique()} epochs (run `dvc repro`)"
        raise ValueError(f"{path}: expected a row per epoch for {name}, {found}")
    return rows


def _history(folder: Path, runs: Sequence[Run]) -> pd.DataFrame:
    parts = []
    for run in runs:
        if run.grid == "main":
            rows = pd.DataFrame(run_folder.load_history(run.folder(folder)))
            parts.append(
                rows.assign(model=run.model, method=run.method, seed=run.seed, grid=run.grid)
            )
    return _described(pd.concat(parts, ignore_index=True), runs)


def _imported_history(source: imported.Import) -> pd.DataFrame:
    parts = []
    for model in source.models:
        path = source.folder / model / imported.HISTORY
        frame = _read_table(path, set(imported.HISTORY_COLUMNS))
        parts += [
            _epochs(frame, path, run)
            for run in source.runs
            if run.model == model and run.grid == "main"
        ]
    return _described(pd.concat(parts, ignore_index=True), source.runs)


def _survey(
    evaluation: pd.DataFrame, zoo: pd.DataFrame, methods: Mapping[str, Method]
) -> pd.DataFrame:
    """The main grid's runs as deployed, then models from elsewhere.

    Own runs are grouped by method, the others by family, or by task where families are many.
    """
    own = evaluation[(evaluation.grid == "main") & (evaluation.weights == "deployed")]
    own = own.assign(
        name=[f"{row.model} {row.method} {row.seed}" for row in own.itertuples()],
        family=own.model,
        source=OWN_SOURCE,
        num_initial=own.num_initializations,
        group=[methods[name].group for name in own.method],
    )
    others = zoo.assign(
        title=zoo.name,
        group=_told_apart(zoo).where(zoo.source != CONTROL, CONTROL),
        num_weights=zoo.num_weights.astype(int),
    )
    columns = [
        name
        for name in [*zoo.columns, "title", "group", "seed"]
        if name not in ("error", "num_classes", "weights", "sha256")
    ]
    parts = [own.reindex(columns=columns), others.reindex(columns=columns)]
    return pd.concat([part for part in parts if len(part)], ignore_index=True)


def _told_apart(zoo: pd.DataFrame) -> pd.Series:
    """Groups that a figure can tell apart: families, or tasks where there are too many of them."""
    trained = zoo[zoo.source != CONTROL]
    if "task" not in zoo or trained.task.isna().all() or trained.family.nunique() <= MOST_FAMILIES:
        return zoo.family
    return zoo.task.fillna("no task named")


def _described(frame: pd.DataFrame, runs: Sequence[Run]) -> pd.DataFrame:
    """Add the columns that readers see, and the settings as params.yaml has them."""
    known = {(run.model, run.method): run.settings for run in runs}
    methods = [known[key] for key in zip(frame.model, frame.method, strict=True)]
    motifs = frame.num_motifs if "num_motifs" in frame else [one.num_motifs for one in methods]
    return frame.assign(
        title=[TITLES.get(name, name) for name in frame.model],
        family=[one.family for one in methods],
        label=[one.label for one in methods],
        bits=[one.bits for one in methods],
        block_size=[np.nan if one.block_size is None else one.block_size for one in methods],
        capacity=[np.nan if one.capacity is None else one.capacity for one in methods],
        num_motifs=motifs,
    )


def _models(runs: Sequence[Run]) -> list[str]:
    return list(dict.fromkeys(run.model for run in runs))


def read_singular_numbers(path: Path) -> pd.DataFrame:
    """Read the second paper's numbers; an empty frame where `slt_report` has not run."""
    if not path.is_file():
        return pd.DataFrame(columns=sorted(SINGULAR))
    return _read_table(path, SINGULAR).fillna({"unit": ""})


def _read_table(path: Path, columns: set[str]) -> pd.DataFrame:
    """Raises ValueError naming a file that is missing, damaged, or lacks a column."""
    if not path.is_file():
        raise ValueError(
            f"{path} is missing: expected a table written by an earlier stage (run `dvc repro`)"
        )
    try:
        frame = pd.read_csv(path)
        texts = pd.read_csv(path, dtype=str, keep_default_na=False)
    except ValueError as error:  # pandas' parser errors are ValueErrors that do not name the file
        raise ValueError(f"{path} is damaged or of another kind: {error}") from error
    missing = sorted(columns - set(frame.columns))
    if missing:
        raise ValueError(f"{path}: column {', '.join(missing)} is missing")
    for column in TEXTS & set(frame.columns):
        frame[column] = texts[column].where(texts[column] != "")
    return frame


def _as_number(value: object) -> float:
    """1, 0 or NaN for a CSV's True, False or nothing, which pandas reads as bool or as text."""
    if pd.isna(value):
        return np.nan
    return {"True": 1.0, "False": 0.0}[str(bool(value) if isinstance(value, float) else value)]
