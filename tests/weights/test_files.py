"""The one reader of weight files: wrappers, prefixes, their precedence, and files it refuses."""

import argparse
import contextlib
import io
import itertools
import json
import random
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from foreign import prefixed, saved, trained_by_timm

from momos import cli
from momos.survey.candidates import LOCAL, Candidate, RowSettings
from momos.survey.run import measure_candidate
from momos.weights import files
from momos.weights.files import EMA_WRAPPERS, PREFIXES, WRAPPERS, load_weights, open_weights

STATE = {
    "conv.weight": torch.arange(8.0).reshape(2, 4),
    "norm.scale": torch.tensor(3.0),
    "norm.count": torch.tensor([5]),
}
OTHER = {name: -tensor for name, tensor in STATE.items()}


def assert_state(path: Path, expected: dict[str, torch.Tensor] = STATE) -> None:
    found = load_weights(path)
    in_order = path.suffix != ".safetensors"  # which sorts them
    assert list(found) == list(expected) if in_order else set(found) == set(expected)
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor) and found[name].dtype == tensor.dtype


# --- wrappers


def test_the_wrappers_and_prefixes_are_those_that_the_docs_name():
    assert set(WRAPPERS) == {
        "state_dict", "model", "model_state_dict", "model_state", "state_dict_ema", "model_ema",
        "module", "params", "ema",
    }  # fmt: skip
    assert set(PREFIXES) == {"module.", "_orig_mod.", "model.", "backbone."}


@pytest.mark.parametrize("suffix", files.SUFFIXES)
def test_bare_tensors_are_taken_as_they_are_without_a_word(tmp_path, suffix, capsys):
    assert_state(saved(tmp_path / f"bare{suffix}", STATE))
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("key", WRAPPERS)
def test_every_wrapper_is_unwrapped_and_what_stands_beside_it_is_left_out(tmp_path, key, capsys):
    content = {"epoch": 3, key: STATE, "optimizer": {"lr": 0.1, "state": {0: torch.ones(3)}}}
    assert_state(saved(tmp_path / "a.pt", content))
    assert capsys.readouterr().err == f"{tmp_path}/a.pt: weights under {key}\n"


@pytest.mark.parametrize(("outer", "inner"), list(itertools.product(WRAPPERS, repeat=2)))
def test_wrappers_are_unwrapped_within_one_another(tmp_path, outer, inner, capsys):
    assert_state(saved(tmp_path / "a.pt", {outer: {inner: STATE, "step": 1}, "epoch": 2}))
    assert f"weights under {outer} > {inner}\n" in capsys.readouterr().err


def test_wrappers_are_unwrapped_at_any_depth(tmp_path):
    content = STATE
    for key in 20 * WRAPPERS:
        content = {key: content}
    assert_state(saved(tmp_path / "a.pt", content))


@pytest.mark.parametrize("ema", EMA_WRAPPERS)
@pytest.mark.parametrize("plain", [key for key in WRAPPERS if key not in EMA_WRAPPERS])
@pytest.mark.parametrize("first", ["ema", "plain"])
def test_an_average_comes_before_plain_weights(tmp_path, ema, plain, first, capsys):
    content = {ema: STATE, plain: OTHER} if first == "ema" else {plain: OTHER, ema: STATE}
    assert_state(saved(tmp_path / "a.pt", content))
    said = f"weights under {ema} (beside it, not taken: {plain})"
    assert capsys.readouterr().err == f"{tmp_path}/a.pt: {said}\n"


@pytest.mark.parametrize(
    ("content", "wrappers"),
    [
        ({"ema": STATE, "state_dict": {"ema": OTHER}}, ("ema",)),
        ({"state_dict": STATE, "model": {"ema": OTHER}}, ("state_dict",)),
        ({"model": {"state_dict": OTHER, "ema": STATE}}, ("model", "ema")),
        ({"ema": {"model": STATE}, "model": OTHER}, ("ema", "model")),
        ({"model_ema": OTHER, "state_dict_ema": STATE}, ("state_dict_ema",)),
    ],
)
def test_the_outermost_wrapper_is_chosen_first_and_the_average_at_each_level(
    tmp_path, content, wrappers
):
    path = saved(tmp_path / "a.pt", content)
    assert_state(path)
    assert open_weights(path).wrappers == wrappers


