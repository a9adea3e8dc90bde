"""What a GPU does with the paper's models, and how long Table 1 would take on it.

usage: python -m benchmarks.gpu OUT.json [--device cuda]

It times the training loop's own epoch on synthetic images, for every model with every setting of
`train` that may change its speed, and then the projection at Table 1's eight settings. It prints a
line each. Times are wall times, since a GPU is not shared by default. Neither dvc nor mlflow nor
pybdm is needed.
"""

import argparse
import itertools
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

from benchmarks import inputs, machine, ours
from momos import config, models
from momos.compute.device import prepare_device
from momos.methods import mosaic
from momos.models.layout import arrange_

NUM_TRAIN, EPOCHS, SEEDS = 47_500, 200, 3  # the paper's
METHODS = 12  # of Table 1
# Block sizes and capacities of Table 1.
CELLS = tuple(itertools.product((2, 4), (0.1, 0.05, 0.01, 0.005)))
IMAGES = {"mlp": 47_500, "resnet20": 20_000, "tiny_vit": 2_560}  # in one repeat
SETTINGS = [
    {"precision": precision, "cuda_graphs": graphs, "compile": compiled, "stacked_seeds": stacked}
    for compiled, stacked, precision, graphs in itertools.product(
        (False, True), (1, SEEDS), ("float32", "tf32", "bf16"), (False, True)
    )
    if stacked == 1 or not compiled
]  # what compiles comes last: it takes a minute each
ON_CPU = [
    {"precision": "float32", "cuda_graphs": False, "compile": False, "stacked_seeds": stacked}
    for stacked in (1, SEEDS)
]


