"""Accuracy, description length and complexity of one run of the study, as rows of a table.

BDM of the trained weights stands beside that of several initialisations of the same architecture,
whose seeds no run has (method A11). In these columns <n> is 1 or 2:

    bdm_<n>d_fresh_mean, .._fresh_std   of the initialisations, in bits
    bdm_<n>d_ratio                      trained / fresh_mean
    bdm_<n>d_ratio_own                  trained / the run's own initialisation (MoMos, Eq. 22)
    bdm_<n>d_z                          (trained - fresh_mean) / fresh_std; empty without a spread
    planes, plane_7 ..                  BDM of bit planes and their ratios (`planes.against`)

One training gives several readings of the paper (method A12, A13). <which> is `last` or `best`, and
`marked_last` or `marked_best` where `train.mark_patience` is set: the weights with which a training
of that patience would have ended.

    test_accuracy_<which>               accuracy in [0, 1] on test images
    test_accuracy_<which>_remeasured    the same with BatchNorm statistics gathered again from the
                                        training images; empty for a model without any
    bdm_1d_ratio_<which>                trained / fresh_mean
"""

import copy
import functools
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from torch import nn

from momos import config, models
from momos.complexity import code_length, measure, planes
from momos.files import run_folder
from momos.images.dataset import Dataset
from momos.images.inputs import Batches
from momos.methods import batch_norm
from momos.methods.method import Method
from momos.models.evaluate import test_accuracy, training_inputs
from momos.weights import blocks

ABOUT = (
    "model", "method", "seed", "grid", "bits", "block_size", "capacity", "num_motifs", "num_blocks",
    "num_weights",
)  # fmt: skip
SHAPE = ("num_classes", "in_channels", "image_size")
FIRST_SEED = 1_000_000  # of the initialisations that trained weights are compared with
Row = dict[str, Any]


class Fresh(NamedTuple):
    """BDM in bits of initialised, untrained weights: 1-D, then 2-D.

    planes: of bit planes, a row an initialisation.
    """

    mean: tuple[float, float]
    std: tuple[float, float]  # sample standard deviation
    planes: tuple[tuple[float, ...], ...] = ()

    def columns(self, measured: Mapping[str, Any]) -> Row:
        """The columns above. measured: those of `measure.bdm_columns`."""
        row: Row = {}
        for prefix, mean, std in zip(("bdm_1d", "bdm_2d"), self.mean, self.std, strict=True):
            value = measured[prefix]
            row |= {
                f"{prefix}_fresh_mean": mean,
                f"{prefix}_fresh_std": std,
                f"{prefix}_ratio": value / mean,
                f"{prefix}_ratio_own": measured[f"{prefix}_ratio"],
                f"{prefix}_z": (value - mean) / std if std else math.nan,
            }
        return row


def fresh_complexity(about: Mapping[str, Any], num_initializations: int) -> Fresh:
    """Measure initialisations of a run's architecture, of seed FIRST_SEED on. about: run.json."""
    kwargs = json.dumps(about["arch_kwargs"], sort_keys=True)
    sizes = tuple(about[key] for key in SHAPE)
    return _fresh_complexity(about["arch"], kwargs, sizes, num_initializations)


@functools.lru_cache(maxsize=16)
def _fresh_complexity(arch: str, kwargs: str, shape: tuple[int, ...], number: int) -> Fresh:
    """Once a process for equal architectures.

    kwargs: as JSON; shape: num_classes, in_channels, image_size.
    """
    sizes = dict(zip(SHAPE, shape, strict=True))
    values, bit_planes = [], []
    for seed in range(FIRST_SEED, FIRST_SEED + number):
        model = models.build(arch, seed=seed, kwargs=json.loads(kwargs), **sizes)
        values.append(measure.model_bdm(blocks.trainable(model)))
        bit_planes.append(tuple(planes.model_planes(blocks.trainable(model)).tolist()))
    one, two = np.transpose(values)
    return Fresh(
        mean=(float(one.mean()), float(two.mean())),
        std=(float(one.std(ddof=1)), float(two.std(ddof=1))),
        planes=tuple(bit_planes),
    )


