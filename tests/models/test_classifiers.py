"""Architectures: sizes by hand, order, seeding, and errors."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from momos import models

TINY = {"embed_dims": [32, 64], "depths": [1, 1], "num_heads": [2, 4], "window_sizes": [2, 2]}


def size(model):
    return sum(weight.numel() for weight in model.parameters())


def test_published_sizes():
    assert size(models.build("resnet20", 10)) == 269_722
    assert size(models.build("mlp", 10)) == 3072 * 256 + 256 + 4 * (256 * 256 + 256) + 256 * 10 + 10
    assert (
        size(models.build("mlp", 10, kwargs={"hidden_layers": 4}))
        == 3072 * 256 + 256 + 3 * (256 * 256 + 256) + 256 * 10 + 10
    )
    assert size(models.build("tiny_vit", 1000)) == 5_392_764
    assert size(models.build("tiny_vit", 10)) == 5_074_974


def test_resnet20_parameters_come_in_forward_order():
    names = [name for name, _ in models.build("resnet20", 10).named_parameters()]
    block = ["conv1.weight", "bn1.weight", "bn1.bias", "conv2.weight", "bn2.weight", "bn2.bias"]
    stem = ["conv1.weight", "bn1.weight", "bn1.bias"]
    assert names == stem + [f"blocks.{i}.{name}" for i in range(9) for name in block] + [
        "linear.weight",
        "linear.bias",
    ]


def test_resnet20_equals_its_layers_written_out():
    """He et al. 2016, Sec. 4.2, with option-A shortcuts by slicing and concatenation of zeros."""
    model = models.build("resnet20", 10, seed=3).eval()
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    x = F.relu(model.bn1(model.conv1(images)))
    for index, block in enumerate(model.blocks):
        y = F.relu(
            block.bn1(
                F.conv2d(x, block.conv1.weight, stride=2 if index in (3, 6) else 1, padding=1)
            )
        )
        y = block.bn2(F.conv2d(y, block.conv2.weight, padding=1))
        if index in (3, 6):
            zeros = torch.zeros(x.shape[0], x.shape[1] // 2, x.shape[2] // 2, x.shape[3] // 2)
            x = torch.cat([zeros, x[:, :, ::2, ::2], zeros], dim=1)
        x = F.relu(y + x)
    assert x.shape == (2, 64, 8, 8)
    assert torch.allclose(model(images), model.linear(F.avg_pool2d(x, 8).flatten(1)), atol=1e-5)


MODELS = [("mlp", 8, {}), ("resnet20", 8, {}), ("tiny_vit", 16, TINY), ("resnet18", 32, {})]


@pytest.mark.parametrize(("name", "image_size", "kwargs"), MODELS)
def test_seed_decides_and_the_global_state_stays(name, image_size, kwargs):
    state = torch.get_rng_state()
    first, same, other = (
        models.build(
            name, 10, seed=seed, in_channels=1, image_size=image_size, kwargs=kwargs
        ).state_dict()
        for seed in (1, 1, 2)
    )
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(first[key], same[key]) for key in first)
    assert any(not torch.equal(first[key], other[key]) for key in first)


def test_a_timm_model_takes_its_image_size_and_kwargs():
    model = models.build(
        "vit_tiny_patch16_224", 7, in_channels=1, image_size=32, kwargs={"depth": 1}
    ).eval()
    assert model(torch.zeros(2, 1, 32, 32)).shape == (2, 7) and len(model.blocks) == 1
    assert models.build("mobilevit", 10).eval()(torch.zeros(1, 3, 64, 64)).shape == (1, 10)


def test_unknown_names_and_kwargs_are_named():
    with pytest.raises(ValueError, match=r"'resnt20'.*resnet20"):
        models.build("resnt20", 10)
    for name in ("mlp", "tiny_vit"):
        with pytest.raises(ValueError, match=rf"models.{name}.kwargs.*'dpth'"):
            models.build(name, 10, kwargs={"dpth": 3})


def test_restore_gives_the_weights_back_or_says_what_does_not_fit():
    about = {
        "arch": "mlp",
        "arch_kwargs": {"width": 4},
        "num_classes": 3,
        "in_channels": 1,
        "image_size": 2,
    }
    model = models.build("mlp", 3, seed=5, in_channels=1, image_size=2, kwargs={"width": 4})
    restored = models.restore(about, model.state_dict())
    assert all(
        torch.equal(a, b) for a, b in zip(model.parameters(), restored.parameters(), strict=True)
    )
    with pytest.raises(ValueError, match="do not fit mlp"):
        models.restore(about | {"num_classes": 4}, model.state_dict())
    assert isinstance(restored, nn.Module)
