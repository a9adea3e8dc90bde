"""Measures along image trainings: frames against numbers that are known beforehand."""

import numpy as np
import pandas as pd
import pytest
from kept import kept_steps

from momos.report.slt import along, figures

N_Q = "critical_n_q_eps0.1"


def test_measures_have_names_for_readers_and_no_bias_of_the_sampler():
    frame = kept_steps()
    found = along.measures(frame, N_Q)
    assert list(found) == [
        *along.RUN, "step", "validation accuracy", "training loss", "RAC", "critical n_q", "LLC",
        "quadratic prediction of the LLC", "tr(H)",
    ]  # fmt: skip
    assert found["LLC"].tolist() == frame.llc_corrected.fillna(frame.llc_mean).tolist()
    expected = frame.llc_quadratic + frame.llc_gradient
    assert found["quadratic prediction of the LLC"].tolist() == expected.tolist()


def test_correlations_at_equal_step_are_numpys():
    """Without its steps' means; what is the same at every step has none."""
    frame = along.measures(kept_steps(), N_Q)
    found = along.correlations(kept_steps(), N_Q).set_index("measure")
    steps = frame.groupby("step")
    x, y = (frame[name] - steps[name].transform("mean") for name in ("LLC", "critical n_q"))
    assert found.loc["LLC", "critical n_q"] == pytest.approx(np.corrcoef(x, y)[0, 1])
    assert "RAC" not in found and found.loc["LLC", "LLC"] == pytest.approx(1)


def test_the_end_is_each_models_last_kept_step_over_its_seeds():
    frame = kept_steps()
    more = frame[(frame.method == "m0") & (frame.step == 10)].assign(model="longer", step=50)
    found = along.at_the_end(pd.concat([frame, more]), N_Q).set_index(["model", "method"])
    assert found.step.to_dict() == {("mlp", "m0"): 20, ("mlp", "m1"): 20, ("longer", "m0"): 50}
    assert (found.num_seeds == 2).all()
    mine = frame[(frame.method == "m1") & (frame.step == 20)]
    llc, rest = mine.llc_corrected.mean(), (mine.llc_quadratic + mine.llc_gradient).mean()
    assert found.loc[("mlp", "m1"), "LLC"] == pytest.approx(llc)
    assert found.loc[("mlp", "m1"), "times_quadratic"] == pytest.approx(llc / rest)


def test_a_row_each_measure_and_a_line_each_method_with_its_mean_over_seeds():
    frame = along.measures(kept_steps(), N_Q)
    drawn = figures.along(frame)
    assert len(drawn.axes) == 7
    lines = drawn.axes[4].get_lines()
    assert [line.get_label() for line in lines] == ["m0", "m1"]
    expected = frame[frame.method == "m1"].groupby("step")["LLC"].mean()
    assert lines[1].get_ydata().tolist() == pytest.approx(expected.tolist())
