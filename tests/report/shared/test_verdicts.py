"""How claims become verdicts, on claims and functions of the test's own."""

import pandas as pd
import pytest

from momos.report.shared import verdicts
from momos.report.shared.claims import Claim, Condition
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
    assert found == Judgement(verdicts.SUPPORTED, "size 1", "a note")
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
    assert "| A | SUPPORTED | claim of A | m | threshold of A |" in shown
    assert isinstance(table, pd.DataFrame)
