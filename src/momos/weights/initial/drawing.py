"""Drawing fresh weights, layer by layer.

Networks made of torch.nn's own layers get the very numbers that torch draws from the same seed, if
their file has the tensors in model order.
"""

import math
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Generator, Tensor, nn

from momos.weights.initial.inits import WEIGHT, Rule, rules_of
from momos.weights.initial.layers import PROJECTIONS, Kinds, Layer, Shape, find_layers

Layout = Mapping[str, Tensor | Sequence[int]]  # name -> tensor, or its shape
SMALL = 0.02  # standard deviation of tokens and position embeddings
DRAWN = ("parameter", "parameter_small")


def fresh(
    tensors: Layout, seed: int, init: str = "default", kinds: Kinds = ()
) -> dict[str, Tensor]:
    """Freshly initialised weights for a state dict (MoMos, Eq. 22: the ratio's denominator).

    tensors: name -> tensor, or its shape, in model order. Values are not read. init: one of INITS,
    what the authors wrote in the place of PyTorch's defaults. kinds: pairs of a regular expression
    and a kind, for what names and shapes can't tell (`layers.find_layers`).
    Returns the weights by name, in the order given, with the tensors' dtypes (float32 for a shape)
    on the CPU. Buffers are left out: `buffers` names them. The values depend on the layout, the
    seed, init and kinds alone.
    Raises ValueError for a tensor of which nothing is known, with the row of kinds that would
    settle it, for integer weights, and for unknown kinds and initialisations.
    """
    return dict(stream(tensors, seed, init, kinds))


def stream(
    tensors: Layout, seed: int, init: str = "default", kinds: Kinds = ()
) -> Iterator[tuple[str, Tensor]]:
    """The pairs of `fresh`, one after the other: at most a layer's tensors are held at a time.

    Arguments and errors as there. The errors come before the first pair.
    """
    layout = {name: _shape(name, value) for name, value in tensors.items()}
    dtypes = {name: _dtype(value) for name, value in tensors.items()}
    found, rules = find_layers(layout, kinds), rules_of(init)
    for layer in found.layers:
        _require_floats(layer, dtypes)
    left_out = set(found.buffers)
    names = [name for name in layout if name not in left_out]
    return _in_order(names, found.layers, rules, dtypes, Generator().manual_seed(seed))


def buffers(tensors: Layout, kinds: Kinds = ()) -> list[str]:
    """Names of the tensors that are no weights. Errors as in `fresh`."""
    layout = {name: _shape(name, value) for name, value in tensors.items()}
    return find_layers(layout, kinds).buffers


def _shape(name: str, value: Tensor | Sequence[int]) -> Shape:
    """Raises ValueError for a tensor without elements."""
    shape = tuple(value.shape) if isinstance(value, Tensor) else tuple(value)
    if 0 in shape:
        raise ValueError(f"tensor {name} of shape {shape} is empty, expected weights")
    return shape


def _dtype(value: Tensor | Sequence[int]) -> torch.dtype:
    return value.dtype if isinstance(value, Tensor) else torch.float32


def _require_floats(layer: Layer, dtypes: Mapping[str, torch.dtype]) -> None:
    for name in layer.tensors.values():
        if not dtypes[name].is_floating_point:
            raise ValueError(f"tensor {name} is {dtypes[name]}, expected floating-point weights")


def _in_order(
    names: Sequence[str],
    layers: Sequence[Layer],
    rules: Sequence[Rule],
    dtypes: Mapping[str, torch.dtype],
    generator: Generator,
) -> Iterator[tuple[str, Tensor]]:
    """Each tensor in the order of names. Layers are drawn in their own order."""
    attention = {layer.owner for layer in layers if layer.kind == "attention"}
    projections = {f"{owner}.out_proj" if owner else "out_proj" for owner in attention}
    drawn: dict[str, Tensor] = {}
    waiting = iter(_projections_first(layers, projections))
    for name in names:
        while name not in drawn:
            layer = next(waiting)
            drawn |= _filled(layer, rules, generator, zero_bias=layer.owner in projections)
        yield name, drawn.pop(name).to(dtypes[name])


def _projections_first(layers: Sequence[Layer], projections: set[str]) -> list[Layer]:
    """torch draws an attention's output before its inputs."""
    ordered = list(layers)
    for place, layer in enumerate(layers[:-1]):
        if layer.kind == "attention" and layers[place + 1].owner in projections:
            ordered[place : place + 2] = [layers[place + 1], layer]
    return ordered


