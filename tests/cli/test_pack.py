"""`momos pack`, `unpack`, `inspect` and `verify` on run folders and weight files."""

import json
import os
from pathlib import Path

import pytest
import torch
from command import KWARGS, ran, refused, saved
from foreign import prefixed

from momos import cli, models
from momos.files import atomic, run_folder
from momos.methods import mosaic


def mosaic_state(seed: int) -> dict[str, torch.Tensor]:
    model = models.build("mlp", 7, seed=seed, in_channels=1, image_size=4, kwargs=KWARGS)
    mosaic.project_(model, 2, num_motifs=9, generator=torch.Generator().manual_seed(seed))
    return model.state_dict()


def finished_run(folder: Path, **changes) -> Path:
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
    run, file, out = (
        finished_run(tmp_path / "run"),
        tmp_path / "a.momos",
        tmp_path / "a.safetensors",
    )
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
    ran(capsys, "pack", finished_run(tmp_path / "run"), tmp_path / "a.momos", "--which", "last")
    lines = dict(line.split() for line in ran(capsys, "inspect", tmp_path / "a.momos").splitlines())
    assert lines["groups.float32.num_blocks"] == "244" and lines["level"] == "fixed"
    assert sum(int(value) for name, value in lines.items() if ".usage." in name) == int(
        lines["groups.float32.num_motifs"]
    )


def test_a_weight_file_needs_a_block_size_and_an_architecture_tells_the_weights_apart(
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
    run, file = finished_run(tmp_path / "run"), tmp_path / "a.momos"
    ran(capsys, "pack", run, file)
    assert cli.main(["verify", str(file), str(run), "--which", "last"]) == 1
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and "differs from" in err and "linear.weight" in err
    other = saved(tmp_path / "b.safetensors", {"weight": torch.ones(2)})
    assert "holds another model: it lacks weight; the model lacks hidden.0.bias" in refused(
        capsys, "verify", file, other
    )


def test_damaged_momos_files_and_bad_names_are_refused(tmp_path, capsys):
    run, file = finished_run(tmp_path / "run", block_size=None), tmp_path / "a.momos"
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


def test_an_average_is_packed_and_verified_as_if_it_stood_alone(tmp_path, capsys):
    average, last = mosaic_state(1), mosaic_state(2)
    content = {"model": last, "model_ema": prefixed("module.")(average), "epoch": 3}
    wrapped, alone = saved(tmp_path / "a.pt", content), saved(tmp_path / "b.pt", average)
    for path in (wrapped, alone):
        ran(capsys, "pack", path, path.with_suffix(".momos"), "--block-size", 2)
    assert (tmp_path / "a.momos").read_bytes() == (tmp_path / "b.momos").read_bytes()
    assert "bit for bit" in ran(capsys, "verify", tmp_path / "b.momos", wrapped)
    other = saved(tmp_path / "c.pt", last)
    assert cli.main(["verify", str(tmp_path / "a.momos"), str(other)]) == 1
    said = capsys.readouterr().err
    assert said.startswith("momos: ") and "differs from" in said


def in_shards(folder: Path, tensors: dict) -> Path:
    """A folder as the hub has it, with two shards."""
    folder.mkdir(parents=True)
    weight_map = {name: f"model-{place % 2}.safetensors" for place, name in enumerate(tensors)}
    for shard in sorted(set(weight_map.values())):
        own = {name: tensors[name] for name in tensors if weight_map[name] == shard}
        saved(folder / shard, own)
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": weight_map}))
    return folder


def in_the_cache(folder: Path, tensors: dict) -> Path:
    """A folder of the hub's cache, with one snapshot."""
    in_shards(folder / "snapshots" / "aaa", tensors)
    return folder


def in_one_file(folder: Path, tensors: dict) -> Path:
    """A folder with one weight file, whose name the hub does not know."""
    folder.mkdir()
    saved(folder / "net.pth", tensors)
    return folder


@pytest.mark.parametrize("written", [in_shards, in_the_cache, in_one_file])
def test_the_folders_that_measure_reads_are_packed_and_verified(tmp_path, capsys, written):
    tensors, file = mosaic_state(1), tmp_path / "a.momos"
    folder = written(tmp_path / "net", tensors)
    assert "weights in" in ran(
        capsys, "measure", folder, "--init-seeds", 2, "--compressors", "gzip"
    )
    ran(capsys, "pack", folder, file, "--block-size", 2)
    assert f"{len(tensors)} tensors, bit for bit" in ran(capsys, "verify", file, folder)
    alone = saved(tmp_path / "alone.safetensors", tensors)
    assert "bit for bit" in ran(capsys, "verify", file, alone)


def test_a_run_folder_stays_one_whatever_is_left_in_it(tmp_path, capsys):
    run, file = finished_run(tmp_path / "run"), tmp_path / "a.momos"
    for which in ("last", "initial"):
        (run / f"{which}.safetensors").unlink()
    ran(capsys, "pack", run, file)
    assert "bit for bit" in ran(capsys, "verify", file, run)
    assert "last.safetensors is missing" in refused(capsys, "pack", run, file, "--which", "last")


def test_a_folder_that_lacks_a_shard_names_it(tmp_path, capsys):
    folder = in_shards(tmp_path / "net", mosaic_state(1))
    (folder / "model-1.safetensors").unlink()
    message = refused(capsys, "pack", folder, tmp_path / "a.momos", "--block-size", 2)
    assert "shard model-1.safetensors is not in the folder" in message
