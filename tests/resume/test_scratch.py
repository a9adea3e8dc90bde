"""Parts of a long stage: taken up again, never another's, gone at the end."""

import pytest

from momos.resume import scratch


class Interrupted(Exception):
    pass


def run(depends, *inputs, stop_at=None) -> tuple[list[dict], list[str]]:
    """Three parts -> their values, and which of them were computed."""
    computed = []

    def part(name):
        if name == stop_at:
            raise Interrupted
        computed.append(name)
        return {"name": name, "half": 0.1}

    with scratch.Scratch("stage", depends, *inputs) as finished:
        values = [finished(name, lambda name=name: part(name)) for name in "abc"]
    return values, computed


@pytest.fixture(autouse=True)
def empty(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_an_interrupted_stage_goes_on_where_it_was(empty):
    with pytest.raises(Interrupted):
        run({"lr": 1}, stop_at="c")
    values, computed = run({"lr": 1})
    assert computed == ["c"] and values == [{"name": name, "half": 0.1} for name in "abc"]
    assert not list(empty.rglob("*.json")), "gone when all of it is done"


@pytest.mark.parametrize("change", ["settings", "input", "code"])
def test_parts_of_anything_else_are_not_taken(empty, monkeypatch, change):
    (empty / "input").write_text("one")
    with pytest.raises(Interrupted):
        run({"lr": 1}, empty / "input", stop_at="c")
    depends = {"lr": 2} if change == "settings" else {"lr": 1}
    if change == "input":
        (empty / "input").write_text("two")
    if change == "code":
        (empty / "other.py").write_text("another version")
        monkeypatch.setattr(scratch, "sources", lambda: [empty / "other.py"])
    assert run(depends, empty / "input")[1] == ["a", "b", "c"]


def test_a_library_that_is_not_there_is_a_version_of_its_own(empty, monkeypatch):
    """A machine that trains image classifiers need not have transformers."""
    there = scratch.key({})
    monkeypatch.setattr(scratch, "LIBRARIES", (*scratch.LIBRARIES, "no-such-library"))
    assert scratch.key({}) != there
    assert scratch.version("torch") and scratch.version("no-such-library") is None
