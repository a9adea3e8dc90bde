"""Augmentation of training images: flip, crop and RandAugment of uint8 batches (method A9).

RandAugment gives the same bytes as torchvision's on PIL images. There are two versions of it: numba
on a CPU (`momos.images.pixels`, image by image) and torch elsewhere (images grouped by operation).
Both take from `Tables` what torchvision and PIL compute in floating point.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from momos.images.draws import MAGNITUDE_BINS, OPERATIONS, Draws, draw
from momos.images.resize import resize

GEOMETRIC = OPERATIONS[1:6]
# Bytes of uint8 images that torch works on at once; it needs about 20 times as much memory.
_CHUNK_BYTES = {"cpu": 2**24, "cuda": 2**27}


def augment(
    images: Tensor,
    *,
    generator: torch.Generator,
    flip: bool,
    crop_padding: int,
    image_size: int,
    rand_augment_ops: int,
    rand_augment_magnitude: int,
) -> Tensor:
    """Flip, crop, resize and RandAugment images, in this order.

    images (n, C, H, W) uint8 -> (n, C, image_size, image_size) uint8. flip: mirror left to right
    with probability 1/2. crop_padding: pixels of zeros on each side, from which a crop of the
    original size is taken (0: none). rand_augment_ops: operations per image (0: none), all of
    rand_augment_magnitude, 0..30.
    """
    draws = draw(
        len(images),
        generator=generator,
        flip=flip,
        crop_padding=crop_padding,
        rand_augment_ops=rand_augment_ops,
    )
    return apply(
        images,
        draws,
        crop_padding=crop_padding,
        image_size=image_size,
        magnitude=rand_augment_magnitude,
    )


def apply(
    images: Tensor,
    draws: Draws,
    *,
    crop_padding: int,
    image_size: int,
    magnitude: int,
    indices: Tensor | None = None,
) -> Tensor:
    """Augment images by draws that were made before (`momos.images.draws.draw`).

    images (n, C, H, W) uint8 -> (n, C, image_size, image_size) uint8. Images may be on any device;
    draws and indices are on the CPU. indices (n,) int64: augment images[indices], where images are
    a whole data set. Raises ValueError for images, draws and indices that do not fit together.
    """
    num_images = len(images) if indices is None else len(indices)
    _check(images, draws, padding=crop_padding, indices=indices)
    empty = images.new_empty(0, images.shape[1], image_size, image_size)
    if not num_images:
        return empty
    has_size = images.shape[-2:] == (image_size, image_size)
    if draws.operations is not None and images.device.type == "cpu" and has_size:
        return _apply_numba(
            images, draws, crop_padding=crop_padding, magnitude=magnitude, indices=indices
        )

    def augment_part(part: slice) -> Tensor:
        if indices is None:
            chosen = images[part]
        else:
            chosen = images.index_select(0, _to(indices[part], images.device))
        flipped, offsets, operations, signs = draws.at(part)
        moved = _flip_and_crop(chosen, flipped, offsets, crop_padding)
        resized = resize(moved, image_size).contiguous()
        if operations is None or signs is None:
            return resized
        return rand_augment(resized, operations, signs, magnitude=magnitude)

    return _in_chunks(augment_part, num_images, empty)


def _check(
    images: Tensor, draws: Draws, *, padding: int = 0, indices: Tensor | None = None
) -> None:
    """Raise ValueError for images and draws that do not fit together.

    The compiled code would read outside of their memory.
    """
    if images.dtype != torch.uint8 or images.ndim != 4:
        raise ValueError(
            f"images must be uint8 of shape (n, C, H, W), "
            f"got {images.dtype} of shape {tuple(images.shape)}"
        )
    n = len(images) if indices is None else len(indices)
    num_ops = 0 if draws.operations is None else draws.operations.shape[-1]
    if num_ops and images.shape[1] not in (1, 3):
        raise ValueError(
            f"augment.rand_augment_ops must be 0 for images of {images.shape[1]} channels; "
            "expected 1 or 3 channels"
        )
    for name, field, shape in zip(
        draws._fields, draws, [(n,), (n, 2), (n, num_ops), (n, num_ops)], strict=True
    ):
        if field is not None and field.shape != shape:
            raise ValueError(f"{name} have shape {tuple(field.shape)}; expected {shape}")
    limits = {"indices": len(images) - 1, "offsets": 2 * padding, "operations": len(OPERATIONS) - 1}
    for name, values in {
        "indices": indices,
        "offsets": draws.offsets,
        "operations": draws.operations,
    }.items():
        if values is None or not values.numel():
            continue
        low, high = map(int, values.aminmax())
        if not 0 <= low <= high <= limits[name]:
            raise ValueError(f"{name} must be in 0..{limits[name]}, got {low}..{high}")


def _in_chunks(change: Callable[[slice], Tensor], num_images: int, like: Tensor) -> Tensor:
    """Results of `change` for slices of the images, as one tensor (num_images, *like.shape[1:]).

    The slices are small enough for the memory of the device.
    """
    size = max(1, _CHUNK_BYTES.get(like.device.type, 2**24) // math.prod(like.shape[1:]))
    if num_images <= size:
        return change(slice(0, num_images))
    changed = like.new_empty(num_images, *like.shape[1:])
    for start in range(0, num_images, size):
        part = slice(start, start + size)
        changed[part] = change(part)
    return changed


def _to(tensor: Tensor, device: torch.device) -> Tensor:
    """Copy from the CPU to the device without waiting for it."""
    if device.type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


# --- flip and crop


def flip_chosen(images: Tensor, flipped: Tensor) -> Tensor:
    """Mirror left to right the images (n, C, H, W) where flipped (n,) is true."""
    return _flip_and_crop(images, flipped, None, 0)


def crop(images: Tensor, offsets: Tensor, padding: int) -> Tensor:
    """Crop images (n, C, H, W), padded with zeros on each side, to H x W.

    offsets (n, 2): row and column of each crop's upper left corner in the padded image.
    """
    return _flip_and_crop(images, None, offsets, padding)


def _flip_and_crop(
    images: Tensor, flipped: Tensor | None, offsets: Tensor | None, padding: int
) -> Tensor:
    """Flip, then crop, as one gather of pixels; the same images if there is neither."""
    if flipped is None and offsets is None:
        return images
    num_images, channels, height, width = images.shape
    rows, columns = (torch.arange(size, device=images.device)[None] for size in (height, width))
    if offsets is None:
        padding = 0
    else:
        offsets = _to(offsets, images.device)
        rows = rows + offsets[:, :1]  # (n, H), in the padded image
        columns = columns + offsets[:, 1:]  # (n, W)
    padded_width = width + 2 * padding
    if flipped is not None:
        columns = torch.where(
            _to(flipped, images.device)[:, None], padded_width - 1 - columns, columns
        )
    sources = rows[:, :, None] * padded_width + columns[:, None, :]  # (n, H, W)
    planes = functional.pad(images, (padding,) * 4).flatten(2)
    return planes.gather(2, sources.reshape(num_images, 1, -1).expand(-1, channels, -1)).view(
        images.shape
    )


# --- RandAugment


def rand_augment(images: Tensor, operations: Tensor, signs: Tensor, *, magnitude: int) -> Tensor:
    """RandAugment (Cubuk et al. 2019, arXiv 1909.13719), bit for bit as torchvision does it.

    images (n, C, H, W) uint8 with 1 or 3 channels, on any device; operations and signs (n, num_ops)
    as in `Draws`, applied from left to right. The sign counts where torchvision draws one. Geometry
    takes the nearest pixel, and black from outside of the image.
    """
    draws = Draws(None, None, operations, signs)
    _check(images, draws)
    if images.device.type == "cpu":
        return _apply_numba(images, draws, crop_padding=0, magnitude=magnitude)
    return rand_augment_torch(images, operations, signs, magnitude=magnitude)


class Tables(NamedTuple):
    """Results of RandAugment's floating-point arithmetic, for one magnitude and images of H x W.

    The index of a sign is 0 for -1 and 1 for 1.

    sources (5, 2, H * W) integers: by GEOMETRIC operation, sign and pixel, the pixel it comes from;
        H * W stands for black.
    lookups (2, 256) uint8: Posterize and Solarize of every value.
    blends (2, 256, 256) uint8: by sign, degenerate value and value, the result of Brightness
        (degenerate value 0), Color, Contrast and Sharpness.
    stretches (256, 256, 256) uint8: by lowest and highest value of a plane, AutoContrast of every
        value.
    """

    sources: Any
    lookups: Any
    blends: Any
    stretches: Any


@functools.lru_cache(maxsize=8)
def tables(magnitude: int, height: int, width: int) -> Tables:
    """Numpy tables, made by torchvision's and PIL's own operations on ramps of numbers and values.

    Raises ValueError for a magnitude outside 0..30.
    """
    if not 0 <= magnitude < MAGNITUDE_BINS:
        raise ValueError(
            f"augment.rand_augment_magnitude must be an integer from 0 to {MAGNITUDE_BINS - 1}, "
            f"got {magnitude!r}"
        )
    return Tables(
        _source_pixels(magnitude, height, width), *_lookups_and_blends(magnitude), _stretches()
    )


def _strength(magnitude: int, first: float, last: float) -> float:
    """The strength of an operation at this magnitude, if it goes from `first` to `last`."""
    return torch.linspace(first, last, MAGNITUDE_BINS)[magnitude].item()


def _source_pixels(magnitude: int, height: int, width: int) -> np.ndarray:
    """`Tables.sources` (5, 2, height * width) uint32, by moving an image of pixel numbers."""
    from PIL import Image
    from torchvision.transforms import functional as F

    # Pixel numbers start at 1: 0 is black.
    numbers = np.arange(1, height * width + 1, dtype=np.int32).reshape(height, width)
    pixels = Image.fromarray(numbers)

    def shifted(right: int, down: int) -> Any:
        return F.affine(pixels, angle=0.0, translate=[right, down], scale=1.0, shear=[0.0, 0.0])

    def sheared(across: float, down: float) -> Any:
        shear, center = [across, down], [0, 0]
        return F.affine(pixels, angle=0.0, translate=[0, 0], scale=1.0, shear=shear, center=center)

    slope, angle = _strength(magnitude, 0.0, 0.3), _strength(magnitude, 0.0, 30.0)
    right, down = (int(_strength(magnitude, 0.0, 150.0 / 331.0 * size)) for size in (width, height))
    degrees = [math.degrees(math.atan(sign * slope)) for sign in (-1, 1)]
    moved = [
        [sheared(shear, 0.0) for shear in degrees],
        [sheared(0.0, shear) for shear in degrees],
        [shifted(sign * right, 0) for sign in (-1, 1)],
        [shifted(0, sign * down) for sign in (-1, 1)],
        [F.rotate(pixels, sign * angle) for sign in (-1, 1)],
    ]
    sources = np.array(
        [[np.asarray(image).ravel() for image in images] for images in moved], dtype=np.uint32
    )
    return np.minimum(sources - np.uint32(1), np.uint32(height * width))


def _lookups_and_blends(magnitude: int) -> tuple[np.ndarray, np.ndarray]:
    """`Tables.lookups` and `Tables.blends`, by changing images that hold every value."""
    from PIL import Image
    from torchvision.transforms import functional as F

    values = np.tile(np.arange(256, dtype=np.uint8), (256, 1))
    ramp = Image.fromarray(values[:1])
    bits = 8 - round(magnitude / ((MAGNITUDE_BINS - 1) / 4))
    lookups = [F.posterize(ramp, bits), F.solarize(ramp, _strength(magnitude, 255.0, 0.0))]
    factor = _strength(magnitude, 0.0, 0.9)
    degenerate, value = Image.fromarray(np.ascontiguousarray(values.T)), Image.fromarray(values)
    blends = [Image.blend(degenerate, value, 1.0 + sign * factor) for sign in (-1, 1)]
    return (
        np.array([np.asarray(image)[0] for image in lookups]),
        np.array([np.asarray(image) for image in blends]),
    )


@functools.cache
def _stretches() -> np.ndarray:
    """`Tables.stretches`, by the arithmetic of PIL's ImageOps.autocontrast."""
    value = np.arange(256)
    lookups = np.tile(value.astype(np.uint8), (256, 256, 1))
    for low in range(255):
        scale = 255.0 / (np.arange(low + 1, 256) - low)[:, None]  # one row per highest value
        lookups[low, low + 1 :] = np.clip(value * scale + -low * scale, 0, 255)
    return lookups


