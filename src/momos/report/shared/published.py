"""The published tables, the setting behind them, and Eq. 21 applied to the published RAC."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from momos.complexity import code_length
from momos.methods.method import Method, parse
from momos.weights.blocks import num_motifs

TABLES = {"table1": "table1.csv", "table2": "table2.csv"}
COLUMNS = [
    "model",
    "method",
    "bits",
    "block_size",
    "capacity",
    "accuracy_mean",
    "accuracy_std",
    "rac",
    "bdm_ratio",
]

# Weights of the models as published. mlp: five hidden layers of 256 on 3072 inputs (Sec. 4).
# tiny_vit: timm's tiny_vit_5m_224 with its 1000-class head, the only d that most of its row follows
# from. mobilevit: mobilevit_s with 10 classes, assumed (method A6).
NUM_WEIGHTS = {
    "mlp": (3072 * 256 + 256) + 4 * (256 * 256 + 256) + (256 * 10 + 10),
    "resnet20": 269_722,
    "tiny_vit": 5_392_764,
    "mobilevit": 4_944_042,
}

# What absolute published values were measured with (MoMos, Sec. 4; method A9). A run that compares
# with them has at least so many epochs and so much patience.
SETTING: dict[str, dict[str, Any]] = {
    "data": {"source": "cifar10", "validation_fraction": 0.05},
    "augment": {
        "flip": True,
        "crop_padding": 4,
        "rand_augment_ops": 2,
        "rand_augment_magnitude": 9,
    },
    "train": {"batch_size": 128, "precision": "float32"},
}
EPOCHS, PATIENCE = 200, 20
ADAMW = {"optimizer": "adamw", "lr": 3e-4, "weight_decay": 1e-2}
MODELS: dict[str, dict[str, Any]] = {
    "mlp": {"arch": "mlp", "image_size": 32, "kwargs": {"hidden_layers": 5, "width": 256}} | ADAMW,
    "resnet20": {
        "arch": "resnet20",
        "image_size": 32,
        "optimizer": "sgd",
        "lr": 0.1,
        "momentum": 0.9,
        "weight_decay": 1e-4,
    },
    "tiny_vit": {"arch": "tiny_vit", "image_size": 224, "kwargs": {}} | ADAMW,
    "mobilevit": {"arch": "mobilevit"} | ADAMW,
}


def departures(settings: Mapping[str, Mapping], models: Mapping[str, Mapping]) -> tuple[str, ...]:
    """List the settings that are not the paper's, each as text.

    Without any, absolute accuracies can be compared with the published ones. settings: section ->
    key -> value, at least data, augment and train. models: name -> its settings; those that the
    paper lacks are left out.
    """
    wanted = [
        (f"{section}.{key}", settings[section][key], value)
        for section, keys in SETTING.items()
        for key, value in keys.items()
    ]
    for name in (name for name in models if name in MODELS):
        wanted += [
            (f"models.{name}.{key}", models[name][key], value)
            for key, value in MODELS[name].items()
        ]
    differing = [
        f"{where} is {value!r}, not {expected!r}"
        for where, value, expected in wanted
        if value != expected
    ]
    return (*differing, *_smaller_budget(settings["train"], models))


def _smaller_budget(train: Mapping[str, Any], models: Mapping[str, Mapping]) -> Iterator[str]:
    patience = train["patience"]
    budgets = {"train.epochs": train["epochs"]} | {
        f"models.{name}.epochs": models[name].get("epochs") for name in models if name in MODELS
    }
    for where, epochs in budgets.items():
        if epochs is not None and epochs < EPOCHS:
            yield f"{where} is {epochs}, not {EPOCHS} or more"
    if patience is not None and patience < PATIENCE:
        yield f"train.patience is {patience}, not {PATIENCE} or more"


def read_tables(folder: Path) -> pd.DataFrame:
    """Read both published tables, a row per cell: COLUMNS and `table`, accuracies in percent.

    `method` is baseline, qat or momos. Raises ValueError naming the file.
    """
    parts = []
    for name, file in TABLES.items():
        frame = pd.read_csv(_existing(folder / file))
        if list(frame.columns) != COLUMNS:
            columns = f"expected the columns {', '.join(COLUMNS)}, got {', '.join(frame.columns)}"
            raise ValueError(f"{folder / file}: {columns}")
        parts.append(frame.assign(table=name))
    return pd.concat(parts, ignore_index=True)


def expected_rac(
    model: str,
    *,
    bits: int,
    block_size: float,
    capacity: float,
    num_weights: Mapping[str, int] = NUM_WEIGHTS,
) -> float:
    """RAC by Eq. 21 from the published model's number of weights (d).

    n = ceil(d / s) and k = floor(C n). Without motifs (block_size NaN) it is 32 / bits.
    """
    if pd.isna(block_size):
        return code_length.qat_rac(int(bits))
    weights, size = num_weights[model], int(block_size)
    blocks = -(-weights // size)
    return code_length.rac(weights, blocks, size, num_motifs(blocks, capacity))


def rac_check(tables: pd.DataFrame) -> pd.DataFrame:
    """Add num_weights, rac_expected (Eq. 21) and agrees (to the printed digit) to published cells.

    tables: as `read_tables` returns them.
    """
    keys = ["bits", "block_size", "capacity"]
    expected = [
        expected_rac(row["model"], **{key: row[key] for key in keys})
        for _, row in tables.iterrows()
    ]
    agrees = [
        f"{value:.1f}" == f"{printed:.1f}"
        for value, printed in zip(expected, tables.rac, strict=True)
    ]
    weights = tables.model.map(NUM_WEIGHTS)
    return tables.assign(num_weights=weights, rac_expected=expected, agrees=agrees)


def method_of(row: Any) -> Method:
    """The method of a published cell. row: bits, block_size and capacity, NaN where it has none."""
    entry: dict[str, float] = {"bits": int(row.bits)}
    if pd.notna(row.block_size):
        entry |= {"block_size": int(row.block_size), "capacity": float(row.capacity)}
    return parse(entry, "a published cell")


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise ValueError(
            f"{path} is missing: expected the published numbers (they are part of the repository)"
        )
    return path