@pytest.mark.parametrize("empty", [None, {}, {"decay": 0.9}, {"weight": torch.ones(2), "n": 3}, 4])
def test_an_average_without_tensors_is_passed_over(tmp_path, empty, capsys):
    assert_state(saved(tmp_path / "a.pt", {"model_ema": empty, "model": STATE}))
    said = capsys.readouterr().err
    assert "weights under model" in said and ("model_ema" in said) == isinstance(empty, dict)


def test_a_tensor_named_like_a_wrapper_is_a_tensor(tmp_path, capsys):
    state = {"model": torch.ones(2), "ema": torch.zeros(3)}
    assert_state(saved(tmp_path / "a.pt", state), state)
    assert capsys.readouterr().err == ""


def test_options_of_a_training_script_do_not_stand_in_the_way(tmp_path):
    options = argparse.Namespace(lr=0.1, model="resnet50")
    assert_state(saved(tmp_path / "a.pt", {"args": options, "state_dict": STATE}))


# --- prefixes


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize(
    "prefix",
    [*PREFIXES, *("".join(pair) for pair in itertools.product(PREFIXES, repeat=2))]
    + ["".join(PREFIXES), "".join(reversed(PREFIXES)), "module.module.module."],
)
def test_prefixes_are_removed_in_any_order_and_repeated(tmp_path, prefix, suffix, capsys):
    assert_state(saved(tmp_path / f"a{suffix}", prefixed(prefix)(STATE)))
    assert capsys.readouterr().err.endswith(f"a{suffix}: names without the prefix {prefix}\n")


@pytest.mark.parametrize("prefix", PREFIXES)
def test_a_prefix_that_some_names_lack_stays(tmp_path, prefix, capsys):
    state = prefixed(prefix)(STATE) | {"head.weight": torch.ones(2)}
    assert_state(saved(tmp_path / "a.pt", state), state)
    assert capsys.readouterr().err == ""
    outer = prefixed("module.")(state)  # of all names: the inner one still stays
    assert_state(saved(tmp_path / "b.pt", outer), state)


@pytest.mark.parametrize("suffix", files.SUFFIXES)
def test_the_counter_of_torchs_own_average_is_no_weight(tmp_path, suffix):
    averaged = torch.optim.swa_utils.AveragedModel(torch.nn.Linear(3, 2))
    path = saved(tmp_path / f"a{suffix}", averaged.state_dict())
    expected = dict(averaged.module.state_dict())
    assert_state(path, expected)


def test_no_name_is_emptied(tmp_path):
    state = {"model.": torch.ones(2), "model.weight": torch.ones(3)}
    assert_state(saved(tmp_path / "a.pt", state), state)
    twice = {"module.model.": torch.ones(2)}
    assert_state(saved(tmp_path / "b.pt", twice), {"model.": torch.ones(2)})


def test_wrapper_and_prefix_are_said_in_one_line(tmp_path, capsys):
    content = {"state_dict_ema": prefixed("_orig_mod.module.")(STATE), "state_dict": OTHER}
    assert_state(saved(tmp_path / "a.pt", content))
    said = (
        "weights under state_dict_ema (beside it, not taken: state_dict), "
        "names without the prefix _orig_mod.module."
    )
    assert capsys.readouterr().err == f"{tmp_path}/a.pt: {said}\n"