def _filled(
    layer: Layer, rules: Sequence[Rule], generator: Generator, *, zero_bias: bool
) -> dict[str, Tensor]:
    """The tensors of one layer, by their whole names. The weight comes first, its norm last."""
    leaves = sorted(layer.tensors, key=_turn)
    tensors = {leaf: torch.empty(layer.shapes[leaf]) for leaf in leaves}
    for leaf, tensor in tensors.items():
        matching = (rule for rule in reversed(rules) if rule.matches(layer.kind, leaf, tensor.ndim))
        rule = next(matching, None)
        if rule is not None:
            rule.fill(tensor, generator)
        elif leaf == "weight_g" and "weight_v" in tensors:
            _fill_norms_(tensor, tensors["weight_v"])
        else:
            _fill_by_default_(layer, leaf, tensor, generator)
            if zero_bias and leaf == "bias":  # torch draws it all the same
                tensor.zero_()
    return {layer.tensors[leaf]: tensor for leaf, tensor in tensors.items()}


def _turn(leaf: str) -> int:
    """Weights before biases, whatever the file's order; a recurrent layer's stay as they are."""
    if leaf in ("weight", "weight_v", "weight_orig"):
        return 0
    return 2 if leaf == "weight_g" else 1


def _fill_norms_(norms: Tensor, weight: Tensor) -> None:
    """Norms of the weight over all axes that the tensor has not (weight norm)."""
    axes = [axis for axis in range(weight.ndim) if norms.shape[axis] == 1]
    norms.copy_(torch.linalg.vector_norm(weight, dim=axes, keepdim=True))


def _fill_by_default_(layer: Layer, leaf: str, tensor: Tensor, generator: Generator) -> None:
    """Fill a tensor as torch.nn's layer of this kind does."""
    kind = layer.kind
    if kind in ("linear", "conv", "transposed"):
        _fill_affine_(layer, leaf, tensor, generator)
    elif kind in ("norm", "rmsnorm", "batchnorm", "parameter_one", "parameter_zero"):
        tensor.fill_(0.0 if leaf in ("bias", "beta") or kind == "parameter_zero" else 1.0)
    elif kind == "prelu":
        tensor.fill_(0.25)
    elif kind == "embedding" or kind in DRAWN:
        tensor.normal_(0, SMALL if kind == "parameter_small" else 1, generator=generator)
    elif kind == "parameter_uniform":  # its scale is nothing that BDM or planes read
        tensor.uniform_(-1, 1, generator=generator)
    elif kind == "attention":
        _fill_attention_(leaf, tensor, generator)
    else:  # recurrent
        bound = 1 / math.sqrt(_hidden_size(layer))
        tensor.uniform_(-bound, bound, generator=generator)


def _fill_affine_(layer: Layer, leaf: str, tensor: Tensor, generator: Generator) -> None:
    """A linear layer or a convolution: within 1 / sqrt(fan in), weight and bias."""
    weight = next(layer.shapes[name] for name in WEIGHT.split("|") if name in layer.shapes)
    turned = _is_turned(layer, weight)
    if leaf != "bias" and not turned:
        nn.init.kaiming_uniform_(tensor, a=math.sqrt(5), generator=generator)
        return
    bound = 1 / math.sqrt(weight[0] if turned else math.prod(weight[1:]))
    tensor.uniform_(-bound, bound, generator=generator)


def _is_turned(layer: Layer, weight: Shape) -> bool:
    """Whether a linear weight is (inputs, outputs), as in GPT-2's Conv1D: the bias says it."""
    if len(weight) != 2 or weight[0] == weight[1]:
        return False
    return layer.shapes.get("bias") == (weight[1],)


def _fill_attention_(leaf: str, tensor: Tensor, generator: Generator) -> None:
    if leaf in PROJECTIONS:
        nn.init.xavier_uniform_(tensor, generator=generator)
    elif leaf in ("bias_k", "bias_v"):
        nn.init.xavier_normal_(tensor, generator=generator)
    else:
        tensor.zero_()


def _hidden_size(layer: Layer) -> int:
    """Of a recurrent layer: weight_hh is (gates * hidden, hidden), or (.., projected)."""
    for leaf, shape in layer.shapes.items():
        if leaf.startswith("weight_hr"):
            return shape[-1]
    hidden = [shape[-1] for leaf, shape in layer.shapes.items() if leaf.startswith("weight_hh")]
    if not hidden:
        first = next(iter(layer.tensors.values()))
        raise ValueError(f"tensor {first}: a recurrent layer must have a weight_hh, got none")
    return hidden[0]
