"""Image classifiers by name, their layout in memory, and their evaluation."""

from momos.models.classifiers import (
    MLP,
    TIMM_NAMES,
    BasicBlock,
    ResNet20,
    build,
    check_forward,
    restore,
)

__all__ = ["MLP", "TIMM_NAMES", "BasicBlock", "ResNet20", "build", "check_forward", "restore"]
