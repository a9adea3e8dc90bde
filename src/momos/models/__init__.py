"""Classifiers by name, how they lie in memory, and how well they do."""

from momos.models.classifiers import MLP, TIMM_NAMES, BasicBlock, ResNet20, build, restore

__all__ = ["MLP", "TIMM_NAMES", "BasicBlock", "ResNet20", "build", "restore"]
