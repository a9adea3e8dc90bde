"""Atomic files: whole or not at all, and the file that can't be written is named."""

import os
import resource
import subprocess
import sys

import pytest
import torch

from momos.files import atomic


def test_tied_tensors_are_stored_under_each_name(tmp_path):
    tied = torch.ones(3)
    atomic.save_tensors(tmp_path / "last.safetensors", {"a": tied, "b": tied, "view": tied[:2]})
    loaded = atomic.load_tensors(tmp_path / "last.safetensors")
    assert {name: len(tensor) for name, tensor in loaded.items()} == {"a": 3, "b": 3, "view": 2}
    assert all(torch.equal(tensor, tied[: len(tensor)]) for tensor in loaded.values())


def test_json_refuses_what_is_no_json(tmp_path):
    with pytest.raises(ValueError):
        atomic.write_json(tmp_path / "run.json", {"loss": float("nan")})
    assert not (tmp_path / "run.json").exists()


def test_an_unwritable_output_is_named(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OSError, match=r"file/run.json can't be written"):
        atomic.write_json(tmp_path / "file" / "run.json", {})


FULL_DISK = """
import resource, signal, sys, pathlib, torch
from momos.files import atomic
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
folder = pathlib.Path(sys.argv[1])
atomic.save_tensors(folder / "best.safetensors", {"w": torch.zeros(10)})
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
atomic.save_tensors(folder / "best.safetensors", {"w": torch.zeros(10_000)})
"""


@pytest.mark.skipif(not hasattr(resource, "RLIMIT_FSIZE"), reason="needs a limit on file sizes")
def test_a_full_disk_names_the_file_and_leaves_the_previous_one(tmp_path):
    """A limit on file sizes stands in for the full disk: both fail in the middle of a write."""
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, tmp_path], capture_output=True, text=True, env=os.environ
    )
    assert (
        done.returncode != 0 and "best.safetensors can't be written: File too large" in done.stderr
    )
    assert len(atomic.load_tensors(tmp_path / "best.safetensors")["w"]) == 10
    assert [path.name for path in tmp_path.iterdir()] == ["best.safetensors"]
