"""Measure the hot paths of momos against plain baselines.

It prints a line per job: `name ratio N.N (ours .. / baseline ..)`. A ratio compares median CPU
times of processes with one thread each, which take turns. Nothing is asserted. All repeats go to
results.json, and a figure of cost against size per family goes to figures/, in benchmarks/ or
where --out says. A quick run, or one of some families only, writes nothing without --out. Where
--out has results of the same machine, those of other families stay.
"""

import argparse
import contextlib
import functools
import json
import statistics
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks import figures, machine
from benchmarks.families import Family, Job, Point, Side, families
from benchmarks.worker import AT_LEAST, Repeat, Worker

HERE = Path(__file__).parent
PREFIXES = ((1, "s"), (1e-3, "ms"), (1e-6, "us"), (1e-9, "ns"))
Workers = dict[str, Worker]  # by side


class Pool:
    """Processes with `num_threads`: new ones for every family, or with `reuse` the same.

    A quick run reuses them, which saves their start.
    """

    def __init__(self, num_threads: int, *, reuse: bool, stack: contextlib.ExitStack):
        self.num_threads, self.reuse, self.stack = num_threads, reuse, stack
        self.kept: dict[tuple[bool, int], Worker] = {}

    @contextlib.contextmanager
    def workers(self, family: Family):
        if not self.reuse:
            with contextlib.ExitStack() as stack:
                yield {
                    label: stack.enter_context(Worker(self.num_threads)) for label in family.sides
                }
            return
        yield {label: self._kept(key) for label, key in self._keys(family).items()}

    def _kept(self, key: tuple[bool, int]) -> Worker:
        if key not in self.kept:
            self.kept[key] = self.stack.enter_context(Worker(self.num_threads))
        return self.kept[key]

    @staticmethod
    def _keys(family: Family) -> dict[str, tuple[bool, int]]:
        """Each side's process: (is it ours, which of those)."""
        ours = {label: side.case.startswith("ours.") for label, side in family.sides.items()}
        return {
            label: (mine, list(ours.values())[:place].count(mine))
            for place, (label, mine) in enumerate(ours.items())
        }


def measure(
    family: Family, point: Point, workers: Workers, rounds: int
) -> tuple[dict[str, list[Repeat]], dict[str, int]]:
    """Repeats and rise of the peak memory in bytes, by side.

    The sides take turns, in alternating order.
    """
    sides = {label: side for label, side in family.sides.items() if point.size <= side.up_to}
    rise = {}
    for label, side in sides.items():
        rise[label] = workers[label].prepare(
            side.case, point.arguments | side.arguments, warm=side.warm
        )
    repeats: dict[str, list[Repeat]] = {label: [] for label in sides}
    for turn in range(rounds):
        for label in list(sides)[:: 1 if turn % 2 else -1]:
            repeats[label].append(workers[label].run())
    for label in sides:
        workers[label].forget()
    return repeats, {label: bytes for label, bytes in rise.items() if sides[label].warm}


def measure_family(family: Family, pool: Pool, rounds: int) -> dict:
    """A family's entry in the results: settings and seconds of every repeat, by point and side."""
    points = []
    with pool.workers(family) as workers:
        for point in family.points:
            repeats, rise = measure(family, point, workers, rounds)
            seconds = {label: [repeat.cpu for repeat in some] for label, some in repeats.items()}
            points.append({**point._asdict(), "seconds": seconds, "peak_memory_rise_bytes": rise})
    sides = {label: {"case": side.case, **side.arguments} for label, side in family.sides.items()}
    return {"axis": family.axis, "per": family.per, "sides": sides, "points": points}


def measure_two_threads(family: Family, pool: Pool, rounds: int) -> dict:
    """Median wall seconds per item with two threads, by size and side: what a user waits for."""
    medians = {}
    with pool.workers(family) as workers:
        for point in family.points:
            if any(job.size == point.size for job in family.jobs):
                repeats, _ = measure(family, point, workers, rounds)
                wall = {
                    label: statistics.median(repeat.wall for repeat in some) / point.items
                    for label, some in repeats.items()
                }
                medians[str(point.size)] = wall
    return medians


