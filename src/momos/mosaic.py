"""The old path of `momos.methods.mosaic` and `momos.weights.blocks.num_motifs`, kept for scripts
that use it.
"""

from typing import Any


def __getattr__(name: str) -> Any:
    from momos.methods import mosaic

    return getattr(mosaic, name)