# --- the object


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_shapes_are_known_and_tensors_are_read_by_name(tmp_path, suffix, monkeypatch):
    opened = open_weights(saved(tmp_path / f"a{suffix}", prefixed("module.")(STATE)))
    assert opened.layout == {"conv.weight": (2, 4), "norm.scale": (), "norm.count": (1,)}
    assert len(opened) == 3 and set(opened) == set(STATE)
    assert torch.equal(opened["norm.scale"], torch.tensor(3.0))
    with pytest.raises(KeyError):
        opened["module.norm.scale"]
    with pytest.raises(ValueError, match="tensor norm.count is torch.int64, expected floating"):
        opened.require_floats(["norm.count"])
    monkeypatch.setattr(opened, "_read_tensor", lambda name: pytest.fail(f"{name} was read"))
    assert "conv.weight" in opened and "module.conv.weight" not in opened
    opened.require_floats(["conv.weight", "norm.scale", "absent"])


@pytest.mark.parametrize("mode", ["zip", "legacy"])
def test_both_formats_of_torch_are_read(tmp_path, mode):
    path = tmp_path / "a.pth"
    torch.save({"model": STATE}, path, _use_new_zipfile_serialization=mode == "zip")
    assert_state(path)


def test_importing_the_reader_imports_no_torch():
    code = "import sys, momos.weights.files; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


# --- refused files


class Foreign:
    """Of a class that weights_only=True does not construct."""


class Payload:
    """Unpickling it makes a folder."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        import os

        return os.mkdir, (str(self.path),)


def cyclic() -> dict:
    content: dict = {}
    content["model"] = content
    return content


RED = "\x1b[31mred\x1b[0m\x07\n"
REFUSED = {
    "list": ([1, 2], "holds no state dict, but list; expected a .safetensors file, or one of"),
    "empty": ({}, "holds no state dict, but an empty dict"),
    "entry": (STATE | {"epoch": 3}, "holds 3 tensors and epoch (int)"),
    "other key": ({"epoch": 3, "net": STATE}, "holds epoch (int), net (dict)"),
    "inside": ({"model": STATE | {"n": 1}}, "holds 3 tensors and n (int) under model"),
    "deeper": ({"model": {"ema": {}}}, "holds no state dict, but an empty dict under model > ema"),
    "numbers": ({3: torch.ones(2)}, "holds 3 (Tensor)"),
    "many": (dict.fromkeys(map(str, range(9))), "4 (NoneType) and 4 more"),
    "cyclic": (cyclic(), "holds model (dict) under model"),
    "escapes": ({RED: 3}, "holds red (int)"),
    "class": (
        {"state_dict": STATE, "net": Foreign()},
        "can't be read as weights: Unsupported glob",
    ),
    "module": (torch.nn.Linear(2, 2), "GLOBAL torch.nn.modules.linear.Linear was not an allowed"),
}


def refusal(path: Path) -> str:
    """The message: one printable line that names the file, without torch's advice."""
    with pytest.raises(ValueError) as refused:
        open_weights(path)
    message = str(refused.value)
    assert path.name in message and message.isprintable()
    assert "weights_only" not in message and "add_safe_globals" not in message
    assert "expected a .safetensors file, or one of torch.save" in message
    return message


@pytest.mark.parametrize("name", REFUSED)
def test_what_nothing_explains_is_refused_with_what_the_file_holds(tmp_path, name):
    content, reason = REFUSED[name]
    message = refusal(saved(tmp_path / "a.pt", content))
    assert reason in message
    assert "can't be read" in message or ", ".join(WRAPPERS) in message


