"""The run folder: what is saved comes back; what is missing or damaged is named."""

import pytest
import torch

from momos.files import atomic, run_folder

STATE = {
    "weight": torch.tensor([[1.0, -0.0], [float("nan"), 2e-40]]),
    "steps": torch.tensor(3),
    "empty": torch.empty(0, 2),
}
COLUMNS = ("epoch", "val_loss", "distortion")


def same_bits(a, b):
    return a.dtype == b.dtype and a.shape == b.shape and a.numpy().tobytes() == b.numpy().tobytes()


def test_weights_come_back_bit_for_bit_and_files_are_reproducible(tmp_path):
    for which in run_folder.WEIGHTS:
        run_folder.save_weights(tmp_path / "a", which, STATE)
        run_folder.save_weights(tmp_path / "b", which, STATE)
        loaded = run_folder.load_weights(tmp_path / "a", which)
        assert set(loaded) == set(STATE) and all(
            same_bits(loaded[name], STATE[name]) for name in STATE
        )
        assert (tmp_path / "a" / f"{which}.safetensors").read_bytes() == (
            tmp_path / "b" / f"{which}.safetensors"
        ).read_bytes()
    assert not list(tmp_path.rglob("*.tmp"))


def test_weights_of_a_step_come_back_by_its_number(tmp_path):
    for step in (10, 9):
        run_folder.save_weights(tmp_path, run_folder.step_name(step), {"step": torch.tensor(step)})
    run_folder.save_weights(tmp_path, "last", STATE)
    assert run_folder.kept_steps(tmp_path) == [9, 10]
    assert run_folder.load_weights(tmp_path, run_folder.step_name(9))["step"] == 9


def test_tied_weights_are_stored_under_each_name(tmp_path):
    tied = torch.ones(3)
    run_folder.save_weights(tmp_path, "last", {"a": tied, "b": tied, "view": tied[:2]})
    assert {
        name: len(tensor) for name, tensor in run_folder.load_weights(tmp_path, "last").items()
    } == {"a": 3, "b": 3, "view": 2}
    atomic.save_tensors(tmp_path / run_folder.USAGE, {"best": tied, "last": tied})
    assert all(
        torch.equal(tensor, tied)
        for tensor in atomic.load_tensors(tmp_path / run_folder.USAGE).values()
    )


def test_history_keeps_every_digit_and_the_gaps(tmp_path):
    rows = [
        {"epoch": 1, "val_loss": 0.1 + 0.2, "distortion": None},
        {"epoch": 2, "val_loss": 1e-300, "distortion": 5.0},
    ]
    run_folder.save_history(tmp_path, COLUMNS, rows)
    assert run_folder.load_history(tmp_path) == rows


def test_a_history_without_rows_is_an_error(tmp_path):
    run_folder.save_history(tmp_path, COLUMNS, [])
    with pytest.raises(ValueError, match="history.csv: expected a row per epoch"):
        run_folder.load_history(tmp_path)


READERS = {
    "run.json": run_folder.load_run,
    "history.csv": run_folder.load_history,
    "best.safetensors": lambda folder: run_folder.load_weights(folder, "best"),
}


@pytest.mark.parametrize("name", READERS)
def test_a_missing_file_is_named(tmp_path, name):
    with pytest.raises(
        ValueError, match=f"{name} is missing: expected a file written by an earlier stage"
    ):
        READERS[name](tmp_path)


DAMAGED = [
    ("run.json", b'{"model": "ml'),
    ("run.json", b"[1]"),
    ("run.json", b"\xff\xfe"),
    ("history.csv", b"epoch,val_loss\n1,abc\n"),
    ("history.csv", b"\x00\x01"),
    ("best.safetensors", b"\x08\x00\x00\x00"),
    ("best.safetensors", b"not a tensor file at all"),
    ("best.safetensors", b""),
]


@pytest.mark.parametrize(("name", "content"), DAMAGED)
def test_a_damaged_file_is_named(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=name):
        READERS[name](tmp_path)


def test_a_run_that_did_not_finish_is_named(tmp_path):
    about = dict.fromkeys(run_folder.RUN_KEYS, 1)
    atomic.write_json(tmp_path / "run.json", about)
    assert run_folder.load_run(tmp_path) == about
    del about["best_epoch"], about["num_epochs"]
    atomic.write_json(tmp_path / "run.json", about)
    with pytest.raises(
        ValueError,
        match="run.json lacks best_epoch, num_epochs: expected what a finished training writes",
    ):
        run_folder.load_run(tmp_path)


def test_truncated_weights_are_noticed(tmp_path):
    run_folder.save_weights(tmp_path, "best", STATE)
    whole = (tmp_path / "best.safetensors").read_bytes()
    (tmp_path / "best.safetensors").write_bytes(whole[:-1])
    with pytest.raises(ValueError, match="best.safetensors is damaged"):
        run_folder.load_weights(tmp_path, "best")


def test_unknown_weights_are_named(tmp_path):
    known = "initial, best, last, marked_best, marked_last"
    with pytest.raises(ValueError, match=f"{known}, got 'final'"):
        run_folder.load_weights(tmp_path, "final")
