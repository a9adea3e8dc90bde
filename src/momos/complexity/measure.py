"""Every complexity measure of one model's weights, as columns of a table.

bdm_1d, bdm_2d: BDM in bits of the weights' signs (1 where weight > 0); with _initial the same of
the initial weights, _ratio the quotient (Eq. 22), _normalized on pybdm's scale of 0 to 1, _shuffled
with the bits permuted within each tensor. gzip, bz2, lzma, zstd: bytes of the float32 weights /
compressed bytes; with _binary the same of the signs, eight to a byte. distinct_blocks: different
blocks of `block_size` weights. Then a column for every file of `momos.metrics`: sparsity, l2_norm,
...
"""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from momos import metrics
from momos.complexity import bdm, compressors
from momos.weights import blocks


def measure(
    tensors: Mapping[str, Tensor],
    initial: Mapping[str, Tensor],
    *,
    block_size: int | None = None,
    slicing: str = "tensor",
    compressors: Sequence[str],
    seed: int,
) -> dict[str, float | int | None]:
    """The columns above for trainable parameters in model order and the same at initialisation, by
    name.

    compressors: names from `momos.complexity.compressors`. seed: of the shuffled control. Without
    block_size, distinct_blocks is None. Raises ValueError for NaN or infinite weights, for other
    names or shapes in `initial`, and for a model that has no complete block of 12 or of 4x4
    weights.
    """
    return {
        **bdm_columns(tensors, initial, seed=seed),
        **_compression(tensors, compressors),
        "distinct_blocks": None
        if block_size is None
        else distinct_blocks(tensors, block_size, slicing),
        **metrics.columns(tensors),
    }


def bdm_columns(
    tensors: Mapping[str, Tensor], initial: Mapping[str, Tensor], *, seed: int
) -> dict[str, float]:
    """The ten BDM columns alone. Arguments and errors as `measure`."""
    check(tensors, initial)
    trained = bdm.BlockCounts(_bits(tensors.values()))
    control = bdm.BlockCounts(bdm.shuffled(_bits(tensors.values()), seed))
    start = bdm.BlockCounts(_bits(initial[name] for name in tensors))
    return {
        **_bdm_family("bdm_1d", trained.words, start.words, control.words),
        **_bdm_family("bdm_2d", trained.squares, start.squares, control.squares),
    }


def model_bdm(tensors: Mapping[str, Tensor]) -> tuple[float, float]:
    """(1-D, 2-D) BDM in bits of one set of weights in model order. Raises ValueError where no block
    is complete.
    """
    counts = bdm.BlockCounts(_bits(tensors.values()))
    return bdm.complexity(counts.words), bdm.complexity(counts.squares)


def distinct_blocks(tensors: Mapping[str, Tensor], block_size: int, slicing: str = "tensor") -> int:
    """Different blocks of block_size weights, cut as `blocks.to_blocks` does, padding included;
    -0.0 equals 0.0.
    """
    cut = (
        blocks.to_blocks(list(tensors.values()), block_size, slicing).float().cpu().contiguous()
        + 0.0
    )  # turns -0.0 into 0.0
    codes = np.zeros(len(cut), dtype=np.int64)
    for column in cut.numpy().view(np.uint32).T:
        # (block so far, next weight) as one 64-bit key, renumbered: both halves fit, as fewer than
        # 2^31 blocks are held
        codes = np.unique(codes << 32 | column, return_inverse=True)[1]
    return int(codes.max()) + 1


def check(tensors: Mapping[str, Tensor], initial: Mapping[str, Tensor]) -> None:
    """Raises ValueError, naming the tensor, unless both hold the same names and shapes and finite
    floating-point weights.
    """
    if not tensors:
        raise ValueError("no tensors to measure")
    if set(tensors) != set(initial):
        different = sorted(set(tensors) ^ set(initial))
        raise ValueError(
            f"trained and initial weights must have the same tensors; only one has {', '.join(different[:5])}"
        )
    for name, tensor in tensors.items():
        if tensor.shape != initial[name].shape:
            shapes = f"{tuple(tensor.shape)} trained, {tuple(initial[name].shape)} initial"
            raise ValueError(
                f"tensor {name} must have the same shape before and after training, got {shapes}"
            )
        _check_finite(name, tensor, "trained")
        _check_finite(name, initial[name], "initial")


def _check_finite(name: str, tensor: Tensor, role: str) -> None:
    if not tensor.is_floating_point():
        raise ValueError(
            f"tensor {name} ({role}) must hold floating-point weights, got {tensor.dtype}"
        )
    if not torch.isfinite(tensor).all():
        raise ValueError(f"tensor {name} ({role}) holds NaN or infinite weights")


def _bits(tensors) -> Iterator[np.ndarray]:
    """Tensors -> bool arrays of the same shapes, true where weight > 0."""
    for tensor in tensors:
        yield (tensor.detach() > 0).cpu().numpy()


def _bdm_family(
    prefix: str, trained: np.ndarray, initial: np.ndarray, control: np.ndarray
) -> dict[str, float]:
    """Block counts -> BDM of the trained weights and what it is read against."""
    value, start = bdm.complexity(trained), bdm.complexity(initial)
    return {
        prefix: value,
        f"{prefix}_initial": start,
        f"{prefix}_ratio": value / start,
        f"{prefix}_normalized": bdm.normalized(trained),
        f"{prefix}_shuffled": bdm.complexity(control),
    }


def _compression(tensors: Mapping[str, Tensor], names: Sequence[str]) -> dict[str, float]:
    """Ratio of each named compressor on float32 weights and on packed signs."""
    weights = _flat(tensors)
    raw, binary = weights.tobytes(), np.packbits(weights > 0).tobytes()
    plain = {name: compressors.ratio(raw, name) for name in names}
    return plain | {f"{name}_binary": compressors.ratio(binary, name) for name in names}


def _flat(tensors: Mapping[str, Tensor]) -> np.ndarray:
    """(num_weights,) float32, in the order given."""
    return np.concatenate(
        [tensor.detach().float().cpu().numpy().reshape(-1) for tensor in tensors.values()]
    )
