"""Readings of the paper, each against a plain reference (method A12, A13).

The references are numpy in float64, torch's own optimiser, and torch.optim.swa_utils.update_bn.
"""

import math

import numpy as np
import pytest
import torch
from recipes import method_of
from torch import nn

from momos.compute.seeds import generator_for
from momos.methods import batch_norm
from momos.methods.method import parse
from momos.models import build

MOMOS = {"bits": 32, "block_size": 2, "capacity": 0.1}
ROUNDING = {"bits": 4, "rounding": "in_place_step"}


def network(arch="mlp", seed=0):
    kwargs = {"hidden_layers": 1, "width": 8} if arch == "mlp" else {}
    return build(arch, 3, seed=seed, image_size=4, kwargs=kwargs)


def images(number=8, seed=0):
    return torch.randn(number, 3, 4, 4, generator=torch.Generator().manual_seed(seed))


def rounded(weight, bits):
    """In float64, from the definition: the nearest of the 2^bits - 1 levels up to max|w|."""
    values = weight.detach().double().numpy()
    scale = np.abs(values).max() / (2 ** (bits - 1) - 1)
    return np.round(values / scale) * scale if scale else values


# --- rounding


@pytest.mark.parametrize("tensors", ["weights", "all"])
@pytest.mark.parametrize("rounding", ["in_place_epoch", "in_place_step"])
def test_weights_are_rounded_in_place_when_asked(rounding, tensors):
    """Five steps of momentum in two epochs, beside a plain loop."""
    models = network(), network()
    optimizers = [torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9) for model in models]
    entry = {"bits": 5, "rounding": rounding, "tensors": tensors}
    applied = method_of(entry).apply(models[0], arch="mlp", seed=0)
    assert not applied.forward_weights(dict(models[0].named_parameters()))
    for step in range(1, 6):
        ends = step in (3, 5)
        for model, optimizer in zip(models, optimizers, strict=True):
            optimizer.zero_grad()
            model(images(seed=step)).square().mean().backward()
            optimizer.step()
        applied.after_step(step)
        if ends:
            applied.after_epoch(step)
        if ends or rounding == "in_place_step":
            for name, weight in models[1].named_parameters():
                if tensors == "all" or "bias" not in name:
                    weight.data = torch.from_numpy(rounded(weight, 5)).float()
        for mine, other in zip(models[0].parameters(), models[1].parameters(), strict=True):
            assert torch.allclose(mine, other, rtol=1e-5, atol=1e-7)
    levels = {name: len(weight.unique()) for name, weight in models[0].named_parameters()}
    assert levels["hidden.0.weight"] <= 31 < models[0].get_parameter("hidden.0.weight").numel()


def test_norms_and_biases_are_rounded_only_where_all_tensors_are():
    for tensors, expected in (("weights", 0), ("all", 40)):
        model = network("resnet20")
        for name, weight in model.named_parameters():
            if "bn" in name or "bias" in name:
                torch.nn.init.uniform_(weight, 0.5, 1.5, generator=torch.Generator().manual_seed(1))
        before = {name: weight.clone() for name, weight in model.named_parameters()}
        entry = {"bits": 3, "rounding": "in_place_epoch", "tensors": tensors}
        method_of(entry).apply(model, arch="resnet20", seed=0).after_epoch(1)
        changed = [n for n, w in model.named_parameters() if not torch.equal(w, before[n])]
        others = [name for name in changed if "bn" in name or "bias" in name]
        assert (len(others) > 0) == (expected > 0) and len(changed) - len(others) == 20


def test_what_is_rounded_after_training_is_trained_in_full_precision():
    model = network()
    method = method_of({"bits": 4, "rounding": "after_training"})
    applied = method.apply(model, arch="mlp", seed=0)
    before = {name: weight.clone() for name, weight in model.named_parameters()}
    assert torch.equal(applied.forward(model, images()), model(images()))
    applied.after_step(1), applied.after_epoch(1)
    assert all(torch.equal(weight, before[name]) for name, weight in model.named_parameters())
    deployed = method.deployed(model, arch="mlp")
    assert method.has_latent_weights and deployed is not model
    for name, weight in deployed.named_parameters():
        expected = before[name] if "bias" in name else torch.from_numpy(rounded(before[name], 4))
        assert torch.allclose(weight.double(), expected.double(), rtol=1e-6, atol=1e-9)


def test_weights_that_are_rounded_in_place_are_those_that_are_used():
    for rounding in ("in_place_epoch", "in_place_step"):
        method, model = method_of(ROUNDING | {"rounding": rounding}), network()
        assert not method.has_latent_weights and method.deployed(model, arch="mlp") is model


# --- codebooks


