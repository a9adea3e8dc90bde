"""How claims become verdicts, on claims and functions of the test's own."""

import dataclasses

import pandas as pd
import pytest

from momos.report.shared import verdicts
from momos.report.shared.claims import Claim, Condition
from momos.report.shared.decisions import Decision
from momos.report.shared.verdicts import NOT_RUN, Judgement, Judges, Missing, judged


def claim(name: str, value: float) -> Claim:
    texts = {text: f"{text} of {name}" for text in ("where", "claim", "statistic", "threshold")}
    condition = Condition(name="size", operator="<", value=value)
    return Claim(paper="p", id=name, conditions=(condition,), **texts)


@pytest.fixture
def judges() -> Judges[dict]:
    judges: Judges[dict] = Judges()

    @judges.judges("A")
    def measures_the_size(claim: Claim, evidence: dict) -> Judgement:
        return judged(claim, f"size {evidence['size']}", "a note", size=evidence["size"])

    @judges.judges("B", about_runs=False)
    def lacks_something(claim: Claim, evidence: dict) -> Judgement:
        raise Missing("Nothing there.")

    return judges


def test_a_statistic_is_held_against_the_threshold(judges):
    found = judges.judge(claim("A", 2), {"size": 1})
    undecided = ("no", "no value per initialisation")
    assert found == Judgement(verdicts.SUPPORTED, "size 1", "a note", *undecided)
    assert judges.judge(claim("A", 1), {"size": 1}).verdict == verdicts.NOT_SUPPORTED


def test_what_is_missing_is_not_run_and_says_why(judges):
    assert judges.judge(claim("B", 1), {}) == Judgement(NOT_RUN, "", "Nothing there.")
    assert judges.about_runs == {"A"}


def test_a_claim_has_one_function(judges):
    with pytest.raises(ValueError, match="claim A has two functions"):
        judges.judges("A")(lambda claim, evidence: Judgement(NOT_RUN, ""))


def test_claims_and_functions_are_the_same(judges):
    judges.require_same_claims([claim("A", 1), claim("B", 1)])
    with pytest.raises(ValueError, match=r"no function: \['C'\], not in the file: \['B'\]"):
        judges.require_same_claims([claim("A", 1), claim("C", 1)])


def test_the_table_has_texts_and_judgements():
    given = [Judgement(verdicts.SUPPORTED, "m"), Judgement(NOT_RUN, "", "why")]
    table = verdicts.table([claim("A", 1), claim("B", 1)], given)
    assert list(table.id) == ["A", "B"] and list(table.note) == ["", "why"]
    assert verdicts.counts(table) == dict.fromkeys(verdicts.VERDICTS, 0) | {
        verdicts.SUPPORTED: 1,
        NOT_RUN: 1,
    }
    assert verdicts.counts_text(table).startswith("1 SUPPORTED, 0 NOT SUPPORTED, 1 NOT RUN")
    shown = verdicts.markdown(table)
    assert "| A | SUPPORTED |  | claim of A | m |  | threshold of A |" in shown
    assert isinstance(table, pd.DataFrame)


def test_samples_say_whether_a_verdict_is_decided():
    sure, unsure = ({"size": {"": dict(enumerate(values))}} for values in ([1, 1.1], [1, 1.9]))
    found = judged(claim("A", 3), "m", samples=sure, size=1.05)
    assert (found.verdict, found.decided) == (verdicts.SUPPORTED, "yes")
    assert judged(claim("A", 3), "m", samples=unsure, size=1.45).decided == "no"
    other = Decision("yes", "by hand")
    assert judged(claim("A", 3), "m", decision=other, size=4)[3:5] == ("yes", "by hand")


@pytest.mark.parametrize("nature", ["by construction", "audit"])
def test_what_no_run_can_decide_is_counted_apart(nature):
    marked = dataclasses.replace(claim("A", 3), nature=nature)
    samples = {"size": {"": {0: 1.0, 1: 1.1}}}
    given = [judged(marked, "m", samples=samples, size=1), judged(marked, "m", size=4)]
    given += [judged(claim("B", 3), "m", samples=samples, size=1), Judgement(NOT_RUN, "")]
    assert [one.decided for one in given] == [nature, nature, "yes", ""]
    table = verdicts.table([marked, marked, claim("B", 3), claim("C", 3)], given)
    assert verdicts.counts(table) == {
        verdicts.SUPPORTED: 1,
        verdicts.NOT_SUPPORTED: 0,
        NOT_RUN: 1,
        verdicts.NOT_COMPARABLE: 0,
    }
    assert verdicts.counts_decided(table) == {verdicts.SUPPORTED: 1, verdicts.NOT_SUPPORTED: 0}
    apart = dict.fromkeys(("by construction", "audit"), 0) | {nature: 2}
    assert verdicts.counts_apart(table) == apart
    assert sum(verdicts.counts(table).values()) + sum(apart.values()) == len(table)
    words = verdicts.counts_text(table)
    assert "decided: 1 of 1 SUPPORTED, 0 of 0 NOT SUPPORTED" in words and f"2 {nature}" in words
