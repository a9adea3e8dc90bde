"""Results of runs that never happened: rows like those of the measuring stages.

They are built so that every verdict is known. By default each configuration of the paper has the
accuracy, RAC and BDM ratio that the paper printed for it.
"""

import csv
import functools
import json
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import yaml
from safetensors.torch import save_file

from momos import config
from momos.files import run_folder
from momos.methods.method import Method, parse, percent
from momos.report.shared import results

ROOT = Path(__file__).parents[1]
PAPER = ROOT / "data" / "paper"
MODELS = ("mlp", "resnet20", "tiny_vit")
WEIGHTS = {"mlp": 282_634, "resnet20": 269_434, "tiny_vit": 124_058, "mobilevit": 4_944_042}
SEEDS = (0, 1, 2)
SIZES, CAPACITIES = (2, 4, 8), (0.1, 0.05, 0.005)
COMPRESSORS = ("gzip", "bz2", "lzma", "zstd")
EPOCHS = 5
TREE_MODELS = ("mlp", "resnet20")
TREE_METHODS = (
    "baseline",
    "qat8",
    "qat4",
    "momos_s2_c10",
    "momos_s4_c1",
    "momos_s4_c0_5",
    "momos_s2_c10_qat8",
)


def published() -> pd.DataFrame:
    """Both published tables as they are in data/paper."""
    return pd.concat(
        [pd.read_csv(PAPER / name) for name in ("table1.csv", "table2.csv")], ignore_index=True
    )


def method_name(row) -> str:
    """The profiles' name of a published cell's method."""
    if row.method == "baseline":
        return "baseline"
    if row.method == "qat":
        return f"qat{row.bits}"
    return f"momos_s{row.block_size:.0f}_c{percent(row.capacity).replace('.', '_')}"


def evaluation(*, models=MODELS, seeds=SEEDS) -> pd.DataFrame:
    """Main grid at the published numbers; a cell's seeds lie one point apart around its mean."""
    cells = published()
    rows = []
    for row in cells[cells.model.isin(models)].itertuples():
        for index, seed in enumerate(seeds):
            offset = index - (len(seeds) - 1) / 2
            views = ["deployed", "latent"] if row.method == "qat" else ["deployed"]
            rows += [_row(row, seed, offset, view) for view in views]
    return described(pd.DataFrame(rows))


def _row(cell, seed: int, offset: float, view: str) -> dict:
    """A row of evaluation.csv. offset: points of accuracy beside the cell's mean."""
    return {
        "model": cell.model,
        "method": method_name(cell),
        "seed": seed,
        "grid": "main",
        "weights": view,
        "bits": cell.bits,
        "block_size": cell.block_size,
        "capacity": cell.capacity,
        "num_motifs": np.nan,
        "num_blocks": np.nan,
        "num_weights": WEIGHTS[cell.model],
        "num_epochs": EPOCHS,
        "best_epoch": EPOCHS,
        **_accuracies((cell.accuracy_mean + offset) / 100),
        "rac": cell.rac,
        "description_bits": 1,
        "trivial_bits": 2,
        "lower_complexity": float(cell.method != "baseline"),
        **_complexity(cell.bdm_ratio),
        **dict.fromkeys(COMPRESSORS, 2.0 if cell.method == "momos" else 1.1),
        **{f"{name}_binary": 1.0 for name in COMPRESSORS},
        "sparsity": 0.25,
        "l2_norm": 30.0,
        "distinct_blocks": np.nan if cell.method != "momos" else 700,
    }


def _accuracies(accuracy: float) -> dict[str, float]:
    return {
        "val_accuracy_best": accuracy + 0.01,
        "val_accuracy_last": accuracy,
        "test_accuracy_best": accuracy + 0.005,
        "test_accuracy_last": accuracy,
    }


def _complexity(ratio: float) -> dict[str, float]:
    return {
        "bdm_1d": 1e5 * ratio,
        "bdm_1d_initial": 1e5,
        "bdm_1d_ratio": ratio,
        "bdm_1d_normalized": 0.5,
        "bdm_1d_shuffled": 1e5,
        "bdm_2d": 9e4,
        "bdm_2d_initial": 1e5,
        "bdm_2d_ratio": 0.9,
        "bdm_2d_normalized": 0.4,
        "bdm_2d_shuffled": 1e5,
        "num_initializations": 20,
        **_fresh("bdm_1d", ratio),
        **_fresh("bdm_2d", 0.9),
    }


def _fresh(prefix: str, ratio: float) -> dict[str, float]:
    """Against initialisations of mean 1e5 and standard deviation 100, the run's own among them."""
    return {
        f"{prefix}_fresh_mean": 1e5,
        f"{prefix}_fresh_std": 100.0,
        f"{prefix}_ratio_own": ratio,
        f"{prefix}_z": 1000 * (ratio - 1),
    }


