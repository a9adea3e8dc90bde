"""`momos measure` without an architecture, on files as people have them and on bad ones."""

import argparse
import gzip
import json
import os
import pickle
import struct
import tarfile
import warnings
from collections import Counter

import numpy as np
import pytest
import torch
from command import measured, ran, refused, saved, state
from foreign import prefixed
from torch import nn

from momos import cli
from momos.cli import foreign, layers
from momos.complexity import planes
from momos.survey.network import find_network
from momos.weights.files import open_weights
from momos.weights.initial import fresh

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # pybdm imports pkg_resources
    import pybdm

FEW = ("--init-seeds", 3, "--compressors", "gzip")


def network(seed=0) -> dict[str, torch.Tensor]:
    """A small network's weights, shifted as if trained, and its buffers."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(32, 9))
    tensors = model.state_dict()
    return {
        name: tensor + 0.05 if tensor.is_floating_point() else tensor
        for name, tensor in tensors.items()
    }


WEIGHTS = ("0.weight", "0.bias", "1.weight", "1.bias", "3.weight", "3.bias")


def pybdm_1d(tensors) -> float:
    bits = np.concatenate([tensor.numpy().ravel() > 0 for tensor in tensors])
    return pybdm.BDM(ndim=1).bdm(bits.astype(int))


def test_the_measures_equal_pybdm_against_fresh_weights(tmp_path, capsys):
    tensors = network()
    row = measured(capsys, saved(tmp_path / "a.pt", tensors), "--init-seeds", 5, "--block-size", 4)
    start = [pybdm_1d(fresh(tensors, seed).values()) for seed in range(5)]
    found = pybdm_1d(tensors[name] for name in WEIGHTS)
    assert row["bdm_1d"] == pytest.approx(found, rel=1e-9)
    assert row["bdm_1d_initial"] == pytest.approx(np.mean(start), rel=1e-9)
    assert row["bdm_1d_ratio"] == pytest.approx(found / np.mean(start), rel=1e-9)
    z = (found - np.mean(start)) / np.std(start, ddof=1)
    assert row["bdm_1d_z"] == pytest.approx(z, rel=1e-6)
    assert row["planes"] == pytest.approx(
        planes.complexity({name: tensors[name] for name in WEIGHTS}, 8, 99.9).sum(), rel=1e-9
    )
    assert row["num_weights"] == sum(tensors[name].numel() for name in WEIGHTS)
    assert (row["num_tensors"], row["num_buffers"], row["num_initial"]) == (6, 3, 5)
    assert row["rac"] < 1
    assert row["distinct_blocks"] == row["num_blocks"] - 2  # a norm's are constant
    assert {"gzip", "lzma", "zstd", "bz2", "gzip_binary", "plane_7_ratio"} <= set(row)


def test_twenty_initialisations_and_all_compressors_are_the_default(tmp_path, capsys):
    out = ran(capsys, "measure", saved(tmp_path / "a.pt", network()))
    assert "against 30 initialisations (default)" in out
    titles = [line.split("  ")[0] for line in out.splitlines()]
    assert "BDM 1-D" in titles and "planes" in titles and "lzma" in titles
    assert out.splitlines()[0] == "537 weights in 6 tensors, float32; left out: 3 buffers"


def test_each_tensor_is_read_once(tmp_path, capsys, monkeypatch):
    """All measures together: BDM, its controls, distinct blocks, the compressors."""
    counts: Counter[str] = Counter()
    opened = foreign.open_weights

    def counted(path):
        stored = opened(path)
        read = stored._read_tensor
        stored._read_tensor = lambda name: (counts.update([name]), read(name))[1]
        return stored

    monkeypatch.setattr(foreign, "open_weights", counted)
    tensors = network()
    row = measured(capsys, saved(tmp_path / "a.safetensors", tensors), "--block-size", 4)
    assert row["num_weights"] == 537 and row["distinct_blocks"] and row["zstd"]
    assert set(counts.values()) == {1} and set(WEIGHTS) <= set(counts)


def written(path, tensors):
    """The tensors in a file of the kind that the ending says."""
    plain = {name: tensor for name, tensor in tensors.items() if tensor.is_floating_point()}
    if path.name.endswith(".npz"):
        np.savez(path, **{name: tensor.numpy() for name, tensor in plain.items()})
    elif path.name.endswith((".tgz", ".tar.gz")):
        inner = saved(path.parent / "inner.pth", tensors)
        with tarfile.open(path, "w:gz") as archive:
            archive.add(inner, "checkpoints/inner.pth")
            archive.add(__file__, "checkpoints/._inner.pth")  # from a Mac
            archive.add(__file__, "README.txt")
    elif path.suffix == "":
        path.mkdir()
        saved(path / "model.safetensors", tensors)
        (path / "config.json").write_text("{}")
    elif path.suffix == ".ckpt":  # Lightning
        inside = {"state_dict": prefixed("model.")(tensors), "epoch": 3, "callbacks": {}}
        torch.save(inside | {"hyper_parameters": {"lr": np.float64(0.1)}}, path)
    else:
        torch.save({"state_dict": tensors, "args": argparse.Namespace(lr=0.1)}, path)
    return path


KINDS = ["a.pth.tar", "a.PTH", "a.bin", "a.ckpt", "a.tgz", "a.tar.gz", "a.npz", "folder"]


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_of_file_gives_the_same_row(tmp_path, capsys, name):
    plain = measured(capsys, saved(tmp_path / "plain.safetensors", network()), *FEW)
    found = measured(capsys, written(tmp_path / name, network()), *FEW)
    num_tensors = found["num_tensors"]
    assert (found["num_weights"], num_tensors) == (plain["num_weights"], 6)
    assert found["bdm_2d"] == plain["bdm_2d"]  # the order of tensors, which 1-D sees, may differ


def test_shards_of_a_hub_folder_are_one_network(tmp_path, capsys):
    tensors = network()
    names = list(tensors)
    for number, own in enumerate((names[:3], names[3:])):
        saved(tmp_path / f"model-{number}.safetensors", {name: tensors[name] for name in own})
    weight_map = {name: f"model-{int(place >= 3)}.safetensors" for place, name in enumerate(names)}
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": weight_map}))
    assert measured(capsys, tmp_path, *FEW)["num_weights"] == 537
    (tmp_path / "model-1.safetensors").unlink()
    assert "shard model-1.safetensors is not in the folder" in refused(capsys, "measure", tmp_path)


def test_what_systems_leave_in_a_folder_is_no_second_file(tmp_path, capsys):
    folder = tmp_path / "weights"
    folder.mkdir()
    path = saved(folder / "a.pt", network())
    (folder / "._a.pt").write_bytes(b"left behind")
    assert measured(capsys, folder, *FEW) == measured(capsys, path, *FEW)
    ran(capsys, "pack", folder, tmp_path / "a.momos", "--block-size", 2)
    assert "a.pt, c.pt" in refused(capsys, "measure", saved(folder / "c.pt", network()).parent)


def test_the_hubs_cache_has_one_snapshot_or_says_which(tmp_path, capsys):
    for commit in ("aaa", "bbb"):
        folder = tmp_path / "models--me--net" / "snapshots" / commit
        folder.mkdir(parents=True)
        saved(folder / "model.safetensors", network())
    cache = tmp_path / "models--me--net"
    assert "2 snapshots (aaa, bbb); expected one" in refused(capsys, "measure", cache)
    (cache / "refs").mkdir()
    (cache / "refs" / "main").write_text("bbb")
    assert measured(capsys, cache, *FEW)["num_weights"] == 537


@pytest.mark.parametrize("prefix", ["_orig_mod.module.", "module.model.", "model."])
def test_prefixes_of_wrappers_change_nothing(tmp_path, capsys, prefix):
    plain = measured(capsys, saved(tmp_path / "plain.pt", network()), *FEW)
    assert measured(capsys, saved(tmp_path / "a.pt", prefixed(prefix)(network())), *FEW) == plain


def test_what_is_no_weight_is_left_out_and_counted(tmp_path, capsys):
    tied = network() | {"head.weight": network()["3.weight"].clone()}
    optimizer = {"state": {0: {"exp_avg": torch.ones(3), "exp_avg_sq": torch.ones(3)}}}
    path = saved(tmp_path / "a.pt", {"state_dict": tied, "optimizer": optimizer})
    row = measured(capsys, path, *FEW)
    assert (row["num_buffers"], row["num_tied"], row["num_beside"]) == (3, 1, 2)
    assert row["num_weights"] == 537


def test_kinds_and_init_say_what_names_can_not(tmp_path, capsys):
    path = saved(tmp_path / "a.pt", network() | {"log_std": torch.full((40,), -0.5)})
    message = refused(capsys, "measure", path)
    assert "a.pt: tensor log_std of shape (40,): name" in message and '["log_std", KIND]' in message
    kinds = json.dumps([["log_std", "parameter_zero"]])
    row = measured(capsys, path, *FEW, "--kinds", kinds, "--init", "xavier_uniform_zero")
    assert (row["num_weights"], row["init"]) == (577, "xavier_uniform_zero")
    default = measured(capsys, path, *FEW, "--kinds", kinds)
    assert default["bdm_1d_initial"] != row["bdm_1d_initial"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--init", "kaming"], "init must be one of default, "),
        (["--kinds", "[1]"], "--kinds must be a JSON list of pairs, got '[1]'"),
        (["--kinds", '[["a", "dense"]]'], "--kinds must be a JSON list of pairs"),
        (["--compressors", "rar"], "unknown compressor 'rar'"),
        (["--bits", "8"], "--bits needs --arch"),
        (["--arch-kwargs", '{"a": 1}'], "--arch-kwargs needs --arch"),
        (["--arch", "mlp", "--init", "gpt"], "--init goes without --arch"),
        (["--block-size", "9999"], "block_size must be in 1..537"),
    ],
)
def test_bad_arguments_are_named(tmp_path, capsys, arguments, message):
    path = saved(tmp_path / "a.pt", network())
    assert cli.main(["measure", str(path), "--json", *arguments]) == 2
    assert message in capsys.readouterr().err


# --- files that are refused, in one line with file, tensor and what was expected


class Payload:
    """Unpickling it makes a folder."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def quantised():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch announces another quantisation
        model = torch.ao.quantization.quantize_dynamic(nn.Sequential(nn.Linear(9, 5)), {nn.Linear})
        return model.state_dict()


