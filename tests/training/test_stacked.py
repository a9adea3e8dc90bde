"""Seeds trained together against each of them trained alone: the same draws, losses equal to what
float32 rounds.
"""

import contextlib
import fcntl
import math
import shutil
import threading
from pathlib import Path

import pytest
import torch
from recipes import recipe_of
from torch import nn

from momos import config, models
from momos.images.dataset import Dataset
from momos.images.inputs import Batches
from momos.models.evaluate import loss_and_accuracy
from momos.resume.checkpoints import Checkpoints, Shared
from momos.resume.taken import drop_taken
from momos.training import loop, stacked

pytestmark = pytest.mark.usefixtures("one_thread")

SEEDS = (3, 4, 5)
SETTINGS = {
    "epochs": 4,
    "batch_size": 14,
    "patience": None,
    "device": "cpu",
    "num_threads": 1,
    "precision": "float32",
    "compile": False,
    "cuda_graphs": False,
    "stacked_seeds": 3,
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
    "plain": config.Model(
        epochs=None,
        arch="mlp",
        image_size=8,
        kwargs={},
        optimizer="sgd",
        lr=0.1,
        momentum=0.0,
        weight_decay=0.0,
    ),
    "resnet20": config.Model(
        epochs=None,
        arch="resnet20",
        image_size=8,
        kwargs={},
        optimizer="sgd",
        lr=1e-3,
        momentum=0.9,
        weight_decay=1e-3,
    ),
    "tiny_vit": config.Model(
        epochs=None,
        arch="tiny_vit",
        image_size=16,
        kwargs={},
        optimizer="adamw",
        lr=1e-3,
        momentum=0.0,
        weight_decay=1e-2,
    ),
}
KWARGS = {
    "mlp": {"hidden_layers": 2, "width": 12},
    "resnet20": {},
    "tiny_vit": {
        "embed_dims": [8, 16],
        "depths": [1, 1],
        "num_heads": [1, 2],
        "window_sizes": [2, 2],
    },
}
BASELINE = {"bits": 32}
MOMOS = {"bits": 32, "block_size": 2, "capacity": 0.3}
needs_compiler = pytest.mark.skipif(
    shutil.which("g++") is None and shutil.which("c++") is None, reason="needs a C++ compiler"
)


class Killed(BaseException):
    pass


