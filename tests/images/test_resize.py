"""Resizing equals PIL's, and normalisation equals numpy's in float64."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from image_batches import from_pil, generator, some_images, to_pil
from PIL import Image

from momos.images.resize import normalize, resize


def test_resize_to_the_same_size_is_the_same_tensor():
    images = some_images()
    assert resize(images, 32) is images


@settings(max_examples=60)
@given(
    size=st.integers(1, 80),
    resized=st.integers(1, 80),
    channels=st.sampled_from([1, 3]),
    seed=st.integers(0, 99),
)
def test_resize_equals_pil(size, resized, channels, seed):
    images = torch.randint(0, 256, (3, channels, size, size), generator=generator(seed)).to(
        torch.uint8
    )
    images[0] = (images[0] > 127) * 255
    expected = [
        from_pil(to_pil(image).resize((resized, resized), Image.Resampling.BILINEAR))
        for image in images
    ]
    assert torch.equal(resize(images, resized), torch.stack(expected))


@pytest.mark.parametrize("size", [(20, 28), (60, 50), (37, 50)])
def test_resize_of_oblong_images_is_pils_within_one(size):
    images = some_images(4, 3, *size)
    expected = torch.stack(
        [from_pil(to_pil(image).resize((41, 41), Image.Resampling.BILINEAR)) for image in images]
    )
    assert (resize(images, 41).int() - expected.int()).abs().max() <= 1


def test_resize_equals_an_average_when_halving_constant_tiles():
    tiles = torch.randint(0, 256, (3, 1, 4, 4), generator=generator(), dtype=torch.uint8)
    enlarged = tiles.repeat_interleave(16, -1).repeat_interleave(16, -2)
    small = resize(enlarged, 32)
    assert small.dtype == torch.uint8 and small.shape == (3, 1, 32, 32)
    inner = torch.arange(4) * 8 + 4  # far from any edge between tiles
    assert torch.equal(small[..., inner[:, None], inner], tiles)


def test_normalize_equals_numpy_in_float64():
    images, mean, std = some_images(), [0.4914, 0.4822, 0.4465], (0.247, 0.2435, 0.2616)
    expected = (images.numpy() / 255.0 - np.reshape(mean, (3, 1, 1))) / np.reshape(std, (3, 1, 1))
    ours = normalize(images, mean, std)
    assert ours.dtype == torch.float32
    np.testing.assert_allclose(ours.numpy(), expected, rtol=1e-5, atol=1e-6)


def test_normalize_with_whole_numbers():
    images = some_images(2, 1)
    assert torch.equal(normalize(images, (0,), (1,)), images.float() / 255)


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
        normalize(some_images(), mean, std)
