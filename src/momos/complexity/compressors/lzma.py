"""LZMA in an .xz file, at preset 6."""

import lzma

from momos.complexity.compressors import Stream

PRESET = 6


def compress(data: bytes) -> bytes:
    return lzma.compress(data, format=lzma.FORMAT_XZ, preset=PRESET)


def stream() -> Stream:
    return lzma.LZMACompressor(format=lzma.FORMAT_XZ, preset=PRESET)