def described(frame: pd.DataFrame) -> pd.DataFrame:
    """The rows with title, family and label, as `results.read_results` returns them."""
    cells = zip(frame.bits, frame.block_size, frame.capacity, strict=True)
    methods = [_method(*cell) for cell in cells]
    measured = {"rac_measured": 1.1 * frame.rac} if "rac" in frame else {}
    return (results.with_control(frame) if "bdm_1d" in frame else frame).assign(
        **measured,
        imported="",
        title=[results.TITLES[name] for name in frame.model],
        family=[method.family for method in methods],
        label=[method.label for method in methods],
    )


def _method(bits: float, block_size: float, capacity: float) -> Method:
    if pd.isna(block_size):
        return _parsed(bits=int(bits))
    return _parsed(bits=int(bits), block_size=int(block_size), capacity=capacity)


@functools.cache
def _parsed(**entry: float) -> Method:
    return parse(entry, "a synthetic row")


def ablation(drops: dict[int, float], *, model: str = "mlp") -> pd.DataFrame:
    """An ablation. Accuracy falls by drops[block_size] points down to the smallest capacity."""
    base = evaluation(models=(model,), seeds=(0,)).iloc[[0]]
    parts = []
    for size, drop in drops.items():
        for index, capacity in enumerate(CAPACITIES):
            accuracy = 0.9 - drop / 100 * index / (len(CAPACITIES) - 1)
            cell = {
                "grid": "ablation",
                "method": config.cell_name(size, capacity),
                "block_size": size,
                "capacity": capacity,
            }
            parts.append(
                base.assign(
                    **cell,
                    **{
                        f"{split}_accuracy_{which}": accuracy
                        for split in ("val", "test")
                        for which in ("best", "last")
                    },
                )
            )
    return described(pd.concat(parts, ignore_index=True))


def distortion(evaluation: pd.DataFrame, *, first: float = 0.3, last: float = 0.02) -> pd.DataFrame:
    """Relative distortion falls in a straight line, and so does validation loss, from 2 to 1."""
    runs = evaluation[
        (evaluation.family.isin(["momos", "momos+qat"])) & (evaluation.weights == "deployed")
    ]
    path = np.linspace(first, last, EPOCHS)
    columns = ["model", "method", "seed", "grid", "bits", "block_size", "capacity", "num_motifs"]
    parts = []
    for row in runs.itertuples():
        values = {
            "epoch": np.arange(1, EPOCHS + 1),
            "distortion": path**2 * 100,
            "relative_distortion": path,
        }
        values |= {
            "distortion_per_weight": path**2,
            "num_changed": 10,
            "motifs_used": 5,
            "val_accuracy": np.linspace(0.4, 0.9, EPOCHS),
        }
        values |= {
            "val_loss": np.linspace(2, 1, EPOCHS),
            "best": np.arange(1, EPOCHS + 1) == EPOCHS,
        }
        parts.append(pd.DataFrame(values).assign(**{name: getattr(row, name) for name in columns}))
    return described(pd.concat(parts, ignore_index=True))


def survey(ratios, *, source: str = results.OWN_SOURCE) -> pd.DataFrame:
    rows = {
        "name": [f"m{index}" for index in range(len(ratios))],
        "family": "mlp",
        "source": source,
        "tags": "a1_in1k",
        "num_weights": 1000,
        "seed": range(len(ratios)),
    }
    rows |= {"bdm_1d_ratio": ratios, "bdm_2d_ratio": ratios, "group": "Baseline", "title": "MLP"}
    rows |= {f"bdm_{n}d": ratios for n in (1, 2)} | {f"bdm_{n}d_shuffled": 0.99 for n in (1, 2)}
    return pd.DataFrame(
        rows | {name: 1.0 for name in ("gzip", "lzma", "gzip_binary", "lzma_binary")}
    )


def packed(run: config.Run) -> list[dict]:
    """Files of a run: MoMos at half of its bound.

    Compressors and lossy levels are those of the first seed alone.
    """
    codings = {"safetensors": 1_200_000, "fixed": 300_000, "entropy": 200_000 + 1000 * run.seed}
    codings |= {"gzip": 500_000, "zstd": 400_000} if run.seed == 0 else {}
    codings |= (
        {"motifs8": 150_000, "combined": 100_000}
        if run.seed == 0 and run.method.startswith("momos_s4")
        else {}
    )
    common = {
        "model": run.model,
        "method": run.method,
        "seed": run.seed,
        "num_weights": 250_000,
        "bound_bytes": 400_000.0,
    }
    rows = [
        common | {"coding": name, "file_bytes": size, "stored_bytes": size - 1000}
        for name, size in codings.items()
    ]
    return [
        row | {"test_accuracy": 0.7 if row["coding"] == "combined" else 0.75, "val_accuracy": 0.8}
        for row in rows
    ]


