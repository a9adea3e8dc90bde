"""Layers of a network, told from its tensors' names and shapes alone.

A layer's tensors share all of their names but the last part: conv1.weight, conv1.bias. What the
last parts and the shapes say is this:

weight and bias of one shape                 a norm (layer, group); with running_mean a batch norm
weight alone, one axis                       a norm if its owner is called so, else a PReLU
weight of two axes                           linear; an embedding if its owner is called so and has
                                             no bias
weight of three to five axes                 a convolution. Transposed ones differ in nothing that
                                             PyTorch's initialisation reads.
weight_ih.., weight_hh..                     an RNN, GRU or LSTM, or a cell of one
in_proj_weight                               nn.MultiheadAttention, whose out_proj has a bias of 0
weight_g and weight_v, weight_orig           a normalised weight (weight norm, spectral norm)

Everything else is a bare parameter. A few of them have names that say enough (NAMED). Of the rest
nothing is known: `kinds` has to say it.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

Shape = tuple[int, ...]
Kinds = Sequence[Sequence[str]]  # pairs of (regular expression, kind)

# What a row may say of a layer, by its name without the last part ..
LAYER_KINDS = (
    "linear", "conv", "transposed", "embedding", "norm", "rmsnorm", "batchnorm", "prelu", "lstm",
    "gru", "rnn", "lstm_cell", "gru_cell", "rnn_cell",
)  # fmt: skip
# .. and of one tensor, by its whole name. A buffer is no weight.
BARE_KINDS = (
    "parameter", "parameter_small", "parameter_uniform", "parameter_zero", "parameter_one",
    "buffer",
)  # fmt: skip
RECURRENT = re.compile(r"(weight|bias)_(ih|hh|hr)(_l\d+(_reverse)?)?")
PROJECTIONS = ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight")
ATTENTION = (*PROJECTIONS, "in_proj_bias", "bias_k", "bias_v")
CONVOLUTIONS = (3, 4, 5)  # axes of a weight
AXES = {
    "linear": (2,), "embedding": (2,), "conv": CONVOLUTIONS, "transposed": CONVOLUTIONS,
}  # fmt: skip
NORM = re.compile(r"norm|(^|[._])(ln|bn|gn)(_?\w*?\d*)?$", re.IGNORECASE)
EMBEDDING = re.compile(
    r"((tok|token|word|char|vocab|pos|position)_)?emb(eds?|eddings?)?|embed_tokens|wte|wpe"
)
BUFFER = re.compile(
    r"running_mean|running_var|num_batches_tracked|n_averaged|weight_u|relative_position_index"
    r"|relative_coords_table|position_ids|token_type_ids|attention_bias_idxs|inv_freq|masked_bias"
    r"|\w*_mask|mask"
)
# Bare parameters of torch, torchvision and timm. Of an unknown scale only the sign is right: the
# values of positive constants are given as 1.
NAMED = (
    (r"(pos|position|positional)_(embed|embedding)s?(_\w+)?", "parameter_small"),
    (r"(cls|dist|reg|mask|register)_tokens?|class_(token|embedding)", "parameter_small"),
    (r"relative_position_bias_table|rel_pos_(h|w)|rel_embed\w*", "parameter_small"),
    (r"attention_biases", "parameter_zero"),
    (r"gamma\w*|layer_scale\w*|logit_scale|temperature", "parameter_one"),
    (r"beta", "parameter_zero"),
)


class Layer(NamedTuple):
    """Tensors that are initialised together.

    owner: their names without the last part. tensors: last part -> the tensor's whole name.
    shapes: last part -> shape, of all tensors with this owner.
    """

    owner: str
    kind: str
    tensors: Mapping[str, str]
    shapes: Mapping[str, Shape]


class Found(NamedTuple):
    """The layers of a layout in its order, and names of tensors that are no weights."""

    layers: list[Layer]
    buffers: list[str]


def find_layers(layout: Mapping[str, Shape], kinds: Kinds = ()) -> Found:
    """The layers that a layout (name -> shape) is made of.

    kinds: pairs of a regular expression and a kind, the first that matches counts. One of
    LAYER_KINDS is for a layer whose name without the last part matches as a whole; one of
    BARE_KINDS for a tensor whose name does.
    Raises ValueError, with the row that would settle it, for a tensor of which nothing is known,
    and for a kind that is none or does not fit the tensors.
    """
    require_kinds(kinds)
    layers: list[Layer] = []
    buffers: list[str] = []
    for owner, group in _groups(layout).items():
        shapes = {leaf: tuple(layout[name]) for leaf, name in group.items()}
        said = {leaf: _said(name, kinds, BARE_KINDS) for leaf, name in group.items()}
        kind_of = said | _recognised(owner, group, shapes, said, _said(owner, kinds, LAYER_KINDS))
        buffers += [group[leaf] for leaf, kind in kind_of.items() if kind == "buffer"]
        for part in _together(kind_of):
            names = {leaf: group[leaf] for leaf in part}
            layers.append(Layer(owner, str(kind_of[part[0]]), names, shapes))
    order = {name: place for place, name in enumerate(layout)}
    layers.sort(key=lambda layer: min(order[name] for name in layer.tensors.values()))
    return Found(layers, [name for name in layout if name in set(buffers)])


def _together(kind_of: Mapping[str, str | None]) -> list[list[str]]:
    """Last parts that make up a layer: bare parameters each by itself, others by their kind."""
    parts: dict[str, list[str]] = {}
    for leaf, kind in kind_of.items():
        if kind != "buffer":
            parts.setdefault(leaf if kind in BARE_KINDS else f" {kind}", []).append(leaf)
    return list(parts.values())


def require_kinds(kinds: Kinds) -> None:
    """Raises ValueError for rows that are no pairs of a regular expression and a known kind."""
    for row in kinds:
        known = (*LAYER_KINDS, *BARE_KINDS)
        if isinstance(row, str) or len(row) != 2 or row[1] not in known:
            expected = f"pairs of a regular expression and one of {', '.join(known)}"
            raise ValueError(f"kinds must be {expected}, got {row!r}")
        try:
            re.compile(row[0])
        except (re.error, TypeError) as error:
            raise ValueError(f"kinds: {row[0]!r} is no regular expression: {error}") from error


def _groups(layout: Mapping[str, Shape]) -> dict[str, dict[str, str]]:
    """owner -> {last part: whole name}, owners in the layout's order."""
    groups: dict[str, dict[str, str]] = {}
    for name in layout:
        owner, leaf = _split(name)
        groups.setdefault(owner, {})[leaf] = name
    return groups


