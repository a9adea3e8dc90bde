"""Does the LLC see degeneracy where it is known? A deep linear student of a teacher of low rank.

usage: python -m benchmarks.teacher_student OUT.csv [--seeds 0 1 2]

The student W2 W1 has more hidden units than the teacher has ranks, and its loss on normal inputs,
half the squared distance from the teacher's matrix, can be computed. It is trained by gradient
descent from small and from large initial weights, which reach the same loss at different places. A
row of OUT per training and step: the LLC at NBETA and LOCALIZATION, its quadratic prediction, what
is known, and both papers' other measures. Settings were chosen on seed 7.

Known are two values: of the most singular weights (Aoyagi and Watanabe 2005), where superfluous
units are zero in both layers, and of regular weights of loss zero, half the rank of their Hessian.
"""

import argparse
import csv
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from momos.complexity import checkpoints
from momos.compute.seeds import generator_for
from momos.config import Rivals
from momos.slt.compressibility import critical_n_q
from momos.slt.llc import Spectrum, estimate_llc, predict

INS, HIDDEN, OUTS, RANK = 16, 12, 16, 3
SCALES = {"small": 0.001, "large": 0.4}  # deviations of initial weights
STEPS = (100, 300, 500, 1000, 10_000)
RATE = 0.02
NBETA, LOCALIZATION, STEP_SIZE = 1000.0, 1.0, 1.0e-5
REPLICAS, NUM_BURNIN_STEPS, NUM_DRAWS = 32, 3000, 2000  # independent chains in one model
EPS = 0.03  # of critical n_q, in the loss's unit; the teacher's zero network has RANK / 2
RIVALS = Rivals(num_initializations=20, compressors=("gzip", "lzma"), bit_depth=8)


class Student(nn.Module):
    """W2 W1, a number of replicas side by side: w[0] (replicas, h, i), w[1] (replicas, o, h)."""

    def __init__(self, *weights: Tensor) -> None:
        super().__init__()
        self.w = nn.ParameterList(nn.Parameter(weight.clone()) for weight in weights)

    def replicated(self, number: int) -> "Student":
        """So many copies of the first replica."""
        return Student(*(weight.detach()[:1].expand(number, -1, -1) for weight in self.w))

    def flat(self) -> nn.Module:
        """The first replica as two matrices, for measures of weights."""
        layers = nn.Sequential(
            nn.Linear(INS, HIDDEN, bias=False), nn.Linear(HIDDEN, OUTS, bias=False)
        )
        with torch.no_grad():
            for layer, weight in zip(layers, self.w, strict=True):
                layer.weight.copy_(weight[0])
        return layers


def known_coefficient(ins: int, hidden: int, outs: int, rank: int) -> float:
    """The learning coefficient of reduced-rank regression (Aoyagi and Watanabe 2005).

    hidden: units of the student. rank: of the teacher, at most each of the others.
    """
    if outs + rank > ins + hidden:
        return (hidden * ins - hidden * rank + outs * rank) / 2
    if ins + rank > outs + hidden:
        return (hidden * outs - hidden * rank + ins * rank) / 2
    if hidden + rank > ins + outs:
        return ins * outs / 2
    units = hidden + rank
    whole = 2 * units * (ins + outs) + 2 * ins * outs - units**2 - ins**2 - outs**2
    return (whole + (ins + units + outs) % 2) / 8


def teacher() -> Tensor:
    """(OUTS, INS), the identity on RANK directions, zero elsewhere."""
    matrix = torch.zeros(OUTS, INS)
    matrix[range(RANK), range(RANK)] = 1.0
    return matrix


def loss(model: nn.Module, target: Tensor) -> Tensor:
    """Half the expected squared error on standard normal inputs, summed over replicas."""
    return 0.5 * (torch.bmm(model.w[1], model.w[0]) - target).square().sum()


