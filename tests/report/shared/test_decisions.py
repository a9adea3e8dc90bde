"""Decisions on samples whose intervals are known: by hand, by scipy, and by how often they err."""

import dataclasses

import numpy as np
import pytest
from scipy import stats

from momos.report.shared.claims import Claim, Condition
from momos.report.shared.decisions import NO, YES, decide, paired, side


def claim(*conditions: Condition, **changes) -> Claim:
    texts = dict.fromkeys(("where", "claim", "statistic", "threshold"), "")
    return Claim(paper="p", id="X", conditions=conditions, **texts, **changes)


def below(value, name="x", **changes) -> Condition:
    return Condition(name=name, operator="<=", value=value, **changes)


def seeds(*values) -> dict:
    return dict(enumerate(values))


THREE = seeds(1.0, 2.0, 3.0)  # 95 % t interval: 2 -+ 4.30265 / sqrt(3) = -0.4841 to 4.4841


@pytest.mark.parametrize(
    ("threshold", "met", "decided"),
    [(4.49, True, YES), (4.48, True, NO), (-0.48, False, NO), (-0.49, False, YES)],
)
def test_an_interval_must_lie_entirely_on_one_side(threshold, met, decided):
    found = decide(claim(below(threshold)), met, x={"": THREE})
    assert found.decided == decided
    assert found.interval == "95 % t: -0.4841 to 4.484 (n=3)"


@pytest.mark.parametrize("sample", [seeds(9.0), seeds(9.0, 9.0, 9.0), seeds(9.0, np.nan), {}])
@pytest.mark.parametrize("met", [True, False])
def test_one_value_no_spread_and_a_missing_one_decide_nothing(sample, met):
    for threshold in (-100, 100):
        assert decide(claim(below(threshold)), met, x={"": sample}).decided == NO
    words = {1: "1 value, no interval", 3: "9 without spread (n=3)", 2: "a value is missing (n=2)"}
    said = decide(claim(below(0)), met, x={"": sample}).interval
    assert words.get(len(sample), "0 values, no interval") in said


def test_support_needs_every_part_and_refutation_one_at_a_stricter_level():
    """With m parts a refuting interval has the level 1 - 0.05 / m."""
    sure, unsure = seeds(-10.0, -10.1, -9.9), seeds(-1.0, 1.5, -2.0)
    parts = {"mlp": sure, "vit": unsure}
    assert decide(claim(below(0)), True, x=parts).decided == NO
    assert decide(claim(below(0)), True, x={"mlp": sure, "vit": sure}).decided == YES
    edge = 2 - stats.t.ppf(1 - 0.05 / 2 / 2, 2) / np.sqrt(3)  # the low end of THREE at 97.5 %
    for threshold, decided in ((edge - 0.01, YES), (edge + 0.01, NO)):
        found = decide(claim(below(threshold)), False, x={"mlp": THREE, "vit": sure})
        assert found.decided == decided and found.interval.startswith("97.5 % t: mlp ")


def test_methods_are_paired_by_seed():
    """Seeds differ much more than methods do: only their pairs show the difference."""
    baseline = seeds(70.0, 80.0, 90.0)
    method = {seed: value - 0.5 - 0.01 * seed for seed, value in baseline.items()}
    larger = claim(Condition(name="a", operator=">", value="b"))
    assert decide(larger, True, a={"": baseline}, b={"": method}).decided == YES
    shuffled = {(seed + 1) % 3: value for seed, value in method.items()}
    assert decide(larger, True, a={"": baseline}, b={"": shuffled}).decided == NO
    reordered = dict(sorted(method.items(), reverse=True))
    assert decide(larger, True, a={"": baseline}, b={"": reordered}).decided == YES
    assert paired(baseline, {2: 1.0, 0: 2.0, 7: 5.0}) == {0: 68.0, 2: 89.0}


def test_each_interval_says_what_is_compared_where_one_statistic_has_two_rivals():
    rivals = claim(*(Condition(name="r2_on_llc", operator=">", value=f"r2_on_{name}") for name in
                     ("trace", "sigma")))  # fmt: skip
    found = decide(rivals, True, r2_on_llc={"": THREE}, r2_on_trace={"": seeds(0, 0, 0)},
                   r2_on_sigma={"": seeds(9, 9, 9)})  # fmt: skip
    assert found.interval == (
        "95 % t: r2 on llc against r2 on trace -0.4841 to 4.484 (n=3);"
        " r2 on llc against r2 on sigma -9.484 to -4.516 (n=3)"
    )


def test_parts_may_have_unequal_numbers_of_seeds():
    parts = {"mlp": seeds(0.1, 0.2, 0.3, 0.2, 0.1), "vit": seeds(0.1, 0.2, 0.3), "one": seeds(0.2)}
    found = decide(claim(below(1)), True, x=parts)
    assert found.decided == NO, "one seed leaves it open"
    assert all(words in found.interval for words in ("(n=5)", "(n=3)", "one 1 value, no interval"))
    del parts["one"]
    assert decide(claim(below(1)), True, x=parts).decided == YES


