"""Lossy levels of a mosaic against brute force, and what stage `pack` measures of a file."""

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from momos import config, models, packing
from momos.images.dataset import Dataset
from momos.images.inputs import Batches
from momos.methods import mosaic, quantize
from momos.packing import levels, lossy
from momos.weights import blocks

SETTINGS = {
    "block_size": 2,
    "seeds": [0],
    "compressors": ["gzip", "zstd"],
    "motif_bits": [8, 3],
    "min_usage": 3,
    "refit_epochs": 1,
}
SETTINGS |= {"refit_lr": 1e-3, "combined_bits": 6}


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def projected(block_size=4, capacity=0.1, name="mlp", slicing="tensor", **shape):
    kwargs = {"mlp": {"hidden_layers": 2, "width": 15}}.get(name, shape.pop("kwargs", {}))
    model = models.build(
        name, 10, in_channels=1, image_size=shape.get("image_size", 8), kwargs=kwargs
    )
    mosaic.project_(model, block_size, capacity=capacity, generator=generator(), slicing=slicing)
    return model


def batches_of(count=4, size=8):
    images = [torch.randn(size, 1, 8, 8, generator=generator(i)) for i in range(count)]
    return [
        lossy.Batch(some, torch.randint(10, (size,), generator=generator(100 + i)), 0.0)
        for i, some in enumerate(images)
    ]


@pytest.mark.parametrize("slicing", blocks.SLICINGS)
@pytest.mark.parametrize("block_size", [1, 3, 4])
def test_a_mosaic_stands_for_the_weights(block_size, slicing):
    model = projected(block_size, slicing=slicing)
    found = lossy.mosaic_of(model, block_size, slicing)
    cut = blocks.to_blocks(list(blocks.trainable(model).values()), block_size, slicing)
    assert torch.equal(found.motifs[found.mosaic], cut)
    assert len(found.motifs) == len({row.tobytes() for row in cut.numpy().view(np.uint8)})
    other = copy.deepcopy(model)
    for parameter in other.parameters():
        nn.init.ones_(parameter)
    lossy.put_(other, found, slicing)
    assert all(
        torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True)
    )


def test_blocks_of_a_pruned_motif_go_to_the_nearest_one_left():
    model = projected(2)
    found = lossy.mosaic_of(model, 2, "tensor")
    usage = np.bincount(found.mosaic)
    less = lossy.pruned(found, 4)
    kept = found.motifs[usage >= 4].double()
    assert 0 < len(less.motifs) == len(kept) < len(found.motifs)
    distance = (found.motifs[found.mosaic].double()[:, None] - kept).square().sum(-1)
    chosen = distance.gather(1, less.mosaic[:, None])[:, 0]
    assert torch.equal(chosen, distance.min(1).values)
    assert torch.equal(chosen == 0, torch.from_numpy(usage[found.mosaic] >= 4))
    assert len(lossy.pruned(found, 10**9).motifs) == (usage == usage.max()).sum(), (
        "the most used ones stay"
    )


def test_motifs_are_quantised_on_one_grid():
    found = lossy.mosaic_of(projected(), 4, "tensor")
    fewer = lossy.quantised(found, 4)
    assert torch.equal(fewer.mosaic, found.mosaic) and len(torch.unique(fewer.motifs.abs())) <= 8
    assert (fewer.motifs - found.motifs).abs().max() <= found.motifs.abs().max() / 7 / 2 * 1.0001


def test_a_motifs_gradient_is_the_sum_over_its_blocks():
    """One small step of Adam moves each motif against the sign of the sum of its blocks' gradients;
    nothing else changes.
    """
    model, (batch,) = projected(), batches_of(1)
    before, found = copy.deepcopy(model), lossy.mosaic_of(model, 4, "tensor")
    again = lossy.refitted(model, found, "tensor", [batch], lr=1e-4)
    F.cross_entropy(before.eval()(batch.inputs), batch.labels).backward()
    gradients = blocks.to_blocks(
        [parameter.grad for parameter in before.parameters()], 4, "tensor"
    ).double()
    summed = torch.zeros(len(found.motifs), 4, dtype=torch.float64)
    for block, index in zip(gradients, found.mosaic.tolist(), strict=True):
        summed[index] += block
    clear = summed.abs() > 1e-5
    assert clear.float().mean() > 0.5
    assert torch.equal((again.motifs - found.motifs).sign()[clear], -summed.sign()[clear].float())
    assert torch.equal(again.mosaic, found.mosaic)
    assert all(
        torch.equal(a, b)
        for a, b in zip(model.state_dict().values(), before.state_dict().values(), strict=True)
    )


