"""Which coder for the mosaic?

usage: PYTHONPATH=src codecs/bin/python -m benchmarks.coders RUNS_DIR OUT.csv

RUNS_DIR: runs/digits. The environment `codecs` is that of other_codecs.py, with
constriction==0.5.0, zstandard and pandas. A row per model and MoMos method, in bytes: the indices
at fixed width, their entropy, what the file has (byte codes of ranks by zstandard, and bits that
follow), and constriction's range coder with the exact counts as its model. What those counts would
take is not in it; the column `counts` has it, at their own entropy. The file needs none.
"""

import tempfile
import time
from pathlib import Path

import constriction
import numpy as np
from safetensors.torch import load_file

from benchmarks.runs import paths, write_table
from momos import packing
from momos.packing.coding import entropy_bits
from momos.packing.reading import opened_file


def row(folder: Path, block_size: int) -> dict:
    tensors = load_file(folder / "last.safetensors")
    weights = [name for name in tensors if "running" not in name and "num_batches" not in name]
    with tempfile.TemporaryDirectory() as temporary:
        path = Path(temporary) / "a.momos"
        start = time.process_time()
        packing.pack_tensors(tensors, path, block_size, weights=weights, level="entropy")
        seconds = time.process_time() - start
        contents = packing.inspect(path)
        with opened_file(path) as opened:
            layout = packing.layout_of(opened.directory, "float32")
            indices = np.concatenate(list(opened.mosaic("float32", layout))).astype(np.int32)
    usage = contents.groups[0].usage
    start = time.process_time()
    model = constriction.stream.model.Categorical(usage / usage.sum(), perfect=False)
    encoder = constriction.stream.queue.RangeEncoder()
    encoder.encode(indices, model)
    theirs, slow = encoder.get_compressed().nbytes, time.process_time() - start
    fixed = len(indices) * (len(usage) - 1).bit_length() / 8
    sizes = {
        "fixed": fixed,
        "entropy": entropy_bits(usage) / 8,
        "file": contents.sections["mosaic"],
        "constriction": theirs,
    }
    return sizes | {
        "counts": entropy_bits(np.bincount(usage)) / 8,
        "whole_file_s": seconds,
        "constriction_s": slow,
    }


if __name__ == "__main__":
    write_table(*paths(__doc__, 2), row)
