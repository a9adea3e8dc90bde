"""What measuring a run came to: taken from where it is kept, never when anything has changed."""

import json
import multiprocessing
import os
import sys
import types
from pathlib import Path

import pandas as pd
import pytest
import torch

from momos import measured
from momos.config.running import REPOSITORY
from momos.resume import scratch

# Every kind of cell that a row may have, and floats that need all of their digits.
ROWS = [
    {"name": "a, 'b'\n\"c\" µ", "count": 3, "share": 0.1 + 0.2, "bool": True, "none": None},
    {"name": "", "count": -1, "share": float("nan"), "bool": False, "none": None, "extra": 1e-320},
    {"share": float("-inf"), "name": None, "count": 2**60, "bool": True, "extra": -0.0},
]


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("run").mkdir()
    for name in ("evaluate.py", "pack.py", "images", "run/run.json", "run/last.safetensors"):
        Path(name).write_text(name)
    return tmp_path


class Stage:
    """A stage that measures one run; it counts how often."""

    def __init__(self, rows: list[dict] = ROWS) -> None:
        self.rows, self.times = rows, 0

    def measure(self) -> list[dict]:
        self.times += 1
        return self.rows

    def run(self, *, depends=None, about="momos 0.1", run="run", stage="evaluate", **more):
        depends = {"checkpoint": "last"} if depends is None else depends
        with measured.Measured(Path(f"{stage}.py"), depends, Path("images"), **more) as kept:
            return kept(Path(run), about, self.measure)


def entries(stage: str = "evaluate") -> list[Path]:
    return sorted(Path("scratch/measured", stage).iterdir())


def csv(rows: list[dict]) -> str:
    return pd.DataFrame(rows).to_csv(index=False)


def test_what_is_kept_gives_the_same_bytes():
    stage = Stage()
    first, second = stage.run(), stage.run()
    assert stage.times == 1
    assert csv(first) == csv(second) == csv(ROWS)
    assert repr(first) == repr(second) == repr(ROWS), "types, digits, order of the columns"


