"""General-purpose compressors as a measure of regularity: raw bytes / compressed bytes.

A compressor is a file of this folder. Its name may then stand in the lists `evaluate.compressors`,
`pack.compressors` and `survey.compressors` of params.yaml. Such a file has two functions:

    def compress(data: bytes) -> bytes    the whole compressed form, readable by the tool itself
    def stream() -> Stream                the same for data that arrive in pieces

Both fix every setting, so that the same data give the same bytes on every machine. A compressor is
imported when it is first used: who names two compressors depends on no third.
"""

import importlib
import pkgutil
from typing import Protocol, cast


class Stream(Protocol):
    """An object that compresses pieces. The parts that it returns, joined, are the whole."""

    def compress(self, data: bytes | memoryview, /) -> bytes: ...

    def flush(self) -> bytes: ...


class Compressor(Protocol):
    """What a file of this folder offers."""

    def compress(self, data: bytes) -> bytes: ...

    def stream(self) -> Stream: ...


def names() -> list[str]:
    """Names of the files in this folder, sorted. None of them is imported."""
    found = [module.name for module in pkgutil.iter_modules(__path__)]
    return sorted(name for name in found if not name.startswith("_"))


def load(name: str) -> Compressor:
    """The module of one compressor. Raises ValueError, listing the known ones, for another name."""
    if name not in names():
        raise ValueError(f"unknown compressor {name!r}; expected one of {', '.join(names())}")
    return cast(Compressor, importlib.import_module(f"{__name__}.{name}"))


def compress(data: bytes, name: str) -> bytes:
    """The compressed form of `data`. Raises ValueError for an unknown compressor."""
    return load(name).compress(data)


def ratio(data: bytes, name: str) -> float:
    """len(data) / len(compressed). Raises ValueError for an unknown compressor and empty data."""
    compressor = load(name)
    if not data:
        raise ValueError(f"{name}: no data to compress")
    return len(data) / len(compressor.compress(data))