def _apply_numba(
    images: Tensor,
    draws: Draws,
    *,
    crop_padding: int,
    magnitude: int,
    indices: Tensor | None = None,
) -> Tensor:
    """Flip, crop and RandAugment, image by image. The draws must have operations and signs."""
    from momos.images import pixels  # imports numba, which takes half a second

    assert draws.operations is not None and draws.signs is not None
    num_images = len(draws.operations)
    flipped, offsets, padding = draws.flipped, draws.offsets, crop_padding
    if flipped is None:
        flipped = torch.zeros(num_images, dtype=torch.bool)
    if offsets is None:
        offsets, padding = torch.zeros(num_images, 2, dtype=torch.int64), 0
    if indices is None:
        indices = torch.arange(num_images)
    augmented = torch.empty(num_images, *images.shape[1:], dtype=torch.uint8)
    pixels.transform(
        _as_numpy(images),
        _as_numpy(indices),
        _as_numpy(flipped),
        _as_numpy(offsets),
        padding,
        _as_numpy(draws.operations),
        _as_numpy(draws.signs),
        *tables(magnitude, *images.shape[-2:]),
        augmented.numpy(),
    )
    return augmented


def _as_numpy(tensor: Tensor) -> np.ndarray:
    return tensor.contiguous().numpy()


