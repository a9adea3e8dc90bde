"""Intervals, rank correlation and Pareto fronts against scipy and brute force."""

import math

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from momos.report.shared import statistics


def tail(successes: int, total: int, share: float) -> float:
    """Probability of so many successes or more, summed term by term."""
    return math.fsum(
        math.comb(total, k) * share**k * (1 - share) ** (total - k)
        for k in range(successes, total + 1)
    )


def bisect(function, wanted: float) -> float:
    """The share in [0, 1] at which a rising function has the wanted value."""
    low, high = 0.0, 1.0
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if function(middle) < wanted else (low, middle)
    return low


@pytest.mark.parametrize(
    ("successes", "total"), [(0, 7), (7, 7), (9, 10), (3, 11), (1, 1), (50, 117), (181, 200)]
)
@pytest.mark.parametrize("level", [0.95, 0.99])
def test_clopper_pearson_inverts_binomial_tails(successes, total, level):
    low, high = statistics.clopper_pearson(successes, total, level)
    half = (1 - level) / 2
    by_hand = (
        bisect(lambda share: tail(successes, total, share), half) if successes else 0.0,
        bisect(lambda share: tail(successes + 1, total, share), 1 - half)
        if successes < total
        else 1.0,
    )
    assert (low, high) == pytest.approx(by_hand, abs=1e-9)
    failures = total - successes  # quantiles of the beta distribution say the same
    beta = (
        stats.beta.ppf(half, successes, failures + 1) if successes else 0.0,
        stats.beta.ppf(1 - half, successes + 1, failures) if failures else 1.0,
    )
    assert (low, high) == pytest.approx(beta, abs=1e-9)


def test_clopper_pearson_of_all_has_a_closed_form():
    assert statistics.clopper_pearson(11, 11) == pytest.approx((0.025 ** (1 / 11), 1.0))
    assert statistics.clopper_pearson(0, 11) == pytest.approx((0.0, 1 - 0.025 ** (1 / 11)))


@pytest.mark.parametrize(("successes", "total"), [(0, 0), (-1, 3), (4, 3)])
def test_a_share_of_nothing_has_no_interval(successes, total):
    with pytest.raises(ValueError, match=f"{successes} of {total}"):
        statistics.clopper_pearson(successes, total)


def test_student_by_hand():
    """1, 2, 3: mean 2, standard error 1 / sqrt(3), t(0.975; 2) = 4.30265, t(0.995; 2) = 9.92484."""
    for level, quantile in ((0.95, 4.302652730), (0.99, 9.924843201)):
        half = quantile / math.sqrt(3)
        assert statistics.student([1, 2, 3], level) == pytest.approx((2 - half, 2 + half))


def test_the_prediction_bound_is_exceeded_as_rarely_as_it_says():
    """t(0.001; 19) = 3.57940 and 20 values: 3.66784; and a simulation of the next value."""
    assert statistics.prediction_bound(20, 0.001) == pytest.approx(
        3.579400 * math.sqrt(1.05), rel=1e-6
    )
    generator, num = np.random.default_rng(0), 200_000
    values = generator.normal(size=(num, 21))
    z = (values[:, 20] - values[:, :20].mean(axis=1)) / values[:, :20].std(axis=1, ddof=1)
    for probability in (0.01, 0.001):
        below = (z < -statistics.prediction_bound(20, probability)).mean()
        assert abs(below - probability) < 4 * math.sqrt(probability / num)
    with pytest.raises(ValueError, match="two values or more, got 1"):
        statistics.prediction_bound(1, 0.001)


@pytest.mark.parametrize("y", [[1, 2, 3, 4], [4, 4, 1, 2], [1, 1, 1, 2]])
def test_spearman_equals_scipy(y):
    assert statistics.spearman([0.1, 0.05, 0.01, 0.005], y) == pytest.approx(
        scipy.stats.spearmanr([0.1, 0.05, 0.01, 0.005], y).statistic
    )


def test_spearman_of_a_constant_meets_no_threshold():
    assert np.isnan(statistics.spearman([1, 2, 3], [5, 5, 5]))


@given(st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=6))
def test_student_is_scipys_interval(values):
    low, high = statistics.student(values)
    error = stats.sem(values)
    expected = (
        stats.t.interval(0.95, len(values) - 1, np.mean(values), error)
        if error
        else (np.mean(values),) * 2
    )
    assert (low, high) == pytest.approx(expected, abs=1e-6)


