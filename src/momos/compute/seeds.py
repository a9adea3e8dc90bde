"""Seeded generators: every random draw of the project has a generator of its own."""

import hashlib

import torch


def generator_for(purpose: str, *numbers: int) -> torch.Generator:
    """A CPU generator whose stream depends on the purpose and the numbers alone.

    numbers: the run's seed, and where one purpose needs several streams, the number of each.
    An additional draw for one purpose thus never shifts the draws of another.
    """
    return torch.Generator().manual_seed(seed_for(purpose, *numbers))


def seed_for(purpose: str, *numbers: int) -> int:
    """The seed of `generator_for`, for generators on other devices and for global states.

    It is the first 56 bits of SHA-256 of "purpose:number:number..", so at least 0.
    """
    text = ":".join([purpose, *map(str, numbers)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:7], "big")