def nearest(blocks, motifs):
    """By brute force in float64; of equal distances the lowest index."""
    distances = ((blocks[:, None] - motifs[None]) ** 2).sum(-1)
    return distances.argmin(1)


@pytest.mark.parametrize("force_zero", [True, False])
def test_motifs_per_tensor_are_drawn_from_its_own_blocks(force_zero):
    model, size, capacity = network(seed=3), 2, 0.1
    tensors = {name: w.detach().double().numpy().ravel() for name, w in model.named_parameters()}
    sizes = {name: math.ceil(len(values) / size) for name, values in tensors.items()}
    whole = math.floor(capacity * sum(sizes.values()))
    generator, expected, distortion, used = generator_for("motifs", 7), {}, 0.0, 0
    for name, values in tensors.items():
        blocks = np.pad(values, (0, -len(values) % size)).reshape(-1, size)
        count = min(whole, len(blocks))
        order = torch.randperm(len(blocks), generator=generator).numpy()
        motifs = blocks[order[: count - force_zero]]
        if force_zero:
            motifs = np.concatenate([np.zeros((1, size)), motifs])
        places = nearest(blocks, motifs)
        used += len(set(places))
        expected[name] = motifs[places].ravel()[: len(values)]
        distortion += ((values - expected[name]) ** 2).sum()
    method = method_of(MOMOS | {"codebook": "tensor"}, force_zero=force_zero)
    about = method.describe(model) | {"num_weights": sum(map(len, tensors.values()))}
    applied = method.apply(model, arch="mlp", seed=7)
    applied.after_epoch(1)
    for name, weight in model.named_parameters():
        assert np.array_equal(weight.detach().double().numpy().ravel(), expected[name])
    history = applied.history()
    assert history["distortion"] == pytest.approx(distortion, rel=1e-6)
    assert history["motifs_used"] == used
    assert int(applied.usage.sum()) == sum(sizes.values())
    # the description: sum of k_t s q + n_t ceil(log2 k_t)
    counts = {name: min(whole, number) for name, number in sizes.items()}
    assert len(applied.usage) == sum(counts.values()) and about["num_motifs"] == whole
    bits = sum(
        counts[name] * size * 32 + number * math.ceil(math.log2(counts[name]))
        for name, number in sizes.items()
    )
    from momos.complexity.code_length import stored_bits

    assert stored_bits(method.stored(about)) == bits


def test_one_codebook_is_what_it_was_before_there_were_several():
    plain, named = network(), network()
    for model, entry in ((plain, MOMOS), (named, MOMOS | {"codebook": "model"})):
        method_of(entry).apply(model, arch="mlp", seed=2).after_epoch(1)
    assert all(map(torch.equal, plain.parameters(), named.parameters()))


# --- a method's own settings


def test_a_method_may_be_projected_at_other_times_than_the_others():
    shared = {"projection_every": "epoch", "force_zero": True, "slicing": "tensor"}
    for every, acts in (("step", [1, 2, 3]), (2, [2]), ("epoch", []), (None, [])):
        entry = MOMOS if every is None else MOMOS | {"projection_every": every}
        model = network()
        applied = parse(entry, "methods.x", {"mosaic": shared}).apply(model, arch="mlp", seed=0)
        found = []
        for step in (1, 2, 3):
            before = applied.usage
            applied.after_step(step)
            found += [step] if applied.usage is not before else []
        assert found == acts


def test_labels_tell_readings_apart():
    for entry, label, group in (
        ({"bits": 4, "rounding": "straight_through"}, "QAT 4 bit", "QAT"),
        (
            {"bits": 4, "rounding": "in_place_epoch", "tensors": "all"},
            "QAT 4 bit, in place every epoch, all tensors",
            "QAT, in place every epoch, all tensors",
        ),
        (ROUNDING, "QAT 4 bit, in place every step", "QAT, in place every step"),
        (
            {"bits": 8, "rounding": "after_training"},
            "QAT 8 bit, rounded after training",
            "QAT, rounded after training",
        ),
        (
            MOMOS | {"codebook": "tensor", "projection_every": "step"},
            "MoMos s=2, C=10 %, motifs per tensor, projected every step",
            "MoMos s=2, motifs per tensor, projected every step",
        ),
        (
            MOMOS | {"projection_every": 7},
            "MoMos s=2, C=10 %, projected every 7 steps",
            "MoMos s=2, projected every 7 steps",
        ),
        (
            {"bits": 32, "batchnorm": "remeasured"},
            "Baseline, BatchNorm re-measured",
            "Baseline, BatchNorm re-measured",
        ),
    ):
        method = parse(entry, "methods.x")
        assert (method.label, method.group) == (label, group)


