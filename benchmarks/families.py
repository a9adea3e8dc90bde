"""What is measured.

A family is one kind of work at several sizes, done by several sides. A job is one ratio out of it.
"""

from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from benchmarks.installed import has_devinterp

RESNET20 = {2: 134_861, 4: 67_431}  # blocks by block size, each tensor cut by itself
LEFT_OUT = (
    "assign_s4",
    "llc_draws_neox",
    "projection_resnet20_s2",
    "step_resnet20",
    "step_tiny_vit",
)  # of a quick run
CAPACITIES = (0.005, 0.01, 0.05, 0.1)  # Table 1's


class Side(NamedTuple):
    """One way to do a family's work.

    case: module.function. warm: one run before the measured ones. up_to: the largest size that
    this side is bearable at.
    """

    case: str
    arguments: dict[str, Any] = {}
    warm: bool = True
    up_to: float = float("inf")


class Point(NamedTuple):
    """size: the place on the figure's axis. items: how many things (images) one run deals with."""

    size: float
    arguments: dict[str, Any]
    items: int = 1


class Job(NamedTuple):
    """The line `name ratio ..`; without a baseline `name value ..`."""

    name: str
    ours: str
    baseline: str | None
    size: float


@dataclass(frozen=True, kw_only=True)
class Family:
    name: str
    axis: str  # what size means
    per: str = ""  # cost per what: image; empty: of the whole run
    sides: dict[str, Side]
    points: list[Point]
    jobs: list[Job] = field(default_factory=list)
    rounds: int = 5
    two_threads: bool = False  # wall time with two threads too, at the jobs' sizes


def families(quick: bool) -> list[Family]:
    """quick: tiny sizes, of families alike only one, and only sides that a job compares."""
    listed = [
        *machine(quick),
        *bdm(quick),
        *planes(quick),
        *assign(quick),
        *projection(quick),
        *codebooks(quick),
        *augmentation(quick),
    ]
    listed += [
        family for model in ("mlp", "resnet20", "tiny_vit") for family in training(model, quick)
    ]
    listed += sampling(quick)
    return (
        [_compared(family) for family in listed if family.name not in LEFT_OUT] if quick else listed
    )


def _compared(family: Family) -> Family:
    named = {side for job in family.jobs for side in (job.ours, job.baseline)}
    return (
        replace(
            family, sides={label: side for label, side in family.sides.items() if label in named}
        )
        if named
        else family
    )


def machine(quick: bool) -> list[Family]:
    kinds = ("float32 MKL", "float32 oneDNN", "bfloat16")
    sizes = (256,) if quick else (512, 1024, 2048)
    megabytes = (64,) if quick else (64, 256)
    return [
        Family(
            name="machine_product",
            axis="Rows and columns of a matrix product",
            sides={kind: Side("machine.product", {"kind": kind}) for kind in kinds},
            points=[Point(size, {"size": size}, items=2 * size**3) for size in sizes],
        ),
        Family(
            name="machine_memory",
            axis="Megabytes copied",
            sides={"copy": Side("machine.copy")},
            points=[Point(size, {"megabytes": size}, items=2 * size * 2**20) for size in megabytes],
        ),
    ]


def augmentation(quick: bool) -> list[Family]:
    sizes = {32: (256, 1024, 4096, 16384), 224: (64, 256, 1024)}
    named = {32: 4096, 224: 256}
    if quick:
        sizes, named = {32: (128,)}, {32: 128}
    return [
        Family(
            name=f"augmentation_{pixels}px",
            axis="Images",
            sides={"ours": Side("ours.augment"), "torchvision on PIL": Side("baselines.augment")},
            points=[
                Point(n, {"images": n, "image_size": pixels, "batch_size": min(n, 128)}, items=n)
                for n in sizes[pixels]
            ],
            per="image",
            jobs=[Job(f"augmentation_{pixels}px", "ours", "torchvision on PIL", named[pixels])],
            rounds=3,
            two_threads=True,
        )
        for pixels in sizes
    ]


