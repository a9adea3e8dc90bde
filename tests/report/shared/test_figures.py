"""momos.report.shared.figures: figures drawn by two processes are those that one draws."""

import threading

import pytest
from matplotlib.figure import Figure

from momos.report.shared import figures
from momos.report.shared.figures import Drawing


def drawing(number: int) -> Drawing:
    def draw() -> Figure:
        figure = Figure()
        axes = figure.subplots()
        axes.plot([0, number], [1, 2], label=f"${number}^2$")
        axes.legend()
        return figure

    return Drawing(f"Figure {number}.", draw)


def contents(folder) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("number", [1, 3])
def test_two_processes_draw_what_one_draws(number, tmp_path, monkeypatch):
    drawings = {f"f{n}": drawing(n) for n in range(number)}
    for two in (True, False):
        monkeypatch.setattr(figures, "_may_fork", lambda two=two: two)
        figures.write_all(drawings, tmp_path / str(two))
    alone = contents(tmp_path / "False")
    assert contents(tmp_path / "True") == alone and len(alone) == 3 * number + 1


@pytest.mark.parametrize("wrong", [0, 1])
def test_an_error_of_either_process_is_raised(wrong, tmp_path, monkeypatch):
    def fail() -> Figure:
        raise KeyError("no such column")

    drawings = {f"f{n}": drawing(n) for n in range(2)}
    drawings[f"f{wrong}"] = Drawing("A figure.", fail)
    monkeypatch.setattr(figures, "_may_fork", lambda: True)
    with pytest.raises(KeyError, match="no such column"):
        figures.write_all(drawings, tmp_path)


def test_a_process_with_another_thread_is_not_forked():
    ended = threading.Event()
    thread = threading.Thread(target=ended.wait)
    thread.start()
    try:
        assert not figures._may_fork()
    finally:
        ended.set()
        thread.join()
