"""claims.yaml: the conditions that code reads must say what the texts say."""

import datetime
import hashlib
import math
import re

import numpy as np
import pytest
from synthetic import PAPER

from momos.report.momos import claims as momos_claims
from momos.report.shared.claims import OPERATORS, Claim, Condition, read_claims
from momos.report.slt import claims as slt_claims

CLAIMS = read_claims(PAPER)
ADDED: tuple[str, ...] = ()  # ids of claims that are not in the first list
FIXED = "ed706063166186375abb06e73acedf0f51a18a9731356715e5765ab8be6b795a"
STATISTIC = "another statistic"


def comparisons(text: str) -> set[tuple]:
    """(operator, factor, number or STATISTIC) of every comparison that a text makes in words.

    What the paper printed, or what was counted by hand, stands in brackets and decides nothing.
    """
    text = re.sub(r"\((published|by hand)[^)]*\)", "", text)
    number = r"(-?\d+(?:\.\d+)?)"
    said = {
        ("==" if operator == "=" else operator, 1.0, float(value))
        for operator, value in re.findall(rf"(<=|>=|=|<|>)\s*{number}", text)
    }
    if match := re.search(rf"within a factor {number} of (\w+)", text):
        said.add(("within_factor", float(match[1]), STATISTIC))
    if match := re.search(rf"within {number} standard errors or {number} point", text):
        said |= {("<=", float(match[1]), STATISTIC), ("<=", 1.0, float(match[2]))}
    if re.search(r"\blarger|\blargest", text):
        said.add((">", 1.0, STATISTIC))
    if "no counterexample" in text:
        said.add(("==", 1.0, 0.0))
    if "grows linearly" in text:
        said.add((">", 1.0, 0.0))
    return said


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim.id)
def test_conditions_say_what_the_texts_say(claim):
    for name in ("threshold", "claim"):
        stated = {
            (
                condition.operator,
                float(condition.factor),
                STATISTIC if isinstance(condition.value, str) else float(condition.value),
            )
            for condition in claim.conditions
            if condition.stated_in == name
        }
        if name == "threshold" or stated:
            assert stated == comparisons(getattr(claim, name))
    assert claim.one_is_enough == (" or " in claim.threshold)


def test_the_texts_are_those_that_were_fixed_before_anything_was_measured():
    """What was added later stands beside them: no text may change, whatever comes out."""
    fixed = [claim for claim in CLAIMS if claim.id not in ADDED]
    text = "\n".join(value for claim in fixed for value in claim.texts.values())
    assert hashlib.sha256(text.encode()).hexdigest() == FIXED


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim.id)
def test_additions_are_dated_and_have_a_reason(claim):
    for added in claim.also:
        assert added.date >= datetime.date(2026, 11, 29) and added.reason and added.what
        assert bool(added.name) == bool(added.conditions)
        stated = {
            (condition.operator, float(condition.factor), float(condition.value))
            for condition in added.conditions
        }
        assert stated <= comparisons(added.what), "a second statistic's threshold, in words"
        if added.name:
            assert claim.second(added.name).conditions == added.conditions
    assert not claim.nature or claim.also, "why no run can decide it"
    with pytest.raises(ValueError, match=f"claim {claim.id}: .*named 'other'"):
        claim.second("other")


def test_the_file_says_which_verdicts_count_something_else_than_at_first():
    header = (PAPER / "claims.yaml").read_text().partition("momos:\n")[0]
    said = re.search(r"counted marks(.*?)Nothing else changes", header, re.S)
    counted = {claim.id for claim in CLAIMS for added in claim.also if added.counted}
    assert said and counted == set(re.findall(r"\b[MS]\d+\b", said[1]))
    assert "M9" in counted, "test accuracy in place of validation accuracy"


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim.id)
def test_parameters_stand_in_the_texts(claim):
    words = re.findall(r"[\w.]+", f"{claim.statistic} {claim.needs}")
    assert {str(value) for value in claim.parameters.values()} <= set(words)