def training(model: str, quick: bool) -> list[Family]:
    """An epoch with augmentation, and the optimiser steps alone.

    Tiny-ViT has the steps alone, which are nearly all of its epoch.
    """
    images = {"mlp": 2560, "resnet20": 256, "tiny_vit": 16}[model]
    sizes = {"mlp": (32, 128, 512), "resnet20": (32, 128, 256), "tiny_vit": (4, 16)}[model]
    named = sizes[1]
    if quick:
        images = sizes[0]
        sizes, named = sizes[:1], sizes[0]
    listed = []
    for kind in ("step",) if model == "tiny_vit" else ("step", "train"):
        ours = {
            f"ours {precision}": Side(f"ours.{kind}", {"precision": precision})
            for precision in ("float32", "bf16")
        }
        listed.append(
            Family(
                name=f"{kind}_{model}",
                axis="Images in a batch",
                sides={**ours, "plain loop": Side(f"baselines.{kind}")},
                points=[
                    Point(
                        size, {"model": model, "images": images, "batch_size": size}, items=images
                    )
                    for size in sizes
                ],
                per="image",
                jobs=[
                    Job(f"{kind}_{model}_{side.split()[-1]}", side, "plain loop", named)
                    for side in ours
                ],
                rounds=3 if model == "tiny_vit" or (model, kind) == ("resnet20", "step") else 5,
                two_threads=kind == "train" and not quick,
            )
        )
    return listed


def sampling(quick: bool) -> list[Family]:
    """Draws of the LLC's sampler against the gradients alone, which are its limit.

    devinterp is measured where it is installed.
    """
    num_draws, sizes = (10, (32,)) if quick else (50, (32, 128, 512))
    sides = {"ours": Side("sampling.draws"), "forward and backward": Side("sampling.gradients")}
    jobs = [Job("llc_draw", "ours", "forward and backward", sizes[0] if quick else 512)]
    if has_devinterp(whole=False):
        sides["devinterp's optimiser"] = Side("sampling.devinterp_draws")
        jobs.append(Job("llc_draw_devinterp", "ours", "devinterp's optimiser", jobs[0].size))
    points = [
        Point(size, {"num_draws": num_draws, "batch_size": size}, items=num_draws) for size in sizes
    ]
    listed = [
        Family(
            name="llc_draws",
            axis="Images in a batch",
            per="draw",
            sides=sides,
            points=points,
            jobs=jobs,
            rounds=3,
        ),
        _language_draws(),
    ]
    if has_devinterp(whole=True) and not quick:
        sides = {"ours": Side("sampling.llc"), "devinterp's llc()": Side("sampling.devinterp_llc")}
        points = [Point(size, {"num_draws": 10, "batch_size": size}, items=20) for size in (4, 16)]
        jobs = [Job("llc_devinterp", "ours", "devinterp's llc()", 16)]
        listed.append(
            Family(
                name="llc_whole",
                axis="Sequences in a batch",
                per="draw",
                sides=sides,
                points=points,
                jobs=jobs,
                rounds=2,
            )
        )
    return listed


def _language_draws() -> Family:
    """Draws on a language model, which may cost 1.5 times the gradients; Lanczos steps beside."""
    sides = {
        "ours": Side("sampling.neox_draws"),
        "forward and backward": Side("sampling.neox_gradients"),
        "products with the Hessian": Side("sampling.neox_spectrum"),
    }
    return Family(
        name="llc_draws_neox",
        axis="Draws",
        per="draw",
        sides=sides,
        points=[Point(16, {"num_draws": 16}, items=16)],
        jobs=[
            Job("llc_draw_neox", "ours", "forward and backward", 16),
            Job("llc_spectrum_neox", "products with the Hessian", "forward and backward", 16),
        ],
        rounds=3,
    )


def projection(quick: bool) -> list[Family]:
    """The whole of `project_` on ResNet20 at Table 1's settings."""
    others = {
        name: Side("baselines.project", {"method": name}, warm=False)
        for name in ("brute_force", "expanded")
    }
    listed = []
    for block_size, blocks in RESNET20.items():
        points, jobs = [], []
        for capacity in CAPACITIES[:1] if quick else CAPACITIES:
            size = int(capacity * blocks)
            points.append(
                Point(size, {"model": "resnet20", "block_size": block_size, "capacity": capacity})
            )
            jobs.append(
                Job(
                    f"projection_resnet20_s{block_size}_c{100 * capacity:g}",
                    "ours",
                    "brute_force",
                    size,
                )
            )
        listed.append(
            Family(
                name=f"projection_resnet20_s{block_size}",
                axis=f"Motifs, for {blocks:,} blocks of {block_size}",
                sides={"ours": Side("ours.project"), **others},
                points=points,
                jobs=jobs,
                rounds=2,
            )
        )
    return listed


