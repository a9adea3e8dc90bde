"""`momos measure` on files that are larger than what may be held: one tensor after another."""

import json
import re
import subprocess
import sys
import weakref
from pathlib import Path

import pytest
import torch
from command import measured, saved
from safetensors.torch import save_file

from momos.cli import foreign

NUM_TENSORS = 12
SMAPS = Path("/proc/self/smaps")


def in_shards(
    folder: Path,
    num_tensors: int,
    shape: tuple[int, int],
    dtype: torch.dtype = torch.float32,
    num_random: int = sys.maxsize,
) -> Path:
    """A folder of the hub's, with four tensors in each shard. After num_random all are constant."""
    folder.mkdir()
    generator, places = torch.Generator().manual_seed(0), {}
    for first in range(0, num_tensors, 4):
        shard, tensors = f"model-{first:05d}.safetensors", {}
        for number in range(first, first + 4):
            random = torch.randn(shape, generator=generator) if number < num_random else None
            tensor = torch.ones(shape) if random is None else random
            tensors[f"layers.{number}.weight"] = tensor.to(dtype)
        save_file(tensors, folder / shard)
        places |= dict.fromkeys(tensors, shard)
    index = {"weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


class Alive:
    """Counts the tensors that a weight file has given and that are still there."""

    def __init__(self) -> None:
        self.now = self.most = 0

    def opened(self, path):
        stored = open_weights(path)
        read = stored._read_tensor

        def counted(name):
            tensor = read(name)
            weakref.finalize(tensor, self.forget)
            self.now += 1
            self.most = max(self.most, self.now)
            return tensor

        stored._read_tensor = counted
        return stored

    def forget(self) -> None:
        self.now -= 1


open_weights = foreign.open_weights


def test_of_a_large_file_two_tensors_are_held(tmp_path, capsys, monkeypatch):
    """The one that is measured, and the one before it while the next is read."""
    folder = in_shards(tmp_path / "net", NUM_TENSORS, (16, 24))
    few = ("--init-seeds", 2, "--compressors", "gzip")
    whole = measured(capsys, folder, *few)
    alive = Alive()
    monkeypatch.setattr(foreign, "open_weights", alive.opened)
    assert measured(capsys, folder, *few) == whole and alive.most == NUM_TENSORS
    monkeypatch.setattr(foreign, "KEPT", NUM_TENSORS * 16 * 24 - 1)
    monkeypatch.setattr(foreign, "PIECE", 101)
    returned = []  # the tests after this one keep their memory
    monkeypatch.setattr(foreign, "return_freed_memory", lambda: returned.append(True))
    alive.most = alive.now = 0
    assert measured(capsys, folder, *few) == whole
    assert alive.most <= 2 and returned


def resident(path: Path) -> int:
    """Kilobytes of a file that count as this process's memory."""
    found = 0
    for mapping in re.split(r"^(?=[0-9a-f]+-[0-9a-f]+ )", SMAPS.read_text(), flags=re.M):
        if str(path) in mapping:
            found += int(re.findall(r"^Rss: +(\d+) kB", mapping, re.M)[0])
    return found


@pytest.mark.skipif(not SMAPS.exists(), reason="this system does not tell what is mapped")
def test_pages_of_a_file_leave_with_its_tensor(tmp_path):
    """Else each page that was read would count as memory until the end."""
    path = saved(tmp_path / "a.safetensors", {"a": torch.ones(512, 512), "b": torch.ones(2)})
    stored = open_weights(path)
    tensor = stored["a"]
    assert tensor.sum() == 512 * 512 and resident(path) >= 1024
    del tensor
    assert resident(path) < 64


PEAK = """
import sys
from pathlib import Path
import numpy, pandas, safetensors, scipy.special, torch, zstandard
import momos.complexity.measure, momos.metrics, momos.survey.network, momos.survey.streaming
from momos import cli
from momos.complexity.compressors import zstd

def peak():
    line = next(l for l in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in l)
    return int(line.split()[1]) / 1024

before = peak()
assert cli.main(sys.argv[1:]) == 0
print(peak() - before)
"""


@pytest.mark.stress
@pytest.mark.parametrize(
    ("dtype", "num_tensors", "compressors"),
    [("float32", 16, "bz2,gzip,lzma,zstd"), ("bfloat16", 4, "gzip")],
)
def test_a_gigabyte_in_shards_needs_little_memory(tmp_path, dtype, num_tensors, compressors):
    """Under 2.5 times the largest tensor and 300 MB, above the process after its imports.

    Two tensors are noise, more than compressors keep of the past (LZMA and zstd 8 MB). The others
    are constant, with which all are quick. In bfloat16 a tensor has twice as many weights.
    """
    shape = (4096 if dtype == "float32" else 8192, 4096)
    folder = in_shards(tmp_path / "net", num_tensors, shape, getattr(torch, dtype), num_random=2)
    size = sum(file.stat().st_size for file in folder.iterdir())
    assert size > num_tensors * 64 * 2**20
    few = ["--init-seeds", "2", "--compressors", compressors]
    command = [sys.executable, "-c", PEAK, "measure", str(folder), *few]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert float(done.stdout.splitlines()[-1]) < 2.5 * 64 + 300, done.stdout
