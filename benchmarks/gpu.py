"""What a GPU does with the paper's models, and how long Table 1 would take on it.   python -m
benchmarks.gpu OUT.json [--device cuda]

Needs neither dvc nor mlflow nor pybdm. Wall time (a GPU is not shared by default), the training
loop's own epoch on synthetic images: every model with every setting of `train` that may change its
speed; then the projection at Table 1's eight settings. Prints a line each.
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
CELLS = tuple(
    itertools.product((2, 4), (0.1, 0.05, 0.01, 0.005))
)  # block sizes and capacities of Table 1
IMAGES = {"mlp": 47_500, "resnet20": 20_000, "tiny_vit": 2_560}  # that one repeat looks at
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
    found = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        found.append(time.perf_counter() - start)
    return sorted(found[1:])[repeats // 2]


def projections(model: str, device: torch.device) -> dict[str, float]:
    """Seconds of `project_` by setting, weights put back each time (a copy on the device,
    included).
    """
    recipe = inputs.settings(config.Model, model)
    network = models.build(recipe.arch, 10, image_size=recipe.image_size, kwargs=recipe.kwargs)
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
    before, torch.backends.cuda.matmul.allow_tf32 = (
        torch.backends.cuda.matmul.allow_tf32,
        precision == "tf32",
    )
    try:
        return 2 * size**3 / seconds(lambda: left @ right, device, repeats=9)
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before


def bandwidth(device: torch.device, count: int) -> float:
    """Bytes per second, read and written, of a large copy."""
    source = torch.ones(count, device=device)
    target = torch.empty_like(source)
    return 2 * source.nbytes / seconds(lambda: target.copy_(source), device, repeats=9)


def measure(
    model: str, device: torch.device, count: int, settings: list[dict], peaks: dict[str, float]
) -> dict:
    """peaks: floating-point operations a second, by precision."""
    flops = ours.flops(model=model)()
    found = {"flops_per_image": flops, "epochs": [], "failed": []}
    for changes in settings:
        kind = ours.train if changes["stacked_seeds"] == 1 else ours.stack
        try:
            work = kind(
                model=model,
                images=count,
                device=str(device),
                num_threads=torch.get_num_threads(),
                **changes,
            )
            took = seconds(work, device) / changes["stacked_seeds"]  # of one seed
        except (
            RuntimeError,
            ValueError,
        ) as error:  # minutes of a lent GPU: the other settings are measured nevertheless
            found["failed"].append(changes | {"error": str(error)})
            print(f"{model} {changes}: FAILED ({error})", flush=True)
            continue
        row = {
            "images_per_second": count / took,
            "epoch_seconds": took * NUM_TRAIN / count,
            "flops_per_second": flops * count / took,
        }
        row["share_of_peak"] = row["flops_per_second"] / peaks[changes["precision"]]
        found["epochs"].append(changes | row)
        text = f"{count / took:,.0f} images/s, {row['epoch_seconds']:.2f} s an epoch, {row['share_of_peak']:.1%} of the peak"
        print(f"{model} {changes}: {text}", flush=True)
    found["projection_seconds"] = projections(model, device)
    print(
        f"{model} projection ms: "
        + ", ".join(f"{name} {1e3 * s:.2f}" for name, s in found["projection_seconds"].items()),
        flush=True,
    )
    exact = [
        row["epoch_seconds"]
        for row in found["epochs"]
        if row["precision"] == "float32" and row["stacked_seeds"] == 1
    ]
    found["table1_hours"] = (
        SEEDS * EPOCHS * (METHODS * min(exact) + sum(found["projection_seconds"].values())) / 3600
    )
    text = f"{METHODS} methods x {SEEDS} seeds x {EPOCHS} epochs in float32"
    print(
        f"{model}: its column of Table 1, {text}, {found['table1_hours']:.1f} hours at most, one run at a time"
    )
    return found


def main() -> None:
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
    arguments = parser.parse_args()
    device = prepare_device(arguments.device, inputs.settings(config.Train).num_threads)
    on_gpu = device.type == "cuda"
    settings = SETTINGS if on_gpu else ON_CPU
    settings = [each for each in settings if not (arguments.eager and each["compile"])]
    found = {
        "machine": machine.describe(),
        "device": torch.cuda.get_device_name(device) if on_gpu else device.type,
    }
    peaks = {
        name: peak(device, name, 8192 if on_gpu else 512)
        for name in dict.fromkeys(each["precision"] for each in settings)
    }
    found["peak_flops"], found["bytes_per_second"] = (
        peaks,
        bandwidth(device, 2**28 if on_gpu else 2**22),
    )
    print(
        f"peaks: { {name: f'{value / 1e12:.1f} TFLOP/s' for name, value in peaks.items()} }, {found['bytes_per_second'] / 1e9:.0f} GB/s"
    )
    for model in arguments.models:
        found[model] = measure(model, device, arguments.images or IMAGES[model], settings, peaks)
        arguments.out.write_text(
            json.dumps(found, indent=1) + "\n"
        )  # what is measured stays if the next model fails
    failed = sum(len(found[model]["failed"]) for model in arguments.models)
    if failed:
        sys.exit(f"{failed} settings could not be measured: see FAILED above")


if __name__ == "__main__":
    main()
