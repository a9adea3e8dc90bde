"""The papers' own numbers: the published tables and claims, and whether the published RAC follows
from Eq. 21.
"""

from collections.abc import Mapping
from pathlib import Path

import pandas as pd
import yaml

from momos.complexity import code_length
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


# What absolute published values were measured with (MoMos, Sec. 4; method A9). At least so many
# epochs and so much patience.
SETTING = {
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
MODELS = {
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
    """Settings that are not the paper's, each as text; none: absolute accuracies can be compared
    with the published ones.

    settings: section -> key -> value, at least data, augment and train. models: name -> its
    settings; those that the paper lacks are left out.
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
    found = [
        f"{where} is {value!r}, not {expected!r}"
        for where, value, expected in wanted
        if value != expected
    ]
    epochs, patience = settings["train"]["epochs"], settings["train"]["patience"]
    if epochs < EPOCHS:
        found.append(f"train.epochs is {epochs}, not {EPOCHS} or more")
    if patience is not None and patience < PATIENCE:
        found.append(f"train.patience is {patience}, not {PATIENCE} or more")
    return tuple(found)


def read_tables(folder: Path) -> pd.DataFrame:
    """Both tables, a row per cell; `method` is baseline, qat or momos; accuracies in percent.
    Raises ValueError naming the file.
    """
    parts = []
    for name, file in TABLES.items():
        frame = pd.read_csv(_existing(folder / file))
        if list(frame.columns) != COLUMNS:
            raise ValueError(
                f"{folder / file}: expected the columns {', '.join(COLUMNS)}, got {', '.join(frame.columns)}"
            )
        parts.append(frame.assign(table=name))
    return pd.concat(parts, ignore_index=True)


def read_claims(folder: Path) -> list[dict]:
    """The claims of both papers in their order. Raises ValueError naming the file."""
    path = _existing(folder / "claims.yaml")
    papers = yaml.safe_load(path.read_text())
    claims = [claim for paper in papers.values() for claim in paper]
    ids = [claim["id"] for claim in claims]
    if len(set(ids)) != len(ids):
        raise ValueError(f"{path}: every claim needs its own id, got {', '.join(ids)}")
    return claims


def expected_rac(
    model: str,
    *,
    bits: int,
    block_size: float,
    capacity: float,
    num_weights: Mapping[str, int] = NUM_WEIGHTS,
) -> float:
    """RAC by Eq. 21 from the published model's d, n = ceil(d / s) and k = floor(C n); block_size
    NaN: 32 / bits.
    """
    if pd.isna(block_size):
        return code_length.qat_rac(int(bits))
    weights, size = num_weights[model], int(block_size)
    blocks = -(-weights // size)
    return code_length.rac(weights, blocks, size, num_motifs(blocks, capacity))


def rac_check(tables: pd.DataFrame) -> pd.DataFrame:
    """The published cells with `rac_expected` (Eq. 21 from the published model's d) and `agrees`:
    equal to the printed digit.
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


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise ValueError(
            f"{path} is missing: expected the published numbers (they are part of the repository)"
        )
    return path
