"""The old path of `momos.slt.compressibility`, kept for scripts that use it."""

from typing import Any


def __getattr__(name: str) -> Any:
    from momos.slt import compressibility

    return getattr(compressibility, name)
