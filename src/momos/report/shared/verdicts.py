"""From claims to verdicts, for both papers.

    SUPPORTED, NOT SUPPORTED   the statistic meets its threshold, or not
    NOT RUN                    runs that it needs are missing, or hold missing values: never a guess
    NOT COMPARABLE             about absolute published accuracies, where the data or the budget
                               differ from the paper's

A claim's function measures the statistic and asks the claim whether that meets the threshold. It is
registered under the claim's id, next to its definition:

    judges = Judges[Evidence]()

    @judges.judges("M7")
    def tiny_vit_keeps_accuracy(claim: Claim, evidence: Evidence) -> Judgement:
        drops = {0: 0.4, 1: 0.9, 2: 0.7}  # by seed, baseline and MoMos paired
        mean, samples = float(np.mean([*drops.values()])), {"drop_in_points": {"": drops}}
        return judged(claim, f"{mean:.2f} points", samples=samples, drop_in_points=mean)

`samples` (a value per initialisation, `momos.report.shared.decisions`) say whether the verdict is
decided, and by which interval. The verdict that counts is that of the mean; what else was measured
stands in `also`, and changes neither. A claim whose `nature` in claims.yaml is `by construction` or
`audit` is so marked whatever the samples say. A verdict without samples is not decided.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Generic, NamedTuple, TypeVar

import pandas as pd

from momos.report.shared import tables
from momos.report.shared.claims import NATURES, Claim, Statistic
from momos.report.shared.decisions import NO, YES, Decision, Samples, decide

SUPPORTED, NOT_SUPPORTED, NOT_RUN, NOT_COMPARABLE = VERDICTS = (
    "SUPPORTED",
    "NOT SUPPORTED",
    "NOT RUN",
    "NOT COMPARABLE",
)
JUDGED = (SUPPORTED, NOT_SUPPORTED)
# Columns of claims.md and of the claims in results.json.
SHOWN = [
    "id",
    "verdict",
    "decided",
    "claim",
    "measured",
    "interval",
    "threshold",
    "statistic",
    "where",
    "also",
    "note",
]
# Columns that claims.csv and results.json have beside them.
IN_PART = ["part", "part_decided"]
NO_SAMPLES = Decision(NO, "no value per initialisation")

E = TypeVar("E")  # what was measured
F = TypeVar("F", bound=Callable[..., "Judgement"])


class Judgement(NamedTuple):
    """A verdict and what it stands on. All are texts, so that it can be written as JSON."""

    verdict: str
    measured: str  # the statistic in words
    note: str = ""
    decided: str = ""  # yes | no | by construction | audit; empty without a verdict
    interval: str = ""  # what decides it: the intervals over initialisations
    also: str = ""  # other statistics, weights or readings, which change no verdict
    # Of a claim about several models some of which were not run: the verdict that the others alone
    # would give, and whether it is decided.
    part: str = ""
    part_decided: str = ""


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


def judged(
    claim: Claim,
    measured: str,
    note: str = "",
    *,
    also: str = "",
    samples: Mapping[str, Samples | float] | None = None,
    decision: Decision | None = None,
    **statistics: Statistic,
) -> Judgement:
    """Compare the statistics with the claim's threshold: the verdict, beside the given texts.

    samples: the statistics by initialisation, for `decisions.decide`; decision: one that was found
    otherwise, in place of samples. Raises what `decide` raises.
    """
    met = claim.met(**statistics)
    if decision is None and samples is not None:
        decision = decide(claim, met, **samples)
    decided, interval = decision or (NO_SAMPLES if not claim.nature else ("", ""))
    return Judgement(verdict(met), measured, note, claim.nature or decided, interval, also)


def table(claims: Sequence[Claim], judgements: Sequence[Judgement]) -> pd.DataFrame:
    """A row per claim: its texts (id, where, claim, statistic, threshold) and its judgement's.

    The latter are the fields of `Judgement`.
    """
    pairs = zip(claims, judgements, strict=True)
    return pd.DataFrame([claim.texts | judgement._asdict() for claim, judgement in pairs])


def is_apart(verdicts: pd.DataFrame) -> pd.Series:
    """Mark the claims that no run can decide: true by construction, or an audit of the paper."""
    return verdicts.decided.isin(NATURES)


def counts(verdicts: pd.DataFrame) -> dict[str, int]:
    """How often each verdict was given, all four of them, to the claims that runs can decide."""
    tested = verdicts[~is_apart(verdicts)]
    return {name: int((tested.verdict == name).sum()) for name in VERDICTS}


def counts_decided(verdicts: pd.DataFrame) -> dict[str, int]:
    """How many of the SUPPORTED and of the NOT SUPPORTED ones are decided."""
    decided = verdicts[verdicts.decided == YES]
    return {name: int((decided.verdict == name).sum()) for name in JUDGED}


def counts_apart(verdicts: pd.DataFrame) -> dict[str, int]:
    """How many claims hold by construction, and how many audit the publication."""
    return {name: int((verdicts.decided == name).sum()) for name in NATURES}


def counts_text(verdicts: pd.DataFrame) -> str:
    """All counts for readers: 3 SUPPORTED, 1 NOT SUPPORTED, ..; decided: 2 of the 3, 0 of the 1."""
    all_of, decided = counts(verdicts), counts_decided(verdicts)
    given = ", ".join(f"{number} {name}" for name, number in all_of.items())
    sure = ", ".join(f"{number} of {all_of[name]} {name}" for name, number in decided.items())
    apart = ", ".join(f"{number} {name}" for name, number in counts_apart(verdicts).items())
    return f"{given}; decided: {sure}; counted apart: {apart}"


def markdown(verdicts: pd.DataFrame) -> str:
    """The table of claims.md: everything about each claim."""
    return tables.markdown(verdicts[SHOWN].rename(columns=str.capitalize))


def additions_markdown(claims: Iterable[Claim]) -> str:
    """The table of what was added to claims after they were fixed, a row an addition.

    When that was stands in claims.yaml: a report has no dates.
    """
    rows = [
        [claim.id, "yes" if added.counted else "no", added.what, added.reason]
        for claim in claims
        for added in claim.also
    ]
    columns = ["Id", "Counted in the verdict", "What", "Reason"]
    return tables.markdown(pd.DataFrame(rows, columns=columns))
