"""One update against the same update in plain float64 PyTorch, for every setting that may change
how it is computed.
"""

import copy
import shutil
import subprocess
import sys

import pytest
import torch
from recipes import method_of
from torch import nn

from momos import config, models
from momos.compute.device import prepare_device
from momos.models.evaluate import plain_forward
from momos.models.layout import arrange_, layout_of
from momos.training import step

SETTINGS = {"epochs": 1, "batch_size": 8, "patience": None, "device": "cpu", "num_threads": 1}
PLAIN = {
    "precision": "float32",
    "compile": False,
    "cuda_graphs": False,
    "stacked_seeds": 1,
    "checkpoint_seconds": 60.0,
}
RECIPES = {
    "sgd": config.Model(
        epochs=None,
        arch="mlp",
        image_size=8,
        kwargs={},
        optimizer="sgd",
        lr=0.02,
        momentum=0.9,
        weight_decay=1e-3,
    ),
    "adamw": config.Model(
        epochs=None,
        arch="mlp",
        image_size=8,
        kwargs={},
        optimizer="adamw",
        lr=1e-3,
        momentum=0.0,
        weight_decay=1e-2,
    ),
}
ARCHS = {"mlp": {"hidden_layers": 1, "width": 16}, "resnet20": {}}


def batch(seed=0, num_images=8):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(num_images, 3, 8, 8, generator=generator), torch.randint(
        4, (num_images,), generator=generator
    )


def model(arch):
    return models.build(arch, 4, image_size=8, kwargs=ARCHS[arch]).train()


def stepped(arch, recipe, num_steps=3, bits=32, **changes):
    """The model after a few updates, and the losses."""
    network = arrange_(model(arch), torch.device("cpu"))
    method = method_of({"bits": bits}).apply(network, arch=arch, seed=0)
    settings = config.Train(**SETTINGS, **PLAIN | changes)
    optimizer = step.make_optimizer(network, recipe)
    update = step.Step(network, optimizer, method.forward, settings=settings)
    return network, [update(*batch(seed)) for seed in range(num_steps)]