def test_another_reading_is_a_family_of_its_own():
    """Claims of the paper are judged on the usual ones."""
    for entry, family in (
        ({"bits": 32, "batchnorm": "as_trained"}, "baseline"),
        ({"bits": 32, "batchnorm": "remeasured"}, "baseline, BatchNorm re-measured"),
        (MOMOS | {"codebook": "tensor"}, "momos, motifs per tensor"),
        (MOMOS | {"codebook": "model"}, "momos"),
        (ROUNDING, "qat, in place every step"),
        (MOMOS | ROUNDING, "momos+qat, in place every step"),
    ):
        assert parse(entry, "x").family == family


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"bits": 4, "rounding": "in_place"}, r"m.rounding must be one of 'straight_through', "
         r"'in_place_epoch', 'in_place_step', 'after_training', got 'in_place'"),
        ({"bits": 4, "tensors": "biases"}, r"m.tensors must be one of 'weights', 'all', got"),
        ({"bits": 32, "rounding": "in_place_epoch"},
         r"m.rounding must be left out at 32 bits: nothing is rounded, got 'in_place_epoch'"),
        ({"bits": 32, "tensors": "all"}, r"m.tensors must be left out at 32 bits"),
        (MOMOS | {"codebook": "layer"}, r"codebook must be one of 'model', 'tensor', got 'layer'"),
        ({"bits": 32, "codebook": "tensor"}, r"codebook must be left out where there is no block"),
        (MOMOS | {"projection_every": "batch"}, r"m.projection_every must be epoch, step, or a "
         r"number of steps of 1 or more, got 'batch'"),
        (MOMOS | {"projection_every": 0}, r"m.projection_every must be epoch, step, .*, got 0"),
        ({"bits": 32, "batchnorm": "fresh"},
         r"m.batchnorm must be one of 'as_trained', 'remeasured', got 'fresh'"),
    ],
)  # fmt: skip
def test_unknown_readings_name_key_value_and_what_was_expected(entry, message):
    with pytest.raises(ValueError, match=message):
        parse(entry, "m")


def test_a_codebook_per_tensor_needs_blocks_of_tensors():
    with pytest.raises(ValueError, match=r"codebook must be model where mosaic.slicing is model"):
        method_of(MOMOS | {"codebook": "tensor"}, slicing="model")


# --- BatchNorm


class Draws(nn.Module):
    """A network with BatchNorm and a layer that draws in training mode."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, momentum=0.3)
        self.drop, self.linear = nn.Dropout(0.5), nn.Linear(16, 3)
        self.other = nn.BatchNorm1d(3, track_running_stats=False)

    def forward(self, batch):
        hidden = self.norm(self.conv(batch)).flatten(1)
        return self.other(self.linear(self.drop(hidden)))


@pytest.mark.parametrize("arch", ["resnet20", "draws"])
def test_statistics_are_those_of_torch_over_the_same_batches(arch):
    models = [network("resnet20") if arch == "resnet20" else Draws() for _ in range(2)]
    models[1].load_state_dict(models[0].state_dict())
    models[1].eval()
    if arch == "draws":  # update_bn would draw
        models[1].drop = nn.Identity()
    loader = [images(6, seed=seed) for seed in range(4)]
    torch.optim.swa_utils.update_bn(loader, models[1])
    before = torch.get_rng_state()
    batch_norm.remeasure_(models[0], models[0], iter(loader))
    assert torch.equal(torch.get_rng_state(), before) and not models[0].training
    assert not any(module.training for module in models[0].modules())
    theirs = dict(models[1].named_buffers())
    assert len(theirs) > 0
    for name, value in models[0].named_buffers():
        assert torch.allclose(value.double(), theirs[name].double(), rtol=1e-6, atol=1e-8), name
    assert [layer.momentum for layer in batch_norm.running(models[0])] == [
        0.1 if arch == "resnet20" else 0.3
    ] * len(batch_norm.running(models[0]))


def test_statistics_are_those_of_the_weights_that_are_judged():
    """Of a first layer of 3-bit weights in the forward pass: mean and variance by hand."""
    model = network("resnet20")
    method = method_of({"bits": 3, "batchnorm": "remeasured"})
    applied = method.apply(model, arch="resnet20", seed=0)
    applied.before_validation(model, iter([images(8)]))
    kernel = torch.from_numpy(rounded(model.conv1.weight, 3))
    outputs = nn.functional.conv2d(images(8).double(), kernel, padding=1)
    assert torch.allclose(model.bn1.running_mean.double(), outputs.mean((0, 2, 3)), atol=1e-6)
    variance = outputs.var((0, 2, 3), unbiased=True)
    assert torch.allclose(model.bn1.running_var.double(), variance, rtol=1e-5)


def test_a_model_without_statistics_is_told_before_any_training():
    with pytest.raises(ValueError, match=r"batchnorm must be as_trained for a model without Batch"):
        method_of({"bits": 32, "batchnorm": "remeasured"}).describe(network())
