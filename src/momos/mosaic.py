"""The old path of `momos.methods.mosaic` and of `num_motifs`, kept for scripts that use it."""

from typing import Any


def __getattr__(name: str) -> Any:
    from momos.methods import mosaic
    from momos.weights import blocks

    return getattr(blocks if name == "num_motifs" else mosaic, name)