BAD = {
    "no weights": (lambda: {"bn.running_mean": torch.ones(3)}, "holds no weights: all of its 1"),
    "nothing": (dict, "holds no state dict, but an empty dict"),
    "integers": (
        lambda: network() | {"0.weight": torch.ones(8, 3, 3, 3, dtype=torch.int8)},
        "tensor 0.weight is torch.int8, expected floating-point weights",
    ),
    "float8": (
        lambda: {name: tensor.to(torch.float8_e5m2) for name, tensor in network().items()},
        "tensor 0.weight is torch.float8_e5m2, expected floating-point weights of 16 bits or more",
    ),
    "integers with scales": (
        lambda: {"0.scale": torch.ones(8), "0.weight": torch.ones(8, 9, dtype=torch.int8)},
        "tensor 0.weight is torch.int8, expected floating-point weights",
    ),
    "quantised": (quantised, "0._packed_params._packed_params (tuple); expected"),
    "NaN": (
        lambda: network() | {"3.bias": torch.full((9,), torch.nan)},
        "tensor 3.bias holds NaN or infinite weights, expected finite ones",
    ),
    "empty": (
        lambda: network() | {"4.weight": torch.ones(0, 9)},
        "tensor 4.weight of shape (0, 9) is empty, expected weights",
    ),
    "two layouts": (
        lambda: network() | prefixed("module.")(network(1)),
        "tensor module.0.weight is there without the prefix module. too",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_files_are_refused_with_the_tensor(tmp_path, capsys, name):
    content, message = BAD[name]
    path = saved(tmp_path / "bad.pt", content())
    said = refused(capsys, "measure", path)
    assert "bad.pt" in said and message in said and "expected" in said
    assert "weights_only" not in said


def test_nothing_in_a_file_is_executed(tmp_path, capsys):
    path = saved(tmp_path / "evil.pt", {"state_dict": Payload(tmp_path / "executed")})
    assert "unsupported GLOBAL posix.mkdir" in refused(capsys, "measure", path)
    np.savez(tmp_path / "evil.npz", a=np.array([Payload(tmp_path / "executed")], dtype=object))
    assert "allow_pickle=False" in refused(capsys, "measure", tmp_path / "evil.npz")
    assert not (tmp_path / "executed").exists()


# A graph whose only initialiser, 2x3 float32, lies at the `location` beside it
EXTERNAL = b"\x08\x08:!*\x1f\x08\x02\x08\x03\x10\x01B\tfc.weightj\n\n\x08locationp\x01"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.safetensors", struct.pack("<Q", 10 * 2**30) + b'{"a": 1}', "header too large"),
        ("a.pth", b"\n<!DOCTYPE html>\n<html><body>404</body></html>", "it is an HTML page"),
        ("a.pt", b"version https://git-lfs.github.com/spec/v1\n", "it is a pointer of Git LFS"),
        ("a.tgz", b"no archive", "can't be read as weights"),
        ("a.npz", b"no arrays", "can't be read as weights"),
        ("a.onnx", b"no graph", "it is no ONNX model"),
        ("a.onnx", EXTERNAL, "tensor fc.weight, whose data are in another file (external data)"),
        ("a.pth", pickle.dumps(print, protocol=4), "can't be read as weights: "),
        ("a.pth.gz", gzip.compress(b"weights", mtime=0), "it is packed by gzip"),
        ("a.tgz", gzip.compress(b"weights", mtime=0), "weights: file could not be opened"),
        ("a.bin", b"GGUF\3\0\0\0", "it is a GGUF file"),
        ("a.ckpt", b"\x89HDF\r\n\x1a\n", "it is an HDF5 file"),
        ("a.pt", b"\x89MOMOS\r\n", "it is a .momos file (see `momos unpack`)"),
    ],
)
def test_files_of_another_kind_say_what_they_are(tmp_path, capsys, name, content, message):
    (tmp_path / name).write_bytes(content)
    said = refused(capsys, "measure", tmp_path / name)
    assert name in said and message in said and "expected a .safetensors file" in said


