"""What authors write in the place of PyTorch's default initialisation, by name.

An initialisation is a list of rules. A rule names layers, the last part of a tensor's name, and
what the tensor is filled with. The last rule that matches counts; without one the layer keeps
PyTorch's default. For the signs of weights only one thing matters: which tensors start as
constants, and which at random.
"""

import functools
import math
import re
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Generator, Tensor, nn

Fill = Callable[[Tensor, Generator], object]  # fills the tensor in place
CONV = ("conv", "transposed")
MATRICES = (*CONV, "linear")
NORMS = ("norm", "rmsnorm", "batchnorm")
BARE = ("parameter", "parameter_small", "parameter_uniform", "parameter_zero", "parameter_one")
WEIGHT = r"weight|weight_v|weight_orig"


class Rule(NamedTuple):
    """Tensors, and what they are filled with.

    kinds: of layers, () for all. leaf: regular expression for the last part of a tensor's name.
    min_axes: of the tensor.
    """

    kinds: tuple[str, ...]
    leaf: str
    fill: Fill
    min_axes: int = 0

    def matches(self, kind: str, leaf: str, num_axes: int) -> bool:
        right_kind = not self.kinds or kind in self.kinds
        return right_kind and num_axes >= self.min_axes and bool(re.fullmatch(self.leaf, leaf))


# --- fills


def constant(value: float) -> Fill:
    return lambda tensor, generator: tensor.fill_(value)


def normal(std: float, mean: float = 0.0) -> Fill:
    return lambda tensor, generator: tensor.normal_(mean, std, generator=generator)


def uniform(bound: float) -> Fill:
    return lambda tensor, generator: tensor.uniform_(-bound, bound, generator=generator)


def truncated(std: float, bound: float = 2.0) -> Fill:
    """A normal distribution between -bound and bound."""
    return lambda tensor, generator: nn.init.trunc_normal_(
        tensor, 0.0, std, -bound, bound, generator=generator
    )


def kaiming_normal(mode: str = "fan_in") -> Fill:
    return functools.partial(_kaiming, nn.init.kaiming_normal_, mode)


def kaiming_uniform(mode: str = "fan_in") -> Fill:
    return functools.partial(_kaiming, nn.init.kaiming_uniform_, mode)


def _kaiming(init: Callable, mode: str, tensor: Tensor, generator: Generator) -> Tensor:
    return init(tensor, mode=mode, nonlinearity="relu", generator=generator)


def xavier_uniform(tensor: Tensor, generator: Generator) -> Tensor:
    return nn.init.xavier_uniform_(tensor, generator=generator)


def xavier_normal(tensor: Tensor, generator: Generator) -> Tensor:
    return nn.init.xavier_normal_(tensor, generator=generator)


def orthogonal(gain: float = 1.0) -> Fill:
    return lambda tensor, generator: nn.init.orthogonal_(tensor, gain, generator=generator)


def he_fan_out(tensor: Tensor, generator: Generator) -> Tensor:
    """A normal distribution by output channels times the size of the kernel, as in early ResNets.

    Groups are not counted.
    """
    std = math.sqrt(2 / (tensor.shape[0] * math.prod(tensor.shape[2:])))
    return tensor.normal_(0, std, generator=generator)


def uniform_by_outputs(tensor: Tensor, generator: Generator) -> Tensor:
    bound = 1 / math.sqrt(tensor.shape[0])
    return tensor.uniform_(-bound, bound, generator=generator)


def clamped_norm(tensor: Tensor, generator: Generator) -> Tensor:
    """The norms' weights of DnCNN: small, of both signs."""
    tensor.normal_(0, math.sqrt(2 / 9 / 64), generator=generator)
    return tensor.clamp_(-0.025, 0.025)


def log_of_places(tensor: Tensor, generator: Generator) -> Tensor:
    """log(1), log(2) .. in each row: the state matrix of Mamba."""
    return tensor.copy_(torch.arange(1, tensor.shape[-1] + 1.0).log().expand_as(tensor))


# --- initialisations


def _weights(kinds: tuple[str, ...], fill: Fill, bias: float | None = None) -> tuple[Rule, ...]:
    """Rules for the weights of these layers, and for their biases unless they keep the default."""
    rules = (Rule(kinds, WEIGHT, fill),)
    return rules if bias is None else (*rules, Rule(kinds, "bias", constant(bias)))


ZERO, ONE = constant(0.0), constant(1.0)
_GPT = _weights(("linear", "embedding"), normal(0.02), 0.0)

