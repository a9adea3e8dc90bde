"""Whether a verdict is decided: what independent repetitions say of a claim's threshold.

A verdict compares a mean with a threshold. It is decided if the repetitions leave no doubt of it:

    a number         a value per initialisation (seed), methods paired by seed. Its interval by
                     Student's t lies entirely on one side of the threshold.
    a share          true or false per initialisation. Its exact interval (Clopper-Pearson) does.
                     "Every one" can be refuted so, and never proven: n of n says "at least x %".

One value decides nothing, and neither do equal ones: three seeds without spread measure no spread.
A claim about several parts (models, configurations) needs 95 % intervals on the right side in all
of them to be decided for. Decided against needs one part only; with m parts its interval has the
level 1 - 0.05 / m, so that the error of all of them together stays below 5 % (Bonferroni).

    decide(claim, met, drop_in_points={"mlp": {0: 0.8, 1: 0.4, 2: 0.5}, "resnet20": {..}})
    decide(claim, met, r2_on_llc={"": llc.of_run}, r2_on_trace={"": trace.of_run}, ..)

The names are those of the claim's conditions. A condition that compares two statistics looks at
their differences, key by key; where one of them is a constant of the study, it is given as a number
(`eps=0.1`).
"""

import math
from collections.abc import Hashable, Iterator, Mapping
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from momos.report.shared import statistics
from momos.report.shared.claims import WITHIN_FACTOR, Claim, Condition

YES, NO = "yes", "no"
MET, FAILED, OPEN = "met", "failed", "open"
ERROR = 1 - statistics.LEVEL
FEWEST_SHOWN = 4  # parts; of more than so many, those that decide are shown alone

# Initialisation (a seed, a run) -> value; true or false where the statistic is a share.
Sample: TypeAlias = Mapping[Any, float]
Samples: TypeAlias = Mapping[str, Sample]  # part of the statistic (a model, "" for a whole) -> ..


class Decision(NamedTuple):
    """Whether a verdict is decided, and by which intervals."""

    decided: str  # YES | NO
    interval: str  # what decides it, in words


class Part(NamedTuple):
    """One part of a statistic beside the condition that it has to meet."""

    name: str
    condition: Condition
    sample: Sample
    bound: float

    @property
    def is_share(self) -> bool:
        return all(isinstance(value, bool | np.bool_) for value in self.sample.values())

    def interval(self, level: float) -> tuple[float, float] | None:
        """The interval of the mean or the share; None where nothing can be said."""
        values = list(self.sample.values())
        if self.is_share:
            return statistics.clopper_pearson(sum(map(bool, values)), len(values), level)
        is_measured = np.isfinite(values).all() and not _has_no_spread(values)
        return statistics.student(values, level) if is_measured else None

    def state(self, level: float) -> str:
        """MET or FAILED if the interval lies entirely on one side, else OPEN."""
        ends = self.interval(level) if self.sample else None
        return OPEN if ends is None else side(self.condition, self.bound, *ends)


def decide(claim: Claim, met: bool, **samples: Samples | float) -> Decision:
    """Say whether the verdict `met` (of the claim's statistic as a whole) is decided.

    samples: name of a statistic -> part -> initialisation -> value, or a number for a constant.
    Every statistic of the conditions must be there. Raises ValueError for a claim of which one
    condition is enough and where there is no sample, KeyError for a statistic that is not given.
    """
    if claim.one_is_enough:
        raise ValueError(f"claim {claim.id}: decide expects a claim that needs all conditions")
    parts = list(_parts(claim, samples))
    if not parts:
        raise ValueError(f"claim {claim.id}: decide expects a sample or more, got none")
    level = statistics.LEVEL if met else 1 - ERROR / len(parts)
    states = [part.state(level) for part in parts]
    decided = all(state == MET for state in states) if met else FAILED in states
    return Decision(YES if decided else NO, _text(parts, states, level, met=met))


def share_text(name: str, sample: Sample) -> str:
    """The exact interval of a share, in words. sample: true or false per initialisation."""
    condition = Condition(name="share", operator="==", value=1.0)
    return _text([Part(name, condition, sample, 1.0)], [OPEN], statistics.LEVEL, met=True)


