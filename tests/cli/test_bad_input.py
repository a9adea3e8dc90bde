"""Bad input, argument by argument as the parser has them: one line, exit status 2, no file left."""

import argparse
import functools
import os
import pickle
import shutil
import sys
from importlib import import_module
from pathlib import Path

import pytest
import torch
from command import ARCH, refused, saved, state
from source_files import ROOT

from momos.cli.arguments import json_object, non_negative, positive, positive_number
from momos.packing import pack_tensors

pytestmark = pytest.mark.usefixtures("one_thread")
FEW = ("--init-seeds", "2", "--compressors", "gzip")
WORKS = {  # a call that works
    "measure": ["good.pt", *FEW],
    "compare": ["good.pt", "good.safetensors", *FEW],
    "compressibility": ["--module", "own.py:net", "--device", "cpu"],
    "llc": ["--module", "own.py:net", "--device", "cpu"],
    "pack": ["good.pt", "new.momos", "--block-size", "2"],
    "unpack": ["good.momos", "new.safetensors"],
    "inspect": ["good.momos"],
    "verify": ["good.momos", "good.pt"],
    "verify-report": ["report"],
}
WEIGHTS = [f"{kind}.{end}" for kind in ("gone", "folder", "empty", "text", "code", "cut", "pipe")
           for end in ("pt", "safetensors")]  # fmt: skip
MOMOS = [f"{kind}.momos" for kind in ("gone", "folder", "empty", "text", "code", "cut")]
MODULES = [f"{kind}.py:net" for kind in ("gone", "folder", "empty", "text", "code", "nan", "wrong")]
REPORTS = ["/", "gone", "folder.pt", "empty.pt", "empty-report", "text-report", "other-report"]
NAN = ["nan.pt", "nan.safetensors"]
FILES = {  # (command, argument) -> bad values, each in the place of the one that works
    ("measure", "weights"): WEIGHTS + NAN,
    ("measure", "initial"): WEIGHTS + NAN,
    ("compare", "weights"): WEIGHTS + NAN,
    ("pack", "source"): WEIGHTS,  # NaN is packed bit for bit
    ("verify", "source"): WEIGHTS,  # NaN differs, which is another exit status
    ("verify", "images"): [file for file in WEIGHTS if file.endswith(".safetensors")],
    ("verify", "about"): ["gone", "folder.pt", "empty.pt"],  # with images: packing/test_networks.py
    **{(command, "file"): MOMOS for command in ("unpack", "inspect", "verify")},
    **{(command, "module"): MODULES for command in ("compressibility", "llc")},
    ("verify-report", "report"): REPORTS,
    ("verify-report", "data"): REPORTS[1:4],
}
ENDS = {  # of files that are written; those of a folder that is made have none
    ("measure", "layers"): ".png",
    ("compare", "page"): ".html",
    ("pack", "out"): ".momos",
    ("unpack", "out"): ".safetensors",
    ("compressibility", "out"): "",
    ("llc", "out"): "",
}
EXPECTED = ("expected", "must be", "must end", "choose from", "is no .momos file", "is cut short")
ELSEWHERE = {"model", "text", "tokenizer", "arch"}  # test_singular.py, test_measure.py
NUMBERS = {positive, non_negative, positive_number}
WORDS = {"kinds", "compressors", "init", "arch_kwargs", "device", "scheme", "sampler",
         "level", "slicing", "which", "exclude", "bits"}  # fmt: skip
OWN = """
import torch
from torch import nn

def net():
    model, batch = nn.Linear(6, 3), torch.ones(4, 6)
    return model, [batch], lambda model, batch: model(batch).square().mean()
"""
NAN_MODEL = OWN.replace("(4, 6)\n", "(4, 6)\n    nn.init.constant_(model.bias, float('nan'))\n")


class Runs:
    """A pickle that makes a folder when it is read."""

    def __reduce__(self):
        return os.mkdir, ("executed",)