def _split(name: str) -> tuple[str, str]:
    """Owner and last part. Parametrised weights get the names that they had before torch 2."""
    match = re.fullmatch(r"(?:(.*)\.)?parametrizations\.(\w+)\.original([01]?)", name)
    if match:
        suffix = {"": "_orig", "0": "_g", "1": "_v"}[match[3]]
        return match[1] or "", match[2] + suffix
    owner, _, leaf = name.rpartition(".")
    return owner, leaf


def _said(name: str, kinds: Kinds, among: Iterable[str]) -> str | None:
    return next((kind for rule, kind in kinds if kind in among and re.fullmatch(rule, name)), None)


def _is_buffer(leaf: str, group: Mapping[str, str]) -> bool:
    """weight_v is a buffer of spectral norm, and the weight itself of weight norm."""
    of_spectral_norm = leaf == "weight_v" and "weight_orig" in group
    return of_spectral_norm or bool(BUFFER.fullmatch(leaf))


def _recognised(
    owner: str,
    group: Mapping[str, str],
    shapes: Mapping[str, Shape],
    said: Mapping[str, str | None],
    layer_kind: str | None,
) -> dict[str, str]:
    """Kinds of the tensors of a group that no row names. layer_kind: what a row says of all."""
    kinds = {leaf: "buffer" for leaf in group if _is_buffer(leaf, group)}
    for leaves, kind in _parts(owner, shapes, layer_kind):
        kinds |= dict.fromkeys(leaves, kind)
    for leaf, name in group.items():
        if leaf not in kinds and said[leaf] is None:
            kinds[leaf] = _named(name, leaf, shapes[leaf])
    return {leaf: kind for leaf, kind in kinds.items() if said[leaf] is None}


