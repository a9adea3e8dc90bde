"""Checkpoints: a training that was interrupted ends with the same bytes as one that was not.

Nothing stale, damaged or half written is used.
"""

import ast
import errno
import os
import subprocess
import sys
from dataclasses import replace
from importlib import util
from pathlib import Path

import pytest
import torch
from recipes import recipe_of
from torch import nn

import momos
from momos import config, models
from momos.files import atomic
from momos.images.dataset import Dataset
from momos.images.inputs import Batches
from momos.resume import checkpoints, scratch
from momos.resume.checkpoints import Checkpoints
from momos.training import loop

pytestmark = pytest.mark.usefixtures("one_thread")

SETTINGS = {
    "epochs": 6,
    "batch_size": 8,
    "patience": None,
    "device": "cpu",
    "num_threads": 1,
    "precision": "float32",
    "compile": False,
    "cuda_graphs": False,
    "stacked_seeds": 1,
    "checkpoint_seconds": 0.0,
}
STREAM = config.Augment(flip=True, crop_padding=1, rand_augment_ops=1, rand_augment_magnitude=9)
RECIPES = {
    "mlp": config.Model(
        epochs=None,
        arch="mlp",
        image_size=8,
        kwargs={},
        optimizer="adamw",
        lr=0.01,
        momentum=0.0,
        weight_decay=0.1,
    ),
    "resnet20": config.Model(
        epochs=None,
        arch="resnet20",
        image_size=8,
        kwargs={},
        optimizer="sgd",
        lr=0.05,
        momentum=0.9,
        weight_decay=1e-3,
    ),
}
KWARGS = {"mlp": {"hidden_layers": 1, "width": 12}, "resnet20": {}}
BASELINE = {"bits": 32}
MOMOS = {"bits": 32, "block_size": 2, "capacity": 0.1}


class Killed(BaseException):
    pass