def test_every_claim_has_a_function_with_a_docstring_and_a_name_of_its_own():
    functions = momos_claims.JUDGES.functions | slt_claims.JUDGES.functions
    assert sorted(functions) == sorted(claim.id for claim in CLAIMS)
    assert len({function.__name__ for function in functions.values()}) == len(functions)
    assert all(function.__doc__ for function in functions.values())
    papers = {claim.id: claim.paper for claim in CLAIMS}
    assert all(papers[name] == momos_claims.PAPER for name in momos_claims.JUDGES.functions)
    assert all(papers[name] == slt_claims.PAPER for name in slt_claims.JUDGES.functions)


@pytest.mark.parametrize(
    ("operator", "met"),
    [
        ("==", [False, True, False]),
        ("<", [True, False, False]),
        ("<=", [True, True, False]),
        (">", [False, False, True]),
        (">=", [False, True, True]),
        ("within_factor", [False, True, True]),
    ],
)
def test_operators(operator, met):
    condition = Condition(name="x", operator=operator, value=2, factor=1)
    if operator == "within_factor":
        condition = Condition(name="x", operator=operator, value=2, factor=1.5)
    found = [bool(condition.met({"x": value})) for value in (1.0, 2.0, 3.0)]
    assert found == met and not condition.met({"x": math.nan})


def test_the_operators_are_all_tested():
    assert set(OPERATORS) == {"==", "<", "<=", ">", ">=", "within_factor"}


def claim(*conditions: Condition, **changes) -> Claim:
    texts = dict.fromkeys(("id", "where", "claim", "statistic", "threshold"), "")
    return Claim(paper="p", conditions=conditions, **texts, **changes)


def test_every_value_and_every_condition_must_be_met_unless_one_is_enough():
    small = Condition(name="x", operator="<", value=1)
    large = Condition(name="y", operator=">", value="x", factor=10)
    both, either = claim(small, large), claim(small, large, one_is_enough=True)
    assert both.met(x=[0.1, 0.2], y=[1.5, 2.5])
    assert not both.met(x=[0.1, 0.2], y=[1.5, 2.0]) and either.met(x=[0.1, 0.2], y=[1.5, 2.0])
    assert not both.met(x=[0.1, 1.0], y=[20.0, 20.0]) and either.met(x=[0.1, 1.0], y=[20.0, 20.0])
    assert not either.met(x=[1.0], y=[10.0])
    np.testing.assert_array_equal(large.bound({"x": [1.0, 2.0]}), [10.0, 20.0])
    with pytest.raises(KeyError, match="y"):
        both.met(x=0.5)


ENTRY = "{id: M1, where: w, claim: c, statistic: s, threshold: t, conditions: [%s]%s}"
GOOD = "{name: x, operator: '<', value: 1}"


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        (ENTRY % ("", ""), ["M1", "a condition or more"]),
        (ENTRY % ("{name: x, operator: '~', value: 1}", ""), ["M1", "operator", "'~'"]),
        (ENTRY % ("{name: x, operator: '<'}", ""), ["M1", "value"]),
        (ENTRY % (GOOD, ", thresold: t"), ["M1", "thresold"]),
        ("{id: M1, where: w}", ["M1", "conditions"]),
        (ENTRY % (GOOD, ", nature: magic"), ["M1", "by construction or audit", "'magic'"]),
        (ENTRY % (GOOD, ", also: [{date: 2026-11-29, what: w}]"), ["M1", "reason"]),
        (ENTRY % (GOOD, ", also: [{date: soon, what: w, reason: r}]"), ["also.date", "'soon'"]),
        (
            ENTRY
            % (
                GOOD,
                ", also: [{date: 2026-11-29, what: w, reason: r, name: n, conditions:"
                " [{name: x, operator: '~', value: 1}]}]",
            ),
            ["M1", "operator", "'~'"],
        ),
        (f"{ENTRY % (GOOD, '')}, {ENTRY % (GOOD, '')}", ["every claim needs its own id", "M1, M1"]),
    ],
)
def test_a_claim_that_no_machine_can_judge_is_named(tmp_path, entry, words):
    (tmp_path / "claims.yaml").write_text(f"momos: [{entry}]\n")
    with pytest.raises(ValueError) as caught:
        read_claims(tmp_path)
    assert all(word in str(caught.value) for word in [str(tmp_path), *words]), caught.value


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"claims\.yaml is missing"):
        read_claims(tmp_path)
