"""Mosaic-of-Motifs: pick motifs from the model's own blocks, put the nearest one in each block's
place (Algorithm 1).
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from momos.methods import nearest
from momos.weights.blocks import num_blocks, to_blocks, trainable
from momos.weights.blocks import num_motifs as motifs_for_capacity

REPORTED = 2**16  # weights whose differences are held in float64 at a time


class NotFinite(ValueError):
    """Weights that hold NaN or infinity have no nearest motif."""


class Projection(NamedTuple):
    """What one projection did. Distortion counts real weights alone, never padding (method A3).

    motifs and mosaic stay on the model's device; usage is on the CPU.
    """

    motifs: Tensor  # (num_motifs, block_size)
    mosaic: Tensor  # (num_blocks,) int64: the index of each block's motif
    usage: Tensor  # (num_motifs,) int64: how often each motif is used
    distortion: float  # sum of (w - w_hat)^2
    distortion_per_weight: float
    relative_distortion: float  # ||w - w_hat|| / ||w||; 0 for a model of zeros
    num_changed: int  # weights that differ from before

    @property
    def motifs_used(self) -> int:
        return int((self.usage > 0).sum())


def draw_motifs(
    blocks: Tensor, num_motifs: int, *, force_zero: bool = True, generator: torch.Generator
) -> Tensor:
    """The zero block, if forced, and blocks drawn uniformly without replacement (Algorithm 1, step
    1).

    blocks (num_blocks, block_size) -> (num_motifs, block_size). The draw is made on the CPU, so
    that it is the same on every device. Raises ValueError unless 1 <= num_motifs <= num_blocks.
    """
    if not 1 <= num_motifs <= len(blocks):
        raise ValueError(
            f"num_motifs must be in 1..{len(blocks)} (the number of blocks), got {num_motifs}"
        )
    num_drawn = num_motifs - 1 if force_zero else num_motifs
    drawn = blocks[torch.randperm(len(blocks), generator=generator)[:num_drawn].to(blocks.device)]
    return torch.cat([torch.zeros_like(blocks[:1]), drawn]) if force_zero else drawn


def assign(blocks: Tensor, motifs: Tensor) -> Tensor:
    """Nearest motif of each block in Euclidean distance (Algorithm 1, step 2).

    blocks (num_blocks, block_size), motifs (num_motifs, block_size) -> (num_blocks,) int64, on the
    device of the blocks Exact: the smallest squared distance in float64 by direct differences;
    equal distances: the lowest index. See `momos.methods.nearest`. Raises ValueError for shapes
    that do not match, NotFinite for NaN and infinity.
    """
    if (
        blocks.ndim != 2
        or motifs.ndim != 2
        or blocks.shape[1] != motifs.shape[1]
        or len(motifs) == 0
    ):
        raise ValueError(
            f"expected blocks (n, s) and motifs (k >= 1, s), got {tuple(blocks.shape)} and {tuple(motifs.shape)}"
        )
    single = {blocks.dtype, motifs.dtype} <= {torch.float32, torch.float16, torch.bfloat16}
    dtype = torch.float32 if single else torch.float64
    queries, candidates = blocks.detach().to(dtype), motifs.detach().to(blocks.device, dtype)
    peak = _largest(queries, candidates)
    if not single and peak > 0:  # float64 squares of float32 values neither overflow nor vanish
        queries, candidates = (
            _scaled(values, -math.frexp(peak)[1]) for values in (queries, candidates)
        )
    return nearest.nearest(queries, candidates)


def _largest(blocks: Tensor, motifs: Tensor) -> float:
    """The largest magnitude of all, in one synchronisation. Raises NotFinite."""
    ends = [
        torch.stack(values.aminmax()) if values.numel() else values.new_zeros(2)
        for values in (blocks, motifs)
    ]
    peaks = torch.stack(ends).abs().amax(1).tolist()
    for peak, what in zip(peaks, ("blocks", "motifs"), strict=True):
        if not math.isfinite(peak):
            raise NotFinite(f"{what} hold values that are not finite")
    return max(peaks)


def _scaled(values: Tensor, exponent: int) -> Tensor:
    """values * 2^exponent, which rounds nothing; in two steps, for 2^exponent alone may overflow."""
    return values * 2.0 ** (exponent // 2) * 2.0 ** (exponent - exponent // 2)


@torch.no_grad()
def project_(
    model: nn.Module,
    block_size: int,
    *,
    capacity: float | None = None,
    num_motifs: int | None = None,
    force_zero: bool = True,
    generator: torch.Generator,
    motifs: Tensor | None = None,
    slicing: str = "tensor",
) -> Projection:
    """Project all trainable weights in place onto at most num_motifs distinct blocks (Algorithm 1).

    How many motifs: exactly one of capacity and num_motifs. `motifs` (num_motifs, block_size)
    replaces the draw. A tensor's ragged last block takes part padded with zeros; its padding is
    never written back nor counted. Raises ValueError for a bad block size, capacity or number of
    motifs, NotFinite for weights that hold NaN or infinity.
    """
    weights = list(trainable(model).values())
    blocks = to_blocks(weights, block_size, slicing)
    if motifs is None:
        motifs = draw_motifs(
            blocks,
            _budget(len(blocks), capacity, num_motifs),
            force_zero=force_zero,
            generator=generator,
        )
    motifs = motifs.detach().to(blocks)
    mosaic = assign(blocks, motifs)
    before = _flat(weights)
    _write(motifs.index_select(0, mosaic), weights, slicing)
    return _report(motifs, mosaic, before, _flat(weights))


def _flat(weights: list[Tensor]) -> Tensor:
    """All weights as one vector, where there is float64: MPS has none."""
    flat = torch.cat([weight.reshape(-1) for weight in weights])
    return flat.cpu() if flat.device.type == "mps" else flat


def _write(blocks: Tensor, weights: list[Tensor], slicing: str) -> None:
    """The inverse of `to_blocks`, in place and without a mask over all weights."""
    padding = blocks.shape[1] if slicing == "tensor" else 1
    start = 0
    for weight in weights:
        weight.copy_(blocks.view(-1)[start : start + weight.numel()].view(weight.shape))
        start += -(-weight.numel() // padding) * padding


def _budget(num_blocks: int, capacity: float | None, count: int | None) -> int:
    if (capacity is None) == (count is None):
        raise ValueError(
            f"give exactly one of capacity and num_motifs, got {capacity!r} and {count!r}"
        )
    return count if capacity is None else motifs_for_capacity(num_blocks, capacity)


def _report(motifs: Tensor, mosaic: Tensor, before: Tensor, after: Tensor) -> Projection:
    parts = zip(before.split(REPORTED), after.split(REPORTED), strict=True)
    distortion = sum((old.double() - new.double()).square().sum() for old, new in parts)
    norm = torch.linalg.vector_norm(before, dtype=torch.float64)
    distortion, norm, num_changed = torch.stack(
        [distortion, norm, (before != after).sum()]
    ).tolist()
    return Projection(
        motifs=motifs,
        mosaic=mosaic,
        usage=torch.bincount(mosaic, minlength=len(motifs)).cpu(),
        distortion=distortion,
        distortion_per_weight=distortion / len(before),
        relative_distortion=math.sqrt(distortion) / norm if norm > 0 else 0.0,
        num_changed=int(num_changed),
    )


def describe(
    model: nn.Module,
    block_size: int | None,
    *,
    capacity: float | None,
    num_motifs: int | None,
    force_zero: bool,
    slicing: str,
    projection_every: str | int,
) -> dict[str, str | int | float | bool | None]:
    """What run.json says of a model's mosaic: the settings, num_blocks and num_motifs; all null
    without a block size.

    Raises ValueError as `project_` would, before any training.
    """
    settings = {
        "capacity": capacity,
        "force_zero": force_zero,
        "slicing": slicing,
        "projection_every": projection_every,
    }
    if block_size is None:
        return dict.fromkeys(["block_size", *settings, "num_motifs", "num_blocks"])
    total = num_blocks(
        [weight.numel() for weight in trainable(model).values()], block_size, slicing
    )
    count = _budget(total, capacity, num_motifs)
    if count > total:
        raise ValueError(f"num_motifs must be in 1..{total} (the number of blocks), got {count}")
    return {"block_size": block_size, **settings, "num_motifs": count, "num_blocks": total}
