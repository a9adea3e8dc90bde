"""Augmentation: equal to torchvision's, image by image, whatever the way it is computed."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from image_batches import ALL, OFF, ONE_OPERATION, from_pil, generator, some_images, to_pil
from PIL import Image
from torchvision.transforms import InterpolationMode, RandAugment, autoaugment
from torchvision.transforms import functional as F

from momos.images import augment
from momos.images.draws import OPERATIONS, draw

# --- RandAugment against torchvision's own, image by image


def torchvision_operation(image, name, magnitude, sign):
    """One image after one operation and sign of torchvision.transforms.RandAugment."""
    policy = RandAugment(num_ops=1, magnitude=magnitude)
    magnitudes, signed = policy._augmentation_space(
        policy.num_magnitude_bins, tuple(image.shape[-2:])
    )[name]
    level = float(magnitudes[magnitude].item()) if magnitudes.ndim > 0 else 0.0
    level *= sign if signed else 1
    pil = autoaugment._apply_op(
        to_pil(image), name, level, interpolation=InterpolationMode.NEAREST, fill=None
    )
    return from_pil(pil)


def test_operations_are_torchvisions_in_its_order():
    assert list(RandAugment()._augmentation_space(31, (32, 32))) == list(OPERATIONS)


WAYS = {"numba": augment.rand_augment, "torch": augment.rand_augment_torch}
both_ways = pytest.mark.parametrize("rand_augment", WAYS.values(), ids=WAYS)


def torchvision_rand_augment(images, operations, signs, magnitude):
    """Oracle: PIL and torchvision, one image (C, H, W) and one operation at a time."""
    changed = []
    for image, indices, directions in zip(images, operations.tolist(), signs.tolist(), strict=True):
        for index, sign in zip(indices, directions, strict=True):
            image = torchvision_operation(image, OPERATIONS[index], magnitude, sign)
        changed.append(image)
    return torch.stack(changed)


def every_operation_and_sign():
    """operations (28, 1), signs (28, 1)"""
    return torch.arange(14).repeat(2)[:, None], torch.tensor([-1, 1]).repeat_interleave(14)[:, None]


@pytest.mark.parametrize(
    ("channels", "height", "width", "magnitudes"),
    [
        (1, 8, 8, range(31)),
        (3, 13, 31, range(31)),
        (3, 32, 32, range(31)),
        (1, 40, 9, range(31)),
        (3, 32, 24, (0, 4, 9, 17, 30)),
        (1, 28, 28, (0, 4, 9, 17, 30)),
        (3, 224, 224, (9, 30)),
        (1, 130, 224, (9, 23)),
    ],
)
def test_each_operation_equals_torchvision(channels, height, width, magnitudes):
    operations, signs = every_operation_and_sign()
    images = some_images(len(operations), channels, height, width)
    for magnitude in magnitudes:
        theirs = torchvision_rand_augment(images, operations, signs, magnitude)
        for way, rand_augment in WAYS.items():
            same = (
                (rand_augment(images, operations, signs, magnitude=magnitude) == theirs)
                .flatten(1)
                .all(1)
            )
            wrong = [
                (OPERATIONS[operations[i, 0]], int(signs[i, 0])) for i in (~same).nonzero()[:, 0]
            ]
            assert not wrong, (way, magnitude)


@st.composite
def odd_images(draw):
    """An image (C, H, W) where counting, rounding and borders are hard: small, with few values, or
    at the ends of the range.
    """
    shape = draw(st.sampled_from([1, 3])), draw(st.integers(1, 20)), draw(st.integers(1, 20))
    noise = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    low, high = sorted(draw(st.tuples(st.integers(0, 255), st.integers(0, 255))))
    kind = draw(
        st.sampled_from(
            [
                "constant",
                "two values",
                "black or white",
                "slope",
                "noise",
                "almost constant",
                "few values",
            ]
        )
    )
    image = {
        "constant": lambda: np.full(shape, low),
        "two values": lambda: noise.choice([low, high], shape),
        "black or white": lambda: noise.choice([0, 255], shape),
        "slope": lambda: np.broadcast_to(np.linspace(low, high, shape[2]), shape),
        "noise": lambda: noise.integers(low, high + 1, shape),
        "almost constant": lambda: np.where(noise.random(shape) < 0.05, high, low),
        "few values": lambda: noise.choice(noise.integers(0, 256, 5), shape),
    }[kind]()
    return torch.from_numpy(image.astype(np.uint8))


@settings(max_examples=250, deadline=None, derandomize=True)
@given(
    odd_images(),
    st.lists(st.tuples(st.integers(0, 13), st.sampled_from([-1, 1])), max_size=4),
    st.integers(0, 30),
)
def test_odd_images_equal_torchvision(image, chosen, magnitude):
    operations, signs = torch.tensor(chosen, dtype=torch.int64).reshape(1, -1, 2).unbind(2)
    theirs = torchvision_rand_augment(image[None], operations, signs, magnitude)
    for way, rand_augment in WAYS.items():
        assert torch.equal(
            rand_augment(image[None], operations, signs, magnitude=magnitude), theirs
        ), way


def test_autocontrast_between_any_two_values():
    """Its rounding in floating point hangs on the lowest and the highest value."""
    low, high = (
        pairs.flatten()
        for pairs in torch.meshgrid(torch.arange(0, 256, 5), torch.arange(0, 256, 5), indexing="ij")
    )
    images = torch.stack(
        [
            torch.linspace(int(a), int(b), 256).to(torch.uint8)
            for a, b in zip(low, high, strict=True)
        ]
    )
    images = images.reshape(-1, 1, 16, 16)
    operations = torch.full((len(images), 1), OPERATIONS.index("AutoContrast"))
    theirs = torch.stack([from_pil(F.autocontrast(to_pil(image))) for image in images])
    for way, rand_augment in WAYS.items():
        assert torch.equal(
            rand_augment(images, operations, torch.ones_like(operations), magnitude=9), theirs
        ), way


@pytest.mark.parametrize("magnitude", range(31))
@both_ways
def test_posterize_and_solarize_levels_at_every_magnitude(magnitude, rand_augment):
    ramp = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16)
    for name in ("Posterize", "Solarize"):
        operations = torch.tensor([[OPERATIONS.index(name)]])
        ours = rand_augment(ramp, operations, torch.ones_like(operations), magnitude=magnitude)
        assert torch.equal(ours[0], torchvision_operation(ramp[0], name, magnitude, 1))


@pytest.mark.parametrize("name", [name for name in OPERATIONS if name != "Identity"])
def test_each_operation_changes_the_image(name):
    images = some_images()
    operations = torch.full((len(images), 1), OPERATIONS.index(name))
    changed = augment.rand_augment(images, operations, torch.ones_like(operations), magnitude=9)
    assert changed.dtype == torch.uint8 and changed.shape == images.shape
    assert not torch.equal(changed, images)


@both_ways
def test_operations_apply_from_left_to_right(rand_augment):
    images = some_images(1)
    names = ("Rotate", "Solarize", "TranslateX")
    operations = torch.tensor([[OPERATIONS.index(name) for name in names]])
    expected = images[0]
    for name, sign in zip(names, (-1, 1, -1), strict=True):
        expected = torchvision_operation(expected, name, 9, sign)
    ours = rand_augment(images, operations, torch.tensor([[-1, 1, -1]]), magnitude=9)
    assert torch.equal(ours[0], expected)


@both_ways
def test_magnitude_out_of_range(rand_augment):
    nothing = torch.zeros(1, 1).long()
    for magnitude in (-1, 31):
        with pytest.raises(ValueError, match=f"rand_augment_magnitude.*0 to 30.*{magnitude}"):
            rand_augment(some_images(1), nothing, nothing, magnitude=magnitude)


@both_ways
@pytest.mark.parametrize(
    ("images", "message"),
    [
        (some_images(1, 2), "rand_augment_ops.*2 channels"),
        (some_images(1).float(), r"uint8.*torch\.float32"),
        (some_images(1)[0], r"\(n, C, H, W\).*\(3, 32, 32\)"),
    ],
)
def test_rand_augment_refuses_other_images(images, message, rand_augment):
    nothing = torch.zeros(len(images), 1).long()
    with pytest.raises(ValueError, match=message):
        rand_augment(images, nothing, nothing, magnitude=9)


@pytest.mark.parametrize(
    ("change", "indices", "message"),
    [
        ({"flipped": torch.ones(5).bool()}, None, r"flipped.*\(5,\).*\(4,\)"),
        ({"offsets": torch.ones(4, 3).long()}, None, r"offsets.*\(4, 3\).*\(4, 2\)"),
        ({"signs": torch.ones(4, 1).long()}, None, r"signs.*\(4, 1\).*\(4, 2\)"),
        ({"operations": torch.full((4, 2), 14)}, None, r"operations.*0\.\.13.*14\.\.14"),
        ({"offsets": torch.full((4, 2), -1)}, None, r"offsets.*0\.\.8.*-1\.\.-1"),
        ({}, torch.tensor([0, 1, 2, 6]), r"indices.*0\.\.5.*0\.\.6"),
        ({}, torch.tensor([-1, 1, 2, 3]), r"indices.*0\.\.5.*-1\.\.3"),
    ],
)
def test_draws_that_would_reach_outside_of_memory(change, indices, message):
    draws = draw(4, generator=generator(), flip=True, crop_padding=4, rand_augment_ops=2)._replace(
        **change
    )
    images = some_images(4 if indices is None else 6)
    with pytest.raises(ValueError, match=message):
        augment.apply(images, draws, crop_padding=4, image_size=32, magnitude=9, indices=indices)


# --- the whole, against a plain loop over images with the same draws


def plain(image, draws, position, *, crop_padding, image_size, magnitude):
    """Oracle: PIL and torchvision, one image (C, H, W) at a time."""
    pil = to_pil(image)
    if draws.flipped is not None and draws.flipped[position]:
        pil = F.hflip(pil)
    if draws.offsets is not None:
        row, column = draws.offsets[position].tolist()
        pil = F.crop(F.pad(pil, crop_padding, fill=0), row, column, pil.height, pil.width)
    image = from_pil(pil)
    if image.shape[-2:] != (image_size, image_size):
        image = from_pil(F.resize(to_pil(image), [image_size, image_size]))
    if draws.operations is not None:
        for index, sign in zip(
            draws.operations[position].tolist(), draws.signs[position].tolist(), strict=True
        ):
            image = torchvision_operation(image, OPERATIONS[index], magnitude, sign)
    return image


@pytest.mark.parametrize(
    ("channels", "size", "image_size", "flip", "padding", "num_ops"),
    [
        (3, (32, 32), 32, True, 4, 2),
        (3, (32, 32), 32, True, 4, 0),
        (3, (32, 32), 48, True, 4, 2),
        (3, (32, 32), 20, False, 0, 1),
        (3, (32, 32), 224, True, 4, 2),
        (3, (20, 28), 24, True, 3, 2),
        (1, (8, 8), 8, False, 1, 0),
        (1, (28, 28), 28, True, 2, 3),
        (3, (16, 16), 16, True, 0, 0),
    ],
)
def test_batch_equals_a_plain_loop(channels, size, image_size, flip, padding, num_ops):
    images = some_images(12, channels, *size)
    settings = {"flip": flip, "crop_padding": padding, "rand_augment_ops": num_ops}
    draws = draw(len(images), generator=generator(3), **settings)
    ours = augment.augment(
        images, generator=generator(3), image_size=image_size, rand_augment_magnitude=9, **settings
    )
    options = {"crop_padding": padding, "image_size": image_size, "magnitude": 9}
    theirs = torch.stack(
        [plain(image, draws, position, **options) for position, image in enumerate(images)]
    )
    assert ours.dtype == torch.uint8 and ours.shape == (12, channels, image_size, image_size)
    assert torch.equal(ours, theirs)


def by_torch(images, draws, *, crop_padding, magnitude):
    if draws.flipped is not None:
        images = augment.flip_chosen(images, draws.flipped)
    if draws.offsets is not None:
        images = augment.crop(images, draws.offsets, crop_padding)
    return augment.rand_augment_torch(images, draws.operations, draws.signs, magnitude=magnitude)


@pytest.mark.parametrize(
    ("channels", "height", "width", "flip", "padding", "num_ops"),
    [
        (3, 32, 32, True, 4, 2),
        (1, 8, 8, False, 1, 1),
        (3, 64, 64, True, 0, 3),
        (1, 5, 5, True, 9, 2),
        (3, 32, 32, False, 0, 2),
    ],
)
def test_numba_equals_torch(channels, height, width, flip, padding, num_ops):
    images = torch.randint(
        256, (600, channels, height, width), generator=generator(), dtype=torch.uint8
    )
    draws = draw(
        600, generator=generator(1), flip=flip, crop_padding=padding, rand_augment_ops=num_ops
    )
    ours = augment.apply(images, draws, crop_padding=padding, image_size=height, magnitude=9)
    assert torch.equal(ours, by_torch(images, draws, crop_padding=padding, magnitude=9))


@pytest.mark.parametrize("image_size", [32, 20])
@pytest.mark.parametrize("num_ops", [0, 2])
def test_slices_of_draws_and_indices_of_images(image_size, num_ops, monkeypatch):
    images, indices = some_images(50), torch.randint(50, (200,), generator=generator())
    draws = draw(200, generator=generator(1), flip=True, crop_padding=4, rand_augment_ops=num_ops)
    options = {"crop_padding": 4, "image_size": image_size, "magnitude": 9}
    whole = augment.apply(images[indices], draws, **options)
    assert torch.equal(augment.apply(images, draws, indices=indices, **options), whole)
    parts = [slice(0, 128), torch.arange(128, 200)]
    assert torch.equal(
        torch.cat(
            [augment.apply(images[indices[part]], draws.at(part), **options) for part in parts]
        ),
        whole,
    )
    monkeypatch.setattr(augment, "_CHUNK_BYTES", {"cpu": 7 * 3 * image_size**2})  # 7 images at once
    assert torch.equal(augment.apply(images, draws, indices=indices, **options), whole)


def test_chunks_do_not_change_the_result(monkeypatch):
    images, (operations, signs) = some_images(28), every_operation_and_sign()
    whole = augment.rand_augment_torch(images, operations, signs, magnitude=9)
    monkeypatch.setattr(augment, "_CHUNK_BYTES", {"cpu": 1})
    assert torch.equal(augment.rand_augment_torch(images, operations, signs, magnitude=9), whole)


@pytest.mark.parametrize("image_size", [32, 48])
@pytest.mark.parametrize("settings", [OFF, ALL])
def test_no_images(image_size, settings):
    empty = augment.augment(
        some_images(0), generator=generator(), image_size=image_size, **settings
    )
    assert empty.shape == (0, 3, image_size, image_size) and empty.dtype == torch.uint8


@both_ways
def test_input_that_is_not_contiguous(rand_augment):
    operations, signs = every_operation_and_sign()
    images = some_images(28, 3, 20, 30)
    expected = rand_augment(images, operations, signs, magnitude=9)
    assert expected.is_contiguous()
    for view in (
        images.to(memory_format=torch.channels_last),
        images.transpose(2, 3).contiguous().transpose(2, 3),
    ):
        assert torch.equal(rand_augment(view, operations, signs, magnitude=9), expected)
    sparse = operations.repeat(1, 2)[:, ::2], signs.repeat_interleave(2, 0)[::2]
    assert torch.equal(rand_augment(images, *sparse, magnitude=9), expected)


@pytest.mark.parametrize("settings", [OFF, ONE_OPERATION, ALL])
@pytest.mark.parametrize("image_size", [32, 24])
def test_result_is_contiguous(settings, image_size):
    images = some_images().to(memory_format=torch.channels_last)
    assert augment.augment(
        images, generator=generator(), image_size=image_size, **settings
    ).is_contiguous()


@both_ways
def test_rand_augment_leaves_its_input_alone(rand_augment):
    operations, signs = every_operation_and_sign()
    images = some_images(28)
    before = images.clone()
    rand_augment(images, operations, signs, magnitude=9)
    assert torch.equal(images, before)


@pytest.mark.parametrize("image_size", [32, 40])
def test_on_a_device_nothing_waits_and_nothing_stays_on_the_host(image_size):
    """Meta tensors have shapes but no values: reading one back raises, and so does mixing them with
    tensors of the CPU.
    """
    draws = draw(100, generator=generator(1), flip=True, crop_padding=4, rand_augment_ops=2)
    images = torch.empty(120, 3, 32, 32, dtype=torch.uint8, device="meta")
    options = {"crop_padding": 4, "image_size": image_size, "magnitude": 9}
    changed = augment.apply(images, draws, indices=torch.arange(100), **options)
    assert (
        changed.device.type == "meta"
        and changed.shape == (100, 3, image_size, image_size)
        and changed.dtype == torch.uint8
    )


def test_input_is_left_alone_and_nothing_on_means_the_same_images():
    images = some_images()
    before = images.clone()
    same = augment.augment(images, generator=generator(), image_size=32, **OFF)
    assert torch.equal(same, before)
    augment.augment(images, generator=generator(), image_size=32, **ALL)
    assert torch.equal(images, before)


def test_no_pil_work_without_rand_augment(monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("PIL used")

    augment.tables.cache_clear()
    monkeypatch.setattr(Image, "fromarray", refuse)
    settings = {
        "generator": generator(),
        "flip": True,
        "crop_padding": 1,
        "image_size": 8,
        "rand_augment_magnitude": 9,
    }
    images = some_images(4, 1, 8, 8)
    assert augment.augment(images, rand_augment_ops=0, **settings).shape == images.shape
    with pytest.raises(AssertionError, match="PIL used"):
        augment.augment(images, rand_augment_ops=1, **settings)


def test_numba_is_imported_only_for_rand_augment():
    code = """