def judge(job: Job, family: dict) -> dict:
    """Medians per item of the two sides, their ratio, and the quartiles of the rounds' ratios."""
    (point,) = (point for point in family["points"] if point["size"] == job.size)
    items = point["items"] if family["per"] else 1
    judged = {
        "size": job.size,
        "per": family["per"],
        "ours": statistics.median(point["seconds"][job.ours]) / items,
    }
    if job.baseline is None:
        return judged | {"peak_memory_rise_bytes": point["peak_memory_rise_bytes"][job.ours]}
    ours, baseline = point["seconds"][job.ours], point["seconds"][job.baseline]
    judged["baseline"] = statistics.median(baseline) / items
    judged["ratio"] = judged["baseline"] / judged["ours"]
    judged["ratio_quartiles"] = np.quantile(np.divide(baseline, ours), [0.25, 0.75]).tolist()
    return judged


def line(name: str, job: dict) -> str:
    ours = cost(job["ours"], job["per"])
    if "ratio" not in job:
        return f"{name} value {ours} and {job['peak_memory_rise_bytes'] / 1e6:.0f} MB (ours)"
    baseline = cost(job["baseline"], job["per"])
    return f"{name} ratio {job['ratio']:.1f} (ours {ours} / baseline {baseline})"


def cost(seconds: float, per: str) -> str:
    """0.0123 -> 12.3 ms"""
    scale, unit = next(
        ((scale, unit) for scale, unit in PREFIXES if seconds >= scale), PREFIXES[-1]
    )
    value = seconds / scale
    digits = 0 if value >= 100 else 1 if value >= 10 else 2
    return f"{value:.{digits}f} {unit}{'/' + per if per else ''}"


def rate(family: dict, labels: list[str]) -> float:
    """The most items a second that one of these sides reached in any repeat at any size."""
    return max(
        point["items"] / min(point["seconds"][label])
        for point in family["points"]
        for label in labels
    )


def peaks(measured: dict[str, dict]) -> dict[str, float]:
    """The most that one core does."""
    product = measured["machine_product"]
    return {
        "float32_gflops": rate(product, ["float32 MKL", "float32 oneDNN"]) / 1e9,
        "bf16_gflops": rate(product, ["bfloat16"]) / 1e9,
        "memory_gb_per_second": rate(measured["machine_memory"], ["copy"]) / 1e9,
    }


def shares(name: str, family: dict, once: Callable[..., float], peak: dict[str, float]) -> dict:
    """How near the optimiser steps of a model come to the peak, at the best batch size."""
    model = name.removeprefix("step_")
    flops = once("ours.flops", {"model": model})
    by_side: dict[str, float | dict[str, float]] = {"flops_per_image": flops}
    for side, precision in (
        ("plain loop", "float32"),
        ("ours float32", "float32"),
        ("ours bf16", "bf16"),
    ):
        images = rate(family, [side])
        share = flops * images / 1e9 / peak[f"{precision}_gflops"]
        by_side[side] = {"images_per_second": images, f"share_of_{precision}_peak": share}
    return by_side


def wrong_blocks(name: str, family: dict, once: Callable[..., float]) -> dict[str, float]:
    """Blocks to which the inexact baseline gives a farther motif, by number of motifs."""
    case = {"method": "expanded"}
    return {
        str(point["size"]): once("baselines.wrong_blocks", point["arguments"] | case)
        for point in family["points"]
    }


