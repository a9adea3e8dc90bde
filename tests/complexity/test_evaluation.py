"""BDM against several initialisations: by pybdm, by hand, and by how often chance goes beyond."""

import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from staged import Project

from momos import models
from momos.complexity import evaluation, measure, planes
from momos.files import run_folder
from momos.images.dataset import load_dataset
from momos.report.shared.statistics import prediction_bound
from momos.weights import blocks

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # pybdm imports pkg_resources
    import pybdm

NUMBER = 20
ABOUT = {
    "arch": "mlp",
    "arch_kwargs": {"hidden_layers": 2, "width": 24},
    "num_classes": 10,
    "in_channels": 1,
    "image_size": 8,
}


def network(seed: int):
    shape = {name: ABOUT[name] for name in evaluation.SHAPE}
    return models.build("mlp", seed=seed, kwargs=ABOUT["arch_kwargs"], **shape)


@pytest.fixture(scope="module")
def fresh() -> evaluation.Fresh:
    return evaluation.fresh_complexity(ABOUT, NUMBER)


def columns(fresh: evaluation.Fresh, tensors: dict, initial: dict) -> dict:
    return fresh.columns(measure.bdm_columns(tensors, initial, seed=0))


def test_the_initialisations_are_measured_as_pybdm_does(fresh):
    oracle, values = pybdm.BDM(ndim=1), []
    for seed in range(evaluation.FIRST_SEED, evaluation.FIRST_SEED + NUMBER):
        tensors = blocks.trainable(network(seed)).values()
        bits = np.concatenate([(tensor > 0).numpy().reshape(-1) for tensor in tensors])
        values.append(oracle.bdm(bits.astype(int)))
    assert fresh.mean[0] == pytest.approx(np.mean(values), rel=1e-9)
    assert fresh.std[0] == pytest.approx(np.std(values, ddof=1), rel=1e-6)
    seeds = (evaluation.FIRST_SEED, evaluation.FIRST_SEED + NUMBER - 1)
    models_of = [blocks.trainable(network(seed)) for seed in seeds]
    wanted = [planes.complexity(weights, 8, 99.9).tolist() for weights in models_of]
    assert [list(fresh.planes[place]) for place in (0, -1)] == wanted


def test_no_run_of_a_grid_starts_from_one_of_them():
    weights = [blocks.trainable(network(seed)) for seed in (0, 1, 2, evaluation.FIRST_SEED)]
    assert evaluation.FIRST_SEED > 10_000
    for own in weights[:3]:
        assert any((own[name] != weights[3][name]).any() for name in own)


def test_equal_architectures_are_measured_once(monkeypatch):
    built, build = [], models.build
    monkeypatch.setattr(
        models, "build", lambda *args, **options: built.append(options) or build(*args, **options)
    )
    about = ABOUT | {"arch_kwargs": {"width": 24, "hidden_layers": 2}, "image_size": 8}
    evaluation._fresh_complexity.cache_clear()
    first = evaluation.fresh_complexity(ABOUT | {"seed": 0}, NUMBER)
    assert evaluation.fresh_complexity(about | {"seed": 1}, NUMBER) == first
    assert len(built) == NUMBER
    evaluation.fresh_complexity(ABOUT, NUMBER + 1)
    assert len(built) == 2 * NUMBER + 1
    evaluation._fresh_complexity.cache_clear()


def test_ratios_and_z_by_hand():
    fresh = evaluation.Fresh(mean=(1000.0, 500.0), std=(10.0, 0.0))
    measured = {"bdm_1d": 980.0, "bdm_1d_ratio": 0.97, "bdm_2d": 505.0, "bdm_2d_ratio": 1.02}
    row = fresh.columns(measured)
    assert (row["bdm_1d_ratio"], row["bdm_1d_ratio_own"], row["bdm_1d_z"]) == (0.98, 0.97, -2.0)
    assert (row["bdm_2d_ratio"], row["bdm_2d_ratio_own"]) == (1.01, 1.02)
    assert np.isnan(row["bdm_2d_z"]), "without a spread there is no z"
    assert (row["bdm_1d_fresh_mean"], row["bdm_1d_fresh_std"]) == (1000.0, 10.0)