def test_refitting_lowers_the_loss_and_is_reproducible():
    model, batches = projected(capacity=0.5), batches_of() * 20
    found = lossy.mosaic_of(model, 4, "tensor")

    def loss(motifs):
        changed = copy.deepcopy(model)
        lossy.put_(changed, motifs, "tensor")
        return sum(
            F.cross_entropy(changed.eval()(inputs), labels).item()
            for inputs, labels, _ in batches_of()
        )

    again, twice = (lossy.refitted(model, found, "tensor", batches, lr=3e-3) for _ in range(2))
    assert loss(again) < 0.95 * loss(found) and torch.equal(again.motifs, twice.motifs)


def test_the_rate_falls_to_zero():
    model, (batch,) = projected(), batches_of(1)
    found = lossy.mosaic_of(model, 4, "tensor")
    moved = [
        (
            lossy.refitted(model, found, "tensor", [batch._replace(done=done)], lr=1e-3).motifs
            - found.motifs
        )
        .abs()
        .max()
        .item()
        for done in (0.0, 0.5, 1.0)
    ]
    assert moved == pytest.approx([1e-3, 5e-4, 0], rel=1e-3)


def test_training_images_are_all_there_in_every_epoch():
    images = (
        torch.arange(10, dtype=torch.uint8)[:, None, None, None].expand(10, 1, 8, 8).contiguous()
    )
    parts = (torch.arange(7), torch.arange(7, 8), torch.arange(8, 10))
    dataset = Dataset(images, torch.arange(10), *parts, tuple("0123456789"), "digits")
    batches = Batches(3, 8, (0.0,), (1 / 255,), torch.device("cpu"))
    still = config.Augment(flip=False, crop_padding=0, rand_augment_ops=0, rand_augment_magnitude=0)
    found = list(lossy.training_batches(dataset, batches, still, epochs=2, seed=0))
    assert [len(batch.labels) for batch in found] == [3, 3, 1] * 2
    assert all(
        torch.equal(batch.inputs[:, 0, 0, 0].round().long(), batch.labels) for batch in found
    )
    assert sorted(torch.cat([batch.labels for batch in found[:3]]).tolist()) == list(range(7))
    assert [batch.done for batch in found] == pytest.approx(
        [0, 3 / 14, 6 / 14, 0.5, 10 / 14, 13 / 14]
    )


def test_a_learning_rate_that_diverges_is_named():
    model = projected()
    with pytest.raises(
        ValueError, match="pack.refit_lr 1e\\+20: the loss of motifs .* is (nan|inf)"
    ):
        lossy.refitted(
            model, lossy.mosaic_of(model, 4, "tensor"), "tensor", batches_of() * 3, lr=1e20
        )


@pytest.mark.parametrize("name", ["mlp", "resnet20", "tiny_vit"])
def test_a_forward_pass_by_lookup_is_the_models_own(name):
    small = {
        "image_size": 16,
        "kwargs": {
            "embed_dims": [16, 32],
            "depths": [1, 2],
            "num_heads": [1, 1],
            "window_sizes": [2, 2],
        },
    }
    model = projected(4, name=name, **(small if name == "tiny_vit" else {})).eval()
    images = torch.randn(3, 1, *(2 * [16 if name == "tiny_vit" else 8]), generator=generator())
    lookup = lossy.Lookup(copy.deepcopy(model), lossy.mosaic_of(model, 4, "tensor"), "tensor")
    expected = model(images)
    for parameter in lookup.model[0].parameters():
        nn.init.zeros_(parameter)
    assert torch.equal(lookup(images), expected)


