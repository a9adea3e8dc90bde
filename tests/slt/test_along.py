"""Measures along an image classifier's training: the kept weights, each as it is measured alone."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from recipes import method_of, recipe_of

from momos import config, models
from momos.complexity import bdm, checkpoints
from momos.files import run_folder
from momos.images.dataset import Dataset
from momos.images.inputs import Batches, with_random_labels
from momos.models.evaluate import loss_and_accuracy
from momos.slt.along import measure_along
from momos.slt.classifiers import deployed, measure_classifier, measure_quantisability
from momos.training import loop, runs

pytestmark = pytest.mark.usefixtures("one_thread")
PROFILES = Path(__file__).parents[2] / "profiles"
CPU = torch.device("cpu")
MOMOS = {"bits": 32, "block_size": 2, "capacity": 0.3}
KEY = {"profile": "p", "model": "mlp", "method": "momos", "seed": 3, "grid": "main"}


def settings(kind: type, **changes):
    base = config.profile_settings("digits", PROFILES)[kind.section]
    return kind.from_mapping(base | changes, kind.section)


LLC = settings(
    config.Complexity,
    num_images=16,
    batch_size=8,
    num_batches=2,
    num_chains=1,
    num_draws=3,
    num_burnin_steps=0,
    num_probes=1,
    num_probe_batches=1,
    num_lanczos_steps=2,
    num_gradient_batches=2,
)
SEARCH = settings(config.Compressibility, max_n_q=9, fractions_per_octave=1)
RIVALS = settings(config.Rivals, num_initializations=3, compressors=["gzip"], bit_depth=4)


@pytest.fixture(scope="module")
def dataset():
    """Forty noisy 4x4 images of three classes."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (40, 1, 4, 4), generator=generator).to(torch.uint8)
    split = torch.arange(40)
    return Dataset(images, split % 3, split[:24], split[24:32], split[32:], ("a", "b", "c"), "test")


def trained(dataset, folder, **changes):
    """A run of six steps, of which the first, third and last are kept."""
    settings_ = config.Train(
        epochs=2, batch_size=8, patience=None, keep=(1, 3, 6), device="cpu", num_threads=1,
        precision="float32", compile=False, cuda_graphs=False, stacked_seeds=1,
        checkpoint_seconds=60.0,
    )  # fmt: skip
    entry = config.Model(
        epochs=None, arch="mlp", image_size=4, kwargs={"hidden_layers": 1, "width": 8},
        optimizer="sgd", lr=0.1, momentum=0.0, weight_decay=0.0,
    )  # fmt: skip
    still = config.Augment(flip=False, crop_padding=0, rand_augment_ops=0, rand_augment_magnitude=9)
    batches = Batches(8, 4, (0.5,), (0.25,), CPU)
    recipe = recipe_of(settings_, replace(entry, **changes), batches, still, MOMOS)
    network = models.build("mlp", 3, in_channels=1, image_size=4, kwargs=entry.kwargs)
    about = runs.describe_run(KEY, network, dataset, recipe, 1)
    runs.save_run(folder, about, loop.train(network, dataset, recipe, seed=3))


def along(folder, dataset):
    parts = {}

    def keep(name, compute):
        assert name not in parts, "a part of another step would be taken for it"
        parts[name] = compute()
        return parts[name]

    how = (method_of(MOMOS), dataset, LLC, SEARCH, RIVALS, [0.1], CPU, keep)
    return measure_along(folder, *how)


def alone(folder, dataset, which):
    how = (method_of(MOMOS), dataset, LLC, SEARCH, [0.1], CPU, lambda name, compute: compute())
    return measure_classifier(folder, *how, which)


def test_each_kept_step_is_measured_and_the_last_one_is_the_last_weights(dataset, tmp_path):
    trained(dataset, tmp_path)
    rows = along(tmp_path, dataset)
    assert [row["step"] for row in rows] == [1, 3, 6]
    assert rows[0]["llc_mean"] != rows[1]["llc_mean"] != rows[2]["llc_mean"]
    last = alone(tmp_path, dataset, "last")
    how = (method_of(MOMOS), dataset, LLC, SEARCH, [0.1], CPU)
    n_q = {name: value for name, value in last.items() if "n_q" in name or "critical" in name}
    assert measure_quantisability(tmp_path, *how) == n_q and len(n_q) == 4
    assert {name: rows[-1][name] for name in last} == last
    for row in rows:
        model = deployed(tmp_path, method_of(MOMOS), f"step{row['step']}", CPU)
        inputs = Batches(5, 4, (0.5,), (0.25,), CPU)
        images, labels = dataset.images[dataset.validation], dataset.labels[dataset.validation]
        loss, accuracy = loss_and_accuracy(model, images, labels, inputs)
        assert (row["val_loss"], row["val_accuracy"]) == pytest.approx((loss, accuracy), rel=1e-6)
        flat = torch.cat([weight.detach().flatten() for weight in model.parameters()])
        assert row["bdm_1d"] == pytest.approx(bdm.bdm(flat.numpy() > 0))
        assert row["l2_norm"] == pytest.approx(float(flat.norm()))
    fresh = [
        checkpoints.complexities(dict(models.build(
            "mlp", 3, seed=seed, in_channels=1, image_size=4,
            kwargs={"hidden_layers": 1, "width": 8},
        ).named_parameters()), 4)["bdm_1d"]
        for seed in range(checkpoints.FIRST_SEED, checkpoints.FIRST_SEED + 3)
    ]  # fmt: skip
    fresh = torch.tensor(fresh, dtype=torch.float64)
    mean, deviation = fresh.mean(), fresh.std()
    assert rows[0]["bdm_1d_z"] == pytest.approx(float((rows[0]["bdm_1d"] - mean) / deviation))


def test_random_labels_are_those_that_the_loss_is_measured_with(dataset, tmp_path):
    trained(dataset, tmp_path, random_labels=True)
    shuffled = with_random_labels(dataset)
    assert run_folder.load_run(tmp_path)["random_labels"] is True
    (row, *_) = along(tmp_path, dataset)
    model = deployed(tmp_path, method_of(MOMOS), "step1", CPU)
    inputs = Batches(8, 4, (0.5,), (0.25,), CPU)

    def loss(labels):
        train = dataset.train
        return loss_and_accuracy(model, dataset.images[train], labels[train], inputs)[0]

    all_of_them = replace(LLC, num_init_batches=3, num_batches=3, num_draws=3)
    found = measure_classifier(
        tmp_path, method_of(MOMOS), dataset, all_of_them, SEARCH, [0.1], CPU,
        lambda name, compute: compute(), "step1",
    )  # fmt: skip
    assert found["init_loss"] == pytest.approx(loss(shuffled.labels), rel=1e-5)
    assert found["init_loss"] != pytest.approx(loss(dataset.labels), rel=1e-3)
    assert row["val_loss"] == pytest.approx(
        loss_and_accuracy(
            model, dataset.images[dataset.validation], dataset.labels[dataset.validation], inputs
        )[0]
    )


def test_a_run_that_kept_nothing_has_no_rows(dataset, tmp_path):
    trained(dataset, tmp_path)
    for step in run_folder.kept_steps(tmp_path):
        (tmp_path / f"step{step}.safetensors").unlink()
    assert along(tmp_path, dataset) == []