def bench(chosen: list[Family], *, quick: bool, report: Callable[[str], None]) -> dict:
    """All results. `report` is given each line as soon as it is known."""
    results = {
        "machine": machine.describe(),
        "settings": {
            "threads": 1,
            "quick": quick,
            "seconds_in_a_repeat_at_least": AT_LEAST,
            "clock": "CPU time of the process",
        },
        "jobs": {},
        "two_threads_wall_seconds": {},
        "families": {},
    }
    with contextlib.ExitStack() as stack:
        one, two = (Pool(threads, reuse=quick, stack=stack) for threads in (1, 2))
        for family in chosen:
            measured = measure_family(family, one, 2 if quick else family.rounds)
            results["families"][family.name] = measured
            for job in family.jobs:
                results["jobs"][job.name] = judge(job, measured)
                report(line(job.name, results["jobs"][job.name]))
            if family.two_threads:
                rounds = 1 if quick else 3
                wall = measure_two_threads(family, two, rounds)
                results["two_threads_wall_seconds"][family.name] = wall
            add_derived(results, family.name, measured, functools.partial(once, one), report)
    return results


def once(pool: Pool, case: str, arguments: dict) -> float:
    """The value of a function that is no measurement."""
    alone = Family(name="", axis="", sides={"": Side(case)}, points=[])
    with pool.workers(alone) as workers:
        workers[""].prepare(case, arguments, warm=False)
        return workers[""].run().value


def add_derived(
    results: dict,
    name: str,
    measured: dict,
    compute: Callable[..., float],
    report: Callable[[str], None],
) -> None:
    """Add to the results what follows from a family: peaks, wrong blocks, shares of the peak."""
    if name == "machine_memory":
        results["peaks"] = peaks(results["families"])
        values = (f"{peak} {value:.1f}" for peak, value in results["peaks"].items())
        report("machine value " + ", ".join(values))
    if name.startswith("projection_"):
        wrong = wrong_blocks(name, measured, compute)
        results.setdefault("wrong_blocks", {})[name] = wrong
    if name.startswith("step_"):
        of_peak = shares(name, measured, compute, results["peaks"])
        results.setdefault("compute", {})[name] = of_peak


def write(results: dict, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    for name, family in results["families"].items():
        figures.draw(name, family, folder / "figures")


def merged(results: dict, folder: Path) -> dict:
    """The folder's results with these families in place of its own, or beside them.

    The machine's peaks stay as they are there, since shares of them do. A family that was measured
    later says with which commit. Raises SystemExit for results of another machine.
    """
    path = folder / "results.json"
    if not path.is_file():
        return results
    earlier = json.loads(path.read_text())
    for key in ("cpu", "cores", "instructions"):
        here, there = results["machine"][key], earlier["machine"][key]
        if here != there:
            raise SystemExit(f"{path}: expected results of this machine, {key} {here}, got {there}")
    about = {key: results["machine"][key] for key in ("commit", "uncommitted_changes", "date")}
    for part in ("jobs", "families", "two_threads_wall_seconds", "wrong_blocks", "compute"):
        for name, value in results.get(part, {}).items():
            if not name.startswith("machine"):
                measured = {"measured": about} if part == "families" else {}
                earlier.setdefault(part, {})[name] = value | measured
    return earlier


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--only",
        metavar="NAME",
        help="families whose name begins so: " + ", ".join(f.name for f in families(False)),
    )
    parser.add_argument(
        "--quick", action="store_true", help="small sizes, few repeats: to see that everything runs"
    )
    parser.add_argument("--out", type=Path, help="where results.json and figures/ go")
    args = parser.parse_args()
    chosen = [
        family
        for family in families(args.quick)
        if family.name.startswith((args.only or "", "machine"))
    ]
    if args.only and not any(family.name.startswith(args.only) for family in chosen):
        parser.error(f"--only {args.only}: no family begins so")
    results = bench(chosen, quick=args.quick, report=lambda text: print(text, flush=True))
    whole = not args.only and not args.quick
    if args.out or whole:
        write(results if whole else merged(results, args.out), args.out or HERE)


if __name__ == "__main__":
    main()
