"""Which schedule of motifs is best? The pilot behind docs/mosaics.md, on small digits.

usage: python -m benchmarks.schedules DATA.safetensors OUT.csv [--models mlp] [--methods early ..]
           [--seeds 7 8 9]

DATA is what stage prepare writes for profile digits. Seeds of the study are left out, and its test
images take no part: of the others 378 are drawn for validation, 700 for training. OUT gets a row
per training: validation accuracy of the last and best weights, in [0, 1], and CPU seconds.
"""

import argparse
import csv
import time
from pathlib import Path
from typing import Any

import torch

from momos import config, models
from momos.compute.device import prepare_device
from momos.images.dataset import Dataset, load_dataset
from momos.images.inputs import Batches
from momos.methods.method import Method, parse
from momos.training import loop, runs
from momos.training.recipe import Recipe

PROFILE = Path(__file__).parents[1] / "profiles" / "digits.yaml"
NUM_VALIDATION, SPLIT_SEED = 378, 99
COLUMNS = ("model", "method", "capacity", "seed", "last", "best", "cpu_seconds")
# As `motifs` of a method's entry, at s=4, C=1 %, and "_c0_5" at C=0.5 %
SCHEDULES: dict[str, list] = {
    "published": [["redrawn", 1.0]],
    "kmeans": [["redrawn", 0.5], ["kmeans", 1.0]],
    "trained": [["redrawn", 0.5], ["trained", 1.0]],
    "all": [["redrawn", 0.5], ["kmeans", 0.7], ["trained", 1.0]],
    "mid": [["redrawn", 0.3], ["kmeans", 0.4], ["trained", 1.0]],
    "early": [["redrawn", 0.2], ["kmeans", 0.3], ["trained", 1.0]],
    "klong": [["redrawn", 0.2], ["kmeans", 0.6], ["trained", 1.0]],
    "kfirst": [["kmeans", 0.3], ["trained", 1.0]],
    "kfirst_long": [["kmeans", 0.7], ["trained", 1.0]],
    "redrawn_twice": [["redrawn", 0.3], ["trained", 0.5], ["redrawn", 0.6], ["trained", 1.0]],
    "trained_twice": [["redrawn", 0.4], ["trained", 0.6], ["kmeans", 0.65], ["trained", 1.0]],
    "twice": [
        ["redrawn", 0.2], ["kmeans", 0.3], ["trained", 0.5], ["kmeans", 0.6], ["trained", 1.0],
    ],
    "thrice": [
        ["redrawn", 0.2], ["kmeans", 0.3], ["trained", 0.4], ["kmeans", 0.5], ["trained", 0.6],
        ["kmeans", 0.7], ["trained", 1.0],
    ],
    "latent": [["latent", 1.0]],
    "latent_late": [["redrawn", 0.5], ["latent", 1.0]],
    "latent_trained": [["latent", 0.7], ["trained", 1.0]],
    "dense": [["dense", 0.5], ["trained", 1.0]],
    "dense_kmeans": [["dense", 0.5], ["kmeans", 0.7], ["trained", 1.0]],
    "dense_long": [["dense", 0.7], ["trained", 1.0]],
    "dense_short": [["dense", 0.3], ["trained", 1.0]],
    "dense_twice": [["dense", 0.3], ["trained", 0.5], ["kmeans", 0.6], ["trained", 1.0]],
}  # fmt: skip
SPREAD = ("early_spread", "kfirst", "dense_spread")  # whose motifs are drawn by k-means++


def entry(name: str) -> dict[str, Any]:
    """The method of this name: baseline, or a schedule, with _bn, _spread or _c0_5 behind it."""
    if name == "baseline":
        return {"bits": 32}
    plain = name.removesuffix("_c0_5").removesuffix("_bn").removesuffix("_spread")
    found: dict[str, Any] = {
        "bits": 32,
        "block_size": 4,
        "capacity": 0.005 if name.endswith("_c0_5") else 0.01,
    }
    found |= {"motifs": SCHEDULES[plain]}
    found |= {"choice": "kmeans++"} if name in SPREAD else {}
    return found | ({"batchnorm": "remeasured"} if name.endswith("_bn") else {})


def split(dataset: Dataset) -> Dataset:
    """Another split of the images that are no test images, of which none is left."""
    both = torch.cat([dataset.train, dataset.validation])
    both = both[torch.randperm(len(both), generator=torch.Generator().manual_seed(SPLIT_SEED))]
    train, validation = both[NUM_VALIDATION:].sort().values, both[:NUM_VALIDATION].sort().values
    return dataset._replace(train=train, validation=validation, test=dataset.test[:0])


def recipe_of(name: str, method: Method) -> Recipe:
    """The study's recipe for this model with another method."""
    model, data = (
        config.load(config.Model, name, path=PROFILE),
        config.load(config.Data, path=PROFILE),
    )
    settings = config.load(config.Train, path=PROFILE).of_model(model)
    device = prepare_device("cpu", settings.num_threads, settings.precision)
    batches = Batches(settings.batch_size, model.image_size, data.mean, data.std, device)
    augmentation = config.load(config.Augment, path=PROFILE)
    return Recipe(
        model=model, loop=settings, augmentation=augmentation, method=method, batches=batches
    )


def train(model: str, name: str, seed: int, dataset: Dataset) -> dict:
    """A row of the table."""
    shared = config.load(config.Mosaic, path=PROFILE)
    method = parse(entry(name), name, {"mosaic": vars(shared)})
    recipe = recipe_of(model, method)
    shape = runs.input_shape(dataset, recipe)
    network = models.build(recipe.model.arch, seed=seed, kwargs=recipe.model.kwargs, **shape)
    method.describe(network)
    start = time.process_time()
    result = loop.train(network, dataset, recipe, seed=seed)
    seconds = time.process_time() - start
    accuracies = [row["val_accuracy"] for row in result.history]
    row = {"model": model, "method": name, "capacity": entry(name).get("capacity"), "seed": seed}
    row |= {"last": f"{accuracies[-1]:.4f}", "best": f"{accuracies[result.best.epoch - 1]:.4f}"}
    return row | {"cpu_seconds": f"{seconds:.1f}"}


def main() -> None:
    parser = argparse.ArgumentParser(description="Train with several schedules of motifs.")
    parser.add_argument("data", type=Path, help="what stage prepare writes")
    parser.add_argument("out", type=Path, help="a CSV, to which rows are added")
    parser.add_argument("--models", nargs="+", default=["mlp", "resnet20", "tiny_vit"])
    parser.add_argument("--methods", nargs="+", default=["baseline", *SCHEDULES])
    parser.add_argument("--seeds", nargs="+", type=int, default=[7, 8, 9])
    args = parser.parse_args()
    dataset = split(load_dataset(args.data))
    is_new = not args.out.exists()
    with args.out.open("a", newline="") as file:
        table = csv.DictWriter(file, COLUMNS)
        if is_new:
            table.writeheader()
        for model in args.models:
            for name in args.methods:
                for seed in args.seeds:
                    table.writerow(train(model, name, seed, dataset))
                    file.flush()


if __name__ == "__main__":
    main()
