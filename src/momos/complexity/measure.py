"""Every complexity measure of one model's weights, as columns of a table.

| column                 | what it is                                                              |
|------------------------|-------------------------------------------------------------------------|
| bdm_1d, bdm_2d         | BDM in bits of the weights' signs (1 where weight > 0)                  |
| .._initial             | the same of the initial weights                                         |
| .._ratio               | trained / initial (MoMos, Eq. 22)                                       |
| .._normalized          | on pybdm's scale from 0 to 1                                            |
| .._shuffled            | of the trained signs, permuted within each tensor                       |
| gzip, bz2, ..          | bytes of the float32 weights / compressed bytes, a column a compressor  |
| gzip_binary, ..        | the same of the signs, eight to a byte                                  |
| distinct_blocks        | different blocks of `block_size` weights                                |
| sparsity, l2_norm, ..  | a column for every file of `momos.metrics`                              |
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from momos import metrics
from momos.complexity import bdm, compressors
from momos.weights import blocks


def measure_weights(
    tensors: Mapping[str, Tensor],
    initial: Mapping[str, Tensor],
    *,
    block_size: int | None = None,
    slicing: str = "tensor",
    compressors: Sequence[str],
    seed: int,
) -> dict[str, float | int | None]:
    """Columns of the table above for one model.

    tensors: the trainable parameters by name, in model order, of any floating-point type. initial:
    the same at initialisation, in any order. compressors: names of files in
    `momos.complexity.compressors`. seed: of the shuffled control. distinct_blocks is None without
    a block size.
    Raises ValueError for NaN or infinite weights, for other names or shapes in `initial`, and for
    a model that has no complete block of 12 or of 4x4 weights.
    """
    columns: dict[str, float | int | None] = dict(bdm_columns(tensors, initial, seed=seed))
    columns |= _compression_columns(tensors, compressors)
    columns["distinct_blocks"] = (
        None if block_size is None else distinct_blocks(tensors, block_size, slicing)
    )
    return columns | metrics.columns(tensors)


def bdm_columns(
    tensors: Mapping[str, Tensor], initial: Mapping[str, Tensor], *, seed: int
) -> dict[str, float]:
    """The ten BDM columns alone. Arguments and errors as in `measure_weights`."""
    require_comparable(tensors, initial)
    trained = bdm.BlockCounts(_signs(tensors.values()))
    control = bdm.BlockCounts(bdm.shuffled(_signs(tensors.values()), seed))
    start = bdm.BlockCounts(_signs(initial[name] for name in tensors))
    return {
        **_bdm_columns_of("bdm_1d", trained.words, start.words, control.words),
        **_bdm_columns_of("bdm_2d", trained.squares, start.squares, control.squares),
    }


def model_bdm(tensors: Mapping[str, Tensor]) -> tuple[float, float]:
    """(1-D, 2-D) BDM in bits of one set of weights, by name in model order.

    Raises ValueError where no block is complete.
    """
    counts = bdm.BlockCounts(_signs(tensors.values()))
    return bdm.complexity(counts.words), bdm.complexity(counts.squares)


def distinct_blocks(tensors: Mapping[str, Tensor], block_size: int, slicing: str = "tensor") -> int:
    """Number of different blocks of block_size weights.

    The weights are cut as `blocks.to_blocks` does, padding included. -0.0 equals 0.0.
    """
    cut = blocks.to_blocks(list(tensors.values()), block_size, slicing)
    positive_zeros = cut.float().cpu().contiguous() + 0.0  # the sum turns -0.0 into 0.0
    codes = np.zeros(len(positive_zeros), dtype=np.int64)
    for column in positive_zeros.numpy().view(np.uint32).T:
        # (block so far, next weight) is one 64-bit key, renumbered for the next column. Both
        # halves fit: fewer than 2^31 blocks are held.
        codes = np.unique(codes << 32 | column, return_inverse=True)[1]
    return int(codes.max()) + 1


def require_comparable(tensors: Mapping[str, Tensor], initial: Mapping[str, Tensor]) -> None:
    """Refuse trained and initial weights that can't be compared.

    Raises ValueError, naming the tensor, unless both hold the same names and shapes and finite
    floating-point weights.
    """
    if not tensors:
        raise ValueError("no tensors to measure")
    if set(tensors) != set(initial):
        different = ", ".join(sorted(set(tensors) ^ set(initial))[:5])
        raise ValueError(
            f"trained and initial weights must have the same tensors; only one has {different}"
        )
    for name, tensor in tensors.items():
        if tensor.shape != initial[name].shape:
            shapes = f"{tuple(tensor.shape)} trained, {tuple(initial[name].shape)} initial"
            raise ValueError(
                f"tensor {name} must have the same shape before and after training, got {shapes}"
            )
        _require_finite(name, tensor, "trained")
        _require_finite(name, initial[name], "initial")


def _require_finite(name: str, tensor: Tensor, role: str) -> None:
    if not tensor.is_floating_point():
        raise ValueError(
            f"tensor {name} ({role}) must hold floating-point weights, got {tensor.dtype}"
        )
    if not torch.isfinite(tensor).all():
        raise ValueError(f"tensor {name} ({role}) holds NaN or infinite weights")


def _signs(tensors: Iterable[Tensor]) -> Iterator[np.ndarray]:
    """Tensors -> bool arrays of the same shapes, true where weight > 0."""
    for tensor in tensors:
        yield (tensor.detach() > 0).cpu().numpy()


def _bdm_columns_of(
    prefix: str, trained: np.ndarray, initial: np.ndarray, control: np.ndarray
) -> dict[str, float]:
    """Block counts -> BDM of the trained weights, and the values that it is read against."""
    value, start = bdm.complexity(trained), bdm.complexity(initial)
    return {
        prefix: value,
        f"{prefix}_initial": start,
        f"{prefix}_ratio": value / start,
        f"{prefix}_normalized": bdm.normalized(trained),
        f"{prefix}_shuffled": bdm.complexity(control),
    }


def _compression_columns(tensors: Mapping[str, Tensor], names: Sequence[str]) -> dict[str, float]:
    """Ratio of each named compressor, on float32 weights and on packed signs."""
    weights = _flat(tensors)
    raw, binary = weights.tobytes(), np.packbits(weights > 0).tobytes()
    plain = {name: compressors.ratio(raw, name) for name in names}
    return plain | {f"{name}_binary": compressors.ratio(binary, name) for name in names}


def _flat(tensors: Mapping[str, Tensor]) -> np.ndarray:
    """(num_weights,) float32, in the order given."""
    pieces = [tensor.detach().float().cpu().numpy().reshape(-1) for tensor in tensors.values()]
    return np.concatenate(pieces)