import sys, torch
from momos.images import augment
images = torch.zeros(2, 1, 8, 8, dtype=torch.uint8)
settings = {"flip": True, "crop_padding": 1, "rand_augment_magnitude": 9}
augment.augment(images, generator=torch.Generator(), image_size=8, rand_augment_ops=0, **settings)
assert not {"numba", "torchvision"} & set(sys.modules)
augment.augment(images, generator=torch.Generator(), image_size=8, rand_augment_ops=1, **settings)
assert "numba" in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)


# --- flip and crop


@pytest.mark.parametrize(
    ("height", "width", "padding"), [(8, 8, 1), (5, 7, 3), (4, 4, 9), (32, 32, 4)]
)
def test_flip_and_crop_equal_numpy(height, width, padding):
    images = some_images(40, 2, height, width)
    draws = draw(40, generator=generator(), flip=True, crop_padding=padding, rand_augment_ops=0)
    flipped = np.stack(
        [
            image[..., ::-1] if flip else image
            for image, flip in zip(images.numpy(), draws.flipped, strict=True)
        ]
    )
    assert np.array_equal(augment.flip_chosen(images, draws.flipped).numpy(), flipped)
    padded = np.pad(flipped, ((0, 0), (0, 0), (padding, padding), (padding, padding)))
    cropped = [
        image[:, y : y + height, x : x + width]
        for image, (y, x) in zip(padded, draws.offsets.tolist(), strict=True)
    ]
    assert np.array_equal(
        augment.crop(torch.from_numpy(flipped), draws.offsets, padding).numpy(), np.stack(cropped)
    )
    if height == width:
        both = augment.apply(images, draws, crop_padding=padding, image_size=height, magnitude=0)
        assert np.array_equal(both.numpy(), np.stack(cropped))