# --- RandAugment in torch: images are sorted by operation and sign, so that an operation works on
# a slice


def rand_augment_torch(
    images: Tensor, operations: Tensor, signs: Tensor, *, magnitude: int
) -> Tensor:
    """`rand_augment` for any device, without waiting for it.

    Operations and signs are on the CPU.
    """
    _check(images, Draws(None, None, operations, signs))
    height, width = images.shape[-2:]
    on_device = _tables_on(images.device, magnitude, height, width)

    def change(part: slice) -> Tensor:
        return _operate_sorted(
            images[part], operations[part].numpy(), signs[part].numpy(), on_device
        )

    return _in_chunks(change, len(images), images)


@functools.lru_cache(maxsize=8)
def _tables_on(device: torch.device, magnitude: int, height: int, width: int) -> Tables:
    sources, *others = tables(magnitude, height, width)
    arrays = (sources.astype(np.int64), *others)
    return Tables(*(_to(torch.from_numpy(array), device) for array in arrays))


def _operate_sorted(
    images: Tensor, operations: np.ndarray, signs: np.ndarray, on_device: Tables
) -> Tensor:
    """All operations on all images (n, C, H, W), turn by turn.

    The images are sorted by operation for each turn, and at last put back into their order: a slice
    per operation costs less than a gather per operation.
    """
    num_images, num_ops = operations.shape
    kinds = 2 * operations + (signs > 0)  # (n, num_ops)
    orders = np.concatenate(
        [np.argsort(kinds, axis=0, kind="stable"), np.arange(num_images)[:, None]], axis=1
    )
    moves = _to(torch.from_numpy(_moves(orders)), images.device)
    for turn in range(num_ops):
        images = images.index_select(0, moves[turn])
        present, starts = np.unique(kinds[orders[:, turn], turn], return_index=True)
        for kind, start, end in zip(
            present.tolist(), starts, [*starts[1:], num_images], strict=True
        ):
            name, sign = OPERATIONS[kind // 2], kind % 2
            images[start:end] = _operate(images[start:end], name, sign, on_device)
    return images.index_select(0, moves[num_ops])


def _moves(orders: np.ndarray) -> np.ndarray:
    """Each place's source, move by move: (k, n). orders (n, k): the images after each move."""
    moves, place = np.empty_like(orders.T), np.arange(len(orders))
    for move, order in zip(moves, orders.T, strict=True):
        move[:] = place[order]
        place[order] = np.arange(len(order))
    return moves


def _operate(images: Tensor, name: str, sign: int, on_device: Tables) -> Tensor:
    """One of OPERATIONS on images (n, C, H, W). sign: 0 for -1, 1 for 1."""
    planes = images.flatten(2)  # (n, C, H * W)
    if name in GEOMETRIC:
        source = on_device.sources[GEOMETRIC.index(name), sign]
        planes = functional.pad(planes, (0, 1)).gather(2, source.expand(*planes.shape))
    elif name == "Brightness":
        planes = _look_up(planes, on_device.blends[sign, 0])
    elif name == "Color" and planes.shape[1] == 3:
        planes = _blend(planes, _grey(planes), on_device.blends[sign])
    elif name == "Contrast":
        planes = _look_up_each(planes, on_device.blends[sign][_mean(planes)][:, None])
    elif name == "Sharpness":
        return _sharpen(images, on_device.blends[sign])
    elif name in ("Posterize", "Solarize"):
        planes = _look_up(planes, on_device.lookups[int(name == "Solarize")])
    elif name == "AutoContrast":
        planes = _look_up_each(
            planes, on_device.stretches[planes.amin(2).long(), planes.amax(2).long()]
        )
    elif name == "Equalize":
        planes = _look_up_each(planes, _equalizing(planes))
    return planes.view(images.shape)


def _look_up(planes: Tensor, lookup: Tensor) -> Tensor:
    return lookup.index_select(0, planes.flatten().int()).view(planes.shape)


def _look_up_each(planes: Tensor, lookups: Tensor) -> Tensor:
    """planes (n, C, H * W), lookups (n, C or 1, 256)"""
    return lookups.expand(-1, planes.shape[1], -1).gather(2, planes.long())


def _blend(values: Tensor, degenerate: Tensor, blend: Tensor) -> Tensor:
    return _look_up(degenerate.int() * 256 + values, blend.flatten())


def _grey(planes: Tensor) -> Tensor:
    """(n, 3, H * W) uint8 -> (n, 1, H * W) int32"""
    red, green, blue = planes.int().split(1, dim=1)
    return (19595 * red + 38470 * green + 7471 * blue + 32768) >> 16


def _mean(planes: Tensor) -> Tensor:
    """Mean of each image's grey values, with halves rounded up: (n,) int64."""
    grey = _grey(planes) if planes.shape[1] == 3 else planes
    total, num_pixels = grey.sum((1, 2)), planes.shape[2]
    return (2 * total + num_pixels) // (2 * num_pixels)


def _sharpen(images: Tensor, blend: Tensor) -> Tensor:
    """Blend of each pixel with its smoothed value; pixels at the border stay.

    Smoothing is the mean of 3 x 3 pixels, of which the centre weighs 5 of 13.
    """
    if min(images.shape[-2:]) < 3:
        return images
    wide = images.short()
    rows = wide[..., :-2, :] + wide[..., 1:-1, :] + wide[..., 2:, :]
    total = rows[..., :-2] + rows[..., 1:-1] + rows[..., 2:] + 4 * wide[..., 1:-1, 1:-1]
    smooth = (total / 13).round()  # never near a half
    sharp = images.clone()
    sharp[..., 1:-1, 1:-1] = _blend(images[..., 1:-1, 1:-1], smooth, blend)
    return sharp


def _equalizing(planes: Tensor) -> Tensor:
    """Equalize of every value, by PIL's integer arithmetic: (n, C, 256) uint8."""
    one = torch.ones((), dtype=torch.int32, device=planes.device)
    counts = torch.zeros(*planes.shape[:2], 256, dtype=torch.int32, device=planes.device)
    counts.scatter_add_(2, planes.long(), one.expand(planes.shape))
    before = counts.cumsum(2) - counts  # pixels below each value
    step = before.gather(2, planes.amax(2, keepdim=True).long()) // 255
    equalized = ((step // 2 + before) // step.clamp(min=1)).clamp(max=255)
    return torch.where(step > 0, equalized, torch.arange(256, device=planes.device)).to(torch.uint8)
