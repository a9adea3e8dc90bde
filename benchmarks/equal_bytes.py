"""Rivals of the mosaics at equal bytes: whole files, three networks, three seeds.

usage: python -m benchmarks.equal_bytes DATA.safetensors RUNS_DIR OUT.csv [--methods qat3 pq ..]

DATA is what stage prepare writes for profile digits, RUNS_DIR its runs: pruning and product
quantisation begin with the baselines there. The study's images, networks, seeds 0 to 2 and
settings; no rival has a setting that was chosen by its results. OUT gets a row per training: bytes
of the smallest whole file, by which coding, test accuracy of the last weights as decoded, in
[0, 1], and CPU seconds of the training, the baseline's not counted.
"""

import argparse
import csv
import dataclasses
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor, nn

from benchmarks.schedules import PROFILE, recipe_of
from momos import config, models
from momos.compute.seeds import generator_for
from momos.files import run_folder
from momos.images.dataset import Dataset, load_dataset
from momos.methods import codebook
from momos.methods.method import Applied, Ingredient, Method, parse
from momos.methods.momos import RECIPES
from momos.methods.mosaic import assign
from momos.methods.tied import Tied
from momos.packing import levels
from momos.packing.runs import accuracies
from momos.training import loop, runs
from momos.training.recipe import Recipe
from momos.weights.blocks import to_blocks, trainable

BLOCK_SIZE, LLOYD_STEPS = 4, 20
COLUMNS = ("model", "method", "seed", "coding", "file_bytes", "test_accuracy", "cpu_seconds")
# Of what is tuned after a baseline: this share of its epochs, and of its learning rate
TUNED_EPOCHS, TUNED_RATE = 0.5, 0.3


@dataclass(frozen=True, kw_only=True)
class Rival(Ingredient):
    """A trained network that is made small and tuned. Shares and counts are of its matrices."""

    keys: ClassVar[tuple[str, ...]] = ()
    family: ClassVar[str] = ""
    name: ClassVar[str] = "Rival"


@dataclass(frozen=True, kw_only=True)
class Pruned(Rival):
    """Of all weights in matrices, those of the smallest magnitude are zero and stay so."""

    share: float

    def apply(self, model: nn.Module, *, arch: str, seed: int) -> Applied:
        return _Masked(matrices(model), self.share)


@dataclass(frozen=True, kw_only=True)
class Clustered(Rival):
    """Product quantisation: each matrix has motifs of its own by k-means, which are trained."""

    most: int  # motifs of a matrix, which has at most one for 16 blocks

    def apply(self, model: nn.Module, *, arch: str, seed: int) -> Applied:
        return _Tied(model, self.most, seed)


def matrices(model: nn.Module) -> list[Tensor]:
    """List the trainable weights that are no vector, in model order."""
    return [weight for weight in trainable(model).values() if weight.ndim > 1]


class _Masked(Applied):
    @torch.no_grad()
    def __init__(self, weights: Sequence[Tensor], share: float) -> None:
        sizes = torch.cat([weight.abs().reshape(-1) for weight in weights])
        bound = sizes.kthvalue(round(share * len(sizes))).values
        self.weights, self.masks = weights, [weight.abs() > bound for weight in weights]
        self.after_step(0)

    @torch.no_grad()
    def after_step(self, num_steps: int) -> None:
        for weight, mask in zip(self.weights, self.masks, strict=True):
            weight.mul_(mask)