def codebooks(quick: bool) -> list[Family]:
    """What better mosaics cost, at s=4, C=1 %: the issue's bound for a trained step is 1.3.

    A step with motifs that are trained against a plain step, and k-means before a projection
    against the projection with drawn motifs.
    """
    images = {"mlp": 2560, "resnet20": 256}
    size = 32 if quick else 128
    steps = [
        Family(
            name=f"trained_motifs_{model}",
            axis="Images in a batch",
            sides={
                "trained motifs": Side("ours.trained_motifs"),
                "plain step": Side("ours.step", {"precision": "float32"}),
            },
            points=[Point(size, {"model": model, "images": count, "batch_size": size}, count)],
            per="image",
            jobs=[Job(f"trained_motifs_{model}", "trained motifs", "plain step", size)],
        )
        for model, count in ({"mlp": size} if quick else images).items()
    ]
    drawn = {"model": "resnet20", "block_size": 4, "capacity": 0.01}
    refresh = Family(
        name="kmeans_resnet20_s4",
        axis="Motifs",
        sides={"k-means": Side("ours.project", {"kmeans": True}), "drawn": Side("ours.project")},
        points=[Point(int(0.01 * RESNET20[4]), drawn)],
        jobs=[Job("kmeans_resnet20_s4", "k-means", "drawn", int(0.01 * RESNET20[4]))],
    )
    return [*steps, refresh]


def assign(quick: bool) -> list[Family]:
    """Nearest motifs alone, 10 % of the blocks being motifs."""
    largest = {2: 2_700_000, 4: 1_270_000}
    listed = []
    for block_size, blocks in RESNET20.items():
        sizes = (1_000,) if quick else (1_000, 10_000, blocks, 500_000, largest[block_size])
        sides = {
            "ours": Side("ours.assign"),
            "scipy cKDTree": Side("baselines.nearest", {"method": "scipy_tree"}),
        }
        named = {blocks: "resnet20", largest[block_size]: "large"} | (
            {1_000: "small"} if quick else {}
        )
        listed.append(
            Family(
                name=f"assign_s{block_size}",
                axis=f"Blocks of {block_size}, a tenth as many motifs",
                sides={
                    **sides,
                    "brute force": Side(
                        "baselines.nearest", {"method": "brute_force"}, up_to=30_000
                    ),
                },
                points=[
                    Point(size, {"count": size, "block_size": block_size, "capacity": 0.1})
                    for size in sizes
                ],
                jobs=[
                    Job(f"assign_{named[size]}_s{block_size}", "ours", "scipy cKDTree", size)
                    for size in sizes
                    if size in named
                ],
                rounds=3,
            )
        )
    return listed


def bdm(quick: bool) -> list[Family]:
    sizes = (10_000, 100_000) if quick else (10**4, 10**5, 10**6, 10**7, 10**8)
    names = {10**5: "100k"} if quick else {10**6: "1M", 10**7: "10M"}
    jobs = [Job(f"bdm_{name}", "ours", "pybdm", size) for size, name in names.items()]
    return [
        Family(
            name="bdm",
            axis="Bits",
            sides={
                "ours": Side("ours.bdm"),
                "pybdm": Side("baselines.bdm", warm=False, up_to=10**7),
            },
            points=[Point(size, {"count": size}) for size in sizes],
            jobs=jobs + ([] if quick else [Job("bdm_100M", "ours", None, 10**8)]),
            rounds=3,
        )
    ]


def planes(quick: bool) -> list[Family]:
    """Eight bit planes of one tensor of `size` weights."""
    sizes = (10_000, 40_000) if quick else (10**5, 10**6, 25 * 10**6)
    names = {40_000: "40k"} if quick else {10**6: "1M"}
    jobs = [Job(f"planes_{name}", "ours", "pybdm", size) for size, name in names.items()]
    return [
        Family(
            name="planes",
            axis="Weights, in eight bit planes",
            sides={
                "ours": Side("ours.planes"),
                "pybdm": Side("baselines.planes", warm=False, up_to=10**6),
            },
            points=[Point(size, {"count": size}) for size in sizes],
            jobs=jobs + ([] if quick else [Job("planes_25M", "ours", None, 25 * 10**6)]),
            rounds=3,
        )
    ]
