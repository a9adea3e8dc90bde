"""momos.report.shared.figures: figures drawn by two processes are those that one draws."""

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
    for cores in (True, False):
        monkeypatch.setattr(figures, "_has_two_cores", lambda cores=cores: cores)
        figures.write_all(drawings, tmp_path / str(cores))
    alone = contents(tmp_path / "False")
    assert contents(tmp_path / "True") == alone and len(alone) == 3 * number + 1


@pytest.mark.parametrize("wrong", [0, 1])
def test_an_error_of_either_process_is_raised(wrong, tmp_path, monkeypatch):
    def fail() -> Figure:
        raise KeyError("no such column")

    drawings = {f"f{n}": drawing(n) for n in range(2)}
    drawings[f"f{wrong}"] = Drawing("A figure.", fail)
    monkeypatch.setattr(figures, "_has_two_cores", lambda: True)
    with pytest.raises(KeyError, match="no such column"):
        figures.write_all(drawings, tmp_path)