def test_an_archive_with_two_weight_files_names_both(tmp_path, capsys):
    with tarfile.open(tmp_path / "a.tgz", "w:gz") as archive:
        for name in ("one.pt", "two.pt"):
            archive.add(saved(tmp_path / name, network()), name)
    assert "2 weight files (one.pt, two.pt), expected one" in refused(
        capsys, "measure", tmp_path / "a.tgz"
    )


@pytest.mark.parametrize(
    ("tensor", "expected"),
    [
        (torch.eye(8).to_sparse(), "holds tensor fc.weight as torch.sparse_coo"),
        (torch.empty(8, 8, device="meta"), "holds tensor fc.weight without numbers (meta)"),
    ],
)
def test_tensors_that_are_not_dense_are_refused(tmp_path, capsys, tensor, expected):
    path = saved(tmp_path / "a.pt", {"fc.weight": tensor})
    for command in (["measure", path], ["pack", path, tmp_path / "a.momos", "--block-size", 2]):
        assert expected in refused(capsys, *command)


# --- half precision, and integers in every command


def test_half_precision_is_measured_as_it_is_stored_and_as_float32(tmp_path, capsys):
    # float16 alone can't say which of the two files is simpler: the same numbers in both
    numbers = {name: tensor.half() for name, tensor in network().items() if tensor.ndim}
    half = saved(tmp_path / "half.pt", numbers)
    single = saved(tmp_path / "single.pt", {name: one.float() for name, one in numbers.items()})
    few = ("--init-seeds", 2, "--compressors", "gzip,lzma")
    found, plain = measured(capsys, half, *few), measured(capsys, single, *few)
    assert (found["stored_dtype"], found["bits"]) == ("float16", 16)
    assert (plain["stored_dtype"], plain["bits"]) == ("float32", 32)
    for name in ("gzip", "lzma"):
        assert found[f"{name}_float32"] == plain[name] and f"{name}_float32" not in plain
        assert found[name] < plain[name], "half of the raw bytes, about as many compressed ones"
    assert found["bdm_1d"] == plain["bdm_1d"] and "as float32" in ran(capsys, "measure", half, *FEW)