@functools.cache
def arguments():
    """(command, its arguments)"""
    parser = import_module("momos.cli.main")._parser()
    (parsers,) = [
        action.choices
        for action in parser._actions
        if isinstance(action, argparse._SubParsersAction)
    ]
    return [(command, one._actions[1:]) for command, one in parsers.items()]  # without --help


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Good files, and bad ones of each kind."""
    folder = tmp_path_factory.mktemp("input")
    good = state(5)
    bad = {name: tensor.clone() for name, tensor in good.items()}
    next(iter(bad.values()))[1, 2] = torch.nan
    for end in ("pt", "safetensors"):
        saved(folder / f"good.{end}", good)
        saved(folder / f"nan.{end}", bad)
    pack_tensors(
        good, folder / "good.momos", 2, weights=list(good), level="fixed", slicing="tensor"
    )
    saved(folder / "tiny.pt", {"fc.weight": torch.randn(2, 2)})
    for end in ("pt", "safetensors", "momos"):
        content = (folder / f"good.{end}").read_bytes()
        (folder / f"cut.{end}").write_bytes(content[: 2 * len(content) // 3])
    for end in ("html", "png"):
        (folder / f"folder.{end}").mkdir()
    for end in ("pt", "safetensors"):
        os.mkfifo(folder / f"pipe.{end}")
    for end in ("pt", "safetensors", "momos", "py"):
        (folder / f"empty.{end}").touch()
        (folder / f"text.{end}").write_text("some words\n")
        (folder / f"code.{end}").write_bytes(pickle.dumps({"weight": Runs()}))
        (folder / f"folder.{end}").mkdir()
    (folder / "own.py").write_text(OWN)
    (folder / "nan.py").write_text(NAN_MODEL)
    (folder / "wrong.py").write_text("def net():\n    return {}['layer']\n")
    shutil.copytree(ROOT / "reports" / "digits" / "tables", folder / "report" / "tables")
    shutil.copy(ROOT / "reports" / "digits" / "results.json", folder / "report")
    for name, text in (("empty", ""), ("text", "words"), ("other", '{"cells": 1}')):
        (folder / f"{name}-report").mkdir()
        (folder / f"{name}-report" / "results.json").write_text(text)
    return folder


@pytest.fixture
def refuses(files, monkeypatch, capsys):
    """A function that runs a command, and returns its one line. Nothing is left behind."""
    monkeypatch.chdir(files)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # of modules that a command imports
    before = sorted(files.rglob("*"))

    def refuses(command, *values):
        message = refused(capsys, command, *values)
        assert sorted(files.rglob("*")) == before, (command, values)
        return message

    return refuses


def with_value(command, action, value):
    """The call that works with another value of one argument."""
    if action.option_strings:
        others = {"initial": ["good.pt", *ARCH], "module": ["--device", "cpu"]}
        return [*others.get(action.dest, WORKS[command]), f"{action.option_strings[-1]}={value}"]
    positional = [one.dest for one in dict(arguments())[command] if not one.option_strings]
    place = positional.index(action.dest)
    return [*WORKS[command][:place], value, *WORKS[command][place + 1 :]]


def test_each_argument_is_of_a_kind_that_is_tested():
    for command, actions in arguments():
        for action in actions:
            place = (command, action.dest)
            kinds = [place in FILES, place in ENDS, action.type in NUMBERS and not action.choices]
            kinds += [action.dest in WORDS, action.dest in ELSEWHERE, action.nargs == 0]
            assert sum(kinds) == 1, place


def test_numbers(refuses):
    count = 0
    for command, actions in arguments():
        for action in actions:
            for value in ("0", "-1", "nan", "word", "1e400", "9" * 400, ""):
                if action.type in NUMBERS and (value, action.type) != ("0", non_negative):
                    message = refuses(command, *with_value(command, action, value))
                    assert f"{action.option_strings[-1]}: " in message and repr(value) in message
                    assert any(word in message for word in EXPECTED)
                    count += 1
    assert count > 150
    said = "good.pt: block_size must be in 1..487"
    assert said in refuses("measure", "good.pt", "--block-size", 10**15)
    assert said in refuses("pack", "good.pt", "new.momos", "--block-size", 10**15)


def test_words(refuses):
    count = 0
    for command, actions in arguments():
        for action in actions:
            for value in ("no-such", "") if action.dest in WORDS else ():
                message = refuses(command, *with_value(command, action, value))
                name = action.option_strings[-1].removeprefix("--")
                assert (value or name.removesuffix("s")) in message, message
                assert any(word in message for word in EXPECTED), message
                count += 1
    assert count > 30
    for text in ("[1]", "null", "{", '{"width": NaN}'):
        message = refuses("measure", "good.pt", *ARCH[:-1], text)
        assert "arch-kwargs" in message or "kwargs: mlp does not take" in message
    for text in ("{}", "[1]", '[["(", "parameter"]]', '[["a", "no-such"]]'):
        assert "--kinds must be a JSON list of pairs, got '" in refuses(
            "measure", "good.pt", "--kinds", text
        )
    assert json_object("{}") == {}
    message = "tiny.pt: BDM is undefined: the data holds no complete block of 12 bits"
    assert message in refuses("measure", "tiny.pt", *FEW)
    assert "good.pt: the weights do not belong to" in refuses("measure", "good.pt", *ARCH[:-4])


@pytest.mark.parametrize("place", FILES, ids="-".join)
def test_files(refuses, place):
    command, dest = place
    (action,) = [one for one in dict(arguments())[command] if one.dest == dest]
    for value in FILES[place]:
        message = refuses(command, *with_value(command, action, value))
        assert value.partition(":")[0] in message, message
        assert any(word in message for word in EXPECTED), message
        assert ("infinit" in message) == value.startswith("nan."), message


@pytest.fixture
def locked(tmp_path):
    """A folder in which nothing can be written."""
    if os.geteuid() == 0:  # who may write wherever a disk is
        return Path("/proc")
    tmp_path.chmod(0o500)
    return tmp_path


@pytest.mark.parametrize("place", ENDS, ids="-".join)
def test_outputs(refuses, locked, place):
    command, dest = place
    (action,) = [one for one in dict(arguments())[command] if one.dest == dest]
    end = ENDS[place]
    others = [f"gone/new{end}", f"folder{end}"] if end else ["good.pt/new"]
    for value in (f"{locked}/new{end}", "good.pt", *others):
        message = refuses(command, *with_value(command, action, value))
        assert value in message and any(word in message for word in EXPECTED), message
