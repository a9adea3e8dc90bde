"""What a GPU does with the paper's models, and how long Table 1 would take on it.   python -m benchmarks.gpu OUT.json [--device cuda]

Needs neither dvc nor mlflow nor pybdm. Wall time (a GPU is not shared by default), the training loop's own epoch on synthetic images:
every model with every setting of `train` that may change its speed; then the projection at Table 1's eight settings. Prints a line each.
"""

import argparse
import itertools
import json
import time
from collections.abc import Callable
from pathlib import Path

import torch

from benchmarks import inputs, machine, ours
from momos import config, models, mosaic
from momos.device import prepare_device
from momos.step import arrange_

NUM_TRAIN, EPOCHS, SEEDS = 47_500, 200, 3  # the paper's
METHODS = 12  # of Table 1
CELLS = tuple(itertools.product((2, 4), (0.1, 0.05, 0.01, 0.005)))  # block sizes and capacities of Table 1
IMAGES = {"mlp": 47_500, "resnet20": 20_000, "tiny_vit": 4_000}  # that one repeat looks at
SETTINGS = [
    {"precision": precision, "cuda_graphs": graphs, "compile": compiled}
    for precision, graphs, compiled in itertools.product(("float32", "tf32", "bf16"), (False, True), (False, True))
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
    """Seconds of `project_` by setting, weights put back each time (a copy on the device, included)."""
    recipe = inputs.settings(config.Model, model)
    network = models.build(recipe.arch, 10, image_size=recipe.image_size, kwargs=recipe.kwargs)
    network = arrange_(inputs.trained_(network), device)
    trained = {name: tensor.clone() for name, tensor in network.state_dict().items()}

    def work(block_size: int, capacity: float) -> None:
        network.load_state_dict(trained)
        mosaic.project_(network, block_size, capacity=capacity, generator=torch.Generator().manual_seed(0))

    return {f"s{s}_c{100 * c:g}": seconds(lambda s=s, c=c: work(s, c), device) for s, c in CELLS}


def peak(device: torch.device, dtype: torch.dtype, size: int) -> float:
    """Floating-point operations per second of a large matrix product."""
    left, right = torch.randn(2, size, size, device=device).to(dtype).unbind()
    return 2 * size**3 / seconds(lambda: left @ right, device, repeats=9)


def measure(model: str, device: torch.device, count: int, settings: list[dict]) -> dict:
    flops = ours.flops(model=model)()
    found = {"flops_per_image": flops, "epochs": []}
    for changes in settings:
        work = ours.train(model=model, images=count, device=str(device), num_threads=torch.get_num_threads(), **changes)
        took = seconds(work, device)
        row = {"images_per_second": count / took, "epoch_seconds": took * NUM_TRAIN / count, "flops_per_second": flops * count / took}
        found["epochs"].append(changes | row)
        print(f"{model} {changes}: {count / took:,.0f} images/s, {row['epoch_seconds']:.2f} s an epoch", flush=True)
    found["projection_seconds"] = projections(model, device)
    print(f"{model} projection ms: " + ", ".join(f"{name} {1e3 * s:.2f}" for name, s in found["projection_seconds"].items()), flush=True)
    plain = found["epochs"][0]["epoch_seconds"]
    found["table1_hours"] = SEEDS * EPOCHS * (METHODS * plain + sum(found["projection_seconds"].values())) / 3600
    print(f"{model}: its column of Table 1, {METHODS} methods x {SEEDS} seeds x {EPOCHS} epochs, {found['table1_hours']:.1f} hours at most")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description="What a GPU does with the paper's models.")
    parser.add_argument("out", type=Path)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--models", nargs="+", default=list(IMAGES), choices=list(IMAGES))
    parser.add_argument("--images", type=int, help="looked at in one repeat (default: tens of thousands, by model)")
    arguments = parser.parse_args()
    device = prepare_device(arguments.device, inputs.settings(config.Train).num_threads)
    on_gpu = device.type == "cuda"
    settings = SETTINGS if on_gpu else [{"precision": "float32", "cuda_graphs": False, "compile": False}]
    found = {"machine": machine.describe(), "device": torch.cuda.get_device_name(device) if on_gpu else device.type}
    found["peak_flops"] = {str(dtype): peak(device, dtype, 8192 if on_gpu else 512) for dtype in (torch.float32, torch.bfloat16)}
    for model in arguments.models:
        found[model] = measure(model, device, arguments.images or IMAGES[model], settings)
        arguments.out.write_text(json.dumps(found, indent=1) + "\n")  # what is measured stays if the next model fails


if __name__ == "__main__":
    main()