class _Tied(Applied):
    is_tied = True

    @torch.no_grad()
    def __init__(self, model: nn.Module, most: int, seed: int) -> None:
        generator = generator_for("motifs", seed)
        weights = list(trainable(model).values())
        self.places = [place for place, weight in enumerate(weights) if weight.ndim > 1]
        found, mosaics, start = [], [], 0
        for weight in matrices(model):
            blocks = to_blocks([weight], BLOCK_SIZE, "tensor")
            count = max(min(most, len(blocks) // 16), 1)
            motifs = codebook.spread(blocks, count, force_zero=False, generator=generator)
            motifs = codebook.lloyd(
                blocks, motifs, force_zero=False, generator=generator, steps=LLOYD_STEPS
            )
            nearest = assign(blocks, motifs)
            weight.copy_(motifs[nearest].view(-1)[: weight.numel()].view(weight.shape))
            found.append(motifs)
            mosaics.append(nearest + start)
            start += count
        mosaic = torch.cat(mosaics)
        motifs = codebook.Codebook(torch.cat(found), torch.bincount(mosaic, minlength=start))
        self.tied = Tied(matrices(model), motifs, mosaic, slicing="tensor")

    def before_update(self, gradients: Sequence[Tensor]) -> None:
        self.tied.average_([gradients[place] for place in self.places])

    def after_step(self, num_steps: int) -> None:
        self.tied.gather_()


BEST = {"bits": 32} | RECIPES["best"]
TRAINED: dict[str, dict] = {
    "qat3": {"bits": 3},
    "qat2": {"bits": 2},
    "momos_best_c2": BEST | {"capacity": 0.02},
    "momos_best_c0_5": BEST | {"capacity": 0.005},
    "momos_best_c0_25": BEST | {"capacity": 0.0025},
    "momos_best_c0_1": BEST | {"capacity": 0.001},
    "momos_best_s8_c1": BEST | {"block_size": 8},
}
TUNED: dict[str, Rival] = {
    "pq128": Clustered(most=128),
    "pq256": Clustered(most=256),
    "pruned90": Pruned(share=0.90),
    "pruned95": Pruned(share=0.95),
}
BLOCKS = {"pq": BLOCK_SIZE, "pruned": 1, "qat": 2}  # that a file looks for, without its own


def train(model: str, name: str, seed: int, dataset: Dataset, runs_dir: Path) -> dict:
    """A row of the table."""
    if name in TUNED:
        method = Method((("bits", 32),), (TUNED[name],))
        network, recipe = _begun(model, method, seed, runs_dir)
    else:
        shared = {
            "mosaic": vars(config.load(config.Mosaic, path=PROFILE)),
            "quantize": vars(config.load(config.Quantize, path=PROFILE)),
        }
        method = parse(TRAINED[name], name, shared)
        recipe = recipe_of(model, method)
        shape = runs.input_shape(dataset, recipe)
        network = models.build(recipe.model.arch, seed=seed, kwargs=recipe.model.kwargs, **shape)
        method.describe(network)
    start = time.process_time()
    loop.train(network, dataset, recipe, seed=seed)
    seconds = time.process_time() - start
    deployed = method.deployed(network, arch=recipe.model.arch)
    reached = partial(accuracies, dataset=dataset, batches=recipe.batches)
    block_size = method.block_size or BLOCKS[name.rstrip("0123456789")]
    smallest = _smallest(deployed, reached, block_size)
    row = {"model": model, "method": name, "seed": seed} | smallest
    return row | {"cpu_seconds": f"{seconds:.1f}"}


def _begun(model: str, method: Method, seed: int, runs_dir: Path) -> tuple[nn.Module, Recipe]:
    """The study's baseline, and the recipe by which it is tuned."""
    recipe = recipe_of(model, method)
    epochs = round(TUNED_EPOCHS * recipe.loop.epochs)
    rate = TUNED_RATE * recipe.model.lr
    recipe = dataclasses.replace(
        recipe,
        loop=dataclasses.replace(recipe.loop, epochs=epochs),
        model=dataclasses.replace(recipe.model, lr=rate),
    )
    folder = runs_dir / model / "baseline" / str(seed)
    about = run_folder.load_run(folder)
    return models.restore(about, run_folder.load_weights(folder, "last")), recipe


def _smallest(
    model: nn.Module, reached: Callable[[nn.Module], dict[str, float]], block_size: int
) -> dict:
    """Of all lossless codings, the smallest whole file."""
    settings = config.load(config.Pack, path=PROFILE)
    rows = levels.ordinary(model, reached, settings.compressors)
    rows += levels.lossless(model, reached, block_size=block_size, slicing="tensor")
    row = min(rows, key=lambda row: row["file_bytes"])
    kept = {key: row[key] for key in ("coding", "file_bytes")}
    return kept | {"test_accuracy": f"{row['test_accuracy']:.6f}"}


def main() -> None:
    parser = argparse.ArgumentParser(description="Train what mosaics are compared with.")
    parser.add_argument("data", type=Path, help="what stage prepare writes")
    parser.add_argument("runs", type=Path, help="the runs of profile digits")
    parser.add_argument("out", type=Path, help="a CSV, to which rows are added")
    parser.add_argument("--models", nargs="+", default=["mlp", "resnet20", "tiny_vit"])
    parser.add_argument("--methods", nargs="+", default=[*TRAINED, *TUNED])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    args = parser.parse_args()
    dataset = load_dataset(args.data)
    is_new = not args.out.exists()
    with args.out.open("a", newline="") as file:
        table = csv.DictWriter(file, COLUMNS)
        if is_new:
            table.writeheader()
        for name in args.methods:
            for model in args.models:
                for seed in args.seeds:
                    table.writerow(train(model, name, seed, dataset, args.runs))
                    file.flush()


if __name__ == "__main__":
    main()
