"""The loop against single steps written out, and its promises: schedule, early stopping,
projections, determinism, divergence.
"""

import math

import numpy as np
import pytest
import torch
from recipes import recipe_of
from torch import nn

from momos import config, models
from momos.compute.seeds import generator_for
from momos.images.dataset import Dataset
from momos.images.draws import draw
from momos.images.inputs import Batches, with_random_labels
from momos.methods import mosaic, quantize
from momos.training import loop, runs
from momos.weights import blocks

SETTINGS = config.Train(
    epochs=3,
    batch_size=8,
    patience=None,
    device="cpu",
    num_threads=1,
    precision="float32",
    compile=False,
    cuda_graphs=False,
    stacked_seeds=1,
    checkpoint_seconds=60.0,
)
SGD = config.Model(
    epochs=None,
    arch="mlp",
    image_size=4,
    kwargs={},
    optimizer="sgd",
    lr=0.1,
    momentum=0.0,
    weight_decay=0.0,
)
STILL = config.Augment(flip=False, crop_padding=0, rand_augment_ops=0, rand_augment_magnitude=9)
MOVING = config.Augment(flip=True, crop_padding=1, rand_augment_ops=0, rand_augment_magnitude=9)
BASELINE = {"bits": 32}
MOMOS = {"bits": 32, "block_size": 2, "capacity": 0.1}


