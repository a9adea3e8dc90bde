"""Flip, crop and RandAugment of one image after another, compiled by numba for the CPU.

The torch version for other devices is in `momos.images.augment`. Here each image stays in the
processor's cache from the first operation to the last. All arithmetic is on integers: what PIL
computes in floating point comes in tables (`momos.images.augment.Tables`). The operations are
numbered as in `momos.images.draws.OPERATIONS`.
"""

import numpy as np
from numba import njit

(
    IDENTITY,
    SHEAR_X,
    SHEAR_Y,
    TRANSLATE_X,
    TRANSLATE_Y,
    ROTATE,
    BRIGHTNESS,
    COLOR,
    CONTRAST,
    SHARPNESS,
) = range(10)
POSTERIZE, SOLARIZE, AUTO_CONTRAST, EQUALIZE = range(10, 14)

compiled = njit(cache=True, nogil=True, error_model="numpy")


@compiled
def transform(
    images,
    indices,
    flipped,
    offsets,
    padding,
    operations,
    signs,
    sources,
    lookups,
    blends,
    stretches,
    changed,
):
    """Flip, crop and RandAugment images[indices], each by its own draws, into changed.

    images (num_images, C, H, W) uint8, contiguous; indices (n,); changed (n, C, H, W) uint8.
    flipped, offsets, operations and signs are those of `momos.images.draws.Draws`, none of them
    None. sources, lookups, blends and stretches are `momos.images.augment.Tables`.
    """
    _, channels, height, width = images.shape
    num_pixels = height * width
    # The last pixel stays 0: the black that geometry takes from outside of the image.
    pixels = np.zeros((channels, num_pixels + 1), np.uint8)
    spare = np.zeros_like(pixels)
    degenerate, sums = np.empty(num_pixels, np.uint8), np.empty(num_pixels, np.int32)
    for position in range(len(indices)):
        row, column = offsets[position, 0] - padding, offsets[position, 1] - padding
        _place(images[indices[position]], flipped[position], row, column, pixels)
        for turn in range(operations.shape[1]):
            operation = operations[position, turn]
            sign = 1 if signs[position, turn] > 0 else 0
            if SHEAR_X <= operation <= ROTATE:
                _gather(pixels, sources[operation - SHEAR_X, sign], spare)
                pixels, spare = spare, pixels
            elif operation == BRIGHTNESS:
                _look_up(pixels, blends[sign, 0])
            elif operation == COLOR and channels == 3:
                _grey(pixels, degenerate)
                for channel in range(channels):
                    _blend(pixels[channel], degenerate, blends[sign])
            elif operation == CONTRAST:
                _look_up(pixels, blends[sign, _mean(pixels, degenerate)])
            elif operation == SHARPNESS:
                for channel in range(channels):
                    _smooth(pixels[channel][:-1], width, sums, degenerate)
                    _blend(pixels[channel], degenerate, blends[sign])
            elif operation == POSTERIZE:
                _look_up(pixels, lookups[0])
            elif operation == SOLARIZE:
                _look_up(pixels, lookups[1])
            elif operation == AUTO_CONTRAST:
                _stretch(pixels, stretches)
            elif operation == EQUALIZE:
                _equalize(pixels)
        for channel in range(channels):
            _copy(pixels[channel][:-1], changed[position, channel].reshape(num_pixels))


@compiled
def _place(image, flipped, row, column, pixels):
    """Write into pixels (C, H * W + 1) an H x W part of the image, mirrored if flipped.

    row, column: where its upper left corner lies in the image. Pixels outside of the image are 0.
    """
    channels, height, width = image.shape
    left, right = min(max(0, -column), width), max(min(width, width - column), 0)
    top, bottom = max(0, -row), min(height, height - row)
    for channel in range(channels):
        pixels[channel] = 0
        for y in range(top, bottom):
            line = image[channel, y + row]
            target = pixels[channel][y * width + left : y * width + right]
            if flipped:
                _copy_mirrored(line[width - column - right : width - column - left], target)
            else:
                _copy(line[left + column : right + column], target)


# Loops go over whole slices, because the compiler makes vector instructions only where it sees that
# no index is negative.
@compiled
def _copy(source, target):
    for i in range(len(source)):
        target[i] = source[i]


@compiled
def _copy_mirrored(source, target):
    for i in range(len(source) - 1, -1, -1):
        target[len(source) - 1 - i] = source[i]


@compiled
def _gather(pixels, source, target):
    """Write into target the values of each channel of pixels (C, H * W + 1) at source (H * W,)."""
    for channel in range(len(pixels)):
        plane, moved = pixels[channel], target[channel]
        for i in range(len(source)):
            moved[i] = plane[source[i]]


@compiled
def _look_up(pixels, lookup):
    for channel in range(len(pixels)):
        _look_up_plane(pixels[channel], lookup)


@compiled
def _look_up_plane(plane, lookup):
    for i in range(len(plane) - 1):
        plane[i] = lookup[plane[i]]


@compiled
def _blend(plane, degenerate, blend):
    """Replace each value by the entry of blend (256, 256) at its degenerate value and itself."""
    for i in range(len(degenerate)):
        plane[i] = blend[degenerate[i], plane[i]]


@compiled
def _grey(pixels, grey):
    red, green, blue = pixels[0], pixels[1], pixels[2]
    for i in range(len(grey)):
        grey[i] = (19595 * red[i] + 38470 * green[i] + 7471 * blue[i] + 32768) >> 16


@compiled
def _mean(pixels, grey):
    """Mean of the grey values, with halves rounded up. grey: room for the work."""
    if len(pixels) == 3:
        _grey(pixels, grey)
    else:
        grey[:] = pixels[0, :-1]
    total = 0
    for i in range(len(grey)):
        total += grey[i]
    return (2 * total + len(grey)) // (2 * len(grey))


@compiled
def _smooth(plane, width, sums, smooth):
    """Write into smooth the mean of 3 x 3 pixels, of which the centre weighs 5 of 13.

    A pixel at the border keeps its value. sums: room for the work.
    """
    _copy(plane, smooth)
    above, here, below = plane[: -2 * width], plane[width:-width], plane[2 * width :]
    for i in range(len(here)):
        sums[i] = above[i] + here[i] + below[i]
    left, middle, right = sums[: len(here) - 2], sums[1 : len(here) - 1], sums[2 : len(here)]
    centre, inner = here[1:-1], smooth[width + 1 : -width - 1]
    for i in range(len(inner)):
        total = left[i] + middle[i] + right[i] + 4 * centre[i]  # at most 13 * 255
        inner[i] = (total * 80660 + (1 << 19)) >> 20  # total / 13, rounded
    for start in range(0, len(plane), width):
        smooth[start], smooth[start + width - 1] = plane[start], plane[start + width - 1]


@compiled
def _stretch(pixels, stretches):
    for channel in range(len(pixels)):
        plane = pixels[channel]
        low = high = plane[0]
        for i in range(len(plane) - 1):
            low, high = min(low, plane[i]), max(high, plane[i])
        _look_up_plane(plane, stretches[low, high])


@compiled
def _equalize(pixels):
    counts, lookup = np.empty(256, np.uint32), np.empty(256, np.uint8)
    for channel in range(len(pixels)):
        plane = pixels[channel]
        counts[:] = 0
        for i in range(len(plane) - 1):
            counts[plane[i]] += 1
        last = 255
        while counts[last] == 0:
            last -= 1
        step = (len(plane) - 1 - counts[last]) // 255
        if step:
            before = step // 2
            for value in range(last + 1):
                lookup[value] = min(before // step, 255)
                before += counts[value]
            _look_up_plane(plane, lookup)