@pytest.fixture(autouse=True)
def empty(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def dataset():
    """Sixty 8x8 images of three classes: a bright corner on noise."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 120, (60, 1, 8, 8), generator=generator).to(torch.uint8)
    split = torch.arange(60)
    images[split % 3 == 0, :, :3, :3] = 250
    images[split % 3 == 1, :, 4:, 4:] = 250
    return Dataset(images, split % 3, split[:42], split[42:52], split[52:], ("a", "b", "c"), "test")


def setting(dataset, recipe="mlp", method=BASELINE, every="epoch", device="cpu", **changes):
    """Arguments of both ways but the models; of `train` those in changes."""
    recipe, settings = RECIPES[recipe], config.Train(**SETTINGS | {"device": device} | changes)
    size, place = recipe.image_size, torch.device(device)
    batches = Batches(settings.batch_size, size, (0.5,), (0.25,), place)
    made = recipe_of(settings, recipe, batches, STREAM, method, every=every)
    return {"dataset": dataset, "recipe": made}


def network(seed, recipe):
    return models.build(
        recipe.arch,
        3,
        seed=seed,
        in_channels=1,
        image_size=recipe.image_size,
        kwargs=KWARGS[recipe.arch],
    )


def together(dataset, seeds=SEEDS, networks=None, kill_at=None, kept_in=None, **how):
    """kept_in: resume.Checkpoints or None. kill_at: the epoch whose end the training does not live
    to see.
    """
    how = setting(dataset, **how)
    rows = {seed: [] for seed in seeds}

    def on_epoch(seed, row):
        rows[seed].append(row)
        if row["epoch"] == kill_at:
            raise Killed

    networks = networks or {seed: network(seed, how["recipe"].model) for seed in seeds}
    found = stacked.train_stack(networks, **how, on_epoch=on_epoch, checkpoints=kept_in)
    assert rows == {seed: result.history for seed, result in found.items()}
    return found


def alone(dataset, seed, model=None, **how):
    how = setting(dataset, **how)
    return loop.train(model or network(seed, how["recipe"].model), seed=seed, **how)


def assert_close(found, expected, rel):
    assert (
        len(found.history) == len(expected.history)
        and found.stopped_early == expected.stopped_early
    )
    assert found.best.epoch == expected.best.epoch
    for mine, other in zip(found.history, expected.history, strict=True):
        for name in ("epoch", "lr"):
            assert mine[name] == pytest.approx(other[name], rel=1e-6)
        assert mine["train_loss"] == pytest.approx(other["train_loss"], rel=rel) and mine[
            "val_loss"
        ] == pytest.approx(other["val_loss"], rel=rel)
        assert mine["motifs_used"] == other["motifs_used"] and mine["distortion"] == (
            other["distortion"] and pytest.approx(other["distortion"], rel=10 * rel)
        )
    assert found.initial.keys() == expected.initial.keys() and all(
        torch.equal(found.initial[name], expected.initial[name]) for name in found.initial
    )
    assert list(found.kept) == list(expected.kept)
    kept = zip(found.kept.values(), expected.kept.values(), strict=True)
    pairs = ((found.last, expected.last), (found.best.state, expected.best.state), *kept)
    for mine, other in pairs:
        for name, tensor in mine.items():
            difference = (tensor.double() - other[name].double()).norm()
            assert (
                tensor.dtype == other[name].dtype
                and difference <= 20 * rel * other[name].double().norm() + 1e-6
            ), name


def assert_same(one, other):
    assert one.keys() == other.keys()
    for mine, theirs in ((one[seed], other[seed]) for seed in one):
        assert (
            repr(mine.history) == repr(theirs.history)
            and mine.stopped_early == theirs.stopped_early
        )
        assert (mine.best.epoch, mine.best.val_loss) == (theirs.best.epoch, theirs.best.val_loss)
        for a, b in (
            (mine.initial, theirs.initial),
            (mine.last, theirs.last),
            (mine.best.state, theirs.best.state),
        ):
            assert a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
        for a, b in ((mine.last_usage, theirs.last_usage), (mine.best.usage, theirs.best.usage)):
            assert (a is None and b is None) or torch.equal(a, b)


CASES = {
    "adamw": {},
    "sgd without momentum": {"recipe": "plain"},
    "convolutions, batch norm, momentum": {"recipe": "resnet20"},
    "attention": {"recipe": "tiny_vit"},
    "motifs": {"method": MOMOS},
    "motifs every third step, weights kept": {"method": MOMOS, "every": 3, "keep": (2, 3, 12)},
    "motifs in phases": {
        "method": MOMOS | {"motifs": [["redrawn", 0.3], ["kmeans", 0.5], ["trained", 1.0]]},
    },
    "latent weights after dense ones": {
        "method": MOMOS | {"motifs": [["dense", 0.3], ["latent", 0.6], ["trained", 1.0]]}
    },
    "motifs per tensor, rounded in place": {
        "method": MOMOS | {"codebook": "tensor", "bits": 8, "rounding": "in_place_epoch"}
    },
    "rounded at every step": {
        "method": BASELINE | {"bits": 16, "rounding": "in_place_step", "tensors": "all"},
    },
    "BatchNorm re-measured": {
        "recipe": "resnet20",
        "method": BASELINE | {"batchnorm": "remeasured"},
    },
    "rounded after training": {"method": BASELINE | {"bits": 4, "rounding": "after_training"}},
    "quantised": {"method": BASELINE | {"bits": 8}},
    "quantised convolutions": {
        "recipe": "resnet20",
        "method": BASELINE | {"bits": 8},
        "epochs": 1,
    },  # later a weight rounds the other way
    "motifs of convolutions, quantised": {
        "recipe": "resnet20",
        "method": MOMOS | {"bits": 8},
        "epochs": 1,
    },
    # a minute of C++: torch.compile
    "compiled": pytest.param({"compile": True}, marks=[needs_compiler, pytest.mark.stress]),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_each_seed_is_trained_as_if_it_were_alone(dataset, case):
    if case.get("compile"):
        torch._dynamo.reset()
    found = together(dataset, **case)
    assert tuple(found) == SEEDS
    for seed in SEEDS:
        expected = alone(dataset, seed, **case | {"compile": False})
        assert_close(found[seed], expected, 1e-5)
    assert len({result.history[0]["train_loss"] for result in found.values()}) == 3, (
        "three trainings, not one three times"
    )


def test_in_bf16_too(dataset):
    """Of one step, before any update."""
    found, exact = (
        together(dataset, recipe="resnet20", batch_size=42, epochs=1, precision=name)
        for name in ("bf16", "float32")
    )
    for seed in SEEDS:
        expected = alone(
            dataset, seed, recipe="resnet20", batch_size=42, epochs=1, precision="bf16"
        ).history[0]["train_loss"]
        rounded, loss = found[seed].history[0]["train_loss"], exact[seed].history[0]["train_loss"]
        assert abs(rounded / expected - 1) < 5e-3 and 1e-5 < abs(rounded / loss - 1) < 2e-2


@pytest.fixture(scope="module")
def noise(dataset):
    """Labels that nothing can be learned from: validation losses go up and down, and seeds run out
    of patience one by one.
    """
    return dataset._replace(
        labels=torch.randint(3, (60,), generator=torch.Generator().manual_seed(1))
    )


IMPATIENT = {"epochs": 8, "patience": 1}
LEAVING = [{}, {"recipe": "resnet20"}, {"method": MOMOS | {"bits": 6}, "every": 3}]


@pytest.mark.parametrize("case", LEAVING, ids=str)
def test_a_seed_that_is_out_of_patience_leaves_the_others(noise, case):
    found = together(noise, **case, **IMPATIENT)
    assert len({len(result.history) for result in found.values()}) > 1
    for seed, result in found.items():
        assert_close(result, alone(noise, seed, **case, **IMPATIENT), 5e-3 if case else 1e-5)


@pytest.mark.parametrize(
    "case", [LEAVING[0], pytest.param(LEAVING[1], marks=pytest.mark.stress), LEAVING[2]], ids=str
)
def test_an_interrupted_stack_ends_with_the_same_bytes(noise, case):
    whole = together(noise, **case, **IMPATIENT)
    assert_same(together(noise, **case, **IMPATIENT), whole)
    before = torch.get_rng_state()
    for epoch in range(2, max(len(result.history) for result in whole.values()) + 1):
        with pytest.raises(Killed), Checkpoints("train/group", {}, seconds=0) as keep:
            together(noise, **case, **IMPATIENT, kept_in=keep, kill_at=epoch)
    with Checkpoints("train/group", {}, seconds=0) as keep:
        assert_same(together(noise, **case, **IMPATIENT, kept_in=keep), whole)
        assert_same(
            together(noise, **case, **IMPATIENT, kept_in=keep), whole
        )  # all is trained: only read
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("every", ["epoch", "step"])
@pytest.mark.parametrize("method", [BASELINE, MOMOS], ids=["baseline", "motifs"])
def test_a_seed_that_diverges_leaves_the_others(dataset, method, every):
    """It is told of as when it is alone, and again from the checkpoint."""

    def broken():
        networks = {seed: network(seed, RECIPES["mlp"]) for seed in SEEDS}
        networks[4].hidden[0].weight.data[0, 0] = math.inf
        return networks

    how = {"method": method, "every": every}
    with pytest.raises(loop.TrainingDiverged) as caught:
        alone(dataset, 4, broken()[4], **how)
    healthy = {seed: alone(dataset, seed, **how) for seed in (3, 5)}
    for _ in range(2):
        with contextlib.suppress(Killed), Checkpoints("train/group", {}, seconds=0) as keep:
            found = together(dataset, networks=broken(), kept_in=keep, **how)
            raise Killed  # so that the checkpoints stay
        assert (
            isinstance(found[4], loop.TrainingDiverged)
            and str(found[4]) == str(caught.value)
            and found[4].history == []
        )
        for seed, expected in healthy.items():
            assert_close(found[seed], expected, 1e-5)


def test_a_seed_that_diverges_later_keeps_its_history(dataset, monkeypatch):
    original, calls = loss_and_accuracy, []

    def evaluate(*args, **kwargs):
        calls.append(None)
        loss, accuracy = original(*args, **kwargs)
        return (math.nan if len(calls) == 5 else loss), accuracy  # the second seed's second epoch

    monkeypatch.setattr(loop, "loss_and_accuracy", evaluate)
    found = together(dataset)
    assert "validation loss is nan after epoch 2" in str(found[4]) and [
        row["epoch"] for row in found[4].history
    ] == [1]
    assert [len(found[seed].history) for seed in (3, 5)] == [4, 4]


def test_layers_that_draw_are_refused(dataset):
    networks = {
        seed: nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(64, 3)) for seed in SEEDS
    }
    with pytest.raises(ValueError, match=r"train.stacked_seeds: expected 1 for this model.*random"):
        together(dataset, networks=networks)


def test_what_is_not_of_the_stack_is_not_taken_for_it(dataset, monkeypatch):
    """A device that runs out of memory, say."""
    monkeypatch.setattr(
        stacked.F,
        "cross_entropy",
        lambda *args, **kwargs: (_ for _ in ()).throw(RuntimeError("out of memory")),
    )
    with pytest.raises(RuntimeError, match="out of memory"):
        together(dataset)


# --- stages that share one training


def shared(member, members=("a", "b"), **depends):
    return Shared("train/group", depends, seconds=0, member=member, members=members)


def test_what_the_first_has_finished_the_others_find_and_the_last_removes():
    assert not Path("scratch").exists()
    with shared("a") as kept:
        assert kept.load() is None
        kept.save(7, {"done": True}, {"weights": torch.arange(3)})
        mine = kept.share(
            {"seconds": 4.0, "cpu_seconds": 2.0, "peak_memory_bytes": 100, "device": "cpu"}
        )
    with pytest.raises(Killed), shared("b"):
        raise Killed  # has taken nothing
    with shared("b") as kept:
        saved = kept.load()
        assert (
            saved.position == 7
            and saved.values["done"]
            and torch.equal(saved.tensors["weights"], torch.arange(3))
        )
        theirs = kept.share(
            {"seconds": 0.1, "cpu_seconds": 0.1, "peak_memory_bytes": 1, "device": "cpu"}
        )
    assert (
        mine
        == theirs
        == {"seconds": 2.0, "cpu_seconds": 1.0, "peak_memory_bytes": 100, "device": "cpu"}
    )
    assert not list(Path("scratch").rglob("*.*")), "gone with the last"


def test_a_member_killed_before_its_cost_is_written_leaves_the_whole_cost_to_the_others():
    """The checkpoint says what the training took; what comes after it takes next to nothing."""
    with pytest.raises(Killed), shared("a") as kept:
        kept.start -= 4.0
        kept.save(7, {}, {})
        raise Killed
    for member in ("b", "a"):
        with shared(member) as kept:
            assert kept.load().position == 7
            part = kept.share({"seconds": 0.5, "cpu_seconds": 0.5})
        assert part["seconds"] == pytest.approx(2.25, abs=0.1)
    assert not list(Path("scratch").rglob("*.*"))


def test_what_a_forced_member_leaves_is_removed_where_nothing_is_left_to_run():
    """Checkpoints of which nobody has taken anything stay: a training goes on from them."""
    for member in ("a", "b", "a"):
        with shared(member) as kept:
            assert (kept.load() is None) == (member == "a")
            kept.save(7, {}, {})
    with pytest.raises(Killed), Shared(
        "train/other", {}, seconds=0, member="a", members=("a", "b")
    ) as kept:  # fmt: skip
        kept.save(3, {}, {})
        raise Killed
    assert list(Path("scratch/train/group").rglob("*.safetensors")), "b has not come again"
    drop_taken(Path("scratch/train"))
    assert not Path("scratch/train/group").exists()
    assert list(Path("scratch/train/other").rglob("*.safetensors"))


def test_of_other_settings_nothing_is_taken():
    with shared("a", lr=1) as kept:
        kept.save(7, {}, {})
    with shared("b", lr=2) as kept:
        assert kept.load() is None


def test_a_second_stage_waits_for_the_first(capfd):
    order, inside = [], threading.Event()

    def second():
        inside.wait(60)
        with shared("b") as kept:
            order.append(("second", kept.load() is not None))

    thread = threading.Thread(target=second)
    thread.start()
    with shared("a") as kept:
        inside.set()
        while "waiting for the stage" not in (told := capfd.readouterr().err):
            assert thread.is_alive()
        order.append(("first", True))
        kept.save(1, {}, {})
    thread.join(60)
    assert order == [("first", True), ("second", True)] and "scratch/train/group" in told
    assert not list(Path("scratch").rglob("*.*"))


def test_no_stage_goes_in_with_a_lock_that_is_removed(capfd):
    """The second waits for the lock that the last member removes; then a third begins."""
    root, locks = Path("scratch/train/group"), []

    def second():
        with shared("a"):
            locks.append((root / "lock").stat().st_ino)
            inside.set()
            leave.wait(60)

    inside, leave = threading.Event(), threading.Event()
    thread = threading.Thread(target=second)
    with shared("b", members=("b",)) as kept:
        thread.start()
        while "waiting for the stage" not in capfd.readouterr().err:
            assert thread.is_alive()
        kept.save(1, {}, {})
    assert inside.wait(60)
    with (root / "lock").open("w") as third, pytest.raises(BlockingIOError):
        fcntl.flock(third, fcntl.LOCK_EX | fcntl.LOCK_NB)
    leave.set()
    thread.join(60)
    assert locks == [(root / "lock").stat().st_ino] and not list(root.parent.glob(".*"))


def test_the_lock_of_a_killed_stage_is_free():
    with pytest.raises(Killed), shared("a") as kept:
        kept.save(3, {}, {})
        raise Killed
    with shared("a") as kept:
        assert kept.load().position == 3


@pytest.mark.parametrize(
    ("size", "groups"),
    [(1, [(0,), (1,), (2,)]), (2, [(0, 1), (0, 1), (2, 3)]), (3, [(0, 1, 2)] * 3)],
)
def test_which_seeds_are_together_depends_on_no_grid(size, groups):
    settings = config.Train(**SETTINGS | {"stacked_seeds": size})
    assert [settings.together(seed) for seed in range(3)] == groups