@pytest.fixture(autouse=True)
def empty(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def dataset():
    return noise()


def noise():
    """Forty noisy 8x8 images of three classes."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (40, 1, 8, 8), generator=generator).to(torch.uint8)
    split = torch.arange(40)
    return Dataset(images, split % 3, split[:27], split[27:35], split[35:], ("a", "b", "c"), "test")


def network(arch="mlp", dropout=False):
    if dropout:  # draws from torch's global generator
        return nn.Sequential(
            nn.Flatten(),
            nn.Dropout(0.5),
            models.build(arch, 3, in_channels=1, image_size=8, kwargs=KWARGS[arch]),
        )
    return models.build(arch, 3, in_channels=1, image_size=8, kwargs=KWARGS[arch])


def run(
    dataset,
    arch="mlp",
    method=BASELINE,
    every="epoch",
    kill_at=None,
    seconds=None,
    dropout=False,
    depends=(),
    random_labels=None,
    **changes,
):
    """Trains; kill_at: the epoch whose end it does not live to see. seconds: between checkpoints;
    None: none are written.
    """
    model, settings = network(arch, dropout), config.Train(**SETTINGS | changes)
    batches = Batches(settings.batch_size, 8, (0.5,), (0.25,), torch.device(settings.device))
    rows = []

    def on_epoch(row):
        rows.append(row)
        if row["epoch"] == kill_at:
            raise Killed

    entry = replace(RECIPES[arch], random_labels=random_labels)
    recipe = recipe_of(settings, entry, batches, STREAM, method, every=every)
    if seconds is None:
        return loop.train(model, dataset, recipe, seed=3, on_epoch=on_epoch)
    with Checkpoints("train/run", dict(depends), seconds=seconds) as checkpoints:
        result = loop.train(
            model, dataset, recipe, seed=3, on_epoch=on_epoch, checkpoints=checkpoints
        )
    assert rows == result.history, (
        "whoever follows the training sees the epochs before the interruption too"
    )
    return result


def assert_same(one, other):
    assert one.history == other.history and repr(one.history) == repr(other.history)
    assert (one.best.epoch, one.best.val_loss, one.stopped_early) == (
        other.best.epoch,
        other.best.val_loss,
        other.stopped_early,
    )
    assert list(one.kept) == list(other.kept)
    for a, b in (
        (one.initial, other.initial),
        (one.best.state, other.best.state),
        (one.last, other.last),
        *zip(one.kept.values(), other.kept.values(), strict=True),
    ):
        assert a.keys() == b.keys() and all(
            torch.equal(a[name], b[name]) and a[name].dtype == b[name].dtype for name in a
        )
    assert (one.marked is None) == (other.marked is None)
    if one.marked is not None:
        assert one.marked[:2] == other.marked[:2]
        for a, b in zip(one.marked[2:], other.marked[2:], strict=True):
            assert a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
    for a, b in ((one.best.usage, other.best.usage), (one.last_usage, other.last_usage)):
        assert (a is None and b is None) or torch.equal(a, b)


def kept_files():
    return sorted(Path("scratch").rglob("[0-9]*.safetensors"))


CASES = {
    "adamw": {},
    "sgd with momentum, channels last, batch norm": {"arch": "resnet20"},
    "motifs": {"method": MOMOS},
    "motifs every third step, quantised": {"method": MOMOS | {"bits": 6}, "every": 3},
    "rounded in place, motifs per tensor": {
        "method": MOMOS | {"codebook": "tensor", "bits": 4, "rounding": "in_place_epoch"}
    },
    "every tensor rounded at every step, BatchNorm re-measured, marked": {
        "arch": "resnet20",
        "method": {"bits": 5, "rounding": "in_place_step", "tensors": "all"}
        | {"batchnorm": "remeasured"},
        "mark_patience": 1,
    },
    "motifs in phases, per tensor": {
        "method": MOMOS
        | {"motifs": [["dense", 0.4], ["latent", 0.7], ["trained", 1.0]], "codebook": "tensor"}
    },
    "bf16, motifs by usage": {
        "precision": "bf16",
        "method": MOMOS
        | {"choice": "usage", "motifs": [["redrawn", 0.4], ["kmeans", 0.6], ["trained", 1.0]]},
    },
    "bf16": {"precision": "bf16"},
    "weights kept along the way, labels shuffled": {
        "method": MOMOS,
        "keep": (1, 4, 10, 24),
        "random_labels": True,
    },
    "layers that draw": {"dropout": True},
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_an_interrupted_training_ends_with_the_same_bytes(dataset, case):
    whole = run(dataset, **case)
    before = torch.get_rng_state()
    for epoch in (2, 3, 6):  # three interruptions of one training
        with pytest.raises(Killed):
            run(dataset, **case, seconds=0, kill_at=epoch)
        assert [int(path.stem) for path in kept_files()] == [
            epoch for epoch in (epoch - 2, epoch - 1) if epoch > 0
        ]
    assert_same(run(dataset, **case, seconds=0), whole)
    assert not list(Path("scratch").rglob("*.safetensors")), "gone when it is done"
    assert torch.equal(torch.get_rng_state(), before)


def test_neither_training_nor_going_on_imports_the_compiler():
    """That takes longer than some trainings. RandAugment is left out: torchvision imports it."""
    code = """
import dataclasses, sys
import test_checkpoints as tests
tests.STREAM = dataclasses.replace(tests.STREAM, rand_augment_ops=0)
went_on = set()
for arch in tests.RECIPES:
    try:
        tests.run(tests.noise(), arch, seconds=0, kill_at=3)
    except tests.Killed:
        tests.run(tests.noise(), arch, seconds=0)
        went_on.add(arch)
assert went_on == set(tests.RECIPES) and "torch._dynamo" not in sys.modules
"""
    folders = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    env = os.environ | {"PYTHONPATH": folders}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("killed", [2, 3, 4, None])
def test_patience_counts_the_epochs_before_the_interruption(dataset, monkeypatch, killed):
    """Best at the second epoch, patience of two: the end is after the fourth, also if the kill
    comes when all is trained.
    """
    losses = {1: 1.0, 2: 0.5, 3: 0.6, 4: 0.7, 5: 0.1}
    seen = iter(losses)
    monkeypatch.setattr(
        loop, "loss_and_accuracy", lambda *args, **kwargs: (losses[next(seen)], 0.5)
    )
    whole = run(dataset, patience=2)
    assert len(whole.history) == 4 and whole.stopped_early
    seen = iter(losses)
    with pytest.raises(Killed), monkeypatch.context() as patched:
        if killed is None:
            patched.setattr(loop, "Result", lambda **how: (_ for _ in ()).throw(Killed()))
        run(dataset, patience=2, seconds=0, kill_at=killed)
    seen = iter([epoch for epoch in losses if epoch >= (killed or 5)])
    assert_same(run(dataset, patience=2, seconds=0), whole)


def interrupted(dataset, epoch=4):
    with pytest.raises(Killed):
        run(dataset, method=MOMOS, seconds=0, kill_at=epoch)
    return kept_files()


def truncate(path):
    path.write_bytes(path.read_bytes()[:-100])


def flip(path):
    content = bytearray(path.read_bytes())
    content[-50] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    "damage",
    [truncate, flip, lambda path: path.write_bytes(b"")],
    ids=["truncated", "one bit", "empty"],
)
def test_a_damaged_checkpoint_is_noticed_and_the_one_before_it_used(dataset, capfd, damage):
    whole = run(dataset, method=MOMOS)
    old, new = interrupted(dataset)
    damage(new)
    with pytest.raises(Killed):
        run(
            dataset, method=MOMOS, seconds=0, kill_at=3
        )  # the epoch after the older one: that is where it went on
    (line,) = [line for line in capfd.readouterr().err.splitlines() if line]
    assert str(new) in line and "damaged" in line and old.is_file() and not new.exists()
    assert_same(run(dataset, method=MOMOS, seconds=0), whole)


def test_with_all_damaged_it_starts_anew(dataset, capfd):
    whole = run(dataset, method=MOMOS)
    for path in interrupted(dataset):
        truncate(path)
    assert_same(run(dataset, method=MOMOS, seconds=0), whole)
    assert capfd.readouterr().err.count("warning: ") == 2


@pytest.mark.parametrize("change", ["settings", "code", "library"])
def test_a_checkpoint_of_anything_else_is_not_used(dataset, monkeypatch, change):
    interrupted(dataset)
    if change == "code":
        Path("other.py").write_text("another version")
        monkeypatch.setattr(scratch, "sources", lambda: [Path("other.py")])
    if change == "library":
        monkeypatch.setattr(scratch.metadata, "version", lambda name: "0")
    with Checkpoints("train/run", {"lr": 2} if change == "settings" else {}, seconds=0) as found:
        assert found.load() is None
    assert not kept_files(), "and nothing stale is left when the run is done"


def test_the_sources_are_those_that_are_imported_later_too():
    """The key of a checkpoint goes by every file that a training may load after the key is made."""
    package = Path(momos.__file__).parent
    names = {path.relative_to(package).as_posix() for path in scratch.sources()}
    assert {
        "training/loop.py",
        "training/step.py",
        "methods/mosaic.py",
        "methods/nearest.py",
        "methods/kdtree.py",
        "methods/quantize.py",
        "images/pixels.py",
        "compute/seeds.py",
        "resume/checkpoints.py",
        "settings.py",
    } <= names
    assert not any(name.startswith("tracking") for name in names)
    late = {
        module.rpartition(".")[0]
        for path in package.rglob("*.py")
        if path.relative_to(package).as_posix() not in SHIMS
        # no training loads these
        and path.relative_to(package).parts[0] not in ("cli", "tracking", "own")
        and path.relative_to(package).as_posix() != "weights/files.py"
        for module in imported_late(path)
    }
    assert late == set(scratch.LAZY)


# Old paths, which import the new ones when they are used
SHIMS = ("__init__.py", "mosaic.py", "complexity/llc.py", "complexity/compressibility.py")


def imported_late(path: Path) -> set[str]:
    """Modules of the library that functions of the file import."""
    tree = ast.parse(path.read_text())
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    imports = [node for function in functions for node in ast.walk(function)]
    modules = set()
    for node in imports:
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names if alias.name.split(".")[0] == "momos"}
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "momos":
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                modules.add(name if is_module(name) else str(node.module))
    return modules


def is_module(name: str) -> bool:
    try:
        return util.find_spec(name) is not None
    except ModuleNotFoundError:  # an attribute of a module that is no package
        return False


# --- disk full


def test_a_full_disk_stops_with_an_error_and_costs_no_checkpoint(dataset, monkeypatch):
    whole = run(dataset, method=MOMOS)
    write = Path.write_bytes

    def full(self, content):
        write(self, content[:100])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    before = {path.name: path.read_bytes() for path in interrupted(dataset)}
    with (
        monkeypatch.context() as patched,
        pytest.raises(
            OSError, match=r"000000004.safetensors can't be written: No space left"
        ) as error,
    ):
        patched.setattr(Path, "write_bytes", full)
        run(dataset, method=MOMOS, seconds=0)
    assert error.value.errno == errno.ENOSPC
    assert {
        path.name: path.read_bytes() for path in Path("scratch").rglob("*") if path.is_file()
    } == before
    assert_same(run(dataset, method=MOMOS, seconds=0), whole)


@pytest.fixture
def small_disk(tmp_path):
    """A tmpfs of 256 KiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "momos-test", disk],
        capture_output=True,
        text=True,
    )
    if mounted.returncode:
        pytest.skip(f"no tmpfs can be mounted here: {mounted.stderr.strip()}")
    yield disk
    os.chdir(tmp_path)
    subprocess.run(["umount", disk], check=True)


