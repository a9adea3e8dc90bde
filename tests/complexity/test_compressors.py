"""Compression ratios: what is counted is a file that the compressor's own reader restores."""

import bz2
import gzip
import lzma
import time

import numpy as np
import pytest
import zstandard

from momos.complexity import compressors

READERS = {
    "gzip": gzip.decompress,
    "bz2": bz2.decompress,
    "lzma": lzma.decompress,
    "zstd": zstandard.ZstdDecompressor().decompress,
}
RANDOM = np.random.default_rng(0).bytes(50_000)


def test_every_compressor_is_tested():
    assert set(READERS) == set(compressors.COMPRESSORS)


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("data", [b"a", b"ab" * 5000, RANDOM], ids=["byte", "periodic", "random"])
def test_the_compressed_form_is_lossless_and_counted_whole(name, data):
    compressed = compressors.COMPRESSORS[name](data)
    assert READERS[name](compressed) == data
    assert compressors.ratio(data, name) == len(data) / len(compressed)


@pytest.mark.parametrize("name", READERS)
def test_random_bytes_do_not_compress_and_regular_ones_do(name):
    assert 0.97 < compressors.ratio(RANDOM, name) <= 1
    assert compressors.ratio(RANDOM[:100] * 500, name) > 50


@pytest.mark.parametrize("name", READERS)
def test_the_bytes_do_not_depend_on_the_clock(name, monkeypatch):
    first = compressors.COMPRESSORS[name](RANDOM)
    monkeypatch.setattr(time, "time", lambda: 2_000_000_000.0)
    assert compressors.COMPRESSORS[name](RANDOM) == first


def test_unknown_names_and_empty_data_are_refused():
    with pytest.raises(
        ValueError, match="unknown compressor 'rar'; expected one of gzip, bz2, lzma, zstd"
    ):
        compressors.ratio(b"data", "rar")
    with pytest.raises(ValueError, match="gzip: no data"):
        compressors.ratio(b"", "gzip")