@pytest.mark.parametrize(
    ("operator", "value", "successes", "total", "met", "decided"),
    [
        ("==", 1.0, 11, 11, True, NO),  # 71.5 to 100 %: nothing proves "every one"
        ("==", 1.0, 10, 11, False, YES),  # to 99.8 %
        (">=", 0.9, 200, 200, True, YES),  # from 98.2 %
        (">=", 0.9, 9, 9, True, NO),  # from 66.4 %
        (">=", 0.9, 0, 3, False, YES),  # to 70.8 %
        (">=", 0.7, 0, 3, False, NO),
    ],
)
def test_shares_have_exact_intervals(operator, value, successes, total, met, decided):
    every = claim(Condition(name="share", operator=operator, value=value))
    sample = {number: number < successes for number in range(total)}
    found = decide(every, met, share={"": sample})
    low, high = stats.binomtest(successes, total).proportion_ci(0.95, method="exact")
    assert found.decided == decided
    assert found.interval == (
        f"95 % Clopper-Pearson: {successes} of {total}, {100 * low:.1f} to {100 * high:.1f} %"
    )


def test_constants_and_factors():
    near = claim(Condition(name="x", operator="within_factor", value="eps", factor=3))
    inside, outside = seeds(0.11, 0.12, 0.10), seeds(0.41, 0.42, 0.40)
    assert decide(near, True, x={"": inside}, eps=0.1).decided == YES
    assert decide(near, False, x={"": outside}, eps=0.1).decided == YES
    assert decide(near, True, x={"": seeds(0.29, 0.31, 0.25)}, eps=0.1).decided == NO
    twice = claim(below("y", factor=2))
    assert decide(twice, True, x={"": inside}, y={"": seeds(1.0, 1.1, 1.0)}).decided == YES
    assert decide(twice, False, x={"": outside}, y={"": inside}).decided == YES
    with pytest.raises(KeyError, match="eps"):
        decide(near, True, x={"": inside})
    with pytest.raises(ValueError, match="claim X: decide expects a sample"):
        decide(near, True, x={}, eps=0.1)
    either = dataclasses.replace(near, one_is_enough=True)
    with pytest.raises(ValueError, match="claim X: decide expects a claim that needs all"):
        decide(either, True, x={"": inside}, eps=0.1)
    with pytest.raises(TypeError, match="claim X: x needs samples, got 0.3"):
        decide(near, True, x=0.3, eps=0.1)


@pytest.mark.parametrize(
    ("operator", "states"),
    [
        ("<", "met open failed"),
        ("<=", "met open failed"),
        (">", "failed open met"),
        (">=", "failed open met"),
        ("==", "failed open failed"),
    ],
)
def test_sides(operator, states):
    condition = Condition(name="x", operator=operator, value=2)
    intervals = ((0.0, 1.0), (1.5, 2.5), (3.0, 4.0))
    assert " ".join(side(condition, 2.0, *ends) for ends in intervals) == states


def test_many_parts_show_those_that_decide():
    parts = {f"m{number}": seeds(0.1, 0.2, 0.3) for number in range(6)}
    parts["m9"] = seeds(50.0, 50.1, 50.2)
    found = decide(claim(below(1)), False, x=parts)
    assert found.decided == YES and found.interval.split(": ")[1].startswith("m9 ")
    assert "of 7 parts: " in found.interval and "1 failed" in found.interval
    assert "m5" not in found.interval


@pytest.mark.parametrize("num_seeds", [2, 3, 5])
@pytest.mark.parametrize("num_parts", [1, 3])
def test_chance_alone_decides_as_rarely_as_it_may(num_seeds, num_parts):
    """The true mean lies on the threshold: a verdict is decided against in at most 2.5 % of cases
    (one of the two tails, all parts together), and for in at most 2.5 %.
    """
    generator, num_studies = np.random.default_rng(num_seeds), 1500
    verdicts = {YES: 0, NO: 0}
    wrong = {True: 0, False: 0}
    edge = claim(below(0.0))
    for _ in range(num_studies):
        values = generator.normal(size=(num_parts, num_seeds))
        met = bool((values.mean(axis=1) <= 0).all())
        parts = {str(part): seeds(*row) for part, row in enumerate(values)}
        decided = decide(edge, met, x=parts).decided
        verdicts[decided] += 1
        wrong[met] += decided == YES
    allowed = 0.025 + 3 * np.sqrt(0.025 * 0.975 / num_studies)
    assert wrong[True] / num_studies < allowed and wrong[False] / num_studies < allowed
    assert wrong[False] / num_studies > 0.025 - 3 * np.sqrt(0.025 * 0.975 / num_studies), "not idle"