def side(condition: Condition, bound: float, low: float, high: float) -> str:
    """MET, FAILED or OPEN: where an interval lies beside a condition.

    bound: the threshold, without the factor of `within_factor`.
    """
    if condition.operator == WITHIN_FACTOR:
        smallest, largest = bound / condition.factor, bound * condition.factor
        outside, inside = high < smallest or low > largest, smallest <= low and high <= largest
    elif condition.operator == "==":
        outside, inside = not low <= bound <= high, low == high == bound
    else:
        at_ends = [bool(_compare(condition, end, bound)) for end in (low, high)]
        outside, inside = not any(at_ends), all(at_ends)
    return FAILED if outside else MET if inside else OPEN


def paired(first: Sample, second: Sample) -> dict[Hashable, float]:
    """first - second by initialisation, for those that both have, in the first one's order."""
    return {key: value - second[key] for key, value in first.items() if key in second}


def _parts(claim: Claim, samples: Mapping[str, Samples | float]) -> Iterator[Part]:
    for condition in claim.conditions:
        given = samples[condition.name]
        other = samples[condition.value] if isinstance(condition.value, str) else condition.value
        if not isinstance(given, Mapping):
            raise TypeError(f"claim {claim.id}: {condition.name} needs samples, got {given!r}")
        for name, sample in given.items():
            if isinstance(other, Mapping):
                scaled = {key: condition.factor * value for key, value in other[name].items()}
                yield Part(name, condition, paired(sample, scaled), 0.0)
            else:
                factor = 1 if condition.operator == WITHIN_FACTOR else condition.factor
                yield Part(name, condition, sample, factor * other)


def _compare(condition: Condition, value: float, bound: float) -> np.bool_:
    plain = Condition(name="value", operator=condition.operator, value=bound)
    return plain.met({"value": value}).all()


def _has_no_spread(values: list[float]) -> bool:
    """Whether all values are the same, but for the last digits of floating point."""
    return bool(np.ptp(values) <= 1e-12 * max(1.0, float(np.abs(values).max())))


def _text(parts: list[Part], states: list[str], level: float, *, met: bool) -> str:
    """Kind, level and ends of the intervals; where there are many parts, those that matter."""
    shown = list(zip(parts, states, strict=True))
    if len(shown) > FEWEST_SHOWN:
        wanted = FAILED if FAILED in states and not met else OPEN if OPEN in states else states[0]
        shown = sorted(shown, key=lambda pair: pair[1] != wanted)[:FEWEST_SHOWN]
    several = len({(part.condition.name, part.condition.value) for part in parts}) > 1
    lines = [_part_text(part, level, several=several) for part, _ in shown]
    kinds = ["Clopper-Pearson" if part.is_share else "t" for part in parts]
    text = f"{100 * level:.4g} % {' and '.join(dict.fromkeys(kinds))}: {'; '.join(lines)}"
    if len(shown) == len(parts):
        return text
    sides = ", ".join(f"{states.count(state)} {state}" for state in (MET, FAILED, OPEN))
    return f"{text}; of {len(parts)} parts: {sides}"


def _part_text(part: Part, level: float, *, several: bool) -> str:
    compared = [part.condition.name]
    if isinstance(part.condition.value, str):  # another statistic
        compared.append(part.condition.value)
    statistic = " against ".join(compared).replace("_", " ") if several else ""
    name = " ".join(filter(None, (statistic, part.name)))
    values = list(part.sample.values())
    ends = part.interval(level) if values else None
    text = _ends_text(values, ends, is_share=part.is_share)
    return f"{name} {text}".strip()


def _ends_text(values: list[float], ends: tuple[float, float] | None, *, is_share: bool) -> str:
    num_values = len(values)
    if ends is None:
        if num_values < 2:
            return f"{num_values} value{'s' if num_values != 1 else ''}, no interval"
        whole = all(math.isfinite(value) for value in values)
        reason = f"{values[0]:.4g} without spread" if whole else "a value is missing"
        return f"{reason} (n={num_values})"
    if is_share:
        low, high = (f"{100 * end:.1f}" for end in ends)
        return f"{sum(map(bool, values))} of {num_values}, {low} to {high} %"
    return f"{ends[0]:.4g} to {ends[1]:.4g} (n={num_values})"
