"""gzip at level 9, without a time stamp."""

import gzip
import zlib

from momos.complexity.compressors import Stream

LEVEL = 9
GZIP_FORMAT = 31  # zlib's number for the largest window with gzip's header and trailer


def compress(data: bytes) -> bytes:
    return gzip.compress(data, compresslevel=LEVEL, mtime=0)


def stream() -> Stream:
    return zlib.compressobj(LEVEL, zlib.DEFLATED, GZIP_FORMAT)
