"""Singular MDL: compressibility and the local learning coefficient."""
