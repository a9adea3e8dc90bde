"""Zstandard at level 19, on one thread."""

import zstandard

from momos.complexity.compressors import Stream

LEVEL = 19


def compress(data: bytes) -> bytes:
    return zstandard.ZstdCompressor(level=LEVEL, threads=0).compress(data)


def stream() -> Stream:
    return zstandard.ZstdCompressor(level=LEVEL, threads=0).compressobj()
