"""The papers' claims as data/paper/claims.yaml states them: texts for readers, conditions for code.

A claim's statistic is one number or several, each under a name. A condition compares the statistic
of its name with a number or with another statistic:

    operator    ==, <, <=, >, >=, or within_factor: value / factor <= statistic <= factor * value
    value       a number, or the name of another statistic
    factor      a number by which the value is multiplied; 1 where it is left out
    stated_in   the text of the claim that states the condition; `threshold` where it is left out

The thresholds stand in that file alone. A test holds the conditions against the texts.

What was added after the first measurement stands beside the texts and changes none of them:

    nature      by construction | audit, where no run can decide the claim; `also` says why
    also        entries with `date`, `what` was added, and the `reason`; an entry may have `name`
                and `conditions` of a second statistic, which is judged beside the first, and
                `counted: true` where the claim's own verdict follows from it since then
"""

import dataclasses
import datetime
import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import yaml
from numpy.typing import NDArray

WITHIN_FACTOR = "within_factor"
COMPARISONS: dict[str, Callable[[Any, Any], Any]] = {
    "==": operator.eq,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
OPERATORS = (*COMPARISONS, WITHIN_FACTOR)
BY_CONSTRUCTION, AUDIT = NATURES = ("by construction", "audit")
TEXTS = ("id", "where", "claim", "statistic", "threshold")
Statistic: TypeAlias = float | Sequence[float] | NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Condition:
    """One comparison of a claim's threshold."""

    name: str  # of the statistic
    operator: str
    value: float | str
    factor: float = 1
    stated_in: str = "threshold"

    def bound(self, statistics: Mapping[str, Statistic]) -> NDArray[np.float64]:
        """What the statistic is compared with: factor * value.

        statistics: name -> one number or several. Raises KeyError for a missing statistic.
        """
        return self.factor * self._reference(statistics)

    def met(self, statistics: Mapping[str, Statistic]) -> NDArray[np.bool_]:
        """Say for each value of the statistic whether it meets the condition; NaN meets none.

        statistics: as for `bound`; where two are compared, as many values of each. Returns an array
        of the statistic's shape. Raises KeyError for a missing statistic.
        """
        values, bound = np.asarray(statistics[self.name], dtype=float), self.bound(statistics)
        if self.operator == WITHIN_FACTOR:
            return (self._reference(statistics) / self.factor <= values) & (values <= bound)
        return np.asarray(COMPARISONS[self.operator](values, bound))

    def _reference(self, statistics: Mapping[str, Statistic]) -> NDArray[np.float64]:
        value = statistics[self.value] if isinstance(self.value, str) else self.value
        return np.asarray(value, dtype=float)


@dataclass(frozen=True, kw_only=True)
class Addition:
    """What was added to a claim after it was fixed. The claim's texts stay as they were."""

    date: datetime.date
    what: str
    reason: str
    counted: bool = False  # the verdict follows from it; else it stands beside the verdict
    name: str = ""  # of a second statistic
    conditions: tuple[Condition, ...] = ()  # of that


@dataclass(frozen=True, kw_only=True)
class Claim:
    """One claim of a paper, with the threshold that decides about it."""

    paper: str  # momos | singular_mdl
    id: str
    where: str
    claim: str
    statistic: str
    threshold: str
    conditions: tuple[Condition, ...]
    needs: str = ""
    one_is_enough: bool = False  # else all conditions must be met
    parameters: Mapping[str, Any] = field(default_factory=dict)  # numbers of the statistic itself
    nature: str = ""  # by construction | audit, where no run can decide the claim
    also: tuple[Addition, ...] = ()

    @property
    def texts(self) -> dict[str, str]:
        """What readers see of the claim: id, where, claim, statistic, threshold."""
        return {name: str(getattr(self, name)) for name in TEXTS}

    def second(self, name: str) -> "Claim":
        """The claim with a second statistic's conditions in place of its own.

        name: as an entry of `also` has it. Raises ValueError for another one.
        """
        for addition in self.also:
            if addition.name == name:
                return dataclasses.replace(self, conditions=addition.conditions)
        raise ValueError(f"claim {self.id}: expected an entry of `also` named {name!r}, found none")

    def met(self, **statistics: Statistic) -> bool:
        """Compare the statistics with all conditions; every value of a statistic counts.

        Raises KeyError for a statistic that a condition names and that is not given.
        """
        met = [bool(condition.met(statistics).all()) for condition in self.conditions]
        return any(met) if self.one_is_enough else all(met)


def read_claims(folder: Path) -> list[Claim]:
    """Read the claims of both papers in their order.

    folder: data/paper. Raises ValueError naming the file if it is missing, repeats an id, or has a
    claim that cannot be judged by a machine.
    """
    path = folder / "claims.yaml"
    if not path.is_file():
        raise ValueError(f"{path} is missing: expected the papers' claims (part of the repository)")
    papers = yaml.safe_load(path.read_text())
    claims = [_claim(path, paper, entry) for paper, entries in papers.items() for entry in entries]
    ids = [claim.id for claim in claims]
    if len(set(ids)) != len(ids):
        raise ValueError(f"{path}: every claim needs its own id, got {', '.join(ids)}")
    return claims


def _claim(path: Path, paper: str, entry: Mapping[str, Any]) -> Claim:
    where = f"{path}: claim {entry.get('id')}"
    try:
        conditions = _conditions(entry["conditions"])
        also = tuple(
            Addition(**{**added, "conditions": _conditions(added.get("conditions", ()))})
            for added in entry.get("also", ())
        )
        claim = Claim(paper=paper, **{**entry, "conditions": conditions, "also": also})
    except (KeyError, TypeError) as error:
        raise ValueError(f"{where}: {error}") from error
    if not conditions:
        raise ValueError(f"{where}: expected a condition or more, got none")
    for condition in (*conditions, *(one for added in also for one in added.conditions)):
        _check(where, condition)
    for added in also:
        if not isinstance(added.date, datetime.date):
            raise ValueError(f"{where}: also.date must be a date, got {added.date!r}")
    if claim.nature not in ("", *NATURES):
        expected = " or ".join(NATURES)
        raise ValueError(f"{where}: nature must be {expected}, or left out, got {claim.nature!r}")
    return claim


def _conditions(entries: Iterable[Mapping[str, Any]]) -> tuple[Condition, ...]:
    return tuple(Condition(**entry) for entry in entries)


def _check(where: str, condition: Condition) -> None:
    if condition.operator not in OPERATORS:
        expected = ", ".join(OPERATORS)
        raise ValueError(f"{where}: operator must be {expected}, got {condition.operator!r}")
