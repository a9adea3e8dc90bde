"""A picture of where in a network training made which bit planes simpler (method A10)."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from momos.survey.network import Network

FORMATS = (".png", ".svg", ".pdf")


def require_picture(path: Path) -> None:
    """Raises ValueError for a file name that is none of a picture."""
    if path.suffix.lower() not in FORMATS:
        raise ValueError(f"--layers must end with {', '.join(FORMATS)}, got {path.name!r}")


def layer_ratios(network: "Network", num_init_seeds: int) -> dict[str, np.ndarray]:
    """Tensor -> BDM of its 8 planes relative to the mean over fresh weights, (8,).

    In the file's order, of tensors with a complete 4x4 block; plane 0 comes first. NaN for a plane
    that is empty in fresh weights.
    """
    from momos.complexity import planes

    trained = dict(planes.by_tensor(network.weights(), percentile=planes.PERCENTILE))
    starts = {name: np.zeros(len(own)) for name, own in trained.items()}
    for weights in network.initialisations(range(num_init_seeds)):
        for name, own in planes.by_tensor(weights(), percentile=planes.PERCENTILE):
            starts[name] += own / num_init_seeds
    with np.errstate(invalid="ignore", divide="ignore"):
        ratios = {name: own / starts[name] for name, own in trained.items()}
    return {name: np.where(starts[name] > 0, own, np.nan) for name, own in ratios.items()}


def draw(ratios: Mapping[str, np.ndarray], path: Path) -> None:
    """Save a row a tensor and a column a plane, the most significant first.

    Raises ValueError where no tensor has a complete block.
    """
    from matplotlib.figure import Figure

    if not ratios:
        raise ValueError("--layers: no tensor has a complete block of 4x4 weights")
    rows = np.stack([own[::-1] for own in ratios.values()])
    figure = Figure(figsize=(7.5, 1.6 + 0.22 * len(rows)), layout="constrained")
    ax = figure.subplots()
    image = ax.imshow(rows, cmap="cividis", vmin=0, vmax=max(1.0, np.nanmax(rows)), aspect="auto")
    ax.set_xticks(range(rows.shape[1]), [str(plane) for plane in reversed(range(rows.shape[1]))])
    ax.set_yticks(range(len(rows)), list(ratios), fontsize=8)
    ax.set(xlabel="Bit plane (7: most significant)")
    figure.colorbar(image, label="BDM trained / BDM initial")
    figure.savefig(path, dpi=150)
