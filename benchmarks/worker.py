"""A process of its own for each side of a comparison.

So neither side gains from how the other sets itself up. `Worker` starts a process and talks to it
in lines of JSON. The process prepares a piece of work and runs it once per request.
"""

import gc
import importlib
import json
import math
import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import IO, Any, NamedTuple, Self

ROOT = Path(__file__).parents[1]
AT_LEAST = 0.05  # seconds in one repeat: shorter work is done several times


class Repeat(NamedTuple):
    """Seconds of one run of the work; `value` is what it returned, where that is a number."""

    cpu: float
    wall: float
    value: float | None


class Worker:
    """Context manager: the child process ends with it."""

    def __init__(self, num_threads: int):
        # What the caller's shell sets for threads and malloc is left out.
        environment = {
            key: value
            for key, value in os.environ.items()
            if not key.startswith(("MALLOC_", "GLIBC_TUNABLES"))
        }
        environment |= {
            f"{library}_NUM_THREADS": str(num_threads)
            for library in ("OMP", "MKL", "OPENBLAS", "NUMBA")
        }
        environment |= {"PYTHONWARNINGS": "ignore", "TQDM_DISABLE": "1"}
        command = [sys.executable, "-m", "benchmarks.worker"]
        self.process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        _pipe(self.process.stdin).close()
        self.process.wait()

    def prepare(self, case: str, arguments: dict[str, Any], *, warm: bool = True) -> int:
        """Make `case` ("baselines.train") the work of this process; with `warm`, run it once.

        Returns by how many bytes the peak memory rose.
        """
        return self._ask({"case": case, "arguments": arguments, "warm": warm})

    def run(self) -> Repeat:
        return Repeat(**self._ask({}))

    def forget(self) -> None:
        """Free the work's memory."""
        self._ask({"case": None})

    def _ask(self, request: dict) -> Any:
        _pipe(self.process.stdin).write(json.dumps(request) + "\n")
        reply = _pipe(self.process.stdout).readline()
        if not reply:
            status = self.process.wait()
            raise RuntimeError(
                f"the benchmark process ended with {status} at {request}; its message is above"
            )
        return json.loads(reply)


def _pipe(stream: IO[str] | None) -> IO[str]:
    """The stream itself: both of a Worker's are pipes."""
    assert stream is not None
    return stream


def threads() -> int:
    """Number of threads of this process, as its Worker set it."""
    return int(os.environ["OMP_NUM_THREADS"])


def main() -> None:
    replies = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what libraries print is no reply
    reply: object
    work, times = None, 1
    for line in sys.stdin:
        request = json.loads(line)
        if "case" not in request:
            reply = timed(work, times)._asdict()
        else:
            work = None
            gc.collect()
            if request["case"]:
                module, name = request["case"].split(".")
                make = getattr(importlib.import_module(f"benchmarks.{module}"), name)
                gc.freeze()  # collecting looks through a million objects of libraries otherwise
                work = make(**request["arguments"])
            reply, times = warm_up(work) if request.get("warm") else (0, 1)
        replies.write(json.dumps(reply) + "\n")


def warm_up(work) -> tuple[int, int]:
    """Run the work: by how many bytes the peak memory rose, and how often to do it in a repeat."""
    unit = 1 if sys.platform == "darwin" else 1024  # of ru_maxrss
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    work()
    rise = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    return rise * unit, max(1, math.ceil(AT_LEAST / max(timed(work, 1).cpu, 1e-6)))


def timed(work, times: int) -> Repeat:
    wall, cpu = time.perf_counter(), time.process_time()
    for _ in range(times):
        value = work()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return Repeat(cpu / times, wall / times, value if isinstance(value, int | float) else None)


if __name__ == "__main__":
    main()
