"""General-purpose compressors as a measure of regularity: raw bytes / compressed bytes.

Levels are fixed, and the same data gives the same ratio anywhere: gzip 9, bz2 9, xz preset 6, zstd
19 (one thread).
"""

import bz2
import gzip
import lzma
from collections.abc import Callable


def ratio(data: bytes, name: str) -> float:
    """len(data) / len(compressed). Raises ValueError for an unknown compressor and for empty data."""
    if name not in COMPRESSORS:
        raise ValueError(f"unknown compressor {name!r}; expected one of {', '.join(COMPRESSORS)}")
    if not data:
        raise ValueError(f"{name}: no data to compress")
    return len(data) / len(COMPRESSORS[name](data))


def _gzip(data: bytes) -> bytes:
    return gzip.compress(data, compresslevel=9, mtime=0)


def _bz2(data: bytes) -> bytes:
    return bz2.compress(data, compresslevel=9)


def _lzma(data: bytes) -> bytes:
    return lzma.compress(data, format=lzma.FORMAT_XZ, preset=6)


def _zstd(data: bytes) -> bytes:
    import zstandard

    return zstandard.ZstdCompressor(level=19, threads=0).compress(data)


COMPRESSORS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": _gzip,
    "bz2": _bz2,
    "lzma": _lzma,
    "zstd": _zstd,
}
