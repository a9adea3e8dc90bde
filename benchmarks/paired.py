"""Does the fast path train as well as the plain one?

usage: python -m benchmarks.paired DATA.safetensors OUT.csv [--epochs 20] [--seeds 0 1 2]

Both train the paper's MLP on the same images in the same order with the same draws of augmentation.
The plain path goes image by image through PIL, with torch's own linear layers and optimiser. OUT
has the training loss, validation loss and accuracy of both by seed and epoch. Printed are the
paired differences of the last epoch's validation accuracy and of the test accuracy, with 95 % t
intervals.
"""

import argparse
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pandas as pd
import torch
from scipy import stats
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from oracles.plain_augmentation import plain  # noqa: E402

from momos import config, models
from momos.compute.device import prepare_device
from momos.compute.seeds import generator_for
from momos.images.dataset import Dataset, load_dataset
from momos.images.draws import Draws, draw
from momos.images.inputs import Batches
from momos.models.evaluate import loss_and_accuracy, test_accuracy
from momos.training.loop import train
from momos.training.recipe import Recipe

PROFILE = Path(__file__).parents[1] / "profiles" / "cifar10.yaml"


def settings(kind: type, name: str | None = None):
    return config.load(kind, name, path=PROFILE)


def fast(dataset: Dataset, seed: int, epochs: int) -> Iterator[dict]:
    network, rows = build(seed), []
    train(network, dataset, recipe(epochs), seed=seed, on_epoch=rows.append)
    for row in rows:
        yield {key: row[key] for key in ("epoch", "train_loss", "val_loss", "val_accuracy")}
    yield {"epoch": epochs, "test_accuracy": accuracy(network, dataset)}


def plainly(dataset: Dataset, seed: int, epochs: int) -> Iterator[dict]:
    network, about = build(seed), settings(config.Model, "mlp")
    changes, inputs = settings(config.Augment), batches()
    optimizer = torch.optim.AdamW(
        network.parameters(), lr=about.lr, weight_decay=about.weight_decay, foreach=False
    )
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=epochs)
    order, chance = generator_for("order", seed), generator_for("augment", seed)
    mean, std = (torch.tensor(values)[:, None, None] for values in (inputs.mean, inputs.std))
    for epoch in range(1, epochs + 1):
        network.train()
        indices = dataset.train[torch.randperm(len(dataset.train), generator=order)]
        options = {
            "flip": changes.flip,
            "crop_padding": changes.crop_padding,
            "rand_augment_ops": changes.rand_augment_ops,
        }
        draws = draw(len(indices), generator=chance, **options)
        total = 0.0
        for positions in torch.arange(len(indices)).split(inputs.size):
            chosen = indices[positions]
            images = torch.stack(
                [
                    one(dataset.images[i], draws, n, changes)
                    for n, i in zip(positions.tolist(), chosen, strict=True)
                ]
            )
            loss = nn.functional.cross_entropy(
                network((images / 255 - mean) / std), dataset.labels[chosen]
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.item() * len(chosen)
        schedule.step()
        val_loss, val_accuracy = loss_and_accuracy(
            network, dataset.images[dataset.validation], dataset.labels[dataset.validation], inputs
        )
        yield {
            "epoch": epoch,
            "train_loss": total / len(indices),
            "val_loss": val_loss,
            "val_accuracy": val_accuracy,
        }
    yield {"epoch": epochs, "test_accuracy": accuracy(network, dataset)}


def one(image: Tensor, draws: Draws, position: int, changes: config.Augment) -> Tensor:
    return plain(
        image,
        draws,
        position,
        crop_padding=changes.crop_padding,
        image_size=32,
        magnitude=changes.rand_augment_magnitude,
    )


def build(seed: int) -> nn.Module:
    return models.build("mlp", 10, seed=seed, kwargs=settings(config.Model, "mlp").kwargs)


def batches() -> Batches:
    data, size = settings(config.Data), settings(config.Train).batch_size
    return Batches(size, 32, data.mean, data.std, torch.device("cpu"))


def recipe(epochs: int) -> Recipe:
    """The paper's, on the CPU, with another number of epochs and to their end."""
    changes = {"epochs": epochs, "patience": None, "device": "cpu"}
    return Recipe(
        model=settings(config.Model, "mlp"),
        loop=replace(settings(config.Train), **changes),
        augmentation=settings(config.Augment),
        method=config.load_method("baseline", path=PROFILE),
        batches=batches(),
    )


def accuracy(network: nn.Module, dataset: Dataset) -> float:
    return test_accuracy(network, dataset, batches())


def interval(differences: pd.Series) -> str:
    half = (
        stats.t.ppf(0.975, len(differences) - 1) * differences.std(ddof=1) / len(differences) ** 0.5
    )
    mean, low, high = (
        100 * value
        for value in (differences.mean(), differences.mean() - half, differences.mean() + half)
    )
    return f"{mean:+.2f} points, 95 % interval {low:+.2f} to {high:+.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Train the MLP by the plain and the fast path on the same draws."
    )
    parser.add_argument("data", type=Path, help="what stage prepare writes")
    parser.add_argument("out", type=Path, help="a CSV: path, seed, epoch, losses and accuracies")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    arguments = parser.parse_args()
    prepare_device("cpu", 1)
    dataset, rows = load_dataset(arguments.data), []
    for seed in arguments.seeds:
        for name, path in (("fast", fast), ("plain", plainly)):
            rows += [
                {"path": name, "seed": seed} | row for row in path(dataset, seed, arguments.epochs)
            ]
            pd.DataFrame(rows).to_csv(arguments.out, index=False)
    table = pd.DataFrame(rows)
    for metric, last in (
        ("val_accuracy", table[table.epoch == arguments.epochs]),
        ("test_accuracy", table),
    ):
        by_path = last.dropna(subset=metric).pivot(index="seed", columns="path", values=metric)
        fast_mean, plain_mean = 100 * by_path.fast.mean(), 100 * by_path.plain.mean()
        print(
            f"{metric}: fast {fast_mean:.2f} %, plain {plain_mean:.2f} %, "
            f"fast - plain {interval(by_path.fast - by_path.plain)} (n = {len(by_path)})"
        )


if __name__ == "__main__":
    main()
