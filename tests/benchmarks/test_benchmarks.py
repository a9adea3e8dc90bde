"""The benchmarks run and say what they should, and baselines give the right answers.

How fast anything is stays untested.
"""

import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))
os.environ.setdefault("OMP_NUM_THREADS", "1")  # as benchmarks.worker sets it

from oracles.nearest import squared_distances  # noqa: E402

from benchmarks import __main__ as bench  # noqa: E402
from benchmarks import __main__ as command  # noqa: E402
from benchmarks import baselines, inputs, machine, ours, worker  # noqa: E402
from benchmarks.families import RESNET20, families  # noqa: E402
from momos import config, models  # noqa: E402
from momos.weights import blocks  # noqa: E402

COST = r"[\d.]+ (s|ms|us|ns)(/image|/draw)?"
LINE = re.compile(rf"\w[\w.]* ratio \d+\.\d \(ours {COST} / baseline {COST}\)")
MACHINE = re.compile(
    r"machine value float32_gflops [\d.]+, bf16_gflops [\d.]+, memory_gb_per_second [\d.]+"
)


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
    """(lines, results, folder) of one quick run, which takes a minute of a core."""
    folder = tmp_path_factory.mktemp("bench")
    command = [sys.executable, "-m", "benchmarks", "--quick", "--out", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines(), json.loads((folder / "results.json").read_text()), folder


def numbers(entry):
    """All numbers below an entry."""
    if isinstance(entry, dict | list):
        return [
            number
            for part in (entry.values() if isinstance(entry, dict) else entry)
            for number in numbers(part)
        ]
    return [entry] if isinstance(entry, int | float) and not isinstance(entry, bool) else []


@pytest.mark.stress
def test_every_job_has_its_line(quick):
    lines, results, _ = quick
    jobs = [job.name for family in families(True) for job in family.jobs]
    assert MACHINE.fullmatch(lines[0]) and [line.split()[0] for line in lines[1:]] == jobs == list(
        results["jobs"]
    )
    assert [line for line in lines[1:] if not LINE.fullmatch(line)] == []


@pytest.mark.stress
def test_results_are_positive_and_finite(quick):
    _, results, _ = quick
    measured = [*numbers(results["jobs"]), *numbers(results["peaks"]), *numbers(results["compute"])]
    measured += numbers(results["two_threads_wall_seconds"])
    for family in results["families"].values():
        measured += numbers([point["seconds"] for point in family["points"]])
    assert len(measured) > 50
    assert all(math.isfinite(number) and number > 0 for number in measured)
    assert {"cpu", "cores", "torch", "numba", "commit", "date"} <= {
        key for key, value in results["machine"].items() if value
    }


@pytest.mark.stress
def test_every_family_has_its_figure(quick):
    _, results, folder = quick
    names = [family.name for family in families(True)]
    assert list(results["families"]) == names
    assert sorted(path.stem for path in (folder / "figures").glob("*.svg")) == sorted(names)
    assert all("CPU time" in path.read_text() for path in (folder / "figures").iterdir())


def test_jobs_name_sizes_and_sides_that_are_measured():
    for family in [*families(False), *families(True)]:
        for job in family.jobs:
            (point,) = (point for point in family.points if point.size == job.size)
            sides = [job.ours] if job.baseline is None else [job.ours, job.baseline]
            assert all(point.size <= family.sides[side].up_to for side in sides), job


@pytest.mark.parametrize("block_size", [2, 4])
@pytest.mark.parametrize("method", ["brute_force", "scipy_tree"])
def test_exact_baselines_find_the_nearest(method, block_size):
    some = inputs.blocks(300, block_size)
    motifs = inputs.motifs(some, 0.1)
    distances = squared_distances(some.numpy(), motifs.numpy())
    chosen = distances[np.arange(300), baselines.METHODS[method](some, motifs).numpy()]
    assert np.allclose(chosen.astype(float), distances.min(1).astype(float), rtol=1e-6, atol=0)


@pytest.mark.parametrize("method", ["brute_force", "expanded"])
def test_baseline_projection_leaves_as_many_blocks_as_motifs(method, monkeypatch):
    made = []
    monkeypatch.setattr(models, "build", lambda *_: made.append(torch.nn.Linear(31, 7)) or made[0])
    baselines.project(method=method, model="", block_size=4, capacity=0.1)()
    found = blocks.to_blocks([weight.detach() for weight in made[0].parameters()], 4)
    padded = 2  # a tensor's last block has zeros for padding in place of the motif's values
    assert len(found.unique(dim=0)) <= int(0.1 * len(found)) + padded


@pytest.mark.parametrize("block_size", RESNET20)
def test_resnet20_has_that_many_blocks(block_size):
    sizes = [weight.numel() for weight in models.build("resnet20", 10).parameters()]
    assert blocks.num_blocks(sizes, block_size) == RESNET20[block_size]


def test_the_plain_loader_gives_normalised_batches():
    sections = {"settings": inputs.settings(config.Augment), "data": inputs.settings(config.Data)}
    batches = baselines.loader(40, image_size=32, batch_size=16, **sections)
    shapes = [tuple(images.shape) for images, _ in batches]
    assert shapes == [(16, 3, 32, 32), (16, 3, 32, 32), (8, 3, 32, 32)]


def test_flops_of_the_mlp_are_those_of_its_products():
    sizes = [3072, 256, 256, 256, 256, 256, 10]
    layers = [2 * a * b for a, b in zip(sizes, sizes[1:], strict=False)]
    assert ours.flops(model="mlp")() == 3 * sum(layers) - layers[0], "images need no gradient"


def test_bdm_equals_pybdm():
    assert ours.bdm(count=5000)() == pytest.approx(baselines.bdm(count=5000)())


def test_a_worker_reports_times_values_and_failures(capfd):
    with worker.Worker(1) as process:
        process.prepare("machine.copy", {"megabytes": 1})
        repeat = process.run()
        assert repeat.cpu > 0 and repeat.wall > 0 and repeat.value is None
        process.forget()
        with pytest.raises(RuntimeError, match="ended with 1.*no_such_case"):
            process.prepare("machine.no_such_case", {})
    assert "no_such_case" in capfd.readouterr().err


def test_costs_are_written_with_a_fitting_unit():
    written = [bench.cost(seconds, "") for seconds in (2.5, 0.0123, 0.4567, 1.5e-5)] + [
        bench.cost(2e-7, "image")
    ]
    assert written == ["2.50 s", "12.3 ms", "457 ms", "15.0 us", "200 ns/image"]


def test_an_unknown_family_is_refused(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["benchmarks", "--only", "nothing"])
    with pytest.raises(SystemExit) as ended:
        bench.main()
    assert ended.value.code == 2 and "no family begins so" in capsys.readouterr().err


def test_machine_is_described_without_paths():
    assert str(ROOT) not in json.dumps(machine.describe())


@pytest.mark.stress
def test_the_gpu_script_measures_every_setting_and_projection(tmp_path):
    """On the CPU here: one seed, and three stacked. On a GPU it runs by hand."""
    command = [
        sys.executable,
        "-m",
        "benchmarks.gpu",
        str(tmp_path / "gpu.json"),
        "--device",
        "cpu",
        "--models",
        "mlp",
        "--images",
        "256",
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "gpu.json").read_text())
    assert len(found["mlp"]["projection_seconds"]) == 8 and [
        row["stacked_seeds"] for row in found["mlp"]["epochs"]
    ] == [1, 3]
    assert found["mlp"]["failed"] == []
    measured = (
        numbers(found["mlp"]["epochs"])
        + numbers(found["mlp"]["projection_seconds"])
        + [found["mlp"]["table1_hours"]]
    )
    assert all(math.isfinite(number) and number > 0 for number in measured)


@pytest.mark.stress
def test_one_familys_results_join_those_of_the_same_machine(quick, tmp_path):
    _, results, _ = quick
    (tmp_path / "results.json").write_text(json.dumps(results))
    job = results["jobs"]["planes_40k"] | {"ours": 1.0}
    later = results["machine"] | {"commit": "later"}
    families_ = {name: results["families"][name] for name in ("machine_product", "planes")}
    one = {"machine": later, "jobs": {"planes_40k": job}, "families": families_, "peaks": {}}
    found = command.merged(one, tmp_path)
    assert found["families"]["planes"].pop("measured")["commit"] == "later"
    assert found["jobs"].pop("planes_40k") == job
    assert found == results | {
        "jobs": {name: old for name, old in results["jobs"].items() if name != "planes_40k"}
    }
    assert command.merged(one, tmp_path / "none") == one
    with pytest.raises(SystemExit, match="expected results of this machine, cores 99, got"):
        command.merged(one | {"machine": later | {"cores": 99}}, tmp_path)
