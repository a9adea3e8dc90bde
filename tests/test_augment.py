import random
from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.stats import chisquare
from torchvision.transforms import InterpolationMode, RandAugment, autoaugment
from torchvision.transforms import functional as F

from momos import augment

OFF = {"flip": False, "crop_padding": 0, "rand_augment_ops": 0, "rand_augment_magnitude": 9}
ONE_OPERATION = OFF | {"rand_augment_ops": 1}
ALL = {"flip": True, "crop_padding": 4, "rand_augment_ops": 2, "rand_augment_magnitude": 9}


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def some_images(num_images=6, channels=3, height=32, width=32, seed=0):
    """Noise plus a slope, so that both local and global operations change something."""
    slope = torch.linspace(40, 180, width).expand(num_images, channels, height, width)
    noise = torch.randint(0, 60, (num_images, channels, height, width), generator=generator(seed))
    return (slope + noise).to(torch.uint8)


def to_pil(image):
    return F.to_pil_image(image)


def from_pil(image):
    return F.pil_to_tensor(image)


# --- RandAugment against torchvision's own, image by image


def torchvision_operation(image, name, magnitude, sign):
    """What torchvision.transforms.RandAugment does to one image for one drawn operation and sign."""
    policy = RandAugment(num_ops=1, magnitude=magnitude)
    magnitudes, signed = policy._augmentation_space(policy.num_magnitude_bins, tuple(image.shape[-2:]))[name]
    level = float(magnitudes[magnitude].item()) if magnitudes.ndim > 0 else 0.0
    level *= sign if signed else 1
    pil = autoaugment._apply_op(to_pil(image), name, level, interpolation=InterpolationMode.NEAREST, fill=None)
    return from_pil(pil)


def test_operations_are_torchvisions_in_its_order():
    assert list(RandAugment()._augmentation_space(31, (32, 32))) == list(augment.OPERATIONS)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", augment.OPERATIONS)
def test_each_operation_equals_torchvision(name, channels):
    images = some_images(2, channels, 32, 24)
    index = augment.OPERATIONS.index(name)
    for magnitude in (0, 4, 9, 17, 30):
        for sign in (-1, 1):
            operations = torch.full((2, 1), index)
            ours = augment.rand_augment(images, operations, torch.full((2, 1), sign), magnitude=magnitude)
            theirs = torch.stack([torchvision_operation(image, name, magnitude, sign) for image in images])
            assert torch.equal(ours, theirs), (magnitude, sign)


@pytest.mark.parametrize("magnitude", range(31))
def test_posterize_and_solarize_levels_at_every_magnitude(magnitude):
    ramp = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16)
    for name in ("Posterize", "Solarize"):
        operations = torch.tensor([[augment.OPERATIONS.index(name)]])
        ours = augment.rand_augment(ramp, operations, torch.ones_like(operations), magnitude=magnitude)
        assert torch.equal(ours[0], torchvision_operation(ramp[0], name, magnitude, 1))


@pytest.mark.parametrize("name", [name for name in augment.OPERATIONS if name != "Identity"])
def test_each_operation_changes_the_image(name):
    images = some_images()
    operations = torch.full((len(images), 1), augment.OPERATIONS.index(name))
    changed = augment.rand_augment(images, operations, torch.ones_like(operations), magnitude=9)
    assert changed.dtype == torch.uint8 and changed.shape == images.shape
    assert not torch.equal(changed, images)


def test_operations_apply_from_left_to_right():
    images = some_images(1)
    names = ("Rotate", "Solarize", "TranslateX")
    operations = torch.tensor([[augment.OPERATIONS.index(name) for name in names]])
    expected = images[0]
    for name, sign in zip(names, (-1, 1, -1), strict=True):
        expected = torchvision_operation(expected, name, 9, sign)
    ours = augment.rand_augment(images, operations, torch.tensor([[-1, 1, -1]]), magnitude=9)
    assert torch.equal(ours[0], expected)


