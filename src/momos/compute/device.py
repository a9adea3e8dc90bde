"""Device, threads, precision of matrix products and memory allocator of this process."""

import ctypes
import os

import numpy  # noqa: F401  (its BLAS has to be loaded to be limited)
import threadpoolctl
import torch
from torch.utils import deterministic

PRECISIONS = ("float32", "tf32", "bf16")
DEVICES_WITH = {"float32": ("cpu", "cuda", "mps"), "tf32": ("cuda",), "bf16": ("cpu", "cuda")}
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD = -1, -2, -3  # glibc's <malloc.h>


def prepare_device(name: str, num_threads: int, precision: str = "float32") -> torch.device:
    """Set up this process and return the device of that name.

    name: "cpu", "cuda", "cuda:1" .., "mps", or "auto" for the first of cuda, mps, cpu that exists.
    num_threads: CPU threads of torch and of numpy's products. precision: of matrix products and
    convolutions in training; "tf32" needs CUDA, "bf16" CUDA or a CPU. Algorithms are deterministic.

    Raises ValueError for a device that this machine lacks and a precision that the device lacks.
    """
    limit_threads(num_threads)
    # cuBLAS is deterministic only with this
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    device = _find_device(name)
    kinds = DEVICES_WITH[precision]
    if device.type not in kinds:
        raise ValueError(
            f"train.precision is {precision}, expected {' or '.join(PRECISIONS)} "
            f"that {device.type} has: {', '.join(kinds)}"
        )
    if device.type == "cuda":  # torch's own default lets convolutions round to TF32
        torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"
        torch.backends.cudnn.allow_tf32 = precision == "tf32"
    # One CPU thread is deterministic anyway, and this call imports for a second.
    if device.type != "cpu" or num_threads > 1:
        _make_deterministic()
    keep_memory()
    return device


def _make_deterministic() -> None:
    torch.use_deterministic_algorithms(True, warn_only=True)
    # Filling guards against reads of uninitialised memory; it costs a kernel for every tensor.
    # torch replaces the module's class to add this attribute, which its type information lacks.
    deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cudnn.benchmark = False


def limit_threads(num_threads: int) -> None:
    """Limit threads of torch and BLAS, so that stages side by side do not wait for each other."""
    torch.set_num_threads(num_threads)
    threadpoolctl.threadpool_limits(num_threads, user_api="blas")


def _find_device(name: str) -> torch.device:
    available = {
        "cpu": True,
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
    }
    if name == "auto":
        name = next(kind for kind in ("cuda", "mps", "cpu") if available[kind])
    kind, _, index = name.partition(":")
    if not available[kind] or (index and int(index) >= torch.cuda.device_count()):
        present = ", ".join(kind for kind, is_there in available.items() if is_there)
        raise ValueError(
            f"train.device is {name}, which this machine lacks: expected auto, or one of {present}"
        )
    return torch.device(name)


def keep_memory() -> bool:
    """Tell glibc to keep freed memory, which makes training steps 1.1 to 1.6 times as fast.

    Otherwise it returns every large buffer to the kernel and faults it in again at the next step
    (measured in docs/performance.md). Returns False where the C library has no such setting.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if os.name == "posix" else None
    if mallopt is None:
        return False
    options = {M_MMAP_THRESHOLD: 2**30, M_TRIM_THRESHOLD: 2**30, M_TOP_PAD: 2**26}
    return all(
        [mallopt(ctypes.c_int(option), ctypes.c_int(value)) for option, value in options.items()]
    )
