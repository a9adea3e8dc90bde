"""Mosaic-of-Motifs and singular MDL: why neural networks are compressible, and how simple their
weights can be made.
"""
