"""The old path of `momos.slt.llc`, kept for scripts that use it."""

from typing import Any


def __getattr__(name: str) -> Any:
    from momos.slt.llc import estimator

    return getattr(estimator, name)
