"""What was found, in five plain sentences with numbers, written from the verdicts alone."""

import re
from collections.abc import Sequence

import pandas as pd

from momos.report.shared import verdicts
from momos.report.shared.claims import AUDIT, BY_CONSTRUCTION
from momos.report.shared.decisions import NO, YES
from momos.report.shared.verdicts import JUDGED, NOT_COMPARABLE, NOT_RUN, NOT_SUPPORTED, SUPPORTED

MOST_NAMED = 3  # claims of a sentence that are told with their numbers; the others by id
LONGEST = 90  # characters of a claim's numbers, where they have several parts
DOES = {SUPPORTED: "holds", NOT_SUPPORTED: "does not hold"}


def sentences(table: pd.DataFrame) -> list[str]:
    """Tell the verdicts in five sentences. table: `verdicts.table`.

    They say how many claims are decided; which hold; which do not; what is left open; and what no
    run decides or this profile can't judge.
    """
    tested = table[table.verdict.isin(JUDGED) & ~verdicts.is_apart(table)]
    decided, is_open = tested[tested.decided == YES], tested[tested.decided == NO]
    return [
        _counts(tested, decided),
        _named("Decided, and true here", decided[decided.verdict == SUPPORTED], "hold"),
        _named(
            "Decided, and not true here", decided[decided.verdict == NOT_SUPPORTED], "not to hold"
        ),
        _left_open(is_open),
        _apart(table),
    ]


def _counts(tested: pd.DataFrame, decided: pd.DataFrame) -> str:
    if tested.empty:
        return "No claim could be tested: this profile lacks the runs."
    hold = int((decided.verdict == SUPPORTED).sum())
    if len(tested) == 1:
        side = "for" if hold else "against"
        decision = f"decided beyond chance, {side} the paper's statement"
        open_yet = "not decided: chance could still turn its verdict"
        return f"The one claim that these runs test is {decision if len(decided) else open_yet}."
    of_all = f"Of the {len(tested)} claims that these runs test"
    if decided.empty:
        return f"{of_all}, none is decided: chance could still turn every verdict."
    verb = "is" if len(decided) == 1 else "are"
    return (
        f"{of_all}, {len(decided)} {verb} decided beyond chance: {hold} for the paper's statement,"
        f" {len(decided) - hold} against it."
    )


def _named(start: str, rows: pd.DataFrame, otherwise: str) -> str:
    if rows.empty:
        return (
            f"No claim is decided to {otherwise}."
            if otherwise == "hold"
            else (f"No claim is decided {otherwise}.")
        )
    told = [_told(row) for row in rows.head(MOST_NAMED).itertuples()]
    others = list(rows.id[MOST_NAMED:])
    more = f"; likewise {_listed(others)}" if others else ""
    return f"{start}: {'; '.join(told)}{more}."


def _left_open(rows: pd.DataFrame) -> str:
    if rows.empty:
        return "No tested claim is left open."
    parts = [
        f"{_listed(list(rows.id[rows.verdict == verdict]))} {met} the threshold"
        for verdict, met in ((SUPPORTED, "met"), (NOT_SUPPORTED, "missed"))
        if (rows.verdict == verdict).any()
    ]
    claims = _number(len(rows), "claim")
    return (
        f"Not decided {'is' if len(rows) == 1 else 'are'} {claims}, for which the seeds are too few"
        f" or lie too far apart: {', '.join(parts)}."
    )


def _apart(table: pd.DataFrame) -> str:
    constructed, audits = (table[table.decided == name] for name in (BY_CONSTRUCTION, AUDIT))
    parts = []
    if len(constructed):
        ids = list(constructed.id)
        failed = list(constructed.id[constructed.verdict == NOT_SUPPORTED])
        text = f"{_listed(ids)} hold{'s' if len(ids) == 1 else ''} by construction"
        parts.append(text + (f" (yet not {_listed(failed)})" if failed else ""))
    parts += [
        f"{row.id} audits the publication and {DOES[row.verdict]} ({_short(row.measured)})"
        for row in audits.itertuples()
        if row.verdict in DOES
    ]
    for verdict, reason in (
        (NOT_RUN, "lack runs here"),
        (NOT_COMPARABLE, "can't be judged on this data or budget"),
    ):
        ids = list(table.id[table.verdict == verdict])
        if ids:
            parts.append(f"{_listed(ids)} {reason if len(ids) > 1 else _singular(reason)}")
    return f"Apart from these, {'; '.join(parts)}." if parts else "Every claim could be tested."


def _singular(reason: str) -> str:
    return reason.replace("lack ", "lacks ", 1)


def _told(row: tuple) -> str:
    return f"{row.claim} ({row.id}: {_short(row.measured)})"  # type: ignore[attr-defined]


def _short(measured: str) -> str:
    """The first parts of a claim's numbers, as many as LONGEST allows, at least one.

    What stands in brackets (the values of single runs) is left out.
    """
    parts = re.sub(r" \([^()]*\)", "", measured).split("; ")
    kept = parts[:1]
    for part in parts[1:]:
        if len("; ".join([*kept, part])) > LONGEST:
            break
        kept.append(part)
    return ", ".join(kept)


def _number(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"


def _listed(ids: Sequence[str]) -> str:
    """M1, M2 and M3."""
    return " and ".join(filter(None, [", ".join(ids[:-1]), ids[-1]]))
