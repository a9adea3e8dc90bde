"""Does the form in which weights are stored move their BDM ratio? Behind docs/profiles.md.

usage: python -m benchmarks.layouts MANIFEST OUT.csv

Each network of a manifest (of a training the first checkpoint listed) is measured as it is stored,
with the first two axes of every tensor swapped, and, where it has them, with batch norm folded into
the convolutions before. OUT gets a row per network and form: both ratios, and of folded ones the
number of layers and the share of negative factors. Fresh weights go through the same form.
"""

import csv
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks.runs import paths
from momos.complexity import bdm
from momos.survey.candidates import Candidate, in_manifest
from momos.survey.network import find_network
from momos.weights.files import open_weights
from momos.weights.initial import fresh

SEEDS = range(10)  # of fresh weights
EPS = 1e-5  # of batch norm
MEAN, VARIANCE = "running_mean", "running_var"
COLUMNS = ("name", "form", "num_folded", "share_negative",
           "ratio_1d", "ratio_1d_stored", "ratio_2d", "ratio_2d_stored")  # fmt: skip
Tensors = dict[str, Tensor]


def main(manifest: Path, out: Path) -> None:
    first = {one.series or one.name: one for one in reversed(in_manifest(manifest))}
    rows = [row for one in sorted(first.values(), key=lambda one: one.name) for row in rows_of(one)]
    with out.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def rows_of(network: Candidate) -> Iterator[dict]:
    """A row for each form that a network can have."""
    stored = open_weights(Path(network.file or ""))
    names = find_network(stored, init=network.init, kinds=network.kinds).names
    state = {name: tensor.float() for name, tensor in stored.items()}

    def drawn(tensors: Tensors) -> list[Tensors]:
        return [fresh(tensors, seed, network.init, network.kinds) for seed in SEEDS]

    starts = drawn(state)
    weights = {name: state[name] for name in names}
    plain = ratios(weights, [{name: start[name] for name in names} for start in starts])
    turned = ratios(
        swapped(weights), [swapped({name: start[name] for name in names}) for start in starts]
    )
    yield row(network.name, "swapped", turned, plain)
    merged, factors = folded(state)
    if factors:
        kept = [name for name in merged if name in names or name.endswith(".bias")]
        found = ratios(
            {name: merged[name] for name in kept},
            [{name: start[name] for name in kept} for start in drawn(merged)],
        )
        negative = float((torch.cat(factors) < 0).float().mean())
        about = {"num_folded": len(factors), "share_negative": f"{negative:.4f}"}
        yield row(network.name, "folded", found, plain) | about


def row(name: str, form: str, found: dict, plain: dict) -> dict:
    values = found | {f"{key}_stored": value for key, value in plain.items()}
    return {"name": name, "form": form} | {key: f"{value:.6f}" for key, value in values.items()}


def swapped(tensors: Tensors) -> Tensors:
    """The tensors with their first two axes swapped: Keras' (in, out) for PyTorch's (out, in)."""
    return {
        name: one.transpose(0, 1).contiguous() if one.ndim > 1 else one
        for name, one in tensors.items()
    }


def folded(state: Tensors) -> tuple[Tensors, list[Tensor]]:
    """The state without batch norms that follow a convolution of as many channels; their factors.

    A norm's factor (channels,) scales the convolution's rows; its shift becomes the bias.
    """
    merged, factors = dict(state), []
    last = ""  # the latest convolution
    for name, tensor in state.items():
        if name.endswith(".weight") and tensor.ndim > 2:
            last = name.removesuffix(".weight")
        norm = name.removesuffix(f".{MEAN}")
        has_all = all(f"{norm}.{part}" in state for part in ("weight", "bias", VARIANCE))
        if not (name.endswith(f".{MEAN}") and last and has_all):
            continue
        if len(state[f"{last}.weight"]) != len(tensor):
            continue
        factor = state[f"{norm}.weight"] / torch.sqrt(state[f"{norm}.{VARIANCE}"] + EPS)
        start = state.get(f"{last}.bias", torch.zeros_like(factor))
        shape = (-1, *[1] * (state[f"{last}.weight"].ndim - 1))
        merged[f"{last}.weight"] = state[f"{last}.weight"] * factor.reshape(shape)
        merged[f"{last}.bias"] = state[f"{norm}.bias"] + factor * (start - tensor)
        for part in ("weight", "bias", MEAN, VARIANCE, "num_batches_tracked"):
            merged.pop(f"{norm}.{part}", None)
        factors.append(factor)
        last = ""
    return merged, factors


def ratios(weights: Tensors, starts: list[Tensors]) -> dict[str, float]:
    """1-D and 2-D BDM relative to the mean of fresh weights."""
    end, *begin = [complexities(tensors) for tensors in (weights, *starts)]
    found = end / np.mean(begin, axis=0)
    return dict(zip(("ratio_1d", "ratio_2d"), found.tolist(), strict=True))


def complexities(tensors: Tensors) -> np.ndarray:
    """(1-D, 2-D) BDM of the signs."""
    counts = bdm.BlockCounts((tensor > 0).numpy() for tensor in tensors.values())
    return np.array([bdm.complexity(counts.words), bdm.complexity(counts.squares)])


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(*paths(__doc__, 2))