def history() -> list[dict]:
    """Rows of history.csv, a training that gets better in a straight line."""
    missing = dict.fromkeys(
        (
            "distortion",
            "distortion_per_weight",
            "relative_distortion",
            "num_changed",
            "motifs_used",
        )
    )
    return [
        {
            "epoch": index + 1,
            "lr": 0.1,
            "train_loss": 2 - done,
            "train_accuracy": 0.5 + done / 3,
            "val_loss": 2 - 0.9 * done,
            "val_accuracy": 0.4 + done / 2,
        }
        | missing
        for index, done in enumerate(np.linspace(0, 1, EPOCHS).tolist())
    ]


class Tree:
    """A project folder with params.yaml and all that the report reads.

    It has seeds 0 and 1, part of the grid, and a small ablation.
    """

    def __init__(self, root: Path):
        self.root = root
        self.params = config.profile_settings("digits", ROOT / "profiles")
        self.params["grid"] = {
            "models": list(TREE_MODELS),
            "methods": list(TREE_METHODS),
            "seeds": [0, 1],
            "more_seeds_of": [],
            "more_seeds": [],
        }
        self.params["ablation"] |= {
            "block_sizes": list(SIZES),
            "capacities": list(CAPACITIES),
            "seeds": [0],
        }
        self.params["report"]["picture_size"] = 8
        self.write_params()
        self.results = root / "results" / "digits"
        self.runs = root / "runs" / "digits"
        self.reports = root / "reports" / "digits"
        self._write_measurements()
        (root / "digits.json").write_text(json.dumps(self._summary()))

    @property
    def arguments(self) -> tuple[Path, ...]:
        """The arguments of stages/report.py."""
        return (
            PAPER,
            self.root / "data" / "imported",
            self.root / "digits.json",
            self.runs,
            self.results,
            self.reports,
        )

    def write_params(self) -> None:
        (self.root / "params.yaml").write_text(yaml.safe_dump(self.params))

    def _summary(self) -> dict:
        sizes = {"train": 1293, "validation": 144, "test": 360}
        return {
            "source": "digits",
            "sha256": "0" * 64,
            "image_shape": [1, 8, 8],
            "classes": list("0123456789"),
            "sizes": sizes,
        }

    def _write_measurements(self) -> None:
        runs = config.runs(path=self.root / "params.yaml")
        frame = pd.DataFrame([row for run in runs for row in self._rows(run)])
        described_frame = described(frame)
        distortions = distortion(described_frame)
        plain = ["title", "family", "label"]
        for model in TREE_MODELS:
            (self.results / model).mkdir(parents=True)
            frame[frame.model == model].to_csv(self.results / model / "evaluation.csv", index=False)
            mine = distortions[distortions.model == model].drop(columns=plain)
            mine.to_csv(self.results / model / "distortion.csv", index=False)
        main = [run for run in runs if run.grid == "main"]
        for model in TREE_MODELS:
            rows = [row for run in main if run.model == model for row in packed(run)]
            pd.DataFrame(rows).to_csv(self.results / model / "packing.csv", index=False)
        zoo = survey([1.0, 0.8, 0.9, np.nan], source="timm").drop(
            columns=["group", "title", "seed"]
        )
        zoo.loc[0, ["source", "tags"]] = results.CONTROL, ""
        zoo.assign(error=["", "", "", "OSError: hub away"]).to_csv(
            self.results / "zoo.csv", index=False
        )
        for run in runs:
            run.folder(self.runs).mkdir(parents=True)
            (run.folder(self.runs) / run_folder.RUN).write_text(json.dumps(self.params["train"]))
        for run in main:
            self._write_run(run)

    def _rows(self, run: config.Run) -> list[dict]:
        settings = run.settings
        accuracies = {"baseline": 80.0, "qat": 70.0, "momos": 75.0, "momos+qat": 74.0}
        cell = published().iloc[0].copy()
        cell["model"], cell["bits"] = run.model, settings.bits
        cell["accuracy_mean"] = accuracies[settings.family]
        views = ["deployed", "latent"] if settings.has_latent_weights else ["deployed"]
        own = {
            "method": run.method,
            "grid": run.grid,
            "block_size": settings.block_size,
            "capacity": settings.capacity,
        }
        return [_row(cell, run.seed, float(run.seed), view) | own for view in views]

    def _write_run(self, run: config.Run) -> None:
        folder = run.folder(self.runs)
        rows = history()
        with (folder / run_folder.HISTORY).open("w", newline="") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows)
        if run.model == self.params["report"]["picture_model"] and run.seed == 0:
            for index, which in enumerate(run_folder.WEIGHTS):
                save_file(
                    {"hidden.1.weight": weights(index, run.settings.block_size)},
                    folder / f"{which}.safetensors",
                )


def weights(seed: int, block_size: int | None) -> torch.Tensor:
    """(16, 16); with a block size only three different blocks, one of them zero."""
    generator = torch.Generator().manual_seed(seed)
    if block_size is None or seed == 0:
        return torch.randn(16, 16, generator=generator)
    motifs = torch.cat(
        [torch.zeros(1, block_size), torch.randn(2, block_size, generator=generator)]
    )
    return motifs[torch.randint(3, (256 // block_size,), generator=generator)].reshape(16, 16)