def test_untrained_weights_lie_beyond_the_bound_as_rarely_as_it_says(fresh):
    """300 further initialisations, of which 0.2 % lie beyond the bounds of p < 0.001 on each side.

    The 20 that they are compared with are the same for all: z has a mean of its own by chance.
    """
    initial = blocks.trainable(network(0))
    z = np.array(
        [
            columns(fresh, blocks.trainable(network(seed)), initial)["bdm_1d_z"]
            for seed in range(300)
        ]
    )
    assert (np.abs(z) > prediction_bound(NUMBER, 0.001)).sum() <= 4
    assert abs(z.mean()) < 0.9 and 0.6 < z.std() < 1.6


def test_weights_with_order_lie_far_below(fresh):
    initial = blocks.trainable(network(0))
    ordered = {name: tensor.sort().values for name, tensor in initial.items()}
    row = columns(fresh, ordered, initial)
    assert row["bdm_1d_z"] < -10 * prediction_bound(NUMBER, 0.001) and row["bdm_1d_ratio"] < 0.9


@pytest.mark.parametrize(
    "which_ends", ["patience", pytest.param("epochs", marks=pytest.mark.stress)]
)
def test_one_training_gives_several_readings(tmp_path, monkeypatch, which_ends):
    """Each against the weights in the run's folder, with torch's own statistics, image by image."""
    loop = {"epochs": 4, "patience": None, "mark_patience": 1 if which_ends == "patience" else 99}
    grid = {"models": ["resnet20", "mlp"], "methods": ["qat4"]}
    shown = {"picture_method": "qat4"}
    few = {"test_fraction": 0.1, "validation_fraction": 0.4}  # test images, one after the other
    changes = {"train": loop, "grid": grid, "report": shown, "data": few}
    changes["evaluate"] = {"compressors": ["gzip"]}
    project = Project(tmp_path, monkeypatch, changes)
    project.prepare()
    folder = project.train("resnet20", "qat4")
    project.stage("evaluate", "resnet20", "data.safetensors", "runs/micro/resnet20", "out.csv")
    about, data = run_folder.load_run(folder), load_dataset(tmp_path / "data.safetensors")
    assert (about["marked_epoch"] is None) == (which_ends == "epochs")
    images = (data.images.float() / 255 - about["mean"][0]) / about["std"][0]
    table = pd.read_csv("out.csv").set_index("weights")
    assert list(table.index) == ["deployed", "latent"]
    weights = blocks.trainable(models.restore(about, run_folder.load_weights(folder, "last")))
    latent, mean = table.loc["latent"], evaluation.fresh_complexity(about, 20).planes
    assert latent.planes == pytest.approx(planes.complexity(weights, 8, 99.9).sum(), rel=1e-12)
    assert latent.planes_ratio == pytest.approx(latent.planes / np.sum(mean, axis=1).mean())
    for which in ("best", "last", "marked_best", "marked_last"):
        file = which if about["marked_epoch"] else which.removeprefix("marked_")
        model = models.restore(about, run_folder.load_weights(folder, file))
        accuracy = _accuracy(model, images[data.test], data.labels[data.test])
        assert table.loc["latent", f"test_accuracy_{which}"] == accuracy
        ratio = measure.model_bdm(blocks.trainable(model))[0]
        ratio /= table.loc["latent", "bdm_1d_fresh_mean"]
        assert table.loc["latent", f"bdm_1d_ratio_{which}"] == pytest.approx(ratio, rel=1e-12)
        size = project.params["train"]["batch_size"]
        torch.optim.swa_utils.update_bn(images[data.train].split(size), model)
        accuracy = _accuracy(model, images[data.test], data.labels[data.test])
        found = table.loc["latent", f"test_accuracy_{which}_remeasured"]
        assert found == pytest.approx(accuracy, abs=1.5 / len(data.test))
    assert (table.test_accuracy_last != table.test_accuracy_last_remeasured).any()


@torch.no_grad()
def _accuracy(model, images, labels) -> float:
    hits = [int(model.eval()(image[None]).argmax()) for image in images]
    return float((np.array(hits) == labels.numpy()).mean())
