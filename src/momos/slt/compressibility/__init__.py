"""How far a model can be compressed before its loss rises by eps (singular MDL, Sec. 4.1, App. C).

Four schemes turn a model into a compressed copy and its cost (method B1). Each has a search for its
critical point:

    function     strength, weak to strong       cost                       critical value
    quantized    n_q falls to 3                 log2(n_q) bits per weight  smallest n_q
    factorized   singular values kept, 1 to 1/64  parameters after / before  smallest cost
    noisy        sigma rises                    ||noise|| / ||w||          largest sigma
    pruned       heads kept, all but one to 0   parameters after / before  smallest fraction kept

The critical strength is the strongest one such that it and every weaker one on the scanned grid
stay within L(original) + eps. A scan evaluates a coarse grid from weak to strong, all of it or
num_beyond points past the first one outside eps. Then it bisects between that point and its weaker
neighbour, down to the fine grid. Where the loss is monotone, this is the answer of trying every
strength. Where it is not, points in between may have been passed over, and the answer is the same
or a stronger compression. Returns of the loss that a scan saw are told by
`CriticalPoint.crosses_once`.

`eps` is one tolerance or several: one gives a CriticalPoint; several give a list of them from one
scan, which evaluates a strength once. Each search decides by its own points alone, so that asking
for one more tolerance never changes the answer for another.

Losses are measured on copies in eval mode and without gradients. The given model and the global
random state stay as they are.
"""

from momos.slt.compressibility.factorization import (
    Factors,
    chosen,
    critical_fraction,
    decompose,
    factorized,
    layers_of,
)
from momos.slt.compressibility.noise import KINDS, critical_sigma, noisy
from momos.slt.compressibility.pruning import (
    Head,
    Retrained,
    Retraining,
    Slice,
    attention_heads,
    choose_heads,
    critical_heads,
    pruned,
    retrained,
)
from momos.slt.compressibility.quantization import (
    FRACTIONS,
    THETAS,
    critical_n_q,
    own_n_q,
    quantized,
    to_levels,
)
from momos.slt.compressibility.scan import (
    Compressed,
    CriticalPoint,
    Point,
    StrengthGrid,
    Trial,
    every,
    merged_curve,
    scan,
)

__all__ = [
    "FRACTIONS",
    "KINDS",
    "THETAS",
    "Compressed",
    "CriticalPoint",
    "Factors",
    "Head",
    "Point",
    "Retrained",
    "Retraining",
    "Slice",
    "StrengthGrid",
    "Trial",
    "attention_heads",
    "choose_heads",
    "chosen",
    "critical_fraction",
    "critical_heads",
    "critical_n_q",
    "critical_sigma",
    "decompose",
    "every",
    "factorized",
    "layers_of",
    "merged_curve",
    "noisy",
    "own_n_q",
    "pruned",
    "quantized",
    "retrained",
    "scan",
    "to_levels",
]