def seconds(work: Callable[[], object], device: torch.device, repeats: int = 3) -> float:
    """Median wall time after one run that is not counted."""
    times = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - start)
    return sorted(times[1:])[repeats // 2]


def projections(model: str, device: torch.device) -> dict[str, float]:
    """Seconds of `project_` by setting.

    The weights are put back each time; that copy on the device is included.
    """
    about = inputs.settings(config.Model, model)
    network = models.build(about.arch, 10, image_size=about.image_size, kwargs=about.kwargs)
    network = arrange_(inputs.trained_(network), device)
    trained = {name: tensor.clone() for name, tensor in network.state_dict().items()}

    def work(block_size: int, capacity: float) -> None:
        network.load_state_dict(trained)
        mosaic.project_(
            network, block_size, capacity=capacity, generator=torch.Generator().manual_seed(0)
        )

    return {f"s{s}_c{100 * c:g}": seconds(lambda s=s, c=c: work(s, c), device) for s, c in CELLS}


def peak(device: torch.device, precision: str, size: int) -> float:
    """Floating-point operations per second of a large matrix product."""
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    left, right = torch.randn(2, size, size, device=device).to(dtype).unbind()
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"
    try:
        return 2 * size**3 / seconds(lambda: left @ right, device, repeats=9)
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before


def bandwidth(device: torch.device, count: int) -> float:
    """Bytes per second, read and written, of a large copy."""
    source = torch.ones(count, device=device)
    target = torch.empty_like(source)
    return 2 * source.nbytes / seconds(lambda: target.copy_(source), device, repeats=9)


def measure_model(
    model: str, device: torch.device, count: int, settings: list[dict], peaks: dict[str, float]
) -> dict:
    """A model's entry in the results, of epochs of `count` images.

    peaks: floating-point operations a second, by precision. A setting that fails is noted, and the
    others are measured nevertheless: they are minutes of a lent GPU.
    """
    flops = ours.flops(model=model)()
    results: dict = {"flops_per_image": flops, "epochs": [], "failed": []}
    for changes in settings:
        try:
            row = measure_epoch(model, device, count, changes, flops, peaks[changes["precision"]])
        except (RuntimeError, ValueError) as error:
            results["failed"].append(changes | {"error": str(error)})
            print(f"{model} {changes}: FAILED ({error})", flush=True)
            continue
        results["epochs"].append(changes | row)
        text = (
            f"{row['images_per_second']:,.0f} images/s, {row['epoch_seconds']:.2f} s an epoch, "
            f"{row['share_of_peak']:.1%} of the peak"
        )
        print(f"{model} {changes}: {text}", flush=True)
    by_cell = projections(model, device)
    results["projection_seconds"] = by_cell
    milliseconds = ", ".join(f"{name} {1e3 * took:.2f}" for name, took in by_cell.items())
    print(f"{model} projection ms: {milliseconds}", flush=True)
    results["table1_hours"] = table1_hours(results)
    print(
        f"{model}: its column of Table 1, {METHODS} methods x {SEEDS} seeds x {EPOCHS} epochs in "
        f"float32, {results['table1_hours']:.1f} hours at most, one run at a time"
    )
    return results


def measure_epoch(
    model: str, device: torch.device, count: int, changes: dict, flops: float, peak: float
) -> dict[str, float]:
    """How fast a seed trains. changes: of the settings of `train`; flops: of an image."""
    kind = ours.train if changes["stacked_seeds"] == 1 else ours.stack
    threads = torch.get_num_threads()
    work = kind(model=model, images=count, device=str(device), num_threads=threads, **changes)
    took = seconds(work, device) / changes["stacked_seeds"]  # of one seed
    rate = flops * count / took
    return {
        "images_per_second": count / took,
        "epoch_seconds": took * NUM_TRAIN / count,
        "flops_per_second": rate,
        "share_of_peak": rate / peak,
    }


def table1_hours(results: dict) -> float:
    """What a model's column of Table 1 takes, in float32 and one run after the other."""
    exact = [
        row["epoch_seconds"]
        for row in results["epochs"]
        if row["precision"] == "float32" and row["stacked_seeds"] == 1
    ]
    epochs = METHODS * min(exact) + sum(results["projection_seconds"].values())
    return SEEDS * EPOCHS * epochs / 3600


def parsed_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="What a GPU does with the paper's models.")
    parser.add_argument("out", type=Path)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--models", nargs="+", default=list(IMAGES), choices=list(IMAGES))
    parser.add_argument(
        "--images", type=int, help="looked at in one repeat (default: tens of thousands, by model)"
    )
    parser.add_argument(
        "--eager", action="store_true", help="leave out what compiles: minutes less"
    )
    return parser.parse_args()


def main() -> None:
    arguments = parsed_arguments()
    device = prepare_device(arguments.device, inputs.settings(config.Train).num_threads)
    on_gpu = device.type == "cuda"
    settings = [
        changes
        for changes in (SETTINGS if on_gpu else ON_CPU)
        if not (arguments.eager and changes["compile"])
    ]
    precisions = dict.fromkeys(changes["precision"] for changes in settings)
    peaks = {name: peak(device, name, 8192 if on_gpu else 512) for name in precisions}
    results = {
        "machine": machine.describe(),
        "device": torch.cuda.get_device_name(device) if on_gpu else device.type,
        "peak_flops": peaks,
        "bytes_per_second": bandwidth(device, 2**28 if on_gpu else 2**22),
    }
    rates = {name: f"{value / 1e12:.1f} TFLOP/s" for name, value in peaks.items()}
    print(f"peaks: {rates}, {results['bytes_per_second'] / 1e9:.0f} GB/s")
    for model in arguments.models:
        count = arguments.images or IMAGES[model]
        results[model] = measure_model(model, device, count, settings, peaks)
        # what is measured stays if the next model fails
        arguments.out.write_text(json.dumps(results, indent=1) + "\n")
    failed = sum(len(results[model]["failed"]) for model in arguments.models)
    if failed:
        sys.exit(f"{failed} settings could not be measured: see FAILED above")


if __name__ == "__main__":
    main()
