"""Predictors of compressibility against scikit-learn, and answers that are known beforehand."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LinearRegression
from sklearn.metrics import r2_score
from sklearn.model_selection import LeaveOneGroupOut, LeaveOneOut, cross_val_predict

from momos import config
from momos.report.slt import rivals
from momos.report.slt.fits import power_law, rise_at_knee
from momos.report.slt.results import SltResults

STEPS = np.array([100, 200, 300, 400, 600, 800, 1000, 1500])
SEEDS = (1, 2, 3)


def points(seed: int = 0) -> pd.DataFrame:
    draws = np.random.default_rng(seed)
    frame = pd.DataFrame({"seed": np.repeat(SEEDS, len(STEPS)), "step": np.tile(STEPS, len(SEEDS))})
    frame["loss"] = 3 - 0.3 * np.log(frame.step) + 0.1 * draws.normal(size=len(frame))
    frame["x"] = np.sqrt(frame.step) + frame.seed + draws.normal(size=len(frame))
    return frame.assign(y=5 + 2 * frame.x - frame.loss + 3 * draws.normal(size=len(frame)))


def found(frame: pd.DataFrame, statistic: str, x: str = "x") -> float:
    return float(rivals.errors(frame, x, statistic).r2(np.ones(len(frame))))


def pooled(frame: pd.DataFrame, predicted: np.ndarray) -> float:
    own = frame.y - frame.groupby("seed").y.transform("mean")
    return 1 - ((frame.y - predicted) ** 2).sum() / (own**2).sum()


def test_r2_is_scikit_learns():
    frame, line = points(), LinearRegression()
    parts = [mine for _, mine in frame.groupby("seed")]
    fitted = [line.fit(mine[["x"]], mine.y).predict(mine[["x"]]) for mine in parts]
    assert found(frame, "in_sample") == pytest.approx(pooled(frame, np.concatenate(fitted)))
    one_run = parts[0].reset_index(drop=True)
    assert found(one_run, "in_sample") == pytest.approx(r2_score(one_run.y, fitted[0]))
    out = [cross_val_predict(line, mine[["x"]], mine.y, cv=LeaveOneOut()) for mine in parts]
    assert found(frame, "checkpoint_out") == pytest.approx(pooled(frame, np.concatenate(out)))
    folds = LeaveOneGroupOut()
    seeds = cross_val_predict(line, frame[["x"]], frame.y, groups=frame.seed, cv=folds)
    assert found(frame, "seed_out") == pytest.approx(pooled(frame, seeds))


@pytest.mark.parametrize("statistic", ["at_equal_step", "at_equal_loss"])
def test_partial_r2_is_what_a_second_regressor_adds(statistic):
    frame = points()
    known = np.column_stack([frame.loss, frame.loss**2])
    if statistic == "at_equal_step":
        known = pd.get_dummies(frame.step).to_numpy(float)
    without, with_x = (
        LinearRegression().fit(regressors, frame.y).score(regressors, frame.y)
        for regressors in (known, np.column_stack([known, frame.x]))
    )
    assert found(frame, statistic) == pytest.approx((with_x - without) / (1 - without))


def test_what_cannot_be_predicted_has_no_value():
    frame = points()
    assert np.isnan(found(frame, "at_equal_loss", "loss"))
    assert np.isnan(found(frame, "at_equal_step", "step"))
    assert np.isnan(found(frame.assign(flat=7.0), "in_sample", "flat"))
    assert np.isnan(found(frame[frame.seed == 1].reset_index(drop=True), "seed_out"))


def test_differences_are_those_within_a_run():
    changed = rivals.differences(points().rename(columns={"x": "llc_mean"}))
    assert len(changed) == len(SEEDS) * (len(STEPS) - 1) and set(changed.step) == {*STEPS[1:]}
    frame = points()
    first = changed[(changed.seed == 2) & (changed.step == 300)]
    expected = frame[frame.seed == 2].set_index("step").y
    assert first.y.item() == pytest.approx(expected[300] - expected[200])


def test_the_bootstrap_draws_runs_and_steps():
    frame = points()
    draws = rivals.weights(frame).reshape(-1, len(SEEDS), len(STEPS))
    by_seed, by_step = draws.max(axis=2), draws.max(axis=1)
    np.testing.assert_array_equal(draws.sum(axis=(1, 2)), len(frame))
    np.testing.assert_array_equal(
        draws * by_seed.max(axis=1)[:, None, None], by_seed[:, :, None] * by_step[:, None, :]
    )
    assert draws.mean() == pytest.approx(1, abs=0.02) and draws.std() > 1


def results(llc, *, seeds=SEEDS) -> SltResults:
    """Critical n_q is the hidden quantity q plus noise; llc: a function of q, step and noise."""
    draws = np.random.default_rng(3)
    frame = points()[["seed", "step"]].assign(model="neox")
    frame = frame[frame.seed.isin(seeds)].reset_index(drop=True)
    hidden = 60 + 10 * draws.normal(size=len(frame))
    noise = [draws.normal(size=len(frame)) for _ in range(4)]
    frame["llc_mean"] = llc(hidden, frame.step.to_numpy(), noise[0])
    frame["init_loss"] = 3 - 0.3 * np.log(frame.step) + 0.01 * noise[1]
    frame["hessian_trace"] = 100 + 10 * noise[2]
    critical = frame[["model", "seed", "step"]].assign(
        scheme="quantization", eps=0.1, value=hidden + 0.1 * noise[3], status="found"
    )
    params = config.profile_settings("digits")["slt"]
    changes = {"fit_steps": [100, 1500], "schemes": ["quantization"], "seeds": list(seeds)}
    settings = config.Slt.from_mapping(params | changes, "slt")
    return SltResults(frame, critical, pd.DataFrame(), pd.DataFrame(), settings)


def test_an_llc_that_predicts_better_is_said_to():
    answer = results(lambda hidden, step, noise: 3 * hidden + noise)
    rows = rivals.answers(answer)
    assert rows.rival.tolist() == ["tr(H)", "log step", "loss"]
    assert set(rows.difference_verdict) == {rivals.BETTER} == set(rows.at_equal_loss_verdict)
    assert (rows.difference_low <= rows.difference).all()
    assert (rows.difference <= rows.difference_high).all()
    (sentence,) = rivals.sentences(answer)
    assert "predict critical n_q better? Yes." in sentence


def test_an_llc_of_noise_is_not():
    (sentence,) = rivals.sentences(results(lambda hidden, step, noise: 50 + noise))
    assert "better? Can't be told." in sentence and "better," not in sentence


def test_an_llc_worse_than_a_rival_is_said_to_be():
    worse = results(lambda hidden, step, noise: 50 + noise)
    worse.llc["hessian_trace"] = worse.critical.value * 2
    (sentence,) = rivals.sentences(worse)
    assert "better? No. Than tr(H)" in sentence and "worse, -" in sentence


def test_what_is_decided_for_another_critical_value_is_said_too():
    found = results(lambda hidden, step, noise: 50 + noise)
    falls = -found.llc.init_loss
    other = found.critical.assign(scheme="noise_relative", value=falls)
    critical = pd.concat([found.critical, other], ignore_index=True)
    slt = dataclasses.replace(found.settings, schemes=("quantization", "noise_relative"))
    (sentence,) = rivals.sentences(dataclasses.replace(found, critical=critical, settings=slt))
    assert "elsewhere: critical relative sigma, than log step: worse, -" in sentence
    assert "critical relative sigma, than loss: worse, -" in sentence
    assert "critical relative sigma, than tr(H)" not in sentence


def test_one_seed_gives_no_answer_and_no_correlation():
    alone = results(lambda hidden, step, noise: hidden, seeds=(1,))
    assert rivals.sentences(alone) == [] and rivals.correlations(alone).empty
    table = rivals.table(alone)
    assert table.seed_out.isna().all() and table.in_sample.notna().any()


def test_correlations_are_those_within_a_step():
    found = results(lambda hidden, step, noise: 3 * hidden + step)
    matrix = rivals.correlations(found).set_index("measure")
    assert matrix.loc["LLC", "critical n_q"] > 0.99 and matrix.loc["LLC", "LLC"] == 1
    assert abs(matrix.loc["LLC", "tr(H)"]) < 0.7


@pytest.mark.parametrize("exponent", [0.8, 2.0])
def test_a_power_law_has_a_knee_by_this_statistic(exponent):
    """Where it is says nothing of the scale."""
    n_q = np.geomspace(3, 3000, 4000)
    for scale in (1.0, 50.0):
        curve = pd.DataFrame({"strength": n_q, "rise": scale * n_q**-exponent})
        found, law = power_law(curve, least=1e-6)
        assert found == pytest.approx(exponent)
        np.testing.assert_allclose(law["rise"], curve["rise"])
    assert rise_at_knee(law) == pytest.approx(1 / (exponent * np.sqrt(2)), rel=0.01)
