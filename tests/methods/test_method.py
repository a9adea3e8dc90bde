"""Methods as objects: what entries of params.yaml mean, and that a new kind is one module."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from recipes import method_of
from torch import nn

from momos.complexity import code_length
from momos.compute.seeds import generator_for
from momos.methods import method, mosaic, quantize
from momos.methods.method import Stored, parse
from momos.models import build

ROOT = Path(__file__).parents[2]
MOMOS = {"bits": 32, "block_size": 2, "capacity": 0.1}


@pytest.mark.parametrize(
    ("entry", "family", "label", "group"),
    [
        ({"bits": 32}, "baseline", "Baseline", "Baseline"),
        ({"bits": 8}, "qat", "QAT 8 bit", "QAT"),
        (MOMOS, "momos", "MoMos s=2, C=10 %", "MoMos s=2"),
        (MOMOS | {"capacity": 0.005}, "momos", "MoMos s=2, C=0.5 %", "MoMos s=2"),
        ({"bits": 32, "block_size": 4, "num_motifs": 9}, "momos", "MoMos s=4, k=9", "MoMos s=4"),
        (MOMOS | {"bits": 4}, "momos+qat", "MoMos s=2, C=10 % + QAT 4 bit", "MoMos + QAT"),
    ],
)
def test_names(entry, family, label, group):
    found = parse(entry, "methods.x")
    assert (found.family, found.label, found.group) == (family, label, group)
    assert found.settings == dict.fromkeys(method.known_keys()) | entry
    assert (
        parse(found.settings | {"num_motifs": entry.get("num_motifs", float("nan"))}, "x") == found
    )
    assert hash(found) == hash(parse(dict(entry), "methods.y"))
    assert found.has_latent_weights == (entry["bits"] < 32)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({}, "methods.x.bits is missing; expected an integer"),
        ({"bits": None}, "methods.x.bits is missing; expected an integer"),
        ({"bits": "8"}, "methods.x.bits must be an integer, got '8'"),
        ({"bits": 33}, r"methods.x.bits must be in 2..16, or 32 for none, got 33"),
        ({"bits": 32, "capacity": 0.1}, "x.capacity must be left out where there is no block_size"),
        ({"bits": 32, "blok_size": 2}, r"x.blok_size: unknown key \(did you mean block_size\?\)"),
        ({"bits": 32, "block_size": 2}, "x must be given either capacity or num_motifs"),
        (MOMOS | {"num_motifs": 3}, "x must be given either capacity or num_motifs"),
        (MOMOS | {"capacity": 1.5}, r"x.capacity must be in \(0, 1\], got 1.5"),
        (MOMOS | {"block_size": 0}, "x.block_size must be 1 or more, got 0"),
        ([8], r"methods.x must be a mapping of settings, got \[8\]"),
    ],
)
def test_bad_entries_name_key_value_and_what_was_expected(entry, message):
    with pytest.raises(ValueError, match=message):
        parse(entry, "methods.x")


def test_what_has_to_be_stored_is_equation_8():
    """Against the functions of the paper's formulas, which share nothing with `Stored`."""
    about = {"num_weights": 270_000, "num_blocks": 135_100, "num_motifs": 13_510}
    mosaics = code_length.momos_bits(135_100, 2, 13_510)
    for entry, bits in (
        ({"bits": 32}, 32 * 270_000),
        ({"bits": 4}, 4 * 270_000),
        (MOMOS, mosaics),
        (MOMOS | {"bits": 8}, mosaics),
    ):
        stored = method_of(entry).stored(about)
        found = code_length.describe_stored(270_000, stored)
        assert found["description_bits"] == bits and found["trivial_bits"] == 32 * 270_000
        assert found["rac"] == 32 * 270_000 / bits
        assert found["lower_complexity"] == (bits < 32 * 270_000)
    assert code_length.stored_bits(Stored(5, 32, ((7, 1),))) == 160, "one motif needs no index"


