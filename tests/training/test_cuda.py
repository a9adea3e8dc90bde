"""What only a CUDA GPU can show: the CPU's bytes where arithmetic is exact, its losses where it
rounds, and that no step waits.
"""

import warnings

import pytest
import torch
from recipes import recipe_of
from torch import nn

from momos import config, models
from momos.compute.device import prepare_device
from momos.images import augment
from momos.images.dataset import Dataset
from momos.images.draws import draw
from momos.images.inputs import Batches
from momos.methods import mosaic
from momos.resume.checkpoints import Checkpoints
from momos.training import loop, stacked
from momos.weights import blocks

DEVICE = "cuda"
pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")

RECIPES = {
    "mlp": config.Model(
        epochs=None,
        arch="mlp",
        image_size=32,
        kwargs={"hidden_layers": 2, "width": 64},
        optimizer="adamw",
        lr=1e-3,
        momentum=0.0,
        weight_decay=1e-2,
    ),
    "resnet20": config.Model(
        epochs=None,
        arch="resnet20",
        image_size=32,
        kwargs={},
        optimizer="sgd",
        lr=0.02,
        momentum=0.9,
        weight_decay=1e-4,
    ),
}
AUGMENT = config.Augment(flip=True, crop_padding=4, rand_augment_ops=2, rand_augment_magnitude=9)
METHODS = {
    "baseline": {"bits": 32},
    "qat4": {"bits": 4},
    "momos": {"bits": 32, "block_size": 2, "capacity": 0.05},
}


def photographs(count, size=32, seed=1):
    """(count, 3, size, size) uint8: colour noise, blurred."""
    noise = torch.rand(count, 3, 8, 8, generator=torch.Generator().manual_seed(seed))
    return (nn.functional.interpolate(noise, size=size, mode="bilinear") * 255).to(torch.uint8)


def dataset(count=400):
    """Five classes, told apart by a cast of one or two colours."""
    images, labels = photographs(count), torch.arange(count) % 5
    for channel in range(3):
        images[(labels >> channel) & 1 == 1, channel] = (
            images[(labels >> channel) & 1 == 1, channel] // 2 + 120
        )
    split = torch.arange(count)
    return Dataset(
        images,
        labels,
        split[: count - 80],
        split[count - 80 : count - 40],
        split[count - 40 :],
        tuple("abcde"),
        "test",
    )


def trained(arch, method="baseline", device="cuda", data=None, epochs=2, batch_size=64, **changes):
    """Result of a training; changes: of the settings `train`."""
    defaults = {
        "patience": None,
        "num_threads": 1,
        "precision": "float32",
        "compile": False,
        "cuda_graphs": False,
        "stacked_seeds": 1,
    }
    settings = config.Train(
        **defaults | changes,
        epochs=epochs,
        batch_size=batch_size,
        device=device,
        checkpoint_seconds=60.0,
    )
    recipe = RECIPES[arch]
    network = models.build(arch, 5, seed=3, kwargs=recipe.kwargs)
    batches = Batches(
        batch_size, 32, (0.5,) * 3, (0.25,) * 3, prepare_device(device, 1, settings.precision)
    )
    made = recipe_of(settings, recipe, batches, AUGMENT, METHODS[method])
    return loop.train(network, data or dataset(), made, seed=3)


@pytest.mark.parametrize("image_size", [32, 48])
@pytest.mark.parametrize("magnitude", [0, 9, 17, 30])
def test_augmentation_has_the_cpus_bytes(magnitude, image_size):
    images = photographs(3000)
    draws = draw(
        3000,
        generator=torch.Generator().manual_seed(magnitude),
        flip=True,
        crop_padding=4,
        rand_augment_ops=2,
    )
    how = {
        "crop_padding": 4,
        "image_size": image_size,
        "magnitude": magnitude,
        "indices": torch.arange(3000).flip(0),
    }
    there = augment.apply(images.cuda(), draws, **how)
    assert there.is_cuda
    assert torch.equal(there.cpu(), augment.apply(images, draws, **how))


@pytest.mark.parametrize("slicing", ["tensor", "model"])
@pytest.mark.parametrize(
    ("block_size", "capacity"), [(2, 0.1), (2, 0.005), (4, 0.1), (4, 0.005), (16, 0.05)]
)
def test_projection_has_the_cpus_bytes(block_size, capacity, slicing):
    here, there = (models.build("resnet20", 10, seed=1) for _ in range(2))
    there.cuda().to(memory_format=torch.channels_last)
    how = {"capacity": capacity, "slicing": slicing}
    found = [
        mosaic.project_(each, block_size, **how, generator=torch.Generator().manual_seed(2))
        for each in (here, there)
    ]
    assert torch.equal(found[0].mosaic, found[1].mosaic.cpu()) and torch.equal(
        found[0].usage, found[1].usage
    )
    for name, weight in blocks.trainable(there).items():
        assert torch.equal(weight.cpu(), blocks.trainable(here)[name]), name


@pytest.mark.parametrize("graphs", [False, True])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("arch", RECIPES)
def test_a_training_twice_has_the_same_bytes(arch, method, graphs):
    first, second = (trained(arch, method, cuda_graphs=graphs) for _ in range(2))
    assert first.history == second.history
    assert all(torch.equal(tensor, second.last[name]) for name, tensor in first.last.items())


