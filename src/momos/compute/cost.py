"""What a computation costs: seconds and peak memory.

Costs are kept apart from results, because no result may depend on a clock.
"""

import resource
import sys
import time
from typing import Self

import torch


class Meter:
    """Measure the work inside the `with` block; `read()` gives its cost afterwards."""

    def __init__(self, device: torch.device):
        self.device = device

    def __enter__(self) -> Self:
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        self.start, self.cpu_start = time.perf_counter(), time.process_time()
        return self

    def __exit__(self, kind: type[BaseException] | None, *about: object) -> None:
        self.seconds = time.perf_counter() - self.start
        self.cpu_seconds = time.process_time() - self.cpu_start

    def read(self) -> dict[str, str | float | int | None]:
        """Cost of the block, ready for JSON.

        seconds: wall clock. cpu_seconds: of all threads. peak_memory_bytes: of the process since
        it started. device: its name. peak_device_memory_bytes: None on devices other than CUDA.
        """
        rss_unit = 1 if sys.platform == "darwin" else 1024  # bytes per unit of ru_maxrss
        on_gpu = self.device.type == "cuda"
        return {
            "seconds": round(self.seconds, 3),
            "cpu_seconds": round(self.cpu_seconds, 3),
            "peak_memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * rss_unit,
            "device": torch.cuda.get_device_name(self.device) if on_gpu else self.device.type,
            "peak_device_memory_bytes": torch.cuda.max_memory_allocated(self.device)
            if on_gpu
            else None,
        }
