"""The folder of metrics: every file a column, and a file that returns no number an error."""

import sys

import numpy as np
import pytest
import torch

from momos import metrics

TENSORS = {
    "a": torch.tensor([[0.0, 3.0], [-4.0, -0.0]]),
    "b": torch.tensor([12.0, 0.0, 0.0], dtype=torch.float16),
}


def test_every_file_is_a_column():
    found = metrics.columns(TENSORS)
    assert list(found) == metrics.names() and {"l2_norm", "sparsity"} <= set(found)
    assert found["sparsity"] == 4 / 7
    assert found["l2_norm"] == pytest.approx(np.sqrt(9.0 + 16 + 144), rel=1e-15)


def test_the_norm_survives_what_float32_squares_do_not():
    assert metrics.columns({"a": torch.full((4,), 1e25)})["l2_norm"] == pytest.approx(
        2e25, rel=1e-7
    )


@pytest.mark.usefixtures("no_import_stays")
def test_a_new_file_is_found_and_one_that_returns_no_number_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(metrics, "__path__", [*metrics.__path__, str(tmp_path)])
    for name, value in (("mine_good", "len(tensors)"), ("mine_bad", "'seven'")):
        (tmp_path / f"{name}.py").write_text(f"def metric(tensors):\n    return {value}\n")
    with pytest.raises(
        ValueError, match="metric mine_bad must return a finite number, got 'seven'"
    ):
        metrics.columns(TENSORS)
    (tmp_path / "mine_bad.py").write_text("def metric(tensors):\n    return float('nan')\n")
    del sys.modules["momos.metrics.mine_bad"]
    with pytest.raises(ValueError, match="metric mine_bad must return a finite number, got nan"):
        metrics.columns(TENSORS)
    (tmp_path / "mine_bad.py").unlink()
    assert metrics.columns(TENSORS)["mine_good"] == 2.0