def settings(**changes):
    return config.Pack.from_mapping(SETTINGS | changes, "pack")


def test_rows_of_files_are_what_their_files_are(tmp_path):
    """Bytes against the files themselves; accuracy is of the decoded module, here the share of
    weights that are not zero.
    """
    model = projected(2)

    def filled(module):
        return float(
            torch.cat([parameter.flatten() for parameter in module.parameters()])
            .ne(0)
            .float()
            .mean()
        )

    def reached(module):
        return {"val_accuracy": filled(module) / 2, "test_accuracy": filled(module)}

    ordinary = levels.ordinary(model, reached, settings().compressors)
    assert [row["coding"] for row in ordinary] == ["safetensors", "gzip", "zstd"]
    assert ordinary[0]["file_bytes"] > ordinary[1]["file_bytes"] and ordinary[0][
        "test_accuracy"
    ] == filled(model)
    assert {row["val_accuracy"] for row in ordinary} == {filled(model) / 2}
    for row in levels.lossless(model, reached, block_size=2, slicing="tensor"):
        packing.pack(model, tmp_path / "a.momos", 2, level=row["coding"])
        assert row["file_bytes"] == (tmp_path / "a.momos").stat().st_size and row[
            "test_accuracy"
        ] == filled(model)
        assert row["stored_bytes"] == sum(
            row[f"{kind}_bytes"] for kind in ("motifs", "mosaic", "tails", "weights")
        )
    state = copy.deepcopy(model.state_dict())
    rows = levels.lossy_levels(
        model, reached, iter(batches_of()), settings(), block_size=2, slicing="tensor"
    )
    assert [row["coding"] for row in rows] == [
        "motifs8",
        "motifs3",
        "pruned",
        "refitted",
        "combined",
    ]
    by_name = {row["coding"]: row for row in rows}
    fewer = lossy.quantised(lossy.mosaic_of(model, 2, "tensor"), 3)
    assert by_name["motifs3"]["num_motifs"] <= len(torch.unique(fewer.motifs, dim=0))
    assert by_name["motifs3"]["file_bytes"] < by_name["motifs8"]["file_bytes"] and by_name[
        "motifs3"
    ]["test_accuracy"] < filled(model)
    assert all(row["val_accuracy"] == row["test_accuracy"] / 2 for row in rows)
    assert all(
        torch.equal(a, b) for a, b in zip(state.values(), model.state_dict().values(), strict=True)
    )


def test_a_module_that_keeps_what_it_computed_is_measured_afresh():
    """timm's attention biases in eval mode: the decoded module may not answer with those of the
    module that it was copied from.
    """
    model = projected(
        4,
        name="tiny_vit",
        image_size=16,
        kwargs={"embed_dims": [16], "depths": [1], "num_heads": [1], "window_sizes": [2]},
    )
    images = torch.randn(3, 1, 16, 16, generator=generator())
    model.eval()(images)
    other = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(3)
    fresh = projected(
        4,
        name="tiny_vit",
        image_size=16,
        kwargs={"embed_dims": [16], "depths": [1], "num_heads": [1], "window_sizes": [2]},
    )
    fresh.load_state_dict(other.state_dict())
    expected, answers = fresh.eval()(images), []
    levels.measure_file(
        "entropy",
        other,
        lambda module: {"outputs": answers.append(module.eval()(images))},
        level="entropy",
        block_size=4,
        slicing="tensor",
    )
    assert torch.equal(answers[0], expected)


def test_bits_that_no_grid_has_are_refused():
    with pytest.raises(ValueError, match="pack.motif_bits must be in 2..16, got 17"):
        settings(motif_bits=[8, 17])
    with pytest.raises(ValueError, match="pack.combined_bits must be in 2..16, got 1"):
        settings(combined_bits=1)
    with pytest.raises(ValueError, match="pack.refit_epochs must be 1 or more, got 0"):
        settings(refit_epochs=0)
    assert quantize.quantize(torch.ones(2), 2).tolist() == [1, 1]
