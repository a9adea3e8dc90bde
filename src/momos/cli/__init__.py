"""The `momos` command: the pipeline's measures and its file format, for anyone's own weights.

momos measure model.safetensors --arch resnet20
momos pack runs/digits/resnet20/momos_s2_c1/0 model.momos --level entropy
"""

from momos.cli.main import main

__all__ = ["main"]
