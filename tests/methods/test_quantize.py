"""Fake quantisation against a plain reference in exact arithmetic, and which tensors it touches."""

from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from recipes import method_of
from torch import nn

from momos.methods import quantize
from momos.models import build

floats = st.floats(-(2.0**100), 2.0**100, width=32, allow_subnormal=False)


def reference(weights: list[float], bits: int) -> list[Fraction]:
    """Method A4 in rational numbers, one weight at a time; round half to even as torch does."""
    levels = 2 ** (bits - 1) - 1
    largest = max((abs(Fraction(weight)) for weight in weights), default=Fraction(0))
    if largest == 0:
        return [Fraction(weight) for weight in weights]
    scale = largest / levels
    return [
        scale * max(-levels, min(levels, round(Fraction(weight) / scale))) for weight in weights
    ]


@given(st.lists(floats, min_size=1, max_size=20), st.integers(2, 16))
def test_quantize_equals_the_reference(weights, bits):
    got = quantize.quantize(torch.tensor(weights), bits)
    levels = 2 ** (bits - 1) - 1
    scale = max(map(abs, weights)) / levels
    smallest = Fraction(1, 2**149)  # a scale below 2^-126 is a multiple of it
    for value, weight, expected in zip(
        got.tolist(), weights, reference(weights, bits), strict=True
    ):
        close = abs(value - expected) <= abs(expected) * Fraction(1, 10**6) + levels * smallest
        half = (
            abs(abs(Fraction(weight) / Fraction(scale) % 1) - Fraction(1, 2)) < Fraction(1, 100)
            if scale
            else False
        )
        assert close or half and abs(value - expected) <= scale * 1.001, (
            "only half-way between levels may float32 fall either way"
        )


@pytest.mark.parametrize("bits", range(2, 17))
def test_edges(bits):
    levels = 2 ** (bits - 1) - 1
    assert torch.equal(quantize.quantize(torch.zeros(3, 2), bits), torch.zeros(3, 2))
    assert quantize.quantize(torch.tensor([-0.3]), bits).tolist() == pytest.approx([-0.3], rel=1e-6)
    assert quantize.quantize(torch.empty(0, 4), bits).shape == (0, 4)
    subnormal = torch.tensor([1e-45, 0.0])
    assert torch.equal(quantize.quantize(subnormal, bits), subnormal) or levels == 1
    ramp = torch.linspace(-1, 1, 10001)
    assert len(quantize.quantize(ramp, bits).unique()) == min(2 * levels + 1, 10001)
    assert (quantize.quantize(ramp, bits) - ramp).abs().max() <= 0.5 / levels + 1e-6
    assert torch.equal(quantize.quantize(-ramp, bits), -quantize.quantize(ramp, bits)), "symmetric"


@pytest.mark.parametrize("bits", [1, 0])
def test_too_few_bits_are_refused(bits):
    with pytest.raises(ValueError, match=f"bits must be 2 or more, got {bits}"):
        quantize.quantize(torch.ones(2), bits)


def test_the_gradient_goes_straight_through():
    weight = torch.tensor([0.3, -1.0, 0.04, 0.0], requires_grad=True)
    upstream = torch.tensor([1.0, -2.0, 3.0, 5.0])
    output = quantize.fake_quantize(weight, 3)
    (output * upstream).sum().backward()
    assert torch.equal(weight.grad, upstream)
    assert torch.equal(output.detach(), quantize.quantize(weight, 3))


class Mixed(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3)
        self.bn1 = nn.BatchNorm2d(4)
        self.act = nn.PReLU()
        self.norm = nn.LayerNorm(4)
        self.attention = nn.MultiheadAttention(4, 2)
        self.frozen = nn.Linear(4, 4).requires_grad_(False)


def test_what_is_left_out():
    model = Mixed()
    plain = ["conv.weight", "act.weight", "attention.in_proj_weight", "attention.out_proj.weight"]
    assert quantize.quantized_names(model, "type", "any") == plain
    everything = [
        "conv.weight",
        "bn1.weight",
        "act.weight",
        "norm.weight",
        "attention.in_proj_weight",
        "attention.out_proj.weight",
    ]
    assert quantize.quantized_names(model, "none", "any") == everything
    assert quantize.quantized_names(model, "names", "resnet20") == [
        name for name in everything if "bn" not in name
    ]
    assert quantize.quantized_names(model, "names", "vit_tiny") == [
        name for name in everything if "norm" not in name
    ]
    assert quantize.quantized_names(model, "names", "tiny_vit") == everything
    with pytest.raises(ValueError, match=r"quantize.exclude.*'layers'"):
        quantize.quantized_names(model, "layers", "any")


def test_real_models_leave_out_norms_and_biases():
    resnet = quantize.quantized_names(build("resnet20", 10), "type", "resnet20")
    assert len(resnet) == 20 and all("bn" not in name and "bias" not in name for name in resnet)
    kwargs = {"embed_dims": [32, 64], "depths": [1, 1], "num_heads": [2, 4], "window_sizes": [2, 2]}
    vit = build("tiny_vit", 10, kwargs=kwargs)
    names = quantize.quantized_names(vit, "type", "tiny_vit")
    assert all(vit.get_parameter(name).ndim >= 2 for name in names)
    assert any("attn.qkv" in name for name in names) and not any(
        "attention_biases" in name for name in names
    )


def test_forward_with_fake_weights_equals_the_deployed_model_and_trains_the_latent_ones():
    model = build("resnet20", 10)
    images = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    names = quantize.quantized_names(model, "type", "resnet20")
    latent = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    deployed = quantize.deployed(model, 4, "type", "resnet20")
    model.eval(), deployed.eval()
    method = method_of({"bits": 4}).apply(model, arch="resnet20", seed=0)
    assert set(method.forward_weights(dict(model.named_parameters()))) == set(names)
    output = method.forward(model, images)
    assert torch.equal(output, deployed(images)) and not torch.equal(output, model(images))
    output.sum().backward()
    assert all(
        torch.equal(weight, latent[name]) and weight.grad is not None
        for name, weight in model.named_parameters()
    )
    assert len(deployed.blocks[0].conv1.weight.unique()) <= 15
    assert torch.equal(deployed.bn1.weight, model.bn1.weight)


def test_thirty_two_bits_change_nothing():
    model = build("mlp", 3, image_size=2)
    assert quantize.deployed(model, 32, None, "mlp") is model
    images = torch.ones(1, 3, 2, 2)
    method = method_of({"bits": 32})
    assert method.deployed(model, arch="mlp") is model
    assert torch.equal(
        method.apply(model, arch="mlp", seed=0).forward(model, images), model(images)
    )
