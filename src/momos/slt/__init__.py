"""Singular MDL: how far models can be compressed, and their local learning coefficient (LLC)."""
