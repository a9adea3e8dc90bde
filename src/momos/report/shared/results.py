"""What the measuring stages wrote, read back for the report: exactly the runs that params.yaml
lists, each of them there, and imported ones (`momos.report.shared.imported`), whose tables are read
by the same code.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from momos.config import Run
from momos.files import run_folder
from momos.report.shared import imported

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
EVALUATION = {*KEYS, "grid", *SETTINGS[3:], "val_accuracy_best", "val_accuracy_last", "test_accuracy_best", "test_accuracy_last"} | {
    "rac", "lower_complexity", "bdm_1d_ratio", "bdm_2d_ratio", "bdm_1d", "bdm_1d_shuffled", "bdm_2d", "bdm_2d_shuffled"
}  # fmt: skip
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
SURVEY = {"name", "family", "source", "num_weights", "bdm_1d_ratio", "bdm_2d_ratio", "error"}
SINGULAR = {"table", "model", "method", "measure", "seed", "value", "unit", "source", "stage"}
TITLES = {"mlp": "MLP", "resnet20": "ResNet20", "tiny_vit": "Tiny-ViT", "mobilevit": "MobileViT"}
OWN_SOURCE, CONTROL = (
    "this pipeline",
    "untrained",
)  # the survey's words for the pipeline's own runs, and for models that nobody trained
FAMILIES = {
    (False, False): "baseline",
    (False, True): "qat",
    (True, False): "momos",
    (True, True): "momos+qat",
}


class Results(NamedTuple):
    """Rows of the listed runs alone, in the order of params.yaml, then of imported ones, accuracies
    in [0, 1]. Each frame names model, method and seed, and has `title`, `family` (baseline, qat,
    momos, momos+qat) and `label` for readers, and `imported`: the import that a row comes from, or
    an empty text.
    """

    evaluation: pd.DataFrame  # a row per run and view of its weights (deployed, latent)
    distortion: pd.DataFrame  # a row per epoch of every MoMos run
    history: pd.DataFrame  # a row per epoch of every run of the main grid
    # a row per model and its initialisation: own runs, untrained, from elsewhere; `group`: its
    # method or family
    survey: pd.DataFrame
    not_surveyed: (
        pd.DataFrame
    )  # models from elsewhere that could not be measured, and why (`error`)
    # the second paper's numbers, a value a row (`momos.report.slt.cells`); empty where it has not
    # run
    singular: pd.DataFrame
    packing: pd.DataFrame  # a row per run of the main grid and coding of it as a file


def read(
    results_dir: Path, runs_dir: Path, runs: Sequence[Run], imports: Sequence[imported.Import] = ()
) -> Results:
    """Raises ValueError naming the file for a missing file, column or run, and for a run that is
    there twice.
    """
    places = [("", results_dir, runs)] if runs or not imports else []
    places += [(each.name, each.folder, each.runs) for each in imports]
    evaluation = _joined((name, _evaluation(folder, mine)) for name, folder, mine in places)
    zoo = _frame(results_dir / "zoo.csv", SURVEY)
    histories = [("", _history(runs_dir, runs))] if runs or not imports else []
    histories += [(each.name, _imported_history(each)) for each in imports]
    return Results(
        evaluation=evaluation,
        distortion=_joined((name, _distortion(folder, mine)) for name, folder, mine in places),
        history=_joined(histories),
        survey=_survey(evaluation, zoo[zoo.error.isna()]),
        not_surveyed=zoo[zoo.error.notna()].reset_index(drop=True),
        singular=singular_numbers(results_dir / "slt_numbers.csv"),
        packing=_joined((name, _packing(folder, mine)) for name, folder, mine in places),
    )


def cells(evaluation: pd.DataFrame, *, grid: str = "main") -> pd.DataFrame:
    """A row per model, method and view: settings, num_seeds, every measure's mean over seeds and,
    as <measure>_std, its sample standard deviation (NaN for one seed). A mean over a missing value
    is missing.
    """
    rows = evaluation[evaluation.grid == grid]
    measures = [name for name in rows.columns if name not in {*KEYS, *SETTINGS, "grid", "imported"}]
    keys = [rows[name] for name in ("model", "method", "weights")]
    groups = rows[measures].astype(float).groupby(keys, sort=False)
    whole = groups.count().eq(groups.size(), axis=0)  # pandas leaves missing values out of means
    settings = rows[SETTINGS].groupby(keys, sort=False).nth(0).set_axis(whole.index)
    spread = groups.std(ddof=1).where(whole).add_suffix("_std")
    return pd.concat(
        [settings, groups.size().rename("num_seeds"), groups.mean().where(whole), spread], axis=1
    ).reset_index()


def with_control(evaluation: pd.DataFrame) -> pd.DataFrame:
    """With bdm_<n>d_against_shuffled: BDM relative to that of the same bits shuffled within each
    tensor, run by run.
    """
    return evaluation.assign(
        **{
            f"bdm_{n}d_against_shuffled": evaluation[f"bdm_{n}d"] / evaluation[f"bdm_{n}d_shuffled"]
            for n in (1, 2)
        }
    )


def family(bits: int, block_size: float | None) -> str:
    """baseline, qat, momos, or momos+qat; block_size None or NaN where there is no MoMos."""
    return FAMILIES[bool(pd.notna(block_size)), bits < 32]


def label(
    bits: int, block_size: float | None, capacity: float | None, num_motifs: float | None = None
) -> str:
    """The method's settings as a reader sees them."""
    quantised = f"QAT {int(bits)} bit"
    if pd.isna(block_size):
        return "Baseline" if bits == 32 else quantised
    size = f"C={percent(capacity)} %" if pd.notna(capacity) else f"k={int(num_motifs)}"
    return f"MoMos s={int(block_size)}, {size}" + ("" if bits == 32 else f" + {quantised}")


