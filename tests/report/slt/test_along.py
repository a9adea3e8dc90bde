"""Measures along image trainings: frames against numbers that are known beforehand."""

import numpy as np
import pandas as pd
import pytest
from kept import kept_steps
from scipy import stats

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


def many_runs() -> pd.DataFrame:
    """Twelve runs of which critical n_q goes with tr(H), and the LLC with neither."""
    draws = np.random.default_rng(1)
    frames = [kept_steps().assign(seed=lambda frame, n=n: frame.seed + 2 * n) for n in range(3)]
    frame = pd.concat(frames, ignore_index=True)
    for name in ("llc_mean", "llc_corrected", "init_loss", "hessian_trace"):
        frame[name] = draws.normal(size=len(frame))
    return frame.assign(**{N_Q: frame.hessian_trace + 0.1 * draws.normal(size=len(frame))})


def partial(x, y, fixed) -> float:
    """Of the ranks: what is left of both after a line on the fixed one's."""
    x, y, fixed = (stats.rankdata(values) for values in (x, y, fixed))
    line = np.stack([np.ones(len(fixed)), fixed], axis=1)
    left = [values - line @ np.linalg.lstsq(line, values, rcond=None)[0] for values in (x, y)]
    return abs(np.corrcoef(*left)[0, 1])


def test_the_llc_is_compared_with_its_rivals_by_rank():
    frame = many_runs()
    found = along.answers(frame, N_Q)
    assert set(found.runs) == {"all"}  # RAC is 2
    found = found.set_index(["condition", "rival"])
    assert len(found) == 4 + 3 + 3 and set(found.num_runs) == {12}
    rho = abs(stats.spearmanr(frame.llc_corrected, frame[N_Q]).statistic)
    assert found.loc[("", "tr(H)"), "strength"] == pytest.approx(rho)
    for condition, fixed in {"at equal loss": frame.init_loss, "at equal step": frame.step}.items():
        row = found.loc[(condition, "tr(H)")]
        assert row.strength == pytest.approx(partial(frame.llc_corrected, frame[N_Q], fixed))
        assert row.strength_rival == pytest.approx(partial(frame.hessian_trace, frame[N_Q], fixed))
        assert row.difference == pytest.approx(row.strength - row.strength_rival)
        assert row.difference_low < row.difference < row.difference_high
    assert (found.xs("tr(H)", level="rival").difference_verdict == "worse").all()
    better = frame.assign(llc_corrected=frame[N_Q], hessian_trace=frame.llc_mean)
    found = along.answers(better, N_Q).set_index(["condition", "rival"])
    assert (found.xs("tr(H)", level="rival").difference_verdict == "better").all()


def test_what_is_no_minimum_takes_no_part_and_few_runs_decide_nothing():
    frame = many_runs()
    marked = frame.assign(flags=np.where(frame.step == 10, "negative no_minimum", None))
    found = along.answers(marked, N_Q)
    assert set(found.num_checkpoints) == {12} and "at equal step" in set(found.condition)
    rest = along.answers(frame[frame.step == 20], N_Q)
    assert found.difference.tolist() == pytest.approx(rest.difference.tolist(), nan_ok=True)
    plain = frame.assign(rac=frame.rac.where(frame.method == "m0", 1.0))
    both = along.answers(plain, N_Q)
    assert both.groupby("runs").num_runs.first().to_dict() == {"all": 12, "not compressed": 6}
    few = along.answers(kept_steps(), N_Q)
    assert few.difference_low.isna().all() and set(few.difference_verdict) == {"not told apart"}
    assert along.answers(frame[(frame.seed == 0) & (frame.method == "m0")], N_Q).empty