def test_a_disk_that_really_is_full(dataset, small_disk, monkeypatch):
    """No room for a third checkpoint: the two before it stay, and after some space is freed the
    training goes on.
    """
    whole = run(dataset, method=MOMOS)
    monkeypatch.chdir(small_disk)
    old, new = interrupted(dataset)
    kept = [path.read_bytes() for path in (old, new)]
    room = os.statvfs(small_disk).f_bavail * os.statvfs(small_disk).f_bsize
    Path("ballast").write_bytes(bytes(room - 4096))
    with pytest.raises(
        OSError, match="000000004.safetensors can't be written: No space left on device"
    ):
        run(dataset, method=MOMOS, seconds=0)
    assert [path.read_bytes() for path in (old, new)] == kept and kept_files() == [old, new]
    Path("ballast").unlink()
    assert_same(run(dataset, method=MOMOS, seconds=0), whole)


# --- how often, what is left, what it cost


def test_checkpoints_are_at_most_so_many_seconds_apart(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(checkpoints.time, "perf_counter", lambda: now[0])
    written = []
    with Checkpoints("train/run", {}, seconds=10) as found:
        for epoch in range(1, 25):
            now[0] += 3.0 if epoch < 16 else 15.0
            if found.due():
                found.save(epoch, {}, {})
                written.append(now[0])
    apart = [b - a for a, b in zip([0.0, *written], written, strict=False)]
    assert set(apart) == {9.0, 15.0}, (
        "at the last end of an epoch that is in time; after each where one takes longer"
    )


def test_none_is_written_before_its_time(dataset):
    with pytest.raises(Killed):
        run(dataset, seconds=3600, kill_at=5)
    assert not kept_files()


def test_the_seconds_of_all_attempts_are_counted(dataset, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(checkpoints.time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(checkpoints.time, "process_time", lambda: now[0] / 2)
    for spent in (8.0, 20.0):
        with pytest.raises(Killed), Checkpoints("run", {}, seconds=0) as found:
            position = saved.position if (saved := found.load()) else 0
            now[0] += spent
            found.save(position + 1, {}, {})
            now[0] += 1000.0  # lost: after the last checkpoint
            raise Killed
    with Checkpoints("run", {}, seconds=0) as found:
        assert found.load().position == 2
        assert found.with_earlier({"seconds": 1.0, "cpu_seconds": 0.25, "device": "cpu"}) == {
            "seconds": 29.0, "cpu_seconds": 14.25, "device": "cpu",
        }  # fmt: skip


def test_values_tensors_and_files_come_back(capfd):
    tensors = {
        "a/x": torch.arange(6.0).view(2, 3),
        "a/n": torch.tensor(3),
        "b": torch.zeros(0),
        "bits": torch.tensor([True, False]),
    }
    values = {"third": 1 / 3, "none": None, "rows": [{"epoch": 1, "loss": 5e-324}]}
    with pytest.raises(Killed), Checkpoints("run", {}, seconds=0) as found:
        part = found.folder / "part.json"
        atomic.write_json(part, {"n": 1})
        found.save(7, values, tensors, files=[part])
        raise Killed
    (found.folder / ".000000008.safetensors.99.tmp").write_bytes(b"killed while it wrote")
    saved = found.load()
    assert (
        saved.position == 7
        and saved.values.items() >= values.items()
        and saved.part("a").keys() == {"x", "n"}
    )
    assert all(
        torch.equal(saved.tensors[name], tensor) and saved.tensors[name].dtype == tensor.dtype
        for name, tensor in tensors.items()
    )
    assert {path.name for path in found.folder.iterdir()} == {"part.json", "000000007.safetensors"}
    part.write_text("{}")
    assert found.load() is None and "part.json is missing or changed" in capfd.readouterr().err


@pytest.mark.skipif(not torch.cuda.is_available(), reason="CUDA graphs need a GPU")
@pytest.mark.parametrize("arch", RECIPES)
def test_a_recorded_training_goes_on_too(dataset, arch):
    how = {"arch": arch, "device": "cuda", "cuda_graphs": True}
    whole = run(dataset, **how)
    with pytest.raises(Killed):
        run(dataset, **how, seconds=0, kill_at=4)
    assert_same(run(dataset, **how, seconds=0), whole)
