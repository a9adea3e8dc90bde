"""Five sentences from verdicts, for reports with many runs, few, and none."""

import itertools
import re

import pandas as pd
import pytest

from momos.report.shared.findings import sentences
from momos.report.shared.verdicts import NOT_COMPARABLE, NOT_RUN, NOT_SUPPORTED, SUPPORTED


def table(*rows: tuple[str, str, str]) -> pd.DataFrame:
    """Verdicts. rows: verdict, decided, measured; the ids count them."""
    return pd.DataFrame(
        [
            {"id": f"M{i}", "claim": f"claim {i}", "verdict": verdict}
            | {"decided": decided, "measured": measured}
            for i, (verdict, decided, measured) in enumerate(rows, start=1)
        ]
    )


def test_decided_claims_come_first_with_their_numbers():
    found = sentences(
        table(
            (SUPPORTED, "no", "0.5"),
            (SUPPORTED, "yes", "mlp +0.62 points; vit -0.20 points (mean of 3: 1, 2)"),
            (NOT_SUPPORTED, "yes", "29 of 39"),
            (NOT_SUPPORTED, "no", "1"),
            (SUPPORTED, "by construction", "24 of 24"),
            (NOT_SUPPORTED, "audit", "31 of 48; mlp 0 of 8"),
            (NOT_RUN, "", ""),
            (NOT_COMPARABLE, "", "36 of 48"),
            (NOT_RUN, "", ""),
        )
    )
    assert found == [
        "Of the 4 claims that these runs test, 2 are decided beyond chance:"
        " 1 for the paper's statement, 1 against it.",
        "Decided, and true here: claim 2 (M2: mlp +0.62 points, vit -0.20 points).",
        "Decided, and not true here: claim 3 (M3: 29 of 39).",
        "Not decided are 2 claims, for which the seeds are too few or lie too far apart:"
        " M1 met the threshold, M4 missed the threshold.",
        "Apart from these, M5 holds by construction; M6 audits the publication and does not hold"
        " (31 of 48, mlp 0 of 8); M7 and M9 lack runs here; M8 can't be judged on this data or"
        " budget.",
    ]


def test_three_claims_are_told_and_the_others_named():
    found = sentences(table(*[(SUPPORTED, "yes", f"{i} of 9") for i in range(5)]))
    assert found[1].endswith("claim 3 (M3: 2 of 9); likewise M4 and M5.")
    long = "; ".join(f"part {i} with many words in it" for i in range(9))
    assert len(sentences(table((SUPPORTED, "yes", long)))[1]) < 160


def test_no_runs_read_well_too():
    assert sentences(table((NOT_RUN, "", ""))) == [
        "No claim could be tested: this profile lacks the runs.",
        "No claim is decided to hold.",
        "No claim is decided not to hold.",
        "No tested claim is left open.",
        "Apart from these, M1 lacks runs here.",
    ]


@pytest.mark.parametrize("size", [1, 2, 3])
def test_there_are_five_whole_sentences_whatever_the_verdicts(size):
    kinds = [
        (SUPPORTED, "yes", "1"),
        (SUPPORTED, "no", "1"),
        (NOT_SUPPORTED, "yes", "1"),
        (NOT_SUPPORTED, "no", "1"),
        (SUPPORTED, "by construction", "1"),
        (NOT_SUPPORTED, "by construction", "1"),
        (NOT_SUPPORTED, "audit", "1"),
        (NOT_RUN, "", ""),
        (NOT_COMPARABLE, "", ""),
    ]
    for rows in itertools.combinations_with_replacement(kinds, size):
        shown = table(*rows)
        found = sentences(shown)
        assert len(found) == 5
        for sentence in found:
            assert re.fullmatch(r"[A-Z][^\n]*[^ ,;:]\.", sentence) and "  " not in sentence
        tested = shown[shown.decided.isin(["yes", "no"])]
        told = " ".join(found[1:])
        assert all(name in told for name in shown.id), "each claim is told or named"
        assert len(tested) < 2 or f"Of the {len(tested)} claims" in found[0]