def group(bits: int, block_size: float | None) -> str:
    """The methods that share a line in a figure."""
    names = {"baseline": "Baseline", "qat": "QAT", "momos+qat": "MoMos + QAT"}
    kind = family(bits, block_size)
    return f"MoMos s={int(block_size)}" if kind == "momos" else names[kind]


def percent(fraction: float) -> str:
    """0.005 -> "0.5"."""
    return f"{100 * fraction:.10g}"


def _joined(parts: Iterable[tuple[str, pd.DataFrame]]) -> pd.DataFrame:
    """Frames of the same kind, each with the name of the import that it comes from; rows of one
    model and method stand together.
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
        frame = _frame(path, EVALUATION)
        parts.append(
            _pick(
                frame, path, [(run.model, run.method, run.seed, view) for run, view in wanted], KEYS
            )
        )
    frame = pd.concat(parts, ignore_index=True)
    return _described(
        with_control(frame.assign(lower_complexity=frame.lower_complexity.map(_as_number))), runs
    )


def _views(run: Run) -> list[str]:
    return ["deployed"] if run.settings.bits == 32 else ["deployed", "latent"]


def _pick(
    frame: pd.DataFrame, path: Path, wanted: Iterable[tuple], keys: list[str]
) -> pd.DataFrame:
    """The wanted rows in their order."""
    wanted = list(wanted)
    places: dict[tuple, list[int]] = {}
    for place, key in enumerate(frame[keys].itertuples(index=False, name=None)):
        places.setdefault(key, []).append(place)
    for key in wanted:
        if len(places.get(key, [])) != 1:
            name = ", ".join(f"{column} {value}" for column, value in zip(keys, key, strict=True))
            raise ValueError(
                f"{path}: expected one row for {name}, found {len(places.get(key, []))} (run `dvc repro`)"
            )
    return frame.iloc[[places[key][0] for key in wanted]].reset_index(drop=True)


def _distortion(folder: Path, runs: Sequence[Run]) -> pd.DataFrame:
    parts = []
    for model in _models(runs):
        path = folder / model / "distortion.csv"
        momos = [run for run in runs if run.model == model and run.settings.is_momos]
        if momos:
            frame = _frame(path, DISTORTION)
            parts += [_epochs(frame, path, run) for run in momos]
    if not parts:
        return pd.DataFrame(columns=sorted(DISTORTION | set(SETTINGS[:6])))
    return _described(pd.concat(parts, ignore_index=True), runs)


def _packing(folder: Path, runs: Sequence[Run]) -> pd.DataFrame:
    parts = []
    for model in _models(runs):
        path = folder / model / "packing.csv"
        frame, main = (
            _frame(path, PACKING),
            [run for run in runs if run.model == model and run.grid == "main"],
        )
        keys = [(run.model, run.method, run.seed) for run in main]
        _pick(
            frame,
            path,
            [(*key, coding) for key in keys for coding in ("safetensors", "fixed", "entropy")],
            [*KEYS[:3], "coding"],
        )
        parts += [
            frame[(frame.model == key[0]) & (frame.method == key[1]) & (frame.seed == key[2])]
            for key in keys
        ]
    return _described(pd.concat(parts, ignore_index=True), runs)


def _epochs(frame: pd.DataFrame, path: Path, run: Run) -> pd.DataFrame:
    rows = frame[
        (frame.model == run.model) & (frame.method == run.method) & (frame.seed == run.seed)
    ].sort_values("epoch")
    if rows.empty or rows.epoch.duplicated().any():
        expected = (
            f"expected a row per epoch for model {run.model}, method {run.method}, seed {run.seed}"
        )
        raise ValueError(
            f"{path}: {expected}, found {len(rows)} for {rows.epoch.nunique()} epochs (run `dvc repro`)"
        )
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


def _imported_history(each: imported.Import) -> pd.DataFrame:
    parts = []
    for model in each.models:
        path = each.folder / model / imported.HISTORY
        frame = _frame(path, set(imported.HISTORY_COLUMNS))
        parts += [
            _epochs(frame, path, run)
            for run in each.runs
            if run.model == model and run.grid == "main"
        ]
    return _described(pd.concat(parts, ignore_index=True), each.runs)


def _survey(evaluation: pd.DataFrame, zoo: pd.DataFrame) -> pd.DataFrame:
    """The main grid's runs as deployed, grouped by method, then models from elsewhere, grouped by
    family.
    """
    own = evaluation[(evaluation.grid == "main") & (evaluation.weights == "deployed")]
    own = own.assign(
        name=[f"{row.model} {row.method} {row.seed}" for row in own.itertuples()],
        family=own.model,
        source=OWN_SOURCE,
        group=[group(row.bits, row.block_size) for row in own.itertuples()],
    )
    others = zoo.assign(
        title=zoo.name,
        group=zoo.family.where(zoo.source != CONTROL, CONTROL),
        num_weights=zoo.num_weights.astype(int),
    )
    columns = [
        name
        for name in [*zoo.columns, "title", "group"]
        if name not in ("error", "num_classes", "weights", "sha256")
    ]
    parts = [own.reindex(columns=columns), others[columns]]
    return pd.concat([part for part in parts if len(part)], ignore_index=True)


def _described(frame: pd.DataFrame, runs: Sequence[Run]) -> pd.DataFrame:
    """With the columns that readers see, and the settings as params.yaml has them."""
    known = {(run.model, run.method): run.settings for run in runs}
    settings = [known[key] for key in zip(frame.model, frame.method, strict=True)]
    motifs = frame.num_motifs if "num_motifs" in frame else [s.num_motifs for s in settings]
    return frame.assign(
        title=[TITLES.get(name, name) for name in frame.model],
        family=[family(s.bits, s.block_size) for s in settings],
        label=[label(s.bits, s.block_size, s.capacity, s.num_motifs) for s in settings],
        bits=[s.bits for s in settings],
        block_size=[np.nan if s.block_size is None else s.block_size for s in settings],
        capacity=[np.nan if s.capacity is None else s.capacity for s in settings],
        num_motifs=motifs,
    )


def _models(runs: Sequence[Run]) -> list[str]:
    return list(dict.fromkeys(run.model for run in runs))


def singular_numbers(path: Path) -> pd.DataFrame:
    """Empty where `slt_report` has not run."""
    return (
        _frame(path, SINGULAR).fillna({"unit": ""})
        if path.is_file()
        else pd.DataFrame(columns=sorted(SINGULAR))
    )


def _frame(path: Path, columns: set[str]) -> pd.DataFrame:
    if not path.is_file():
        raise ValueError(
            f"{path} is missing: expected a table written by an earlier stage (run `dvc repro`)"
        )
    try:
        frame = pd.read_csv(path)
    except ValueError as error:  # pandas' parser errors are ValueErrors that do not name the file
        raise ValueError(f"{path} is damaged or of another kind: {error}") from error
    missing = sorted(columns - set(frame.columns))
    if missing:
        raise ValueError(f"{path}: column {', '.join(missing)} is missing")
    return frame


def _as_number(value: object) -> float:
    """A CSV's True, False or nothing, read as bool or as text, as 1, 0 or NaN."""
    return (
        np.nan
        if pd.isna(value)
        else {"True": 1.0, "False": 0.0}[str(bool(value) if isinstance(value, float) else value)]
    )
