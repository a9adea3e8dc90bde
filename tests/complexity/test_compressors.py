"""Compression ratios: what is counted is a file that the compressor's own reader restores."""

import bz2
import gzip
import lzma
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import zstandard

from momos.complexity import compressors
from momos.config.images import Evaluate, compressor_names

READERS = {
    "gzip": gzip.decompress,
    "bz2": bz2.decompress,
    "lzma": lzma.decompress,
    "zstd": zstandard.ZstdDecompressor().decompress,
}
PACKAGE = Path(compressors.__file__).parents[2]
RANDOM = np.random.default_rng(0).bytes(50_000)


def test_every_compressor_is_tested():
    assert set(READERS) == set(compressors.names())


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("data", [b"a", b"ab" * 5000, RANDOM], ids=["byte", "periodic", "random"])
def test_the_compressed_form_is_lossless_and_counted_whole(name, data):
    compressed = compressors.compress(data, name)
    assert READERS[name](compressed) == data
    assert compressors.ratio(data, name) == len(data) / len(compressed)


@pytest.mark.parametrize("name", READERS)
def test_random_bytes_do_not_compress_and_regular_ones_do(name):
    assert 0.97 < compressors.ratio(RANDOM, name) <= 1
    assert compressors.ratio(RANDOM[:100] * 500, name) > 50


@pytest.mark.parametrize("name", READERS)
def test_the_bytes_do_not_depend_on_the_clock(name, monkeypatch):
    first = compressors.compress(RANDOM, name)
    monkeypatch.setattr(time, "time", lambda: 2_000_000_000.0)
    assert compressors.compress(RANDOM, name) == first


def test_unknown_names_and_empty_data_are_refused():
    with pytest.raises(
        ValueError, match="unknown compressor 'rar'; expected one of bz2, gzip, lzma, zstd"
    ):
        compressors.ratio(b"data", "rar")
    with pytest.raises(ValueError, match="gzip: no data"):
        compressors.ratio(b"", "gzip")


@pytest.mark.parametrize("name", READERS)
def test_a_stream_of_pieces_is_read_by_the_same_reader(name):
    stream = compressors.load(name).stream()
    pieces = [
        stream.compress(memoryview(RANDOM)[start : start + 999]) for start in range(0, 50_000, 999)
    ]
    joined = b"".join(pieces) + stream.flush()
    reader = zstandard.ZstdDecompressor().decompressobj() if name == "zstd" else None
    assert (reader.decompress(joined) if reader else READERS[name](joined)) == RANDOM


def ran(code: str, source: Path) -> str:
    """What the code prints in a process of its own that imports the library from `source`."""
    environment = {**os.environ, "PYTHONPATH": str(source)}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_one_compressor_imports_no_other():
    code = """
import sys
from momos.complexity import compressors
compressors.names()
compressors.ratio(b"data", "lzma")
print(*sorted(name.rpartition(".")[2] for name in sys.modules if "complexity.compressors." in name))
"""
    assert ran(code, PACKAGE.parent) == "lzma"


NEW = '''"""zlib at level 1."""

import zlib


def compress(data):
    return zlib.compress(data, 1)


def stream():
    return zlib.compressobj(1)
'''
USED = """
import zlib
import numpy as np
import torch
from momos.complexity.measure import measure_weights
from momos.config.images import Evaluate, Pack, Survey
from momos.packing.levels import ordinary
from momos.survey.streaming import measure_against

evaluate = {"checkpoint": "last", "compressors": ["quick", "gzip"], "shuffle_seed": 0}
evaluate |= {"num_initializations": 20}
names = Evaluate.from_mapping(evaluate, "evaluate").compressors
pack = {"block_size": 4, "seeds": [0], "compressors": ["quick"], "motif_bits": [8], "min_usage": 2,
        "refit_epochs": 1, "refit_lr": 0.1, "combined_bits": 8}
survey = {"untrained": [], "source": "none", "path": None, "num_models": None, "min_models": 0,
          "max_parameters": 9, "tasks": {}, "seed": 0, "init_seeds": [0],
          "compressors": ["quick"], "keep_weights": False, "num_workers": 0}
Survey.from_mapping(survey, "survey")
weights = {"weight": torch.arange(400.0).reshape(20, 20) - 200}
row = measure_weights(weights, weights, compressors=names, seed=0)
raw = weights["weight"].numpy().tobytes()
assert row["quick"] == len(raw) / len(zlib.compress(raw, 1)), row
again = measure_against(weights.items, [weights.items], compressors=names, seed=0)
assert (again["quick"], again["quick_binary"]) == (row["quick"], row["quick_binary"])
packed = Pack.from_mapping(pack, "pack").compressors
found = ordinary(torch.nn.Linear(9, 9), lambda model: {"test_accuracy": 1.0}, packed)
print(*(row["coding"] for row in found))
"""


def test_a_new_file_is_a_compressor_in_every_list_of_the_settings(tmp_path):
    shutil.copytree(PACKAGE, tmp_path / "momos", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "momos" / "complexity" / "compressors" / "quick.py").write_text(NEW)
    assert ran(USED, tmp_path) == "safetensors quick"


def test_the_settings_know_the_same_names():
    settings = {
        "checkpoint": "last",
        "compressors": ["rar"],
        "shuffle_seed": 0,
        "num_initializations": 20,
    }
    assert compressor_names() == compressors.names()
    known = ", ".join(map(repr, compressors.names()))
    with pytest.raises(ValueError, match=rf"compressors\[0\] must be one of {known}, got 'rar'"):
        Evaluate.from_mapping(settings, "evaluate")


def test_settings_do_not_import_a_compressor():
    code = "import sys, momos.config.images; print(*[n for n in sys.modules if 'complexity' in n])"
    assert ran(code, PACKAGE.parent) == ""