def evaluate_run(
    folder: Path,
    method: Method,
    dataset: Dataset,
    batches: Batches,
    settings: config.Evaluate,
    block_sizes: Sequence[int],
) -> list[Row]:
    """Return a row for the weights as deployed and, where they differ, one for the latent weights.

    folder: the run's. batches: the run's inputs. block_sizes: at which distinct blocks are counted,
    beside the run's own. Raises ValueError naming a file that is missing or damaged.
    """
    about = run_folder.load_run(folder)
    common = {key: about[key] for key in ABOUT} | _epochs(folder, about)
    common |= code_length.describe_stored(about["num_weights"], method.stored(about))
    latent = {
        which: models.restore(about, run_folder.load_weights(folder, which))
        for which in (*run_folder.WEIGHTS, *_marked_files(about))
    }
    views = {
        "deployed": {
            which: method.deployed(model, arch=about["arch"]) for which, model in latent.items()
        }
    }
    if method.has_latent_weights:
        views["latent"] = latent
    rows = []
    for name, view in views.items():
        model, initial = view[settings.checkpoint], latent["initial"]
        measured = _complexity(model, initial, about, settings, block_sizes)
        fresh = fresh_complexity(about, settings.num_initializations)
        readings = {
            which: _reading(model, fresh, dataset, batches)
            for which, model in view.items()
            if which != "initial"
        }
        columns = _columns_of_readings(readings, about["mark_patience"] is not None)
        rows.append(common | {"weights": name} | columns | measured)
    return rows


def _marked_files(about: Mapping[str, Any]) -> tuple[str, ...]:
    """Which weights there are beside those that every run has."""
    return run_folder.MARKED if about["marked_epoch"] is not None else ()


def _reading(model: nn.Module, fresh: Fresh, dataset: Dataset, batches: Batches) -> Row:
    """What one set of weights comes to; each column's name has a place for which."""
    ratio = measure.model_bdm(blocks.trainable(model))[0] / fresh.mean[0]
    row: Row = {"test_accuracy_{}": test_accuracy(model, dataset, batches)}
    row |= {"test_accuracy_{}_remeasured": None, "bdm_1d_ratio_{}": ratio}
    if batch_norm.running(model):
        twin = copy.deepcopy(model)
        batch_norm.remeasure_(twin, twin, training_inputs(twin, dataset, batches))
        row["test_accuracy_{}_remeasured"] = test_accuracy(twin, dataset, batches)
    return row


def _columns_of_readings(readings: Mapping[str, Row], marked: bool) -> Row:
    """marked: with columns of the marked weights, which are the others' where none were marked."""
    row: Row = {}
    for which in ("best", "last", *(run_folder.MARKED if marked else ())):
        found = readings.get(which) or readings[which.removeprefix("marked_")]
        row |= {column.format(which): value for column, value in found.items()}
    return row


def _epochs(folder: Path, about: Mapping[str, Any]) -> Row:
    """Number of epochs, the best one, and validation accuracy at the best and the last."""
    history = run_folder.load_history(folder)
    best, last = history[about["best_epoch"] - 1], history[-1]
    return {
        "num_epochs": about["num_epochs"],
        "best_epoch": about["best_epoch"],
        "val_accuracy_best": best["val_accuracy"],
        "val_accuracy_last": last["val_accuracy"],
    }


def _complexity(
    model: nn.Module,
    initial: nn.Module,
    about: Mapping[str, Any],
    settings: config.Evaluate,
    block_sizes: Sequence[int],
) -> Row:
    """All measures, and distinct blocks at block sizes that all methods share."""
    weights, slicing = blocks.trainable(model), about["slicing"] or "tensor"
    row: Row = measure.measure_weights(
        weights,
        blocks.trainable(initial),
        block_size=about["block_size"],
        slicing=slicing,
        compressors=settings.compressors,
        seed=settings.shuffle_seed,
    )
    fresh = fresh_complexity(about, settings.num_initializations)
    row |= {"num_initializations": settings.num_initializations} | fresh.columns(row)
    row |= planes.against(planes.model_planes(weights), fresh.planes)
    counts = {
        f"distinct_blocks_s{size}": measure.distinct_blocks(weights, size, slicing)
        for size in block_sizes
    }
    return row | counts
