"""Mosaic-of-Motifs and singular MDL: how compressible are the weights of a neural network?

What other code needs is here, and is imported when it is first used:

MoMos, QAT      motifs, or quantised weights, in one's own training loop
project_        motifs into a model, once
assign          the nearest motif of each block
rac             relative algorithmic compression of a mosaic
bdm, bdm_ratio  algorithmic complexity of bits, and of trained against initial weights
pack, unpack    a model as a .momos file, and back
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from momos.complexity.bdm import bdm, bdm_ratio
    from momos.complexity.code_length import rac
    from momos.methods.mosaic import assign, project_
    from momos.own.loop import QAT, MoMos
    from momos.packing import pack, unpack

__all__ = ["QAT", "MoMos", "assign", "bdm", "bdm_ratio", "pack", "project_", "rac", "unpack"]

_MODULES = {
    "MoMos": "momos.own.loop",
    "QAT": "momos.own.loop",
    "assign": "momos.methods.mosaic",
    "bdm": "momos.complexity.bdm",
    "bdm_ratio": "momos.complexity.bdm",
    "pack": "momos.packing",
    "project_": "momos.methods.mosaic",
    "rac": "momos.complexity.code_length",
    "unpack": "momos.packing",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
