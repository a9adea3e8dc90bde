"""`momos measure`, `pack`, `unpack`, `inspect` and `verify` on checkpoints as people keep them, and
on files that are none.
"""

import json
import os
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from momos import cli, models
from momos.files import atomic, run_folder
from momos.methods import mosaic

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # pybdm imports pkg_resources
    import pybdm

KWARGS = {"hidden_layers": 1, "width": 20}
ARCH = [
    "--arch",
    "mlp",
    "--num-classes",
    "7",
    "--in-channels",
    "1",
    "--image-size",
    "4",
    "--arch-kwargs",
    json.dumps(KWARGS),
]


def state(seed: int) -> dict[str, torch.Tensor]:
    return models.build(
        "mlp", 7, seed=seed, in_channels=1, image_size=4, kwargs=KWARGS
    ).state_dict()


def pybdm_1d(tensors: dict[str, torch.Tensor]) -> float:
    return pybdm.BDM(ndim=1).bdm(
        np.concatenate([tensor.numpy().ravel() > 0 for tensor in tensors.values()]).astype(int)
    )


def saved(path: Path, content) -> Path:
    save_file(content, path) if path.suffix == ".safetensors" else torch.save(content, path)
    return path


def measured(capsys, *arguments) -> dict:
    assert cli.main(["measure", *map(str, arguments), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def refused(capsys, *arguments) -> str:
    """The one line on stderr; nothing is printed on stdout."""
    assert cli.main([str(argument) for argument in arguments]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("momos: ") and err.count("\n") == 1
    return err


def test_measures_equal_pybdm_against_the_mean_initialisation(tmp_path, capsys):
    row = measured(
        capsys,
        saved(tmp_path / "a.safetensors", state(5)),
        *ARCH,
        "--init-seeds",
        3,
        "--block-size",
        2,
    )
    start = np.mean([pybdm_1d(state(seed)) for seed in range(3)])
    assert row["bdm_1d"] == pytest.approx(pybdm_1d(state(5)), rel=1e-9)
    assert row["bdm_1d_initial"] == pytest.approx(start, rel=1e-9)
    assert row["bdm_1d_ratio"] == pytest.approx(pybdm_1d(state(5)) / start, rel=1e-9)
    assert row["bdm_2d_ratio"] == pytest.approx(row["bdm_2d"] / row["bdm_2d_initial"], rel=1e-12)
    assert (row["arch"], row["num_weights"], row["num_init_seeds"]) == (
        "mlp",
        16 * 20 + 20 + 20 * 7 + 7,
        3,
    )
    assert row["distinct_blocks"] == 10 * 16 + 10 + 70 + 4  # random weights: all blocks differ


def test_an_untrained_model_has_ratio_one_to_its_own_seed(tmp_path, capsys):
    row = measured(capsys, saved(tmp_path / "a.safetensors", state(0)), *ARCH)
    assert (row["bdm_1d_ratio"], row["bdm_2d_ratio"], row["distinct_blocks"]) == (1.0, 1.0, None)


WRAPPED = {
    "bare.pt": lambda weights: weights,
    "state_dict.pth": lambda weights: {"state_dict": weights, "epoch": 3},
    "model.pt": lambda weights: {"model": weights, "optimizer": {"lr": 0.1}},
    "data_parallel.safetensors": lambda weights: {
        f"module.{name}": tensor for name, tensor in weights.items()
    },
    "compiled.pt": lambda weights: {
        "model": {f"module._orig_mod.{name}": tensor for name, tensor in weights.items()}
    },
}


@pytest.mark.parametrize("file", WRAPPED)
def test_weights_are_found_in_whatever_wraps_them(tmp_path, capsys, file):
    plain = measured(capsys, saved(tmp_path / "plain.safetensors", state(5)), *ARCH)
    assert measured(capsys, saved(tmp_path / file, WRAPPED[file](state(5))), *ARCH) == plain


def test_text_output_has_a_line_per_measure(tmp_path, capsys):
    path = saved(tmp_path / "a.safetensors", state(5))
    expected = measured(capsys, path, *ARCH)
    assert cli.main(["measure", str(path), *ARCH]) == 0
    lines = dict(line.split() for line in capsys.readouterr().out.splitlines())
    assert lines.keys() == {name for name, value in expected.items() if value is not None}
    assert float(lines["bdm_1d"]) == pytest.approx(expected["bdm_1d"], rel=1e-5)


def test_buffers_may_be_absent_and_are_not_measured(tmp_path, capsys):
    model = models.build("resnet20", 10, seed=3)
    whole = saved(tmp_path / "whole.safetensors", model.state_dict())
    parameters = {name: parameter.detach() for name, parameter in model.named_parameters()}
    bare = saved(tmp_path / "bare.safetensors", parameters)
    arguments = ["--arch", "resnet20", "--num-classes", 10]
    row = measured(capsys, whole, *arguments)
    assert row == measured(capsys, bare, *arguments)
    assert row["num_weights"] == 269_722


class Payload:
    """Unpickling it makes a folder."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_code_in_a_checkpoint_is_not_run(tmp_path, capsys):
    path = saved(tmp_path / "evil.pt", {"state_dict": Payload(tmp_path / "executed")})
    assert "evil.pt can't be read as weights alone" in refused(capsys, "measure", path, *ARCH)
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".safetensors"])
@pytest.mark.parametrize(
    "damage", [lambda raw: raw[: len(raw) // 2], lambda raw: b"", lambda raw: b"\x00garbage" * 9]
)
def test_damaged_files_are_named(tmp_path, capsys, suffix, damage):
    path = saved(tmp_path / f"a{suffix}", state(5))
    path.write_bytes(damage(path.read_bytes()))
    assert f"a{suffix}" in refused(capsys, "measure", path, *ARCH)


def test_what_is_no_checkpoint_is_refused(tmp_path, capsys):
    assert "gone.pt is missing" in refused(capsys, "measure", tmp_path / "gone.pt", *ARCH)
    (tmp_path / "a.bin").write_bytes(b"x")
    assert "ending in .safetensors, .pt, .pth, got '.bin'" in refused(
        capsys, "measure", tmp_path / "a.bin", *ARCH
    )
    path = saved(tmp_path / "list.pt", [1, 2])
    assert "expected a dict of tensors, got list" in refused(capsys, "measure", path, *ARCH)
    path = saved(tmp_path / "other.pt", {"epoch": 3, "net": state(5)})
    assert "no tensor: epoch, net" in refused(capsys, "measure", path, *ARCH)


def test_weights_of_another_model_are_refused_with_five_names(tmp_path, capsys):
    path = saved(tmp_path / "a.safetensors", {f"layer{i}": torch.ones(2) for i in range(7)})
    message = refused(capsys, "measure", path, *ARCH)
    assert "missing hidden.0.weight, hidden.0.bias, linear.weight, linear.bias;" in message
    assert "unexpected layer0, layer1, layer2, layer3, layer4 and 2 more" in message
    wide = models.build("mlp", 9, in_channels=1, image_size=4, kwargs=KWARGS).state_dict()
    message = refused(capsys, "measure", saved(tmp_path / "b.safetensors", wide), *ARCH)
    assert (
        "--num-classes" in message
        and "linear.weight (9, 20) instead of (7, 20), linear.bias (9,) instead of (7,)" in message
    )


def test_weights_that_are_not_finite_are_named(tmp_path, capsys):
    broken = {name: tensor.clone() for name, tensor in state(5).items()}
    broken["linear.bias"][2] = float("nan")
    path = saved(tmp_path / "a.safetensors", broken)
    assert "tensor linear.bias (trained) holds NaN" in refused(capsys, "measure", path, *ARCH)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--arch", "no_such_net"], "no_such_net"),
        (["--arch-kwargs", "{depth: 3}"], "expected a JSON object, got '{depth: 3}'"),
        (["--arch-kwargs", "[1]"], "expected a JSON object, got '[1]'"),
        (["--arch-kwargs", '{"depth": 3}'], "depth"),
        (["--num-classes", "0"], "--num-classes: expected a positive whole number, got '0'"),
        (["--init-seeds", "two"], "--init-seeds: expected a positive whole number, got 'two'"),
        (["--block-size", "0"], "--block-size: expected a positive whole number, got '0'"),
        (["--block-size", "488"], "block_size must be in 1..487"),
        (["--colour", "red"], "unrecognized arguments: --colour red"),
    ],
)
def test_bad_arguments_are_named(tmp_path, capsys, change, message):
    path = saved(tmp_path / "a.safetensors", state(5))
    assert message in refused(capsys, "measure", path, *ARCH, *change)


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_the_number_of_classes_is_read_off_the_weights(tmp_path, capsys, suffix):
    path = saved(tmp_path / f"a{suffix}", state(5))
    without = [word for word in ARCH if word not in ("--num-classes", "7")]
    assert measured(capsys, path, *without) == measured(capsys, path, *ARCH)
    assert measured(capsys, path, *without)["num_classes"] == 7


def test_a_run_of_the_pipeline_measures_as_evaluate_does(tmp_path, capsys):
    """Its own initial weights, quantised as deployed: against pybdm on a quantisation written out."""
    initial, trained = state(1), state(2)
    files = [
        saved(tmp_path / f"{name}.safetensors", content)
        for name, content in (("initial", initial), ("last", trained))
    ]
    found = measured(capsys, files[1], *ARCH, "--initial", files[0], "--bits", 3)

    def quantised(name, weight):
        scale = weight.abs().max() / 3
        return weight if "bias" in name else scale * (weight / scale).round()

    deployed = {name: quantised(name, weight) for name, weight in trained.items()}
    assert found["bdm_1d"] == pytest.approx(pybdm_1d(deployed), rel=1e-9)
    assert found["bdm_1d_ratio"] == pytest.approx(pybdm_1d(deployed) / pybdm_1d(initial), rel=1e-9)
    assert found["rac"] == pytest.approx(32 / 3) and found["num_init_seeds"] is None


def test_rac_of_a_mosaic(tmp_path, capsys):
    """Two distinct blocks of four, and the tails of the two tensors that four does not divide
    (biases of 20 and 7: one).
    """
    weights = {name: torch.ones_like(weight) for name, weight in state(0).items()}
    weights["hidden.0.weight"].view(-1, 4)[::2] = 2.0
    found = measured(capsys, saved(tmp_path / "a.safetensors", weights), *ARCH, "--block-size", 4)
    blocks = sum(-(-weight.numel() // 4) for weight in weights.values())
    assert (found["distinct_blocks"], found["num_blocks"]) == (3, blocks)
    assert found["rac"] == pytest.approx(found["num_weights"] * 32 / (3 * 4 * 32 + blocks * 2))


def test_what_is_required_is_named(tmp_path, capsys):
    path = saved(tmp_path / "a.safetensors", state(5))
    assert "--arch" in refused(capsys, "measure", path, "--num-classes", 7)
    assert "COMMAND" in refused(capsys)
    assert "invalid choice: 'unpak'" in refused(capsys, "unpak")


def mosaic_state(seed: int) -> dict[str, torch.Tensor]:
    model = models.build("mlp", 7, seed=seed, in_channels=1, image_size=4, kwargs=KWARGS)
    mosaic.project_(model, 2, num_motifs=9, generator=torch.Generator().manual_seed(seed))
    return model.state_dict()


def ran(capsys, *arguments) -> str:
    assert cli.main([str(argument) for argument in arguments]) == 0
    return capsys.readouterr().out


def run_folder(folder: Path, **changes) -> Path:
    """A finished run as far as packing reads it: three weights of an MLP with a block size of 2."""
    about = dict.fromkeys(run_folder.RUN_KEYS) | {
        "arch": "mlp",
        "arch_kwargs": KWARGS,
        "num_classes": 7,
        "in_channels": 1,
        "image_size": 4,
    }
    atomic.write_json(
        folder / run_folder.RUN, about | {"block_size": 2, "slicing": "tensor"} | changes
    )
    for seed, which in enumerate(run_folder.WEIGHTS):
        run_folder.save_weights(folder, which, mosaic_state(seed))
    return folder


@pytest.mark.parametrize("level", ["fixed", "entropy"])
def test_a_run_is_packed_inspected_verified_and_unpacked(tmp_path, capsys, level):
    run, file, out = run_folder(tmp_path / "run"), tmp_path / "a.momos", tmp_path / "a.safetensors"
    said = ran(capsys, "pack", run, file, "--level", level)
    assert f"a.momos: {file.stat().st_size} bytes, from {487 * 4} bytes of tensors" in said
    found = json.loads(ran(capsys, "inspect", file, "--json"))
    group = found["groups"]["float32"]
    assert (found["level"], found["block_size"], found["file_bytes"]) == (
        level,
        2,
        file.stat().st_size,
    )
    assert (group["num_weights"], group["num_blocks"], group["index_bits"]) == (
        487,
        160 + 10 + 70 + 4,
        4,
    )
    assert sum(group["usage"].values()) == group["num_motifs"] <= 9
    assert found["bound_bytes"] == -(-(group["num_motifs"] * 64 + 244 * 4) // 8)
    assert found["rac"] == pytest.approx(487 * 4 / found["bound_bytes"])
    assert f"equals {run}: 4 tensors, bit for bit" in ran(capsys, "verify", file, run)
    assert "is whole: 4 tensors" in ran(capsys, "verify", file)
    ran(capsys, "unpack", file, out)
    assert out.read_bytes() == (run / "best.safetensors").read_bytes()


def test_inspect_prints_a_line_per_value(tmp_path, capsys):
    ran(capsys, "pack", run_folder(tmp_path / "run"), tmp_path / "a.momos", "--which", "last")
    lines = dict(line.split() for line in ran(capsys, "inspect", tmp_path / "a.momos").splitlines())
    assert lines["groups.float32.num_blocks"] == "244" and lines["level"] == "fixed"
    assert sum(int(value) for name, value in lines.items() if ".usage." in name) == int(
        lines["groups.float32.num_motifs"]
    )


def test_a_checkpoint_needs_a_block_size_and_an_architecture_tells_the_weights_apart(
    tmp_path, capsys
):
    file = tmp_path / "a.momos"
    path = saved(tmp_path / "a.safetensors", models.build("resnet20", 10).state_dict())
    assert "a.safetensors says no block size: give --block-size" in refused(
        capsys, "pack", path, file
    )
    ran(capsys, "pack", path, file, "--block-size", 4, "--arch", "resnet20", "--slicing", "model")
    found = json.loads(ran(capsys, "inspect", file, "--json"))
    assert (found["groups"]["float32"]["num_weights"], found["slicing"]) == (269_722, "model")
    ran(capsys, "pack", path, file, "--block-size", 4)
    found = json.loads(ran(capsys, "inspect", file, "--json"))
    assert (
        found["groups"]["float32"]["num_weights"] == 269_722 + 2 * 688
    )  # and the running means and variances
    assert "equals" in ran(capsys, "verify", file, path)
    assert "do not belong to this architecture" in refused(
        capsys, "pack", path, file, "--block-size", 4, "--arch", "mlp"
    )


def test_verify_tells_a_difference_by_its_exit_status(tmp_path, capsys):
    run, file = run_folder(tmp_path / "run"), tmp_path / "a.momos"
    ran(capsys, "pack", run, file)
    assert cli.main(["verify", str(file), str(run), "--which", "last"]) == 1
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and "differs from" in err and "linear.weight" in err
    other = saved(tmp_path / "b.safetensors", {"weight": torch.ones(2)})
    assert "holds another model: it lacks weight; the model lacks hidden.0.bias" in refused(
        capsys, "verify", file, other
    )


def test_damaged_momos_files_and_bad_names_are_refused(tmp_path, capsys):
    run, file = run_folder(tmp_path / "run", block_size=None), tmp_path / "a.momos"
    assert "run says no block size" in refused(capsys, "pack", run, file)
    ran(capsys, "pack", run, file, "--block-size", 2)
    assert "a.bin: expected a name ending in .safetensors" in refused(
        capsys, "unpack", file, tmp_path / "a.bin"
    )
    file.write_bytes(file.read_bytes()[:-1])
    for command in (
        ["unpack", file, tmp_path / "a.safetensors"],
        ["inspect", file],
        ["verify", file],
        ["verify", file, run],
    ):
        assert "a.momos: has" in refused(capsys, *command)
    assert "gone.momos is missing" in refused(capsys, "inspect", tmp_path / "gone.momos")
    assert "a.safetensors" not in os.listdir(tmp_path)
    assert "run.json is missing" in refused(capsys, "pack", tmp_path, file)
    assert "--level: invalid choice: 'best'" in refused(
        capsys, "pack", run, file, "--level", "best"
    )