@pytest.mark.parametrize("magnitude", [-1, 31])
def test_magnitude_out_of_range(magnitude):
    with pytest.raises(ValueError, match=f"rand_augment_magnitude.*0 to 30.*{magnitude}"):
        settings = ONE_OPERATION | {"rand_augment_magnitude": magnitude}
        augment.augment(some_images(1), generator=generator(), image_size=32, **settings)


def test_rand_augment_needs_one_or_three_channels():
    with pytest.raises(ValueError, match="rand_augment_ops.*2 channels"):
        augment.rand_augment(some_images(1, 2), torch.zeros(1, 1).long(), torch.ones(1, 1).long(), magnitude=9)


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
        image = F.resize(image, [image_size, image_size], antialias=True)
    if draws.operations is not None:
        for index, sign in zip(draws.operations[position].tolist(), draws.signs[position].tolist(), strict=True):
            image = torchvision_operation(image, augment.OPERATIONS[index], magnitude, sign)
    return image


@pytest.mark.parametrize(
    ("channels", "size", "image_size", "flip", "padding", "num_ops"),
    [
        (3, (32, 32), 32, True, 4, 2),
        (3, (32, 32), 32, True, 4, 0),
        (3, (32, 32), 48, True, 4, 2),
        (3, (32, 32), 20, False, 0, 1),
        (3, (20, 28), 24, True, 3, 2),
        (1, (8, 8), 8, False, 1, 0),
        (1, (28, 28), 28, True, 2, 3),
        (3, (16, 16), 16, True, 0, 0),
    ],
)
def test_batch_equals_a_plain_loop(channels, size, image_size, flip, padding, num_ops):
    images = some_images(12, channels, *size)
    settings = {"flip": flip, "crop_padding": padding, "rand_augment_ops": num_ops}
    draws = augment.draw(len(images), generator=generator(3), **settings)
    ours = augment.augment(images, generator=generator(3), image_size=image_size, rand_augment_magnitude=9, **settings)
    options = {"crop_padding": padding, "image_size": image_size, "magnitude": 9}
    theirs = torch.stack([plain(image, draws, position, **options) for position, image in enumerate(images)])
    assert ours.dtype == torch.uint8 and ours.shape == (12, channels, image_size, image_size)
    assert torch.equal(ours, theirs)


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

    monkeypatch.setattr(Image, "fromarray", refuse)
    settings = {"generator": generator(), "flip": True, "crop_padding": 1, "image_size": 8, "rand_augment_magnitude": 9}
    images = some_images(4, 1, 8, 8)
    assert augment.augment(images, rand_augment_ops=0, **settings).shape == images.shape
    with pytest.raises(AssertionError, match="PIL used"):
        augment.augment(images, rand_augment_ops=1, **settings)


# --- chance


