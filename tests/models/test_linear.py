"""oneDNN's linear layer against torch's own in float64."""

import copy

import pytest
import torch
from torch import nn

from momos import models
from momos.models import linear

pytestmark = pytest.mark.skipif(not linear.available(), reason="this build of torch has no oneDNN")


@pytest.fixture(autouse=True)
def on_any_processor_at_any_size(monkeypatch):
    monkeypatch.setattr(linear, "pays", lambda: True)
    monkeypatch.setattr(linear, "MIN_PRODUCTS", 1)


def layer(bias=True, in_features=1024, out_features=256):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Linear(in_features, out_features, bias=bias)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(1,), (37,), (3, 5), (0,), ()])
def test_outputs_and_gradients_are_those_of_linear(bias, shape):
    ours, exact = linear.speed_up_(layer(bias)), layer(bias).double()
    assert type(ours) is linear.Linear
    x = torch.randn(*shape, 1024, generator=torch.Generator().manual_seed(1))
    results = []
    for module, values in ((ours, x.clone()), (exact, x.double())):
        values.requires_grad_()
        output = module(values)
        (output * torch.arange(256).to(values.dtype)).sum().backward()
        results.append(
            [output, values.grad, *[parameter.grad for parameter in module.parameters()]]
        )
    for found, expected in zip(*results, strict=True):
        assert found.dtype == torch.float32 and found.shape == expected.shape
        largest = expected.abs().max().item() if expected.numel() else 0.0
        assert torch.allclose(found.double(), expected, rtol=1e-4, atol=1e-6 * largest)


def test_only_what_asks_gets_a_gradient():
    module, x = (
        linear.speed_up_(layer()),
        torch.randn(4, 1024, generator=torch.Generator().manual_seed(1)),
    )
    module.weight.requires_grad_(False)
    module(x).sum().backward()
    assert module.weight.grad is None and torch.equal(module.bias.grad, torch.full((256,), 4.0))


def test_small_products_other_types_and_autocast_keep_torchs_own(monkeypatch):
    calls = []
    original = linear._product
    monkeypatch.setattr(linear, "_product", lambda *args: calls.append(1) or original(*args))
    monkeypatch.setattr(linear, "MIN_PRODUCTS", 2**20)
    x = torch.randn(4, 1024, generator=torch.Generator().manual_seed(1))
    module, plain = linear.speed_up_(layer()), layer()
    assert torch.equal(module(x[:3]), plain(x[:3]))
    assert torch.equal(
        copy.deepcopy(module).double()(x.double()), copy.deepcopy(plain).double()(x.double())
    )
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(module(x), plain(x)) and module(x).dtype == torch.bfloat16
    assert not calls
    module(x)
    assert len(calls) == 1


def test_names_and_weights_of_a_model_stay():
    model = models.build("mlp", 10)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    linear.speed_up_(model)
    assert list(before) == list(model.state_dict()) and all(
        torch.equal(before[name], t) for name, t in model.state_dict().items()
    )
    assert [type(module) for module in model.hidden] == [linear.Linear] * 5


@pytest.mark.parametrize(
    ("capability", "expected"),
    [("AVX512", linear.Linear), ("AVX2", nn.Linear), ("DEFAULT", nn.Linear)],
)
def test_the_processor_decides(monkeypatch, capability, expected):
    monkeypatch.undo()
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    assert type(linear.speed_up_(layer())) is expected
