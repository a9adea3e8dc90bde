"""Weights as blocks and as files."""
