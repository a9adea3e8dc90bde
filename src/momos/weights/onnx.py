"""Initialisers of an ONNX file, read without the package onnx.

An ONNX file is one message of Protocol Buffers. Only its graph's initialisers and nodes are looked
at. An initialiser keeps its name if that says what it is (conv1.weight). Others, such as
onnx::Conv_193, are named after the node that reads them and the part they play there:
Conv_12.weight. Integers, which say shapes and places, and single numbers are no weights.
"""

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

# data_type -> numpy's
DTYPES: dict[int, type] = {
    1: np.float32, 2: np.uint8, 3: np.int8, 4: np.uint16, 5: np.int16, 6: np.int32, 7: np.int64,
    9: np.bool_, 10: np.float16, 11: np.float64, 12: np.uint32, 13: np.uint64,
}  # fmt: skip
FLOAT16, BFLOAT16 = 10, 16  # the latter is widened to float32
FLOATS = (1, FLOAT16, 11, BFLOAT16)
EXTERNAL = 1  # data_location
# what an operator's inputs are, from the second on
NORM = ("weight", "bias")
RECURRENT = ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0")
ROLES = {
    "Conv": NORM, "ConvTranspose": NORM, "Gemm": NORM, "MatMul": ("weight",),
    "PRelu": ("weight",), "BatchNormalization": (*NORM, "running_mean", "running_var"),
    "InstanceNormalization": NORM, "LayerNormalization": NORM, "GroupNormalization": NORM,
    "LSTM": RECURRENT, "GRU": RECURRENT, "RNN": RECURRENT,
}  # fmt: skip
LEAVES = {leaf for leaves in ROLES.values() for leaf in leaves}
QUANTISED = ("DequantizeLinear", "QLinearConv", "QLinearMatMul", "ConvInteger", "MatMulInteger")
VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5  # wire types
# field numbers of the messages
GRAPH, NODE, INITIALISER = 7, 1, 5
INPUT, OUTPUT, OPERATOR = 1, 2, 4
DIMS, DATA_TYPE, FLOAT_DATA, INT32_DATA, INT64_DATA, NAME = 1, 2, 4, 5, 7, 8
RAW_DATA, DOUBLE_DATA, UINT64_DATA, EXTERNAL_DATA, DATA_LOCATION = 9, 10, 11, 13, 14


class Unreadable(ValueError):
    """A file whose weights are kept in a form that is not read. The message says which."""


class Tensor(NamedTuple):
    """An initialiser as the file has it. data: field number -> its bytes, joined."""

    name: str
    shape: tuple[int, ...]
    dtype: int
    data: Mapping[int, bytes]


class Node(NamedTuple):
    """An operation of the graph."""

    operator: str
    inputs: list[str]
    outputs: list[str]


def read_initialisers(path: Path) -> dict[str, np.ndarray]:
    """Floating-point initialisers by name, in the file's order, as the module's docstring says.

    Raises Unreadable for data in other files and for quantised weights, ValueError for a file that
    is no ONNX model.
    """
    graphs = [value for field, value in _fields(path.read_bytes()) if field == GRAPH]
    if len(graphs) != 1 or not isinstance(graphs[0], bytes):
        raise ValueError("it is no ONNX model with one graph")
    tensors = {tensor.name: tensor for tensor in _tensors(graphs[0])}
    nodes = list(_nodes(graphs[0]))
    _require_plain(tensors, nodes)
    weights = {
        name: tensor
        for name, tensor in tensors.items()
        if tensor.dtype in FLOATS and math.prod(tensor.shape) > 1
    }
    roles = _Roles(weights, nodes)
    return {
        roles.names[name]: _as_torch(_array(tensor), roles.operators.get(name))
        for name, tensor in weights.items()
    }


# --- the wire format


def _fields(message: bytes) -> Iterator[tuple[int, bytes | int]]:
    """(field number, value) of a message: bytes, or a number for a varint."""
    place, end = 0, len(message)
    while place < end:
        key, place = _varint(message, place)
        number, wire = key >> 3, key & 7
        if wire == VARINT:
            value, place = _varint(message, place)
            yield number, value
            continue
        if wire == BYTES:
            size, place = _varint(message, place)
        else:
            size = {FIXED64: 8, FIXED32: 4}.get(wire, -1)
        if not number or size < 0 or place + size > end:
            raise ValueError(f"it is no ONNX model: byte {place} fits no message")
        yield number, message[place : place + size]
        place += size


def _varint(message: bytes, place: int) -> tuple[int, int]:
    """The number that begins at `place`, and the place after it."""
    value = 0
    for shift in range(0, 70, 7):
        if place >= len(message):
            break
        byte = message[place]
        place += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, place
    raise ValueError(f"it is no ONNX model: no number ends at byte {place}")


def _varints(packed: bytes) -> list[int]:
    numbers, place = [], 0
    while place < len(packed):
        number, place = _varint(packed, place)
        numbers.append(number)
    return numbers


def _encoded(number: int) -> bytes:
    """A number as a varint: unpacked fields are joined to packed ones."""
    parts = []
    while number > 127:
        parts.append(number & 127 | 128)
        number >>= 7
    return bytes([*parts, number])


# --- the graph


def _tensors(graph: bytes) -> Iterator[Tensor]:
    for field, message in _fields(graph):
        if field == INITIALISER and isinstance(message, bytes):
            yield _tensor(message)