@pytest.mark.parametrize("changes", [{}, {"cuda_graphs": True}, {"compile": True}], ids=str)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("arch", RECIPES)
def test_losses_are_the_cpus(arch, method, changes):
    """Before any update only sums are rounded otherwise, as the epoch is one step; over five steps
    rounding grows.

    At 4 bits a weight that rounds to the other side is another network, so five steps of it are not
    compared.
    """
    here, there = (
        trained(arch, method, epochs=1, batch_size=320, **how).history[0]
        for how in ({"device": "cpu"}, changes)
    )
    assert there["train_loss"] == pytest.approx(here["train_loss"], rel=5e-4)
    if method != "qat4":
        here, there = (
            trained(arch, method, epochs=1, **how).history[0]
            for how in ({"device": "cpu"}, changes)
        )
        assert there["train_loss"] == pytest.approx(here["train_loss"], rel=2e-3)
        assert there["val_loss"] == pytest.approx(here["val_loss"], rel=2e-2)


@pytest.mark.parametrize("precision", ["tf32", "bf16"])
@pytest.mark.parametrize("arch", RECIPES)
def test_lower_precision_rounds_but_learns_the_same(arch, precision):
    exact, rounded = (
        trained(arch, precision=name, epochs=1).history[0] for name in ("float32", precision)
    )
    assert rounded["train_loss"] != exact["train_loss"]
    assert rounded["train_loss"] == pytest.approx(exact["train_loss"], rel=0.03)


@pytest.mark.parametrize("graphs", [False, True])
@pytest.mark.parametrize("arch", RECIPES)
def test_nothing_waits_for_the_gpu_from_step_to_step(arch, graphs):
    """Waits in an epoch: as many with 40 steps as with 5."""

    def waits(batch_size):
        torch.cuda.synchronize()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
            try:
                trained(arch, epochs=2, batch_size=batch_size, cuda_graphs=graphs)
            finally:
                torch.cuda.set_sync_debug_mode("default")
        return sum("synchronizing" in str(warning.message) for warning in caught)

    waits(64)  # tables and constants that are made once
    few, many = waits(64), waits(8)
    assert 0 < few and many <= few + 2


VIT = {
    "embed_dims": [16, 32],
    "depths": [1, 1],
    "num_heads": [1, 2],
    "window_sizes": [7, 7],
}  # 49 places: no multiple of what kernels align to
STACKED = RECIPES | {
    "tiny_vit": config.Model(
        epochs=None,
        arch="tiny_vit",
        image_size=112,
        kwargs=VIT,
        optimizer="adamw",
        lr=1e-3,
        momentum=0.0,
        weight_decay=1e-2,
    )
}
SEEDS = (3, 4, 5)


def stack_setting(arch, method, epochs=2, **changes):
    """Arguments of a training; changes: of the settings `train`."""
    defaults = {
        "patience": None,
        "num_threads": 1,
        "precision": "float32",
        "compile": False,
        "cuda_graphs": False,
        "stacked_seeds": 3,
    }
    settings = config.Train(
        **defaults | changes, epochs=epochs, batch_size=64, device=DEVICE, checkpoint_seconds=0.0
    )
    recipe = STACKED[arch]
    batches = Batches(
        64,
        recipe.image_size,
        (0.5,) * 3,
        (0.25,) * 3,
        prepare_device(DEVICE, 1, settings.precision),
    )
    made = recipe_of(settings, recipe, batches, AUGMENT, METHODS[method])
    return {"dataset": dataset(), "recipe": made}


def stack_network(arch, seed):
    recipe = STACKED[arch]
    return models.build(arch, 5, seed=seed, image_size=recipe.image_size, kwargs=recipe.kwargs)


def stack(arch, method, checkpoints=None, on_epoch=lambda seed, row: None, **changes):
    networks = {seed: stack_network(arch, seed) for seed in SEEDS}
    return stacked.train_stack(
        networks,
        **stack_setting(arch, method, **changes),
        checkpoints=checkpoints,
        on_epoch=on_epoch,
    )


def same(one, other):
    return all(
        one[seed].history == other[seed].history
        and all(
            torch.equal(tensor, other[seed].last[name]) for name, tensor in one[seed].last.items()
        )
        for seed in SEEDS
    )


@pytest.mark.parametrize(
    "changes",
    [{}, {"cuda_graphs": True}, {"compile": True}, {"precision": "bf16", "cuda_graphs": True}],
    ids=str,
)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("arch", STACKED)
def test_stacked_seeds_are_trained_as_if_they_were_alone(arch, method, changes):
    """Each of them, in the second epoch too: another rate, and motifs in between. Of QAT at 4 bits
    the first epoch, see above.
    """
    found = stack(arch, method, **changes)
    assert same(found, stack(arch, method, **changes))
    alone = {"precision": changes.get("precision", "float32"), "stacked_seeds": 1}
    for seed in SEEDS:
        expected = loop.train(
            stack_network(arch, seed), seed=seed, **stack_setting(arch, method, **alone)
        )
        first, second = (
            [history[epoch]["train_loss"] for history in (found[seed].history, expected.history)]
            for epoch in (0, 1)
        )
        assert first[0] == pytest.approx(
            first[1], rel=2e-3 if not changes.get("precision") and method != "qat4" else 2e-2
        )
        assert method == "qat4" or second[0] == pytest.approx(second[1], rel=2e-2)


@pytest.mark.parametrize("graphs", [False, True])
@pytest.mark.parametrize("arch", ["mlp", "resnet20"])
def test_a_stack_that_is_interrupted_and_left_has_the_same_bytes(
    arch, graphs, tmp_path, monkeypatch
):
    """Recorded again with moments, and with fewer seeds."""
    monkeypatch.chdir(tmp_path)
    how = {"epochs": 8, "patience": 1, "cuda_graphs": graphs}
    whole = stack(arch, "momos", **how)

    def stop(seed, row):
        if row["epoch"] == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), Checkpoints("train/group", {}, seconds=0) as keep:
        stack(arch, "momos", checkpoints=keep, on_epoch=stop, **how)
    with Checkpoints("train/group", {}, seconds=0) as keep:
        assert same(stack(arch, "momos", checkpoints=keep, **how), whole)