INITS: dict[str, tuple[Rule, ...]] = {
    "default": (),
    # what has been named in general
    "kaiming_normal": _weights(MATRICES, kaiming_normal()),
    "kaiming_uniform": _weights(MATRICES, kaiming_uniform()),
    "kaiming_normal_zero": _weights(MATRICES, kaiming_normal(), 0.0),
    "kaiming_uniform_zero": _weights(MATRICES, kaiming_uniform(), 0.0),
    "kaiming_linear_conv": _weights(MATRICES, kaiming_normal()),
    "kaiming_conv": _weights(CONV, kaiming_normal("fan_out")),
    "xavier_uniform": _weights(MATRICES, xavier_uniform),
    "xavier_normal": _weights(MATRICES, xavier_normal),
    "xavier_uniform_zero": _weights(MATRICES, xavier_uniform, 0.0),
    "xavier_normal_zero": _weights(MATRICES, xavier_normal, 0.0),
    "xavier_linear_zero": _weights(("linear",), xavier_uniform, 0.0),
    "xavier_conv": _weights(CONV, xavier_uniform),
    "orthogonal_conv": _weights(CONV, orthogonal(math.sqrt(2))),
    "orthogonal_zero": _weights(MATRICES, orthogonal(math.sqrt(2)), 0.0),
    "orthogonal_bias_0.01": _weights(CONV, orthogonal(0.8), 0.01),
    "truncated_normal_0.02": _weights((*MATRICES, "embedding"), truncated(0.02), 0.0),
    "truncated_zero": _weights(MATRICES, truncated(0.01, 0.02), 0.0),
    "normal_0.02": _weights((*MATRICES, "embedding"), normal(0.02), 0.0),
    "conv_normal_0.02": _weights(CONV, normal(0.02)),
    "he_fan_out": _weights(CONV, he_fan_out, 0.0),
    "he_fan_out_conv_only": _weights(CONV, he_fan_out),
    "he_fan_out_zero": (
        *_weights(CONV, he_fan_out, 0.0), *_weights(("linear",), normal(0.01), 0.0),
    ),
    "bias_0.01": (Rule((), "bias|in_proj_bias", constant(0.01)),),
    "bias_zero": (Rule(MATRICES, "bias", ZERO),),
    # libraries
    "keras": (
        *_weights(MATRICES, xavier_uniform, 0.0),
        Rule(("recurrent",), "bias.*", ZERO),
        Rule(("recurrent",), "weight_ih.*", xavier_uniform),
        Rule(("recurrent",), "weight_hh.*", orthogonal()),
    ),
    "gpt": _GPT,
    "gpt2": (*_GPT, Rule(("parameter", "parameter_small"), ".*", normal(0.02))),
    "vit": (
        *_weights(("linear",), truncated(0.02), 0.0),
        Rule(("attention",), r"\w+_proj_weight", truncated(0.02)),
    ),
    "efficientnet": (
        *_weights(CONV, he_fan_out, 0.0),
        *_weights(("linear",), uniform_by_outputs, 0.0),
    ),
    # networks
    "skm": (*_weights(CONV, kaiming_normal()), *_weights(("linear",), xavier_normal, 0.0)),
    "dncnn": (
        *_weights(MATRICES, kaiming_normal()), Rule(("batchnorm",), WEIGHT, clamped_norm),
    ),
    "dcgan": (
        *_weights(CONV, normal(0.02)), Rule(("batchnorm",), WEIGHT, normal(0.02, mean=1.0)),
    ),
    "faceboxes": _weights(CONV, xavier_normal, 0.02),
    "squeezenet": _weights(CONV, kaiming_uniform(), 0.0),
    "nanda": (Rule(BARE, "b_.*", ZERO), Rule(BARE, "w_ln", ONE)),
    "hybrid": (*_GPT, Rule(BARE, "A_log", log_of_places), Rule(BARE, "D", ONE)),
    "ge2e": (Rule(BARE, ".*", constant(10.0)), Rule(BARE, ".*bias", constant(-5.0))),
    "mpnn": (Rule((), ".*", xavier_uniform, min_axes=2),),
}  # fmt: skip


def rules_of(init: str) -> tuple[Rule, ...]:
    """The rules of an initialisation. Raises ValueError, listing the known ones, for another."""
    if init not in INITS:
        raise ValueError(f"init must be one of {', '.join(INITS)}, got {init!r}")
    return INITS[init]