def test_draws_are_uniform_and_independent_per_image():
    draws = augment.draw(14_000, generator=generator(1), flip=True, crop_padding=4, rand_augment_ops=2)
    assert draws.flipped.dtype == torch.bool
    samples = {
        "flip": (draws.flipped.int(), 2),
        "row": (draws.offsets[:, 0], 9),
        "column": (draws.offsets[:, 1], 9),
        "row and column": (draws.offsets[:, 0] * 9 + draws.offsets[:, 1], 81),
        "first operation": (draws.operations[:, 0], 14),
        "second operation": (draws.operations[:, 1], 14),
        "both operations": (draws.operations[:, 0] * 14 + draws.operations[:, 1], 196),
        "signs": (draws.signs[:, 0] + 1 + (draws.signs[:, 1] + 1) // 2, 4),
        "flip and operation": (draws.flipped * 14 + draws.operations[:, 0], 28),
        "sign and operation": ((draws.signs[:, 0] + 1) // 2 * 14 + draws.operations[:, 0], 28),
    }
    for name, (values, num_values) in samples.items():
        counts = torch.bincount(values, minlength=num_values)
        assert len(counts) == num_values, name
        assert chisquare(counts.numpy()).pvalue > 1e-4, name


def test_rand_augment_as_often_as_torchvision():
    """One image, 2,800 draws: each result that torchvision gives comes as often, within the noise."""
    image = some_images(1, 1, 8, 8)
    ours = augment.augment(image.expand(2800, -1, -1, -1), generator=generator(5), image_size=8, **ONE_OPERATION)
    policy, pil = RandAugment(num_ops=1, magnitude=9), to_pil(image[0])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(6)
        theirs = Counter(np.asarray(policy(pil)).tobytes() for _ in range(2800))
    mine = Counter(result.numpy().tobytes() for result in ours)
    assert mine.keys() == theirs.keys()
    for key in mine:
        assert abs(mine[key] - theirs[key]) < 5 * np.sqrt(mine[key] + theirs[key])


def test_same_seed_same_bytes_and_other_seed_other_bytes():
    images = some_images(16)
    first, again, other = (augment.augment(images, generator=generator(seed), image_size=32, **ALL) for seed in (7, 7, 8))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_one_generator_gives_new_draws_each_time():
    chance = generator(7)
    settings = {"generator": chance, "flip": True, "crop_padding": 4, "rand_augment_ops": 2}
    first, second = (augment.draw(64, **settings) for _ in range(2))
    assert not torch.equal(first.offsets, second.offsets)
    assert not torch.equal(first.operations, second.operations)


def test_global_random_states_are_untouched():
    before = torch.get_rng_state(), np.random.get_state(), random.getstate()
    augment.augment(some_images(16), generator=generator(), image_size=40, **ALL)
    after = torch.get_rng_state(), np.random.get_state(), random.getstate()
    assert torch.equal(before[0], after[0])
    assert all(np.array_equal(a, b) for a, b in zip(before[1], after[1], strict=True))
    assert before[2] == after[2]


# --- resize, normalize


def test_resize_to_the_same_size_is_the_same_tensor():
    images = some_images()
    assert augment.resize(images, 32) is images


def test_resize_equals_an_average_when_halving_constant_tiles():
    tiles = torch.randint(0, 256, (3, 1, 4, 4), generator=generator(), dtype=torch.uint8)
    enlarged = tiles.repeat_interleave(16, -1).repeat_interleave(16, -2)
    small = augment.resize(enlarged, 32)
    assert small.dtype == torch.uint8 and small.shape == (3, 1, 32, 32)
    inner = torch.arange(4) * 8 + 4  # far from any edge between tiles
    assert torch.equal(small[..., inner[:, None], inner], tiles)


def test_normalize_equals_numpy_in_float64():
    images, mean, std = some_images(), [0.4914, 0.4822, 0.4465], (0.247, 0.2435, 0.2616)
    expected = (images.numpy() / 255.0 - np.reshape(mean, (3, 1, 1))) / np.reshape(std, (3, 1, 1))
    ours = augment.normalize(images, mean, std)
    assert ours.dtype == torch.float32
    np.testing.assert_allclose(ours.numpy(), expected, rtol=1e-5, atol=1e-6)


def test_normalize_with_whole_numbers():
    images = some_images(2, 1)
    assert torch.equal(augment.normalize(images, (0,), (1,)), images.float() / 255)


@pytest.mark.parametrize(
    ("mean", "std", "message"),
    [
        ([0.5], [0.5] * 3, r"data\.mean has 1 entries, \[0\.5\]; expected 3"),
        ([0.5] * 3, [0.5] * 4, r"data\.std has 4 entries.*expected 3"),
        ([0.5] * 3, [0.5, 0.0, 0.5], r"data\.std must be positive.*0\.0"),
    ],
)
def test_normalize_refuses_what_does_not_fit(mean, std, message):
    with pytest.raises(ValueError, match=message):
        augment.normalize(some_images(), mean, std)
