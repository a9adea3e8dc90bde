"""Where and how a process computes: device, threads, precision of matrix products, memory
allocator.
"""

import ctypes
import os

import numpy  # noqa: F401  (its BLAS has to be loaded to be limited)
import threadpoolctl
import torch

PRECISIONS = ("float32", "tf32", "bf16")
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD = -1, -2, -3  # glibc's <malloc.h>


def prepare_device(name: str, num_threads: int, precision: str = "float32") -> torch.device:
    """Sets up this process and returns the device of that name (auto: cuda, mps, cpu, the first
    there is).

    num_threads: of the CPU, numpy's products included. precision: of matrix products and
    convolutions in training; `tf32` needs CUDA, `bf16` CUDA or a CPU. Algorithms are deterministic.
    Raises ValueError for a device that this machine lacks and a precision that the device lacks.
    """
    limit_threads(num_threads)
    os.environ.setdefault(
        "CUBLAS_WORKSPACE_CONFIG", ":4096:8"
    )  # cuBLAS is deterministic only with this
    device = _find(name)
    kinds = {"float32": ("cpu", "cuda", "mps"), "tf32": ("cuda",), "bf16": ("cpu", "cuda")}[
        precision
    ]
    if device.type not in kinds:
        raise ValueError(
            f"train.precision is {precision}, expected {' or '.join(PRECISIONS)} that {device.type} has: {', '.join(kinds)}"
        )
    if device.type == "cuda":  # torch's own default lets convolutions round to TF32
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = (
            precision == "tf32"
        )
    if (
        device.type != "cpu" or num_threads > 1
    ):  # one thread of the CPU is deterministic anyway, and this imports for a second
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.utils.deterministic.fill_uninitialized_memory = (
            False  # a guard against reading it, one more kernel for every tensor
        )
        torch.backends.cudnn.benchmark = False
    keep_memory()
    return device


def limit_threads(num_threads: int) -> None:
    """numpy's BLAS takes all cores unless it is told: stages side by side would spend most of their
    time waiting for each other.
    """
    torch.set_num_threads(num_threads)
    threadpoolctl.threadpool_limits(num_threads, user_api="blas")


def _find(name: str) -> torch.device:
    available = {
        "cpu": True,
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
    }
    if name == "auto":
        name = next(kind for kind in ("cuda", "mps", "cpu") if available[kind])
    kind, _, index = name.partition(":")
    if not available[kind] or (index and int(index) >= torch.cuda.device_count()):
        present = ", ".join(kind for kind, there in available.items() if there)
        raise ValueError(
            f"train.device is {name}, which this machine lacks: expected auto, or one of {present}"
        )
    return torch.device(name)


def keep_memory() -> bool:
    """Tells glibc to keep freed memory: it would return every large buffer to the kernel and fault
    it in again at the next step.

    Training steps are 1.1 to 1.6 times as fast (docs/performance.md). False where the C library has
    no such setting.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if os.name == "posix" else None
    if mallopt is None:
        return False
    settings = {M_MMAP_THRESHOLD: 2**30, M_TRIM_THRESHOLD: 2**30, M_TOP_PAD: 2**26}
    return all(
        [mallopt(ctypes.c_int(option), ctypes.c_int(value)) for option, value in settings.items()]
    )
