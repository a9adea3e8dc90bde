"""Random draws of augmentation: uniform, independent, and decided by the generator alone."""

import random
from collections import Counter

import numpy as np
import torch
from image_batches import ALL, ONE_OPERATION, generator, some_images, to_pil
from scipy.stats import chisquare
from torchvision.transforms import RandAugment

from momos.images import augment
from momos.images.draws import draw


def test_the_order_of_random_calls_stays():
    """Whoever changes it changes every training run."""
    draws = draw(20, generator=generator(3), flip=True, crop_padding=4, rand_augment_ops=2)
    chance = generator(3)
    assert torch.equal(draws.flipped, torch.randint(2, (20,), generator=chance).bool())
    assert torch.equal(draws.offsets, torch.randint(9, (20, 2), generator=chance))
    assert torch.equal(draws.operations, torch.randint(14, (20, 2), generator=chance))
    assert torch.equal(draws.signs, torch.randint(2, (20, 2), generator=chance) * 2 - 1)


def test_draws_are_uniform_and_independent_per_image():
    draws = draw(14_000, generator=generator(1), flip=True, crop_padding=4, rand_augment_ops=2)
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
    """One image, 2,800 draws: each of torchvision's results comes as often, within the noise."""
    image = some_images(1, 1, 8, 8)
    ours = augment.augment(
        image.expand(2800, -1, -1, -1), generator=generator(5), image_size=8, **ONE_OPERATION
    )
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
    first, again, other = (
        augment.augment(images, generator=generator(seed), image_size=32, **ALL)
        for seed in (7, 7, 8)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_one_generator_gives_new_draws_each_time():
    chance = generator(7)
    settings = {"generator": chance, "flip": True, "crop_padding": 4, "rand_augment_ops": 2}
    first, second = (draw(64, **settings) for _ in range(2))
    assert not torch.equal(first.offsets, second.offsets)
    assert not torch.equal(first.operations, second.operations)


def test_global_random_states_are_untouched():
    before = torch.get_rng_state(), np.random.get_state(), random.getstate()
    augment.augment(some_images(16), generator=generator(), image_size=40, **ALL)
    after = torch.get_rng_state(), np.random.get_state(), random.getstate()
    assert torch.equal(before[0], after[0])
    assert all(np.array_equal(a, b) for a, b in zip(before[1], after[1], strict=True))
    assert before[2] == after[2]