def test_half_precision_with_an_architecture_says_the_same(tmp_path, capsys):
    from command import ARCH

    half = saved(tmp_path / "a.pt", {name: tensor.half() for name, tensor in state(5).items()})
    found = measured(capsys, half, *ARCH)
    single = {name: tensor.half().float() for name, tensor in state(5).items()}
    plain = measured(capsys, saved(tmp_path / "b.pt", single), *ARCH)
    assert (found["bits"], found["stored_dtype"], found["rac"]) == (16, "float16", 1)
    assert found["gzip_float32"] == plain["gzip"] and found["gzip"] < plain["gzip"]
    assert found["trivial_bits"] == plain["trivial_bits"] / 2


def test_integers_are_refused_in_every_command_with_the_reason(tmp_path, capsys):
    from command import ARCH

    codes = {name: (10 * tensor).to(torch.int8) for name, tensor in state(5).items()}
    path, reason = saved(tmp_path / "a.pt", codes), "is torch.int8, expected floating-point weights"
    assert reason in refused(capsys, "measure", path)
    assert reason in refused(capsys, "measure", path, *ARCH)
    assert reason in refused(capsys, "pack", path, tmp_path / "a.momos", "--block-size", 2)
    assert not (tmp_path / "a.momos").exists()


# --- commands that write