def _tensor(message: bytes) -> Tensor:
    parts: dict[int, list[bytes]] = {}
    for field, value in _fields(message):
        parts.setdefault(field, []).append(_encoded(value) if isinstance(value, int) else value)
    data = {field: b"".join(pieces) for field, pieces in parts.items()}
    name = data.get(NAME, b"").decode(errors="replace")
    location = _varints(data.get(DATA_LOCATION, b""))
    if EXTERNAL_DATA in data or EXTERNAL in location:
        raise Unreadable(f"tensor {name}, whose data are in another file (external data)")
    (dtype,) = _varints(data.get(DATA_TYPE, b"")) or (0,)
    return Tensor(name, tuple(_varints(data.get(DIMS, b""))), dtype, data)


def _nodes(graph: bytes) -> Iterator[Node]:
    for field, message in _fields(graph):
        if field == NODE and isinstance(message, bytes):
            texts: dict[int, list[str]] = {}
            for part, value in _fields(message):
                if isinstance(value, bytes) and part in (INPUT, OUTPUT, OPERATOR):
                    texts.setdefault(part, []).append(value.decode(errors="replace"))
            operator = texts.get(OPERATOR, [""])[0]
            yield Node(operator, texts.get(INPUT, []), texts.get(OUTPUT, []))


def _require_plain(tensors: Mapping[str, Tensor], nodes: list[Node]) -> None:
    """Raises Unreadable for weights that are integers with a scale."""
    for node in nodes:
        for name in node.inputs:
            if node.operator in QUANTISED and name in tensors and tensors[name].dtype not in FLOATS:
                what = f"tensor {name}, which is quantised ({node.operator})"
                raise Unreadable(f"{what}; expected floating-point weights")


class _Roles:
    """What initialisers are, told from the nodes that read them.

    names: the file's name -> a name that says it. operators: the file's name -> the node's
    operator, of those that were renamed.
    """

    def __init__(self, tensors: Mapping[str, Tensor], nodes: list[Node]):
        self.tensors = tensors
        self.names = {name: name for name in tensors}
        self.operators: dict[str, str] = {}
        self._products: dict[str, str] = {}  # output of a multiplication -> the weight's name
        for number, node in enumerate(nodes):
            self._read(node, f"{node.operator}_{number}")
        if len(set(self.names.values())) < len(self.names):  # two nodes share a tensor
            self.names = {name: name for name in tensors}

    def _read(self, node: Node, owner: str) -> None:
        for role, name in zip(ROLES.get(node.operator, ()), node.inputs[1:], strict=False):
            if name in self.tensors:
                self._say(name, f"{owner}.{role}", node.operator)
                if node.operator == "MatMul":
                    self._products |= dict.fromkeys(node.outputs, name)
        if node.operator == "Gather" and node.inputs and node.inputs[0] in self.tensors:
            self._say(node.inputs[0], f"{owner}.embedding.weight", node.operator)
        if node.operator == "Add":
            for name in set(node.inputs) & set(self.tensors):
                weight = next((self._products[i] for i in node.inputs if i in self._products), None)
                if weight and len(self.tensors[name].shape) == 1:
                    self._add_bias(weight, name)

    def _say(self, name: str, said: str, operator: str) -> None:
        self.operators.setdefault(name, operator)
        if name.rpartition(".")[2] not in LEAVES:
            self.names[name] = said

    def _add_bias(self, weight: str, bias: str) -> None:
        """Weight and bias of a linear layer, under the owner that one of them names."""
        owner, _, leaf = bias.rpartition(".")
        if leaf == "bias":
            self.names[weight] = f"{owner}.weight"
        else:
            self.names[bias] = self.names[weight].rpartition(".")[0] + ".bias"


def _as_torch(array: np.ndarray, operator: str | None) -> np.ndarray:
    """The array in the shape that torch's layer has it in."""
    if operator == "MatMul" and array.ndim == 2:
        return array.T
    if operator == "PRelu":
        return array.reshape(-1)
    if operator in ("LSTM", "GRU", "RNN"):  # directions first
        return array.reshape(-1, array.shape[-1]) if array.ndim == 3 else array.reshape(-1)
    return array


def _array(tensor: Tensor) -> np.ndarray:
    """A copy of the numbers. Raises ValueError where there are more or fewer than the shape has."""
    values = _values(tensor)
    if values.size != math.prod(tensor.shape):
        raise ValueError(
            f"tensor {tensor.name} has {values.size} numbers, its shape {tensor.shape} others"
        )
    return values.reshape(tensor.shape)


def _values(tensor: Tensor) -> np.ndarray:
    if RAW_DATA in tensor.data:
        if tensor.dtype == BFLOAT16:
            return _widened(np.frombuffer(tensor.data[RAW_DATA], "<u2"))
        dtype = DTYPES[tensor.dtype]
        return np.frombuffer(tensor.data[RAW_DATA], np.dtype(dtype).newbyteorder("<")).astype(dtype)
    if FLOAT_DATA in tensor.data:
        return np.frombuffer(tensor.data[FLOAT_DATA], "<f4").astype(np.float32)
    if DOUBLE_DATA in tensor.data:
        return np.frombuffer(tensor.data[DOUBLE_DATA], "<f8").astype(np.float64)
    halves = np.array(_varints(tensor.data.get(INT32_DATA, b"")), dtype=np.uint64)
    bits = halves.astype(np.uint16)  # a float of 16 bits in each number
    return _widened(bits) if tensor.dtype == BFLOAT16 else bits.view(np.float16)


def _widened(halves: np.ndarray) -> np.ndarray:
    """bfloat16, as numbers of 16 bits -> float32."""
    return (halves.astype(np.uint32) << 16).view(np.float32)