def _parts(
    owner: str, shapes: Mapping[str, Shape], said: str | None
) -> Iterable[tuple[list[str], str]]:
    """Last parts that belong to one layer, and its kind."""
    recurrent = [leaf for leaf in shapes if RECURRENT.fullmatch(leaf)]
    if recurrent:
        yield recurrent, "recurrent"
    if any(leaf in PROJECTIONS for leaf in shapes):
        yield [leaf for leaf in shapes if leaf in ATTENTION], "attention"
    weight = _weight_of(shapes)
    if weight is not None:
        own = [leaf for leaf in (weight, "weight_g", "bias") if leaf in shapes]
        _require_axes(owner, weight, shapes[weight], said)
        yield own, said or _kind_of(owner, weight, shapes)
    elif "gamma" in shapes and shapes["gamma"] == shapes.get("beta"):
        yield ["gamma", "beta"], "batchnorm" if "running_mean" in shapes else "norm"


def _require_axes(owner: str, weight: str, shape: Shape, kind: str | None) -> None:
    """Raises ValueError for a kind that has other weights than of this shape."""
    num_axes = AXES.get(kind or "", (len(shape),))
    if len(shape) not in num_axes:
        expected = " or ".join(map(str, num_axes))
        raise ValueError(
            f"tensor {owner}.{weight} of shape {shape} can't belong to the kind {kind}, "
            f"expected {expected} axes"
        )


def _weight_of(shapes: Mapping[str, Shape]) -> str | None:
    """The last part of the layer's weight."""
    if "weight_orig" in shapes:  # weight_v is a buffer beside it
        return "weight_orig"
    return next((leaf for leaf in ("weight", "weight_v") if leaf in shapes), None)


def _kind_of(owner: str, weight: str, shapes: Mapping[str, Shape]) -> str:
    """The kind of a layer with a weight. Raises ValueError where the shapes fit none."""
    shape, bias = shapes[weight], shapes.get("bias")
    if "running_mean" in shapes:
        return "batchnorm"
    if bias is not None and bias == shape:
        return "norm"
    if len(shape) == 1 and bias is None:
        return "norm" if NORM.search(owner) else "prelu"
    if len(shape) == 2 and (bias is None or bias in ((shape[0],), (shape[1],))):
        called = owner.rpartition(".")[2].lower()
        return "embedding" if bias is None and EMBEDDING.fullmatch(called) else "linear"
    if len(shape) in CONVOLUTIONS and (bias is None or len(bias) == 1):
        return "conv"
    name = f"{owner}.{weight}" if owner else weight
    beside = "" if bias is None else f" with a bias of shape {bias}"
    expected = _expected_row(owner, ", ".join(LAYER_KINDS))
    raise ValueError(f"tensor {name} of shape {shape}{beside} fits no known layer; {expected}")


def _named(name: str, leaf: str, shape: Shape) -> str:
    """The kind of a bare parameter by its name. Raises ValueError if that says nothing."""
    kind = next((kind for rule, kind in NAMED if re.fullmatch(rule, leaf)), None)
    if kind is None:
        raise ValueError(
            f"tensor {name} of shape {shape}: name and shape do not tell how it is initialised; "
            f"{_expected_row(name, ', '.join(BARE_KINDS))}"
        )
    return kind


def _expected_row(name: str, kinds: str) -> str:
    """The row of `kinds` that would settle it, for readers."""
    return f'expected a row ["{re.escape(name)}", KIND] in kinds, with KIND one of {kinds}'
