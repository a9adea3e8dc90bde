"""bzip2 at level 9."""

import bz2

from momos.complexity.compressors import Stream

LEVEL = 9


def compress(data: bytes) -> bytes:
    return bz2.compress(data, compresslevel=LEVEL)


def stream() -> Stream:
    return bz2.BZ2Compressor(LEVEL)
