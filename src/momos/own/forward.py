"""Layers whose forward pass sees quantised weights, in a model that is called in any way.

A layer's class is replaced by one derived from it, in which the weight is a property: reading it
quantises the parameter, with a straight-through gradient (method A4). Names, `parameters()` and
`state_dict()` stay those of the model, with the latent weights. Copies and pickles of a
layer do the same as the layer.
"""

import functools
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn.utils import parametrize

from momos.methods.quantize import fake_quantize

ORIGINAL = "_momos_original"  # attribute of a derived class: the class that it replaces


def quantize_(model: nn.Module, names: Sequence[str], bits: int) -> None:
    """Let the model see these of its weights quantised, wherever they are used (tied ones, too).

    names: as `named_parameters` has them. Raises ValueError for a model that is quantised already,
    for none of its weights, and naming what can't be: a recurrent layer, which keeps its weights in
    a list of its own, and one whose weight is computed from others (torch's parametrizations).
    """
    if not names:
        raise ValueError("the model has no weights to quantise, expected some that are no biases")
    weights = dict(model.named_parameters())
    chosen = {id(weights[name]) for name in names}
    places: list[tuple[nn.Module, tuple[str, ...]]] = []
    for path, module in model.named_modules():
        own = tuple(key for key, weight in module._parameters.items() if id(weight) in chosen)
        if hasattr(type(module), ORIGINAL):
            raise ValueError(f"{path or 'the model'} sees quantised weights already: remove() them")
        kind = f"{path or 'the model'} is a {type(module).__name__}"
        if parametrize.is_parametrized(module):
            raise ValueError(f"{kind}: remove its parametrizations before weights are quantised")
        if own and isinstance(module, nn.RNNBase):
            raise ValueError(f"{kind}, whose weights can't be quantised in the forward pass")
        if own:
            places.append((module, own))
    for module, own in places:
        layer_kind: Any = type(module)
        module.__class__ = _derived(layer_kind, own, bits)


def restore_(model: nn.Module) -> None:
    """Let the model see its weights as they are."""
    for module in model.modules():
        module.__class__ = getattr(type(module), ORIGINAL, type(module))


@functools.cache
def _derived(kind: Any, names: tuple[str, ...], bits: int) -> Any:
    """The class of layers like `kind` that quantise their weights of these names when read."""

    def quantized(name: str) -> property:
        def read(module: nn.Module) -> Tensor | None:
            weight = module._parameters[name]
            return None if weight is None else fake_quantize(weight, bits)

        return property(read)

    def reduce(module: nn.Module, protocol: object) -> tuple[Any, ...]:
        return _empty, (kind, names, bits), module.__getstate__()

    members: dict[str, Any] = {name: quantized(name) for name in names}
    members |= {ORIGINAL: kind, "__module__": kind.__module__, "__reduce_ex__": reduce}
    return type(kind.__name__, (kind,), members)


def _empty(kind: Any, names: tuple[str, ...], bits: int) -> nn.Module:
    """Return a layer without its state, which copying and unpickling then set."""
    derived = _derived(kind, names, bits)
    return derived.__new__(derived)
