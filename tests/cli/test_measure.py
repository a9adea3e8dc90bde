"""`momos measure` on weight files as people keep them, and on files that are none."""

import os
import warnings

import numpy as np
import pytest
import torch
from command import ARCH, KWARGS, measured, refused, saved, state

from momos import cli, models

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # pybdm imports pkg_resources
    import pybdm


def pybdm_1d(tensors: dict[str, torch.Tensor]) -> float:
    return pybdm.BDM(ndim=1).bdm(
        np.concatenate([tensor.numpy().ravel() > 0 for tensor in tensors.values()]).astype(int)
    )


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


def test_code_in_a_weight_file_is_not_run(tmp_path, capsys):
    path = saved(tmp_path / "evil.pt", {"state_dict": Payload(tmp_path / "executed")})
    assert "evil.pt can't be read as weights:" in refused(capsys, "measure", path, *ARCH)
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".safetensors"])
@pytest.mark.parametrize(
    "damage", [lambda raw: raw[: len(raw) // 2], lambda raw: b"", lambda raw: b"\x00garbage" * 9]
)
def test_damaged_files_are_named(tmp_path, capsys, suffix, damage):
    path = saved(tmp_path / f"a{suffix}", state(5))
    path.write_bytes(damage(path.read_bytes()))
    assert f"a{suffix}" in refused(capsys, "measure", path, *ARCH)


def test_what_is_no_weight_file_is_refused(tmp_path, capsys):
    assert "gone.pt is missing" in refused(capsys, "measure", tmp_path / "gone.pt", *ARCH)
    (tmp_path / "a.bin").write_bytes(b"x")
    message = refused(capsys, "measure", tmp_path / "a.bin", *ARCH)
    assert "a.bin can't be read as weights" in message
    assert "expected a .safetensors file, or one of torch.save (.pt, .pth, .bin)" in message
    path = saved(tmp_path / "list.pt", [1, 2])
    assert (
        "holds no state dict, but list; expected a .safetensors file, or one of torch.save"
        in refused(capsys, "measure", path, *ARCH)
    )
    path = saved(tmp_path / "other.pt", {"epoch": 3, "net": state(5)})
    assert "holds epoch (int), net (OrderedDict);" in refused(capsys, "measure", path, *ARCH)


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
    assert "a.safetensors: tensor linear.bias holds NaN" in refused(capsys, "measure", path, *ARCH)


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
    """Initial weights of its own, and deployed ones: pybdm on a quantisation written out."""
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