def test_a_mosaic_acts_in_place_and_quantisation_in_the_forward_pass():
    model = build("mlp", 3, image_size=4, kwargs={"hidden_layers": 1, "width": 8})
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    applied = method_of(MOMOS | {"bits": 4}).apply(model, arch="mlp", seed=5)
    applied.after_step(1)
    assert all(torch.equal(weight, before[name]) for name, weight in model.named_parameters())
    assert set(applied.history().values()) == {None} and applied.usage is None
    applied.after_epoch(1)
    other = build("mlp", 3, image_size=4, kwargs={"hidden_layers": 1, "width": 8})
    report = mosaic.project_(other, 2, capacity=0.1, generator=generator_for("motifs", 5))
    for name, weight in model.named_parameters():
        assert torch.equal(weight, other.get_parameter(name))
    assert torch.equal(applied.usage, report.usage)
    assert applied.history()["distortion"] == report.distortion
    images = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    deployed = quantize.deployed(model, 4, "type", "mlp")
    assert torch.equal(applied.forward(model, images), deployed(images))
    twin = method_of(MOMOS | {"bits": 4}).deployed(model, arch="mlp")
    assert all(
        torch.equal(weight, deployed.get_parameter(name))
        for name, weight in twin.named_parameters()
    )


def test_a_projection_that_was_made_in_the_last_step_is_not_made_again():
    model = build("mlp", 3, image_size=4, kwargs={"hidden_layers": 1, "width": 8})
    applied = method_of(MOMOS, every=2).apply(model, arch="mlp", seed=0)
    applied.after_step(1)
    assert applied.usage is None
    applied.after_step(2)
    usage = applied.usage
    applied.after_epoch(2)
    assert applied.usage is usage
    applied.after_epoch(3)
    assert applied.usage is not usage


def test_weights_that_are_not_finite_are_told_of():
    model = nn.Linear(4, 4)
    model.weight.data[0, 0] = float("nan")
    applied = method_of(MOMOS).apply(model, arch="linear", seed=0)
    with pytest.raises(method.NotFinite):
        applied.after_epoch(1)


def test_settings_are_read_without_torch():
    code = "import sys; from momos import config; config.runs(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


SCALING = '''
"""Weights shrunk a little after every epoch."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from momos.methods.method import Applied, Ingredient
from momos.settings import require


@dataclass(frozen=True, kw_only=True)
class Shrinking(Ingredient):
    keys: ClassVar = ("shrink",)
    family: ClassVar = "shrunk"
    name: ClassVar = "Shrunk"
    place: ClassVar = 2
    shrink: float

    def check(self, where):
        require(0 < self.shrink < 1, f"{where}.shrink", "in (0, 1)", self.shrink)

    @property
    def label(self):
        return f"shrunk by {self.shrink}"

    def apply(self, model, *, arch, seed):
        return Shrinker(model, self.shrink)


class Shrinker(Applied):
    def __init__(self, model, shrink):
        self.model, self.shrink = model, shrink

    @torch.no_grad()
    def after_epoch(self, num_steps):
        for weight in self.model.parameters():
            weight.mul_(1 - self.shrink)
'''
USED = """
from momos.methods.method import parse
import torch
entry = {"bits": 8, "shrink": 0.5}
found = parse(entry, "methods.x", {"quantize": {"exclude": "type"}, "mosaic": {}})
assert (found.family, found.group) == ("qat+shrunk", "QAT + Shrunk")
assert found.label == "QAT 8 bit + shrunk by 0.5"
model = torch.nn.Linear(2, 2)
before = model.weight.detach().clone()
applied = found.apply(model, arch="linear", seed=0)
applied.after_epoch(1)
assert torch.equal(model.weight, before / 2)
try:
    parse({"bits": 8, "shrink": 2.0}, "methods.x")
except ValueError as error:
    assert "methods.x.shrink must be in (0, 1), got 2.0" in str(error)
"""


def test_a_new_kind_of_method_is_one_module(tmp_path):
    shutil.copytree(ROOT / "src" / "momos", tmp_path / "momos")
    (tmp_path / "momos" / "methods" / "shrinking.py").write_text(SCALING)
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    subprocess.run([sys.executable, "-c", USED], check=True, env=environment)