def test_code_in_a_file_is_not_run(tmp_path):
    path = saved(tmp_path / "evil.pt", {"state_dict": Payload(tmp_path / "executed")})
    assert "unsupported GLOBAL posix.mkdir whose module posix is blocked;" in refusal(path)
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("suffix", files.SUFFIXES)
@pytest.mark.parametrize(
    "damage", [lambda raw: raw[: len(raw) // 2], lambda raw: b"", lambda raw: b"\x00garbage" * 9]
)
def test_damaged_files_are_named(tmp_path, suffix, damage):
    path = saved(tmp_path / f"a{suffix}", STATE)
    path.write_bytes(damage(path.read_bytes()))
    assert "can't be read as weights: " in refusal(path)


@pytest.mark.parametrize("form", ["zip", "legacy", "safetensors"])
def test_a_file_with_changed_bytes_is_read_or_refused_in_one_line(tmp_path, form):
    path = tmp_path / ("a.safetensors" if form == "safetensors" else "a.pt")
    if form == "safetensors":
        saved(path, STATE)
    else:
        torch.save({"ema": STATE}, path, _use_new_zipfile_serialization=form == "zip")
    whole, draw = path.read_bytes(), random.Random(0)
    for _ in range(100):
        damaged = bytearray(whole)
        for _ in range(draw.choice([1, 2, 20])):
            damaged[draw.randrange(len(damaged))] = draw.randrange(256)
        path.write_bytes(damaged)
        try:
            load_weights(path)
        except ValueError as error:
            assert path.name in str(error) and str(error).isprintable()
            assert "weights_only" not in str(error)


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
def test_a_torchscript_archive_is_called_one(tmp_path, recwarn):
    torch.jit.script(torch.nn.Linear(2, 2)).save(tmp_path / "a.pt")
    recwarn.clear()
    assert "it is a TorchScript archive;" in refusal(tmp_path / "a.pt")
    assert not recwarn.list


def test_missing_and_empty_files_are_named(tmp_path):
    assert "gone.pt is missing: expected" in refusal(tmp_path / "gone.pt")
    (tmp_path / "folder.pt").mkdir()
    assert "folder.pt is an empty folder: expected" in refusal(tmp_path / "folder.pt")
    assert "holds no tensors" in refusal(saved(tmp_path / "a.safetensors", {}))


def test_another_name_in_messages(tmp_path, capsys):
    with pytest.raises(ValueError, match=r"^a.pt holds no state dict"):
        open_weights(saved(tmp_path / "a.pt", []), name="a.pt")
    open_weights(saved(tmp_path / "b.pt", {"model": STATE}), name="b.pt")
    assert capsys.readouterr().err == "b.pt: weights under model\n"


# --- one reader for all


def both_ways(path: Path) -> tuple[dict, dict]:
    """A file as the survey and as the command measures it."""
    settings = RowSettings((0,), ("gzip",), 0, False, path.parent)
    options = ["--arch", "test_vit", "--num-classes", "1000", "--image-size", "160", "--json"]
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        assert cli.main(["measure", str(path), *options]) == 0
    row = measure_candidate(Candidate(path.stem, "test_vit", LOCAL, str(path)), settings).row
    return row, json.loads(said.getvalue())


@pytest.fixture(scope="module")
def apart(tmp_path_factory) -> dict[str, tuple[dict, dict, dict]]:
    """The average and the plain weights in files of their own: weights, and what is measured."""
    folder = tmp_path_factory.mktemp("apart")
    weights = {"average": trained_by_timm("test_vit", 5), "last": trained_by_timm("test_vit", 6)}
    return {
        name: (state, *both_ways(saved(folder / f"{name}.safetensors", state)))
        for name, state in weights.items()
    }


@pytest.mark.parametrize(
    ("ema", "plain"),
    [
        ("state_dict_ema", "model"),
        ("model_ema", "state_dict"),
        ("ema", "model_state_dict"),
        ("ema", "params"),
    ],
)
def test_command_line_and_survey_measure_the_same_weights(tmp_path, apart, ema, plain):
    """A file with an average beside plain weights: one BDM, that of the average alone."""
    (average, *alone), (last, *of_last) = apart["average"], apart["last"]
    wrapped = {plain: last, ema: prefixed("module.")(average)}
    measured = [*both_ways(saved(tmp_path / "test_vit.pth", wrapped)), *alone]
    for name in ("bdm_1d", "bdm_2d", "gzip", "num_weights"):
        assert len({one[name] for one in measured}) == 1
    assert measured[0]["bdm_1d"] != of_last[0]["bdm_1d"] == of_last[1]["bdm_1d"]
