"""ONNX files as torch's own exporter writes them, and messages written out by hand."""

import struct
import warnings

import numpy as np
import pytest
import torch
from torch import nn

from momos.weights import onnx
from momos.weights.files import open_weights
from momos.weights.initial import fresh


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding, self.lstm = nn.Embedding(20, 6), nn.LSTM(6, 7)
        self.linear, self.norm, self.act = nn.Linear(7, 3), nn.LayerNorm(3), nn.PReLU(3)

    def forward(self, x):
        hidden = self.lstm(self.embedding(x))[0]
        return self.act(self.norm(self.linear(hidden)).transpose(1, 2)) * 1.5


@pytest.fixture
def exported(tmp_path, monkeypatch):
    """A function: model, input -> the path of its ONNX file."""
    from torch.onnx._internal.torchscript_exporter import onnx_proto_utils

    # What would ask for the package onnx. The bytes come from torch's C++ code.
    monkeypatch.setattr(onnx_proto_utils, "_add_onnxscript_fn", lambda content, operators: content)

    def export(model, example, **options):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the exporter is the older one
            torch.onnx.export(model, (example,), tmp_path / "a.onnx", dynamo=False, **options)
        return tmp_path / "a.onnx"

    return export


def small():
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(288, 5),
        nn.Linear(5, 4, bias=False),
    )  # fmt: skip


def test_initialisers_have_their_numbers_and_names(exported):
    model = small()
    options = {"training": torch.onnx.TrainingMode.PRESERVE, "do_constant_folding": False}
    stored = open_weights(exported(model, torch.ones(1, 3, 8, 8), **options))
    expected = dict(model.named_parameters())
    found = {name: stored[name] for name in expected}
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert list(fresh(stored, 0)) == list(expected)


def test_folded_and_nameless_ones_are_named_after_their_nodes(exported):
    stored = open_weights(exported(small().eval(), torch.ones(1, 3, 8, 8)))
    assert stored.layout == {
        "4.weight": (5, 288), "4.bias": (5,), "Conv_0.weight": (8, 3, 3, 3), "Conv_0.bias": (8,),
        "MatMul_4.weight": (4, 5),
    }  # fmt: skip
    assert len(fresh(stored, 0)) == 5


def test_recurrent_layers_and_embeddings_are_told_from_their_nodes(exported):
    model = Recurrent().eval()
    stored = open_weights(exported(model, torch.ones(4, 2, dtype=torch.int64)))
    shapes = {name.rpartition(".")[2]: shape for name, shape in stored.layout.items()}
    assert shapes["weight_ih_l0"] == (28, 6) and shapes["weight_hh_l0"] == (28, 7)
    assert torch.equal(stored["linear.weight"], model.linear.weight)
    assert torch.equal(stored["embedding.weight"], model.embedding.weight)
    found = fresh(stored, 0)
    assert len(found) == len(stored)
    constants = {name for name, tensor in found.items() if tensor.unique().numel() == 1}
    assert {name.split("_")[0].split(".")[0] for name in constants} == {"norm", "PRelu"}


# --- messages by hand


def varint(number):
    parts = []
    while number > 127:
        parts.append(number & 127 | 128)
        number >>= 7
    return bytes([*parts, number])


def field(number, value):
    """A number, or bytes with their length."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def tensor(name, shape, dtype, *more):
    dims = b"".join(field(1, size) for size in shape)
    return dims + field(2, dtype) + field(8, name.encode()) + b"".join(more)


def model(*tensors, nodes=()):
    graph = b"".join(field(1, node) for node in nodes)
    return field(1, 8) + field(7, graph + b"".join(field(5, one) for one in tensors))


VALUES = np.array([[1.5, -2.0, 0.25], [3.0, 4.0, -5.5]], dtype=np.float32)
HALVES = VALUES.astype(np.float16).view(np.uint16).reshape(-1).tolist()
BFLOATS = (VALUES.view(np.uint32) >> 16).reshape(-1).tolist()
FORMS = {
    "raw": (1, field(9, VALUES.tobytes())),
    "packed floats": (1, field(4, VALUES.tobytes())),
    "single floats": (1, b"".join(
        varint(4 << 3 | 5) + struct.pack("<f", value) for value in VALUES.reshape(-1))),
    "doubles": (11, field(10, VALUES.astype(np.float64).tobytes())),
    "raw doubles": (11, field(9, VALUES.astype(np.float64).tobytes())),
    "raw half": (10, field(9, VALUES.astype(np.float16).tobytes())),
    "half in integers": (10, field(5, b"".join(map(varint, HALVES)))),
    "raw bfloat16": (16, field(9, np.array(BFLOATS, dtype=np.uint16).tobytes())),
    "bfloat16 in integers": (16, field(5, b"".join(map(varint, BFLOATS)))),
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_numbers_is_read(tmp_path, form):
    dtype, data = FORMS[form]
    path = tmp_path / "a.onnx"
    path.write_bytes(model(tensor("fc.weight", (2, 3), dtype, data)))
    assert (onnx.read_initialisers(path)["fc.weight"] == VALUES).all()


def test_shapes_places_and_single_numbers_are_no_weights(tmp_path):
    path = tmp_path / "a.onnx"
    plain = tensor("fc.weight", (2, 3), 1, field(9, VALUES.tobytes()))
    shape = tensor("onnx::Reshape_1", (2,), 7, field(7, varint(1) + varint(6)))
    scale = tensor("onnx::Mul_2", (), 1, field(4, struct.pack("<f", 2.0)))
    path.write_bytes(model(plain, shape, scale))
    assert list(onnx.read_initialisers(path)) == ["fc.weight"]


EXTERNAL = tensor("fc.weight", (2, 3), 1, field(13, field(1, b"location")), field(14, 1))
CODES = tensor("fc.codes", (2, 3), 3, field(9, bytes(6)))
DEQUANTISE = field(1, b"fc.codes") + field(1, b"s") + field(2, b"y") + field(4, b"DequantizeLinear")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (model(EXTERNAL), "tensor fc.weight, whose data are in another file (external data)"),
        (model(CODES, nodes=[DEQUANTISE]), "fc.codes, which is quantised (DequantizeLinear)"),
        (model(), "no tensors"),
        (b"", "it is no ONNX model with one graph"),
        (model(tensor("a.weight", (2, 3), 1, field(9, bytes(20)))), "a.weight has 5 numbers"),
        (b"\xff" * 30, "it is no ONNX model"),
    ],
)  # fmt: skip
def test_what_is_not_read_is_refused_with_the_tensor(tmp_path, content, message):
    path = tmp_path / "bad.onnx"
    path.write_bytes(content)
    with pytest.raises(ValueError) as refused:
        open_weights(path)
    said = str(refused.value)
    assert "bad.onnx" in said and message in said and "expected" in said and said.isprintable()


def test_a_file_that_is_cut_anywhere_is_refused_or_read(tmp_path):
    whole = model(tensor("fc.weight", (2, 3), 1, field(9, VALUES.tobytes())))
    path = tmp_path / "a.onnx"
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match="a.onnx"):
            open_weights(path)
