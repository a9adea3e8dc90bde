"""Fresh weights for a network whose code is not at hand, from its tensors' names and shapes.

`layers` tells the layers of a state dict, `inits` what authors write in the place of PyTorch's
default initialisation, `drawing` draws the weights. No forward pass is needed.
"""

from momos.weights.initial.drawing import buffers, fresh, stream
from momos.weights.initial.inits import INITS
from momos.weights.initial.layers import BARE_KINDS, LAYER_KINDS, Kinds, require_kinds

__all__ = [
    "BARE_KINDS", "INITS", "LAYER_KINDS", "Kinds", "buffers", "fresh", "require_kinds", "stream",
]  # fmt: skip