def test_floats_of_numpy_are_kept_with_every_digit_and_nothing_unknown_is():
    values = torch.randn(200, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    rows = [{"value": value} for value in values.numpy()]
    stage = Stage(rows)
    assert csv(stage.run()) == csv(stage.run()) == csv(rows) and stage.times == 1
    with pytest.raises(TypeError, match=r"share must be .*got <class 'torch.Tensor'>"):
        Stage([{"share": torch.tensor(1.0)}]).run(about="other")
    assert len(entries()) == 1


@pytest.mark.parametrize(
    "change",
    ["run file", "new run file", "deep run file", "renamed run file", "setting", "method", "images",
     "script", "code", "library", "device", "threads", "stage"],
)  # fmt: skip
def test_whatever_a_measurement_depends_on_measures_again(place, monkeypatch, change):
    stage, more = Stage(), {}
    stage.run()
    if change == "run file":
        (place / "run" / "last.safetensors").write_text("others")
    if change == "new run file":
        (place / "run" / "best.safetensors").write_text("best")
    if change == "deep run file":
        (place / "run" / "more").mkdir()
        (place / "run" / "more" / "best.safetensors").write_text("best")
    if change == "renamed run file":
        (place / "run" / "run.json").rename(place / "run" / "about.json")
    if change == "setting":
        more = {"depends": {"checkpoint": "best"}}
    if change == "method":
        more = {"about": "momos 0.2"}
    if change in ("images", "script"):
        (place / {"images": "images", "script": "evaluate.py"}[change]).write_text("others")
    if change == "code":
        (place / "other.py").write_text("another version")
        monkeypatch.setattr(scratch, "sources", lambda unrelated: [place / "other.py"])
    if change == "library":
        monkeypatch.setattr(scratch.metadata, "version", lambda name: "0")
    if change == "device":
        more = {"device": torch.device("meta")}
    if change == "threads":
        monkeypatch.setattr(torch, "get_num_threads", lambda: 99)
    if change == "stage":
        more = {"stage": "pack"}
    stage.run(**more)
    assert stage.times == 2
    stage.run(**more)
    assert stage.times == 2, "and is kept then"


def test_another_run_has_an_entry_of_its_own_and_a_moved_one_has_not(place):
    stage = Stage()
    stage.run()
    (place / "run").rename(place / "elsewhere")
    stage.run(run="elsewhere")
    assert stage.times == 1, "the folder's place is no matter"
    (place / "elsewhere" / "run.json").write_text("seed 1")
    stage.run(run="elsewhere")
    assert stage.times == 2 and len(entries()) == 2


def test_the_code_that_counts_is_that_of_the_measuring():
    """Settings count by their values; what is imported later counts as well."""
    names = set(sys.modules)
    try:
        for name in [name for name in names if name.startswith("momos.metrics.")]:
            del sys.modules[name]
        stage = (Path("evaluate.py"), {})
        package = Path(measured.__file__).parent
        before = {path.relative_to(package).as_posix() for path in measured.Measured(*stage).code}
        later = {
            path.relative_to(package).as_posix()
            for path in measured.Measured(*stage, later=["momos.metrics.sparsity"]).code
        }
    finally:
        for name in set(sys.modules) - names:
            if name.startswith("momos.metrics."):
                del sys.modules[name]
    assert {"methods/quantize.py", "images/pixels.py", "resume/scratch.py"} <= before
    unrelated = ("config/", "settings.py", "tracking/", "compute/cost.py")
    assert not [name for name in later if name.startswith(unrelated)]
    assert "metrics/sparsity.py" in later - before


def test_what_imports_unlisted_code_is_not_kept_and_says_so(place, monkeypatch, capfd):
    (place / "late.py").write_text("")
    module = types.ModuleType("momos.late")
    module.__file__ = str(place / "late.py")

    class Late(Stage):
        def measure(self):
            sys.modules["momos.late"] = module
            return super().measure()

    stage = Late()
    try:
        assert repr(stage.run()) == repr(ROWS)
        assert "imported while measuring: late.py" in capfd.readouterr().err and not entries_left()
        del sys.modules["momos.late"]
        stage.run()
        assert stage.times == 2
    finally:
        sys.modules.pop("momos.late", None)


def entries_left() -> list[Path]:
    return [path for path in Path("scratch").rglob("*") if path.is_file()]


@pytest.mark.parametrize("damage", ["cut", "bit", "empty", "binary", "other rows"])
def test_a_damaged_entry_is_measured_again_and_told_of(capfd, damage):
    stage = Stage()
    stage.run()
    (path,) = entries()
    whole = path.read_bytes()
    broken = {
        "cut": whole[:-1],
        "bit": whole.replace(b"0.30000000000000004", b"0.30000000000000005"),
        "empty": b"",
        "binary": b"\xff\xfe" + whole,
        "other rows": whole.split(b"\n")[0] + b"\n" + json.dumps([{"share": 1}]).encode(),
    }[damage]
    assert broken != whole
    path.write_bytes(broken)
    assert repr(stage.run()) == repr(ROWS) and stage.times == 2
    err = capfd.readouterr().err
    assert err.count("\n") == 1 and f"{path.name} is damaged" in err
    assert path.read_bytes() == whole


def test_entries_that_were_not_used_for_long_go(place, monkeypatch):
    monkeypatch.setattr(measured, "MOST", 3)
    stage = Stage()
    for number in range(3):
        stage.run(about=number)
        (new,) = set(entries()) - set(entries_of(number))
        os.utime(new, (number + 1, number + 1))
    stage.run(about=0)  # used now
    stage.run(about=3)
    assert stage.times == 4 and len(entries()) == 3
    for number in (0, 2, 3):
        stage.run(about=number)
    assert stage.times == 4
    stage.run(about=1)
    assert stage.times == 5, "the one that was used least lately had gone"


def entries_of(number: int) -> list[Path]:
    """Entries that had their time set, those of the numbers before this one."""
    return [path for path in entries() if path.stat().st_mtime < number + 2]


def attempt(place: Path, number: int, start, results) -> None:
    """Measure the same 20 runs as another process does at the same time."""
    os.chdir(place)
    stage = Stage([{"share": 1 / 3, "text": "x" * 50_000}])
    start.wait()
    rows = [stage.run(about=about) for about in range(20)]
    results.put((number, rows == [stage.rows] * 20))


def test_processes_side_by_side_share_entries(place, monkeypatch, capfd):
    context = multiprocessing.get_context("fork")
    start, results = context.Barrier(2), context.Queue()
    processes = [
        context.Process(target=attempt, args=(place, number, start, results)) for number in (0, 1)
    ]
    for process in processes:
        process.start()
    assert sorted(results.get(timeout=60) for _ in processes) == [(0, True), (1, True)]
    for process in processes:
        process.join()
        assert process.exitcode == 0
    assert len(entries()) == 20 and "damaged" not in capfd.readouterr().err
    stage = Stage()
    for about in range(20):
        stage.run(about=about)
    assert stage.times == 0


def test_what_systems_leave_in_a_run_measures_nothing_again(place):
    stage = Stage()
    stage.run()
    for name in (".DS_Store", "@eaDir/run.json@SynoEAStream"):
        (place / "run" / name).parent.mkdir(exist_ok=True)
        (place / "run" / name).write_text("left by who looked into the folder")
    stage.run()
    assert stage.times == 1


def test_an_error_keeps_nothing_and_goes_through(place):
    class Failing(Stage):
        def measure(self):
            raise ValueError("the weights hold NaN")

    with pytest.raises(ValueError, match="NaN"):
        Failing().run()
    assert not entries_left()


@pytest.mark.parametrize("inside", [".dvc/tmp/exps/tmpabc", ".dvc/tmp/exps/standalone/tmpabc"])
def test_workspaces_of_dvc_experiments_share_the_repositorys(place, monkeypatch, inside):
    stage = Stage()
    stage.run()
    folder = place / inside
    folder.mkdir(parents=True)
    for name in ("evaluate.py", "pack.py", "images", "run"):
        (folder / name).symlink_to(place / name)
    monkeypatch.chdir(folder)
    stage.run()
    assert stage.times == 1 and not Path("scratch").exists()
    elsewhere = place / "scratch" / "sweep" / "work"
    elsewhere.mkdir(parents=True)
    for name in ("evaluate.py", "pack.py", "images", "run"):
        (elsewhere / name).symlink_to(place / name)
    with monkeypatch.context() as patch:
        patch.chdir(elsewhere)
        patch.setenv(REPOSITORY, str(place))  # as `make sweep` does
        stage.run()
        assert stage.times == 1 and not Path("scratch").exists()
    Path("scratch").symlink_to(place / "scratch")  # as it does too
    monkeypatch.setattr(measured, "shared_root", lambda: scratch.ROOT)
    stage.run()
    assert stage.times == 1