def test_one_value_has_no_interval_and_a_missing_one_is_an_error():
    assert (
        statistics.student([3.0]) is None
        and statistics.stratified_bootstrap(np.ones((3, 1)), np.mean, seed=0) is None
    )
    for values in ([], [1.0, math.nan]):
        with pytest.raises(ValueError, match="finite values"):
            statistics.student(values)


def test_the_bootstrap_takes_strata_of_unequal_length():
    """Strata of one value each can't be resampled; of two and three values, 4 * 27 ways to."""
    strata = [np.array([0.0, 1.0]), np.array([10.0, 14.0, 18.0])]
    means = sorted(
        np.mean([a, b, *three])
        for a in strata[0]
        for b in strata[0]
        for three in np.stack(np.meshgrid(*[strata[1]] * 3)).reshape(3, -1).T
    )
    low, high = statistics.stratified_bootstrap(strata, lambda values: values.mean(axis=-1), seed=0)
    assert len(means) == 108
    assert (low, high) == pytest.approx(np.quantile(means, [0.025, 0.975]), abs=0.25)
    alone = [strata[0], np.array([3.0])]
    assert statistics.stratified_bootstrap(alone, np.mean, seed=0) is None


def test_the_bootstrap_covers_all_resamples_of_a_small_case():
    """Two strata of two runs: 16 equally likely resamples, whose means can be listed."""
    scores = np.array([[0.0, 1.0], [10.0, 14.0]])
    means = [
        np.mean([a, b, c, d])
        for a in scores[0]
        for b in scores[0]
        for c in scores[1]
        for d in scores[1]
    ]
    low, high = statistics.stratified_bootstrap(scores, lambda drawn: drawn.mean(axis=-1), seed=1)
    assert (low, high) == (min(means), max(means)), "each end has 1/16 of the mass, more than 2.5 %"
    assert statistics.stratified_bootstrap(scores, lambda drawn: drawn.mean(axis=-1), seed=1) == (
        low,
        high,
    )
    constant = np.array([[1.0, 1.0], [5.0, 5.0]])
    assert statistics.stratified_bootstrap(constant, lambda drawn: drawn.mean(axis=-1), seed=0) == (
        3.0,
        3.0,
    ), "strata never mix"


@given(st.lists(st.floats(-100, 100), min_size=1, max_size=20))
def test_the_interquartile_mean_is_scipys_trimmed_mean(values):
    assert statistics.interquartile_mean(np.array(values)) == pytest.approx(
        stats.trim_mean(values, 0.25), abs=1e-9
    )


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), max_size=12))
def test_the_front_holds_what_nothing_beats(points):
    def beaten(point):
        return any(
            other[0] >= point[0] and other[1] >= point[1] and other != point for other in points
        )

    assert statistics.pareto_front(np.array(points)).tolist() == [
        not beaten(point) for point in points
    ]


def test_intervals_of_rank_correlations_are_about_fishers_and_count_groups_not_rows():
    generator = np.random.default_rng(3)
    first = generator.normal(size=60)
    values = np.stack([first, first + generator.normal(size=60)], axis=1)
    estimate = np.arctanh(statistics.spearman(*values.T))
    half = 1.96 * 1.03 / np.sqrt(57)  # Fieller, Hartley, Pearson 1957
    low, high = statistics.rank_correlation_intervals(values, range(60), seed=0)
    expected = np.tanh([estimate - half, estimate + half])
    assert [low[0, 1], high[0, 1]] == pytest.approx(expected, abs=0.06)
    often, places = np.repeat(values, 5, axis=0), np.repeat(np.arange(60), 5)
    same_low, same_high = statistics.rank_correlation_intervals(often, places, seed=0)
    assert [same_low[0, 1], same_high[0, 1]] == pytest.approx([low[0, 1], high[0, 1]], abs=0.01)
    nan = np.column_stack([values, np.full(60, np.nan), np.ones(60)])
    ends, _ = statistics.rank_correlation_intervals(nan, range(60), seed=0)
    assert np.isnan(ends[2:]).all() and ends[0, 1] == low[0, 1]
    few, _ = statistics.rank_correlation_intervals(values, np.arange(60) % 7, seed=0)
    assert np.isnan(few).all()
