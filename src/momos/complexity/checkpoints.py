"""What a checkpoint's weights say by themselves: the LLC's rivals (method B4).

| column         | what it is                                                              |
|----------------|-------------------------------------------------------------------------|
| l2_norm        | Euclidean norm of all weights                                           |
| stable_rank    | Frobenius norm squared / spectral norm squared, the mean over matrices  |
| bdm_1d, bdm_2d | BDM in bits of the weights' signs (method A6)                           |
| planes         | BDM in bits of all bit planes (method A10)                              |
| .._z           | (trained - mean) / deviation over untrained models of the same shape    |
| entropy_bytes  | size under an ideal code of single symbols, of weights that are         |
|                | quantised to bit_depth bits between each tensor's smallest and largest  |
| gzip_bytes, .. | bytes of the float32 weights, compressed                                |

All trainable weights of the model as it is measured elsewhere take part, embeddings included.
"""

import math
from collections.abc import Iterable, Mapping

import numpy as np
import torch
from torch import Tensor, nn

from momos.complexity import bdm, compressors, planes
from momos.config import Rivals

FIRST_SEED = 1_000_000  # of untrained models: no training has it
COMPLEXITIES = ("bdm_1d", "bdm_2d", "planes")


def measure(
    model: nn.Module, untrained: Mapping[str, np.ndarray], settings: Rivals
) -> dict[str, float]:
    """The columns above of one model.

    untrained: of `of_untrained`. Raises ValueError for weights that are not finite, and for ones
    without a matrix that is not zero.
    """
    tensors = _tensors(model)
    squares = sum(float(tensor.double().square().sum()) for tensor in tensors.values())
    row = {"l2_norm": math.sqrt(squares), "stable_rank": stable_rank(tensors)}
    for name, value in complexities(tensors, settings.bit_depth).items():
        fresh = untrained[name]
        row |= {name: value, f"{name}_z": float((value - fresh.mean()) / fresh.std(ddof=1))}
    row["entropy_bytes"] = entropy_bytes(tensors, settings.bit_depth)
    flat = torch.cat([tensor.reshape(-1).float() for tensor in tensors.values()])
    data = flat.cpu().numpy().tobytes()
    sizes = {
        f"{name}_bytes": len(compressors.compress(data, name)) for name in settings.compressors
    }
    return row | sizes


def complexities(tensors: Mapping[str, Tensor], bit_depth: int) -> dict[str, float]:
    """The columns of COMPLEXITIES for weights by name in model order."""
    counts = bdm.BlockCounts((tensor > 0).cpu().numpy() for tensor in tensors.values())
    return {
        "bdm_1d": bdm.complexity(counts.words),
        "bdm_2d": bdm.complexity(counts.squares),
        "planes": float(planes.complexity(tensors, bit_depth, planes.PERCENTILE).sum()),
    }


def stable_rank(tensors: Mapping[str, Tensor]) -> float:
    """Mean over the matrices of ||W||_F^2 / ||W||_2^2, by singular values in float64.

    Raises ValueError for weights without a matrix that is not zero.
    """
    matrices = [tensor.double() for tensor in tensors.values() if tensor.ndim == 2]
    ranks = [
        float(W.square().sum() / torch.linalg.matrix_norm(W, 2) ** 2) for W in matrices if W.any()
    ]
    if not ranks:
        raise ValueError("stable rank needs a matrix that is not zero, got none")
    return float(np.mean(ranks))


def entropy_bytes(tensors: Mapping[str, Tensor], bit_depth: int) -> float:
    """Size in bytes of uniformly quantised weights under an ideal code for each tensor.

    It is the sum of num_weights * H / 8, H the entropy in bits of a tensor's own codes; the codes'
    tables are not counted.
    """
    return sum(_code_bits(tensor, bit_depth) for tensor in tensors.values()) / 8


def _code_bits(tensor: Tensor, bit_depth: int) -> float:
    counts = np.bincount(planes.quantize(tensor.cpu().numpy(), bit_depth).reshape(-1))
    counts = counts[counts > 0]
    return float(-(counts * np.log2(counts / counts.sum())).sum())


def of_untrained(models: Iterable[nn.Module], bit_depth: int) -> dict[str, np.ndarray]:
    """COMPLEXITIES of untrained models of one shape, (num_models,) float64 each."""
    rows = [complexities(_tensors(model), bit_depth) for model in models]
    return {name: np.array([row[name] for row in rows]) for name in COMPLEXITIES}


def untrained_seeds(settings: Rivals) -> range:
    """The seeds of the untrained models that trained weights are compared with."""
    return range(FIRST_SEED, FIRST_SEED + settings.num_initializations)


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    tensors = {name: weight.detach() for name, weight in model.named_parameters()}
    for name, tensor in tensors.items():
        if not torch.isfinite(tensor).all():
            raise ValueError(f"tensor {name} holds NaN or infinite weights")
    return tensors