def test_no_command_replaces_its_input_or_makes_folders(tmp_path, capsys):
    path = saved(tmp_path / "p.pth", state(5))
    before = path.read_bytes()
    assert "p.pth: expected a name ending in .momos" in refused(capsys, "pack", path, path)
    packed = tmp_path / "a.momos"
    ran(capsys, "pack", path, packed, "--block-size", 2)
    assert "a.momos: expected a name ending in .safetensors" in refused(
        capsys, "unpack", packed, packed
    )
    alias = saved(tmp_path / "alias.momos", state(5))  # weights under a wrong name
    said = refused(capsys, "pack", alias, alias, "--block-size", 2)
    assert "alias.momos is the input, which is not replaced" in said
    (tmp_path / "link.momos").symlink_to(alias)
    said = refused(capsys, "pack", alias, tmp_path / "link.momos", "--block-size", 2)
    assert "is the input" in said
    for command, source, name in (("pack", path, "b.momos"), ("unpack", packed, "b.safetensors")):
        said = refused(capsys, command, source, tmp_path / "new" / name)
        assert f"there is no folder {tmp_path}/new" in said
    assert path.read_bytes() == before and not (tmp_path / "new").exists()


# --- bit planes tensor by tensor


def test_layers_are_drawn_each_against_its_own_fresh_weights(tmp_path, capsys):
    tensors = network()
    tensors["3.weight"][0] = 0.0
    path, picture = saved(tmp_path / "a.pt", tensors), tmp_path / "a.svg"
    found = find_network(open_weights(path))
    ratios = layers.layer_ratios(found, 3)
    assert list(ratios) == ["0.weight", "3.weight"], "with complete blocks"
    starts = [fresh(tensors, seed)["3.weight"] for seed in range(3)]
    mean = np.mean([planes.complexity({"w": start}, 8, 99.9) for start in starts], axis=0)
    expected = planes.complexity({"w": tensors["3.weight"]}, 8, 99.9) / mean
    np.testing.assert_allclose(ratios["3.weight"], expected, rtol=1e-12)
    measured(capsys, path, *FEW, "--layers", picture)
    assert "3.weight" in picture.read_text(), "matplotlib writes each text as a comment, too"


@pytest.mark.parametrize(("arguments", "message"), [
    (("--layers", "a.txt"), "--layers must end with .png, .svg, .pdf, got 'a.txt'"),
    (("--layers", "a.png", "--arch", "mlp"), "--layers goes without --arch"),
])  # fmt: skip
def test_a_picture_that_can_not_be_is_refused(tmp_path, capsys, arguments, message):
    path = saved(tmp_path / "a.pt", network())
    assert message in refused(capsys, "measure", path, *arguments)
