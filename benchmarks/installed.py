"""Which packages that momos does not need are there to be measured against."""

import importlib.util

DEVINTERP = ("devinterp", "datasets", "xarray", "zarr")


def has_devinterp(*, whole: bool) -> bool:
    """Its optimiser; whole: its `llc()`, too, which needs devinterp's dependencies."""
    return all(
        importlib.util.find_spec(name) is not None
        for name in (DEVINTERP if whole else DEVINTERP[:1])
    )
