import subprocess
import sys

import pytest
import torch

from momos.compute import device

needs_no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")


@needs_no_gpu
def test_a_device_that_is_not_there_is_named():
    assert device.prepare_device("auto", 1).type in ("cpu", "mps")
    for name in ("cuda", "cuda:3"):
        with pytest.raises(
            ValueError,
            match=rf"train.device is {name}, which this machine lacks: expected auto.*cpu",
        ):
            device.prepare_device(name, 1)


def test_a_precision_that_the_device_lacks_is_named():
    assert device.prepare_device("cpu", 1, "bf16").type == "cpu"
    with pytest.raises(ValueError, match="train.precision is tf32.*cpu has: cuda"):
        device.prepare_device("cpu", 1, "tf32")


THREADS = """
import os, sys, numpy, threadpoolctl, torch
from momos.compute import device
for number in sys.argv[1:]:  # a fork each: the imports take most of the time
    if (pid := os.fork()) == 0:
        device.prepare_device("cpu", int(number))
        pools = [pool for pool in threadpoolctl.threadpool_info() if pool["user_api"] == "blas"]
        print(torch.get_num_threads(), *(pool["num_threads"] for pool in pools), flush=True)
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
"""


@pytest.fixture(scope="module")
def threads() -> dict[int, list[int]]:
    """Threads of torch and of numpy's libraries, by the number that was asked for."""
    command = [sys.executable, "-c", THREADS, "1", "2"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    lines = [list(map(int, line.split())) for line in done.stdout.splitlines()]
    return dict(zip((1, 2), lines, strict=True))


@pytest.mark.parametrize("num_threads", [1, 2])
def test_numpy_takes_no_more_threads_than_torch(threads, num_threads):
    torchs, *numpys = threads[num_threads]
    assert torchs == num_threads and numpys and max(numpys) <= num_threads


FAULTS = """
import resource, sys, torch
from momos.compute import device
if sys.argv[1] == "keep":
    assert device.keep_memory()
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        torch.ones(2**24)  # 64 MiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
faults()
print(faults())
"""


@pytest.mark.stress
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the setting is glibc's")
def test_freed_memory_is_kept():
    """Without the setting, each of ten buffers of 64 MiB faults its pages in again.

    That is 16,384 times with pages of 4 KiB, and 32 times with huge ones.
    """
    plain, kept = (
        int(
            subprocess.run(
                [sys.executable, "-c", FAULTS, how], capture_output=True, text=True, check=True
            ).stdout
        )
        for how in ("plain", "keep")
    )
    assert kept < 10 <= plain
