"""JPEG and PNG files as arrays of one shape: turned upright, brought to one size if asked."""

import io
import struct
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from PIL.Image import Image

MODES = ("L", "RGB")  # Pillow's names
# What Pillow raises on damaged images
IMAGE_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    IndexError,
    TypeError,
    EOFError,
    struct.error,
    zlib.error,
)


class Fit(NamedTuple):
    """How images of several sizes become squares of one, by PIL's bilinear filter."""

    way: Literal["crop", "resize"]  # the largest square in the middle, or all of it, distorted
    size: int  # pixels


def decode_all(path: Path, files: list[tuple[str, bytes]], fit: Fit | None = None) -> np.ndarray:
    """Images (num_images, channels, height, width) uint8: 1 channel for mode L, 3 for RGB.

    path: of the archive or folder, for messages. files: name and bytes of each. Raises ValueError
    for a file that is no image, and for one whose size or mode is not that of the first one.
    """
    first = _decode(path, *files[0], fit)
    images = np.empty((len(files), *first.shape), dtype=np.uint8)
    for position, (name, content) in enumerate(files):
        image = _decode(path, name, content, fit)
        if image.shape != first.shape:
            advice = "" if len(image) != len(first) else " (data.fit brings all to one size)"
            raise ValueError(
                f"data.path {str(path)!r}: image {name!r} is {_describe(image)}; "
                f"expected {_describe(first)} like the first, {files[0][0]!r}{advice}"
            )
        images[position] = image
    return images


def _decode(path: Path, name: str, content: bytes, fit: Fit | None) -> np.ndarray:
    """One JPEG or PNG as (channels, height, width) uint8, turned as its EXIF data say."""
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(content), formats=("JPEG", "PNG")) as image:
            ImageOps.exif_transpose(image, in_place=True)
            mode = image.mode
            pixels = np.asarray(image if fit is None or mode not in MODES else _fit(image, fit))
    except (*IMAGE_ERRORS, Image.DecompressionBombError) as error:
        # PIL would name an object and its address
        reason = "of neither format" if isinstance(error, UnidentifiedImageError) else error
        raise ValueError(
            f"data.path {str(path)!r}: {name!r} is no readable image ({reason}); "
            "expected JPEG or PNG"
        ) from error
    if mode not in MODES:
        raise ValueError(
            f"data.path {str(path)!r}: image {name!r} has mode {mode}; "
            "expected L (greyscale) or RGB"
        )
    return pixels[None] if mode == "L" else pixels.transpose(2, 0, 1)


def _fit(image: "Image", fit: Fit) -> "Image":
    from PIL import Image, ImageOps

    shape = (fit.size, fit.size)
    if fit.way == "crop":
        return ImageOps.fit(image, shape, method=Image.Resampling.BILINEAR)
    return image.resize(shape, Image.Resampling.BILINEAR)


def _describe(image: np.ndarray) -> str:
    channels, height, width = image.shape
    return f"{width}x{height} pixels in mode {'L' if channels == 1 else 'RGB'}"