def stepped_plainly(arch, recipe, num_steps=3):
    network = model(arch).double()
    kind, extra = {
        "sgd": (torch.optim.SGD, {"momentum": recipe.momentum}),
        "adamw": (torch.optim.AdamW, {}),
    }[recipe.optimizer]
    optimizer = kind(
        network.parameters(), lr=recipe.lr, weight_decay=recipe.weight_decay, foreach=False, **extra
    )
    losses = []
    for images, labels in map(batch, range(num_steps)):
        output = network(images.double())
        loss = nn.functional.cross_entropy(output, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append((loss.detach(), (output.argmax(1) == labels).sum()))
    return network, losses


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize(("precision", "tolerance"), [("float32", 1e-4), ("bf16", 0.05)])
def test_an_update_is_the_plain_one(arch, recipe, precision, tolerance):
    """Weights are compared loosely: a ReLU at the edge, or AdamW's steps of lr whatever a
    gradient's size, magnify rounding.
    """
    network, found = stepped(arch, RECIPES[recipe], precision=precision)
    plain, expected = stepped_plainly(arch, RECIPES[recipe])
    for (loss, hits), (plain_loss, plain_hits) in zip(found, expected, strict=True):
        assert loss.dtype == torch.float32 and loss.item() == pytest.approx(
            plain_loss.item(), rel=tolerance
        )
        assert hits.dtype == torch.int64 and (precision == "bf16" or hits == plain_hits)
    moved, expected_move = (
        torch.cat(
            [
                (w - v).flatten()
                for w, v in zip(net.parameters(), model(arch).parameters(), strict=True)
            ]
        ).double()
        for net in (network, plain)
    )
    assert (moved - expected_move).norm() < (
        0.01 if precision == "float32" else 0.5
    ) * expected_move.norm()


def test_bf16_is_really_used():
    different = stepped("resnet20", RECIPES["sgd"], precision="bf16")[1][0][0]
    assert different != stepped("resnet20", RECIPES["sgd"])[1][0][0]


@pytest.mark.stress  # a compiler runs for a dozen seconds
@pytest.mark.skipif(
    shutil.which("g++") is None and shutil.which("c++") is None,
    reason="torch.compile needs a C++ compiler",
)
@pytest.mark.parametrize("bits", [32, 4])
def test_compiled_equals_eager(bits):
    torch._dynamo.reset()
    eager, compiled = (
        stepped("mlp", RECIPES["sgd"], bits=bits, compile=how)[1] for how in (False, True)
    )
    assert [loss.item() for loss, _ in compiled] == pytest.approx(
        [loss.item() for loss, _ in eager], rel=1e-5
    )


def test_images_are_channels_last_only_where_that_helps():
    assert (
        layout_of(model("resnet20")) == torch.channels_last
        and layout_of(model("mlp")) == torch.contiguous_format
    )
    network = arrange_(model("resnet20"), torch.device("cpu"))
    assert network.blocks[0].conv1.weight.is_contiguous(memory_format=torch.channels_last)
    images, _ = batch()
    expected = copy.deepcopy(network).to(memory_format=torch.contiguous_format).eval()(images)
    assert torch.allclose(
        network.eval()(images.contiguous(memory_format=torch.channels_last)), expected, atol=1e-5
    )


@pytest.mark.skipif(not torch.cuda.is_available(), reason="of cuDNN's kernels")
@pytest.mark.parametrize("precision", ["float32", "tf32", "bf16"])
def test_on_a_gpu_the_layout_follows_the_precision(precision):
    layout = torch.contiguous_format if precision == "float32" else torch.channels_last
    network = arrange_(model("resnet20"), torch.device("cuda"), precision)
    assert (
        network.blocks[0].conv1.weight.is_contiguous(memory_format=layout)
        and layout_of(network) == layout
    )


def test_optimizers_follow_the_recipe():
    sgd = step.make_optimizer(model("mlp"), RECIPES["sgd"]).param_groups[0]
    assert (sgd["lr"], sgd["momentum"], sgd["weight_decay"], sgd["nesterov"]) == (
        0.02,
        0.9,
        1e-3,
        False,
    )
    adamw = step.make_optimizer(model("mlp"), RECIPES["adamw"])
    assert isinstance(adamw, torch.optim.AdamW) and adamw.param_groups[0]["weight_decay"] == 1e-2


@pytest.mark.parametrize("recipe", RECIPES)
def test_the_optimizer_takes_torchs_own_steps(recipe):
    """The same bytes as torch's optimiser, and either goes on from the other's state."""
    settings = RECIPES[recipe]
    plain = {
        "sgd": (torch.optim.SGD, {"momentum": settings.momentum}),
        "adamw": (torch.optim.AdamW, {}),
    }[recipe]
    networks = [model("resnet20") for _ in range(2)]
    ours = step.make_optimizer(networks[0], settings)
    torchs = plain[0](
        networks[1].parameters(),
        lr=settings.lr,
        weight_decay=settings.weight_decay,
        fused=True,
        **plain[1],
    )
    for seed in range(4):
        if seed == 2:
            states = [copy.deepcopy(optimizer.state_dict()) for optimizer in (ours, torchs)]
            ours.load_state_dict(states[1])
            torchs.load_state_dict(states[0])
        for network, optimizer in zip(networks, (ours, torchs), strict=True):
            images, labels = batch(seed)
            optimizer.zero_grad()
            nn.functional.cross_entropy(network(images), labels).backward()
            optimizer.step()
    for found, expected in zip(networks[0].parameters(), networks[1].parameters(), strict=True):
        assert found.requires_grad and torch.equal(found, expected)


def test_training_does_not_import_the_compiler():
    code = """
import sys, torch
from momos import config, models
from momos.training import step
for name in ("sgd", "adamw"):
    recipe = config.Model(
        epochs=None,
        arch="mlp", image_size=8, kwargs={}, optimizer=name,
        lr=0.1, momentum=0.9, weight_decay=0.0,
    )
    network = models.build("resnet20", 4, image_size=8)
    optimizer = step.make_optimizer(network, recipe)
    network(torch.zeros(2, 3, 8, 8)).sum().backward()
    optimizer.step()
    optimizer.zero_grad()
    if "torch._dynamo" in sys.modules:
        sys.exit(name)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(not torch.cuda.is_available(), reason="CUDA graphs need a GPU")
@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("arch", ARCHS)
def test_a_recorded_step_is_the_eager_one(arch, recipe):
    device = prepare_device(
        "cuda", 1
    )  # without it TF32, and other algorithms in a graph than alone
    results = []
    for graphs in (False, True):
        network = arrange_(model(arch), device)
        settings = config.Train(**SETTINGS | {"device": "cuda"}, **PLAIN | {"cuda_graphs": graphs})
        optimizer = step.make_optimizer(network, RECIPES[recipe], capturable=graphs)
        update = step.Step(network, optimizer, plain_forward, settings=settings)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=4)
        losses = []
        for seed in range(4):
            images, labels = batch(seed, num_images=8 if seed != 2 else 5)
            losses.append(update(images.to(device), labels.to(device))[0].item())
            schedule.step()
        results.append(losses)
    assert results[0] == pytest.approx(results[1], rel=1e-5)
