"""Parser and exit codes of the `momos` command."""

import argparse
import os
import subprocess
import sys
import tomllib
from importlib import import_module
from pathlib import Path

from command import ARCH, refused, saved, state

from momos import cli

ROOT = Path(__file__).parents[2]


def test_what_is_required_is_named(tmp_path, capsys):
    path = saved(tmp_path / "a.safetensors", state(5))
    assert "--arch" in refused(capsys, "measure", path, "--num-classes", 7)
    assert "COMMAND" in refused(capsys)
    assert "invalid choice: 'unpak'" in refused(capsys, "unpak")


def test_a_library_that_only_an_extra_brings_is_named(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    path = saved(tmp_path / "a.safetensors", state(5))
    message = refused(capsys, "measure", path, "--arch", "resnet18", "--num-classes", 7)
    assert "timm" in message and "pip install '.[pipeline]'" in message


def test_the_command_is_the_function_that_the_project_names():
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    assert scripts["momos"] == "momos.cli:main" and callable(cli.main)


def test_importing_the_command_and_its_help_import_no_torch():
    code = """
import sys
from momos import cli
try:
    cli.main(["measure", "--help"])
except SystemExit as error:
    assert error.code == 0
sys.exit(bool({"torch", "numpy", "timm"} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0 and "WEIGHTS" in done.stdout


def test_the_module_can_be_run():
    command = [sys.executable, "-m", "momos.cli", "inspect", "gone.momos"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.startswith("momos: gone.momos is missing")


def test_a_reader_that_has_seen_enough_is_no_error(tmp_path, capsys, monkeypatch):
    """As `momos measure .. | head -1` has one."""
    path = saved(tmp_path / "a.safetensors", state(5))
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as closed:
        monkeypatch.setattr(sys, "stdout", closed)
        assert cli.main(["measure", str(path), *ARCH]) == 141
    assert capsys.readouterr().err == ""


def test_messages_hold_nothing_that_a_terminal_obeys(tmp_path, capsys):
    """A name in a file is shown, its escape sequences are not."""
    weights = {f"{name}\x1b[31m": tensor for name, tensor in state(5).items()}
    message = refused(capsys, "measure", saved(tmp_path / "a.pt", weights), *ARCH)
    assert message.strip().isprintable() and "unexpected hidden.0.weight, " in message


GONE = {  # what each command asks for, where nothing is
    "measure": ["gone.pt"],
    "compare": ["gone.pt", "gone.safetensors"],
    "compressibility": ["gone", "--text", "gone.txt"],
    "llc": ["gone", "--text", "gone.txt"],
    "pack": ["gone.pt", "gone.momos"],
    "unpack": ["gone.momos", "gone.safetensors"],
    "inspect": ["gone.momos"],
    "verify": ["gone.momos"],
    "verify-report": ["gone"],
}


def test_each_command_names_the_file_that_is_missing_in_one_line(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (parsers,) = [
        action.choices
        for action in import_module("momos.cli.main")._parser()._actions
        if isinstance(action, argparse._SubParsersAction)
    ]
    assert set(parsers) == set(GONE)
    for command, arguments in GONE.items():
        message = refused(capsys, command, *arguments)
        assert "gone" in message and "expected" in message, message
        message = refused(capsys, command, *arguments, "--no-such-option")
        assert "unrecognized arguments: --no-such-option" in message


def test_ctrl_c_anywhere_ends_in_one_line(tmp_path, capsys, monkeypatch):
    def interrupted(path):
        raise KeyboardInterrupt

    monkeypatch.setattr("momos.packing.inspect", interrupted)
    assert cli.main(["inspect", str(tmp_path / "a.momos")]) == 130
    assert capsys.readouterr().err == "momos: interrupted\n"
