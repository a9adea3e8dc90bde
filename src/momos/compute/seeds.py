"""Seeded generators: every random draw of the project has its own."""

import hashlib

import torch


def generator_for(purpose: str, seed: int) -> torch.Generator:
    """A CPU generator that depends on the purpose and the run's seed alone, so that one stream
    never shifts another.
    """
    digest = hashlib.sha256(f"{purpose}:{seed}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