def initial(scale: float, seed: int) -> Student:
    """Normal weights of this deviation."""
    generator = generator_for("teacher_student", seed)
    shapes = ((1, HIDDEN, INS), (1, OUTS, HIDDEN))
    return Student(*(scale * torch.randn(shape, generator=generator) for shape in shapes))


def dense_spectrum(model: Student, target: Tensor) -> Spectrum:
    """All of the Hessian's eigenvalues, in float64."""
    weights = [weight.detach().double() for weight in model.w]

    def of_flat(flat: Tensor) -> Tensor:
        first, second = flat.split([weight.numel() for weight in weights])
        product = second.view(OUTS, HIDDEN) @ first.view(HIDDEN, INS)
        return 0.5 * (product - target.double()).square().sum()

    at = torch.cat([weight.flatten() for weight in weights]).requires_grad_()
    (gradient,) = torch.autograd.grad(of_flat(at), at)
    values, vectors = torch.linalg.eigh(torch.autograd.functional.hessian(of_flat, at.detach()))
    along = (vectors.T @ gradient).square()
    nodes = values.tolist()
    return Spectrum([sum(nodes)], [nodes], [[1.0] * len(nodes)], nodes, along.tolist())


def measure(model: Student, untrained: dict[str, np.ndarray], seed: int) -> dict[str, Any]:
    """One row's measures of a student with a single replica."""
    target = teacher()
    spectrum = dense_spectrum(model, target)
    found = estimate_llc(
        model.replicated(REPLICAS), loss, [target], lr=STEP_SIZE, nbeta=NBETA,
        localization=LOCALIZATION, num_chains=2, num_draws=NUM_DRAWS,
        num_burnin_steps=NUM_BURNIN_STEPS, sampler="sgld", seed=seed,
    )  # fmt: skip
    predicted = predict(spectrum, nbeta=NBETA, localization=LOCALIZATION)
    flat = model.flat()

    def of_flat(compressed: nn.Module) -> float:
        first, second = (layer.weight[None] for layer in compressed)
        return loss(Student(first, second), target).item()

    critical = critical_n_q(flat, of_flat, EPS)
    return {
        "loss": loss(model, target).item(),
        "llc": found.mean / REPLICAS,
        "llc_std": found.std / REPLICAS,
        "llc_quadratic": predicted.mean,
        "llc_gradient": predicted.gradient_term,
        "half_rank": sum(value > 1e-3 * spectrum.largest for value in spectrum.nodes[0]) / 2,
        "hessian_trace": spectrum.trace.mean,
        "critical_n_q": critical.value if critical.found else None,
    } | checkpoints.measure(flat, untrained, RIVALS)


def rows(scale: str, seed: int) -> list[dict[str, Any]]:
    """Train one student, and measure it at STEPS."""
    fresh = (initial(SCALES[scale], s).flat() for s in checkpoints.untrained_seeds(RIVALS))
    untrained = checkpoints.of_untrained(fresh, RIVALS.bit_depth)
    model, target, found = initial(SCALES[scale], seed), teacher(), []
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE)
    for step in range(1, STEPS[-1] + 1):
        optimizer.zero_grad()
        loss(model, target).backward()
        optimizer.step()
        if step in STEPS:
            about = {"init": scale, "seed": seed, "step": step}
            known = {"known": known_coefficient(INS, HIDDEN, OUTS, RANK)}
            found.append(about | known | measure(model, untrained, seed))
    return found


def main(out: Path, seeds: list[int]) -> None:
    found = [row for key in itertools.product(SCALES, seeds) for row in rows(*key)]
    with out.open("w", newline="") as file:
        writer = csv.DictWriter(file, found[0], lineterminator="\n")
        writer.writeheader()
        for row in found:
            texts = {k: f"{v:.6g}" if isinstance(v, float) else v for k, v in row.items()}
            writer.writerow(texts)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(usage=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    main(arguments.out, arguments.seeds)