@pytest.fixture(scope="module")
def dataset():
    """Forty 4x4 images of three classes: a bright corner on noise."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 100, (40, 1, 4, 4), generator=generator).to(torch.uint8)
    labels = torch.arange(40) % 3
    images[labels == 0, :, :2, :2] = 250
    images[labels == 1, :, 2:, 2:] = 250
    split = torch.arange(40)
    return Dataset(images, labels, split[:27], split[27:33], split[33:], ("a", "b", "c"), "test")


def batches(size=8):
    return Batches(size, 4, (0.5,), (0.25,), torch.device("cpu"))


def model(seed=0):
    return models.build(
        "mlp", 3, seed=seed, in_channels=1, image_size=4, kwargs={"hidden_layers": 1, "width": 8}
    )


SETTING = {
    "settings": SETTINGS,
    "recipe": SGD,
    "augmentation": STILL,
    "method": BASELINE,
    "every": "epoch",
}


def run(dataset, network=None, *, inputs=None, seed=0, on_epoch=lambda row: None, **changes):
    setting = SETTING | changes
    recipe = recipe_of(
        setting["settings"],
        setting["recipe"],
        inputs or batches(setting["settings"].batch_size),
        setting["augmentation"],
        setting["method"],
        every=setting["every"],
    )
    return loop.train(network or model(), dataset, recipe, seed=seed, on_epoch=on_epoch)


def with_(section, **changes):
    return type(section)(**vars(section) | changes)


def inputs(dataset, indices):
    return (dataset.images[indices].double() / 255 - 0.5) / 0.25


def loss_by_hand(network, images, labels):
    """Mean cross entropy in float64 from its definition."""
    logits = network.double()(images).detach().numpy()
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return -np.log(probabilities[np.arange(len(labels)), labels.numpy()]).mean(), (
        logits.argmax(1) == labels.numpy()
    ).mean()


def test_one_full_batch_step_is_gradient_descent(dataset):
    result = run(dataset, settings=with_(SETTINGS, epochs=1, batch_size=100))
    network = model().double()
    images, labels = inputs(dataset, dataset.train), dataset.labels[dataset.train]
    nn.functional.cross_entropy(network(images), labels).backward()
    for name, weight in network.named_parameters():
        assert torch.allclose(
            result.last[name].double(), (weight - 0.1 * weight.grad).detach(), atol=1e-6
        )
    row = result.history[0]
    assert (row["train_loss"], row["train_accuracy"]) == pytest.approx(
        loss_by_hand(model(), images, labels), abs=1e-5
    )
    network.load_state_dict(result.last)
    expected = loss_by_hand(
        network, inputs(dataset, dataset.validation), dataset.labels[dataset.validation]
    )
    assert (row["val_loss"], row["val_accuracy"]) == pytest.approx(expected, abs=1e-5)
    assert all(
        torch.equal(value, result.initial[name]) for name, value in model().state_dict().items()
    )


def test_epoch_loss_counts_images_not_batches(dataset):
    """27 images in batches of 25 and 2, with no learning: the mean over images is that of the
    untrained model.
    """
    result = run(
        dataset, settings=with_(SETTINGS, epochs=1, batch_size=25), recipe=with_(SGD, lr=1e-30)
    )
    expected = loss_by_hand(model(), inputs(dataset, dataset.train), dataset.labels[dataset.train])
    assert (result.history[0]["train_loss"], result.history[0]["train_accuracy"]) == pytest.approx(
        expected, abs=1e-5
    )


def test_the_cosine_schedule(dataset):
    rows = run(dataset, settings=with_(SETTINGS, epochs=5)).history
    assert [row["lr"] for row in rows] == pytest.approx(
        [0.05 * (1 + math.cos(math.pi * epoch / 5)) for epoch in range(5)]
    )
    assert [row["epoch"] for row in rows] == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_every_image_is_seen_once_an_epoch_and_learning_happens(dataset, optimizer):
    recipe = with_(
        SGD,
        optimizer=optimizer,
        lr=0.1 if optimizer == "sgd" else 0.01,
        momentum=0.9,
        weight_decay=1e-4,
    )
    rows = run(dataset, settings=with_(SETTINGS, epochs=25), recipe=recipe).history
    assert (
        rows[-1]["train_accuracy"] == 1.0
        and rows[-1]["val_accuracy"] == 1.0
        and rows[-1]["train_loss"] < 0.2 < rows[0]["train_loss"]
    )


@pytest.mark.parametrize("method", [BASELINE, MOMOS, MOMOS | {"bits": 4}, BASELINE | {"bits": 8}])
def test_the_same_seed_gives_the_same_bytes_and_the_global_state_stays(dataset, method):
    state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()
    options = {"method": method, "augmentation": MOVING}
    first, same, other = (run(dataset, model(), seed=seed, **options) for seed in (1, 1, 2))
    assert first.history == same.history and first.history != other.history
    assert all(torch.equal(first.last[name], same.last[name]) for name in first.last)
    assert (
        torch.equal(torch.get_rng_state(), state)
        and (np.random.get_state()[1] == numpy_state).all()
    )


def test_layers_that_draw_are_seeded_too(dataset):
    results = []
    for disturbance in (1, 2):
        torch.manual_seed(disturbance)
        network = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), *[model().linear.__class__(16, 3)])
        network.load_state_dict({"2.weight": torch.ones(3, 16) / 16, "2.bias": torch.zeros(3)})
        results.append(run(dataset, network).last["2.weight"])
    assert torch.equal(*results)


# --- the fast path against the plain one, on the same draws

CIFAR_LIKE = config.Augment(flip=True, crop_padding=4, rand_augment_ops=2, rand_augment_magnitude=9)


@pytest.fixture(scope="module")
def photographs():
    """300 smooth 32x32 colour images of three classes: a colour cast on blurred noise."""
    generator = torch.Generator().manual_seed(1)
    noise = torch.rand(300, 3, 8, 8, generator=generator)
    images = nn.functional.interpolate(noise, size=32, mode="bilinear") * 200
    labels = torch.randint(3, (300,), generator=generator)
    images[torch.arange(300), labels] += 50
    split = torch.arange(300)
    return Dataset(
        images.to(torch.uint8),
        labels,
        split[:256],
        split[256:280],
        split[280:],
        ("a", "b", "c"),
        "test",
    )


def plain_losses(network, dataset, recipe, num_epochs, size, seed):
    """Image by image through torchvision and PIL, torch's own linear layers, layouts and
    optimisers, in the order and with the draws of the same generators -> all batches of the first
    epoch, the loss of every step.
    """
    optimizer = {"sgd": torch.optim.SGD, "adamw": torch.optim.AdamW}[recipe.optimizer]
    extra = {"momentum": recipe.momentum} if recipe.optimizer == "sgd" else {}
    optimizer = optimizer(
        network.parameters(), lr=recipe.lr, weight_decay=recipe.weight_decay, foreach=False, **extra
    )
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=num_epochs)
    order, chance = generator_for("order", seed), generator_for("augment", seed)
    options = {
        key: value for key, value in vars(CIFAR_LIKE).items() if key != "rand_augment_magnitude"
    }
    seen, losses = [], []
    for epoch in range(num_epochs):
        indices = dataset.train[torch.randperm(len(dataset.train), generator=order)]
        draws = draw(len(indices), generator=chance, **options)
        augmented = [
            plain_image(dataset.images[i], draws, n) for n, i in enumerate(indices.tolist())
        ]
        for start in range(0, len(indices), size):
            images = torch.stack(augmented[start : start + size])
            seen += [images] if epoch == 0 else []
            loss = nn.functional.cross_entropy(
                network((images / 255 - 0.5) / 0.25), dataset.labels[indices[start : start + size]]
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        schedule.step()
    return seen, losses


def plain_image(image, draws, position):
    from oracles.plain_augmentation import plain

    return plain(image, draws, position, crop_padding=4, image_size=32, magnitude=9)


@pytest.mark.parametrize("arch", ["mlp", "resnet20"])
def test_the_fast_path_is_the_plain_one(photographs, monkeypatch, arch):
    """The same batches bit for bit; losses equal up to what float32 leaves of different summation
    orders.
    """
    kwargs = (
        {"hidden_layers": 2, "width": 128} if arch == "mlp" else {}
    )  # the first layer is large enough for oneDNN
    size, epochs = (16, 7) if arch == "mlp" else (64, 2)
    recipe = with_(
        SGD,
        arch=arch,
        lr=1e-3,
        optimizer="adamw" if arch == "mlp" else "sgd",
        momentum=0.9,
        weight_decay=1e-2,
    )
    networks = [models.build(arch, 3, seed=5, kwargs=kwargs) for _ in range(2)]
    expected, losses = plain_losses(networks[0].train(), photographs, recipe, epochs, size, seed=5)

    seen, found = [], []
    to_input, step = Batches.to_input, loop.Step.__call__
    monkeypatch.setattr(
        Batches,
        "to_input",
        lambda self, images, *how: seen.append(images.clone()) or to_input(self, images, *how),
    )

    def recording(self, *inputs):
        outputs = step(self, *inputs)
        found.append(outputs[0].item())
        return outputs

    monkeypatch.setattr(loop.Step, "__call__", recording)
    run(
        photographs,
        networks[1],
        inputs=Batches(size, 32, (0.5,) * 3, (0.25,) * 3, torch.device("cpu")),
        recipe=recipe,
        augmentation=CIFAR_LIKE,
        settings=with_(SETTINGS, epochs=epochs, batch_size=size),
        seed=5,
    )
    assert all(torch.equal(a, b) for a, b in zip(expected, seen, strict=False))
    assert len(found) == len(losses) >= (100 if arch == "mlp" else 8)
    assert found == pytest.approx(losses, rel=1e-3 if arch == "mlp" else 5e-3)
    assert found[:2] == pytest.approx(losses[:2], rel=1e-5)


def test_the_batch_size_of_augmentation_changes_nothing(photographs, monkeypatch):
    setting = {
        "recipe": with_(SGD, lr=1e-3),
        "augmentation": CIFAR_LIKE,
        "settings": with_(SETTINGS, epochs=1, batch_size=32),
        "inputs": Batches(32, 32, (0.5,) * 3, (0.25,) * 3, torch.device("cpu")),
    }
    small = {"hidden_layers": 1, "width": 8}
    results = []
    for limit in (1, 2**23):
        monkeypatch.setattr(loop, "CHUNK_BYTES", {"cpu": limit})
        results.append(run(photographs, models.build("mlp", 3, kwargs=small), **setting).last)
    assert all(torch.equal(results[0][name], results[1][name]) for name in results[0])


def validation_losses(monkeypatch, losses):
    values = iter(losses)
    monkeypatch.setattr(loop, "loss_and_accuracy", lambda *args, **kwargs: (next(values), 0.5))


def test_early_stopping_keeps_the_best_weights(dataset, monkeypatch):
    validation_losses(monkeypatch, [1.0, 0.5, 0.5, 0.7, 0.1])
    seen = []
    network = model()
    settings = with_(SETTINGS, epochs=5, patience=2)
    result = run(
        dataset,
        network,
        settings=settings,
        on_epoch=lambda row: seen.append((row["epoch"], loop.cpu_state(network))),
    )
    assert (
        [row["epoch"] for row in result.history] == [1, 2, 3, 4]
        and result.stopped_early
        and result.best.epoch == 2
    )
    assert all(torch.equal(result.best.state[name], seen[1][1][name]) for name in result.best.state)
    assert all(torch.equal(result.last[name], seen[3][1][name]) for name in result.last)
    assert not torch.equal(result.best.state["linear.weight"], result.last["linear.weight"])


def test_best_weights_are_those_of_a_mosaic(dataset, monkeypatch):
    """Those before, and the patience that they would have worn out, do not count."""
    validation_losses(monkeypatch, [0.1, 0.2, 0.3, 0.9, 0.5, 0.6])
    method = MOMOS | {"motifs": [["dense", 0.67], ["trained", 1.0]]}
    settings = with_(SETTINGS, epochs=6, patience=2, mark_patience=1)
    result = run(dataset, settings=settings, method=method)
    assert len(result.history) == 6 and result.best.epoch == 5 and result.best.usage is not None
    assert (result.marked.epoch, result.marked.best_epoch) == (6, 5)
    assert [row["distortion"] is None for row in result.history] == 3 * [True] + 3 * [False]


def test_without_patience_all_epochs_run(dataset, monkeypatch):
    validation_losses(monkeypatch, [1.0, 2.0, 3.0])
    result = run(dataset)
    assert len(result.history) == 3 and not result.stopped_early and result.best.epoch == 1
    validation_losses(monkeypatch, [1.0, 2.0, 3.0])
    assert not run(dataset, settings=with_(SETTINGS, patience=2)).stopped_early, (
        "the last epoch is no early stop"
    )


# --- MoMos


def distinct(state, block_size):
    """Blocks without ragged tails: all tensors of the model have an even number of weights, but for
    the last bias.
    """
    whole = [tensor for tensor in state.values() if tensor.numel() % block_size == 0]
    return len(blocks.to_blocks(whole, block_size).unique(dim=0))


@pytest.mark.parametrize(("every", "expected"), [("epoch", 3), ("step", 3 * 4), (3, 4 + 2)])
def test_projections_happen_when_asked_and_before_every_validation(
    dataset, monkeypatch, every, expected
):
    calls = []
    original = mosaic.project_
    monkeypatch.setattr(
        mosaic, "project_", lambda *args, **kwargs: calls.append(1) or original(*args, **kwargs)
    )
    result = run(dataset, method=MOMOS, every=every)
    assert len(calls) == expected
    total = blocks.num_blocks([weight.numel() for weight in model().parameters()], 2)
    for state, usage in ((result.best.state, result.best.usage), (result.last, result.last_usage)):
        assert distinct(state, 2) <= max(total // 10, 1) and usage.sum() == total
    assert all(row["distortion"] > 0 and row["num_changed"] > 0 for row in result.history)


def test_the_history_tells_the_distortion_of_each_epoch(dataset):
    result = run(dataset, method={"bits": 32, "block_size": 2, "num_motifs": 5})
    num_weights = sum(weight.numel() for weight in model().parameters())
    for row in result.history:
        assert row["distortion_per_weight"] == pytest.approx(row["distortion"] / num_weights)
        assert 0 < row["relative_distortion"] <= 1 and 1 <= row["motifs_used"] <= 5
    assert len(result.last_usage) == 5
    assert {row["distortion"] for row in run(dataset).history} == {None}


def test_qat_trains_latent_weights_under_quantised_ones(dataset):
    result = run(dataset, settings=with_(SETTINGS, epochs=1, batch_size=100), method={"bits": 3})
    reference = quantize.deployed(model(), 3, "type", "mlp").double()
    nn.functional.cross_entropy(
        reference(inputs(dataset, dataset.train)), dataset.labels[dataset.train]
    ).backward()
    for (name, latent), weight in zip(
        model().named_parameters(), reference.parameters(), strict=True
    ):
        assert torch.allclose(
            result.last[name].double(), latent.detach().double() - 0.1 * weight.grad, atol=1e-6
        )


# --- divergence


def test_divergence_stops_keeps_the_history_and_says_where(dataset):
    with pytest.raises(
        loop.TrainingDiverged, match=r"(loss is (nan|inf)|weights are no longer finite).*epoch 1"
    ) as error:
        run(dataset, recipe=with_(SGD, lr=1e30), settings=with_(SETTINGS, epochs=4))
    assert error.value.history == []


def test_divergence_later_keeps_what_came_before(dataset, monkeypatch):
    validation_losses(monkeypatch, [1.0, float("nan")])
    with pytest.raises(
        loop.TrainingDiverged, match="validation loss is nan after epoch 2; 1 epochs finished"
    ) as error:
        run(dataset)
    assert [row["epoch"] for row in error.value.history] == [1]


@pytest.mark.parametrize("every", ["epoch", "step"])
def test_divergence_is_seen_before_a_projection(dataset, every):
    with pytest.raises(loop.TrainingDiverged, match="epoch 1"):
        run(
            dataset,
            method=MOMOS,
            every=every,
            recipe=with_(SGD, lr=1e38),
        )


def test_streams_are_independent():
    streams = {
        (purpose, seed): generator_for(purpose, seed).initial_seed()
        for purpose in ("order", "augment")
        for seed in (0, 1)
    }
    assert len(set(streams.values())) == 4
    assert generator_for("order", 0).initial_seed() == streams["order", 0]


# --- several readings of one training


@pytest.mark.parametrize("losses", [[1.0, 0.5, 0.6, 0.7, 0.1], [1.0, 0.9, 0.8, 0.7, 0.6]], ids=str)
def test_marked_weights_are_those_with_which_patience_would_have_ended(
    dataset, monkeypatch, losses
):
    settings = with_(SETTINGS, epochs=5, patience=None)
    validation_losses(monkeypatch, losses)
    whole = run(dataset, settings=with_(settings, mark_patience=2))
    validation_losses(monkeypatch, losses)
    ended = run(dataset, settings=with_(settings, patience=2))
    assert len(whole.history) == 5 and not whole.stopped_early
    summary = whole.summary()
    if not ended.stopped_early:
        assert whole.marked is None and summary["marked_epoch"] is None
        return
    assert (whole.marked.epoch, whole.marked.best_epoch) == (4, 2)
    assert (summary["marked_epoch"], summary["marked_best_epoch"]) == (4, 2)
    assert (len(ended.history), ended.best.epoch) == (4, 2) and whole.best.epoch == 5
    for mine, theirs in ((whole.marked.last, ended.last), (whole.marked.best, ended.best.state)):
        assert mine.keys() == theirs.keys()
        assert all(torch.equal(tensor, theirs[name]) for name, tensor in mine.items())


@pytest.mark.parametrize("method", [BASELINE, MOMOS], ids=["baseline", "motifs"])
def test_weights_are_kept_at_the_steps_that_are_asked_for(dataset, method):
    """Four steps an epoch. At the end of an epoch they are what the history's row is about; those
    of another step are what a training of one step less an epoch would not have.
    """
    seen = {}
    network = model()
    plain = run(dataset, method=method)
    result = run(
        dataset,
        network,
        settings=with_(SETTINGS, keep=(3, 4, 8, 12)),
        method=method,
        on_epoch=lambda row: seen.update({4 * row["epoch"]: loop.cpu_state(network)}),
    )
    assert result.history == plain.history and list(result.kept) == [3, 4, 8, 12]
    for step, state in seen.items():
        assert all(torch.equal(state[name], tensor) for name, tensor in result.kept[step].items())
    assert not torch.equal(result.kept[3]["linear.weight"], result.kept[4]["linear.weight"])
    assert plain.kept == {}


def test_a_step_that_no_training_reaches_is_met_before_it(dataset):
    """Three epochs of four steps. run.json says which steps are kept, where some are."""
    key = {"profile": "p", "model": "mlp", "method": "baseline", "seed": 0, "grid": "main"}

    def about(*steps):
        settings = with_(SETTINGS, keep=steps)
        recipe = recipe_of(settings, with_(SGD), batches(8), STILL, BASELINE)
        return runs.describe_run(key, model(), dataset, recipe, 1)

    assert about(1, 12)["keep"] == (1, 12) and "keep" not in about()
    expected = r"train.keep must be steps of models.mlp's training, which has 12, got \[1, 13\]"
    with pytest.raises(ValueError, match=expected):
        about(1, 13)


def test_random_labels_are_those_of_training_images_alone(dataset):
    shuffled = with_random_labels(dataset)
    for split in (dataset.validation, dataset.test):
        assert torch.equal(shuffled.labels[split], dataset.labels[split])
    mine, theirs = shuffled.labels[dataset.train], dataset.labels[dataset.train]
    assert torch.equal(mine.sort().values, theirs.sort().values) and not torch.equal(mine, theirs)
    assert torch.equal(with_random_labels(dataset).labels, shuffled.labels)
    found = run(dataset, recipe=with_(SGD, random_labels=True))
    expected = run(shuffled)
    assert found.history == expected.history and found.history != run(dataset).history


def test_statistics_are_measured_again_before_each_validation(dataset):
    """Those of the last and the best weights are what torch finds for these weights."""
    recipe = with_(SGD, arch="resnet20", lr=0.05)
    network = models.build("resnet20", 3, in_channels=1, image_size=4)
    found = run(dataset, network, recipe=recipe, method=BASELINE | {"batchnorm": "remeasured"})
    plain = [inputs(dataset, part).float() for part in dataset.train.split(8)]
    for state in (found.last, found.best.state):
        twin = models.build("resnet20", 3, in_channels=1, image_size=4)
        twin.load_state_dict(state)
        torch.optim.swa_utils.update_bn(plain, twin)
        for name, value in twin.named_buffers():
            assert torch.allclose(value.double(), state[name].double(), rtol=1e-4, atol=1e-5), name
