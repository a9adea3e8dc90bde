"""From claims to verdicts, for both papers.

    SUPPORTED, NOT SUPPORTED   the statistic meets its threshold, or not
    NOT RUN                    runs that it needs are missing, or hold missing values: never a guess
    NOT COMPARABLE             about absolute published accuracies, where the data or the budget
                               differ from the paper's

A claim's function measures the statistic and asks the claim whether that meets the threshold. It is
registered under the claim's id, next to its definition:

    judges = Judges[Evidence]()

    @judges.judges("M7")
    def tiny_vit_keeps_accuracy(claim: Claim, evidence: Evidence) -> Judgement: ...
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Generic, NamedTuple, TypeVar

import pandas as pd

from momos.report.shared import tables
from momos.report.shared.claims import Claim, Statistic

SUPPORTED, NOT_SUPPORTED, NOT_RUN, NOT_COMPARABLE = VERDICTS = (
    "SUPPORTED",
    "NOT SUPPORTED",
    "NOT RUN",
    "NOT COMPARABLE",
)
# Columns of claims.md and of the claims in results.json.
SHOWN = ["id", "verdict", "claim", "measured", "threshold", "statistic", "where", "note"]

E = TypeVar("E")  # what was measured
F = TypeVar("F", bound=Callable[..., "Judgement"])


class Judgement(NamedTuple):
    verdict: str
    measured: str  # the statistic in words
    note: str = ""


class Missing(Exception):
    """What a claim needs was not run; the message says what."""


class Judges(Generic[E]):
    """The functions that judge the claims of one paper, by claim id."""

    def __init__(self) -> None:
        self.functions: dict[str, Callable[[Claim, E], Judgement]] = {}
        self.about_runs: set[str] = set()

    def judges(self, name: str, *, about_runs: bool = True) -> Callable[[F], F]:
        """Register the decorated function for the claim of this id.

        about_runs: whether the verdict follows from this profile's runs alone. Raises ValueError
        for a second function.
        """

        def register(function: F) -> F:
            if name in self.functions:
                raise ValueError(f"claim {name} has two functions: expected one")
            self.functions[name] = function
            if about_runs:
                self.about_runs.add(name)
            return function

        return register

    def judge(self, claim: Claim, evidence: E) -> Judgement:
        """Judge one claim; NOT RUN, with the reason, where something that it needs is missing."""
        try:
            return self.functions[claim.id](claim, evidence)
        except Missing as missing:
            return Judgement(NOT_RUN, "", str(missing))

    def require_same_claims(self, claims: Iterable[Claim]) -> None:
        """Raises ValueError unless the claims and the functions have the same ids."""
        ids = [claim.id for claim in claims]
        without = [name for name in ids if name not in self.functions]
        unknown = [name for name in self.functions if name not in ids]
        if without or unknown:
            raise ValueError(
                "claims.yaml and the functions that judge must name the same claims;"
                f" no function: {without}, not in the file: {unknown}"
            )


def verdict(met: bool) -> str:
    """SUPPORTED or NOT SUPPORTED."""
    return SUPPORTED if met else NOT_SUPPORTED


def judged(claim: Claim, measured: str, note: str = "", **statistics: Statistic) -> Judgement:
    """Compare the statistics with the claim's threshold: the verdict, beside the given texts."""
    return Judgement(verdict(claim.met(**statistics)), measured, note)


def table(claims: Sequence[Claim], judgements: Sequence[Judgement]) -> pd.DataFrame:
    """A row per claim: id, where, claim, statistic, threshold, verdict, measured, note."""
    pairs = zip(claims, judgements, strict=True)
    return pd.DataFrame([claim.texts | judgement._asdict() for claim, judgement in pairs])


def counts(verdicts: pd.DataFrame) -> dict[str, int]:
    """How often each verdict was given, all four of them."""
    return {name: int((verdicts.verdict == name).sum()) for name in VERDICTS}


def counts_text(verdicts: pd.DataFrame) -> str:
    """The same for readers: 3 SUPPORTED, 1 NOT SUPPORTED, .."""
    return ", ".join(f"{number} {name}" for name, number in counts(verdicts).items())


def markdown(verdicts: pd.DataFrame) -> str:
    """The table of claims.md: everything about each claim."""
    return tables.markdown(verdicts[SHOWN].rename(columns=str.capitalize))
