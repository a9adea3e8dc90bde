"""What all sections of params.yaml share: types, and errors that name the key, the value and what
was expected.
"""

import difflib
import types
import typing
from dataclasses import fields
from typing import Any, ClassVar, Literal, Self


class Settings:
    """What all sections share: reading from a mapping with type checks. Subclasses are frozen
    dataclasses.
    """

    section: ClassVar[str]
    optional: ClassVar[frozenset[str]] = (
        frozenset()
    )  # keys that may be left out: null then, "does not apply"

    @classmethod
    def from_mapping(cls, values: Any, where: str, *, partial: bool = False) -> Self:
        """Raises ValueError for anything but a mapping with exactly this section's keys, each of
        its type.
        """
        if not isinstance(values, dict):
            raise ValueError(f"{where} must be a mapping of settings, got {values!r}")
        hints = typing.get_type_hints(cls)
        known = {field.name: hints[field.name] for field in fields(cls)}
        for key in values:
            if key not in known:
                raise ValueError(
                    f"{where}.{key}: unknown key{suggestion(key, known)}; expected {', '.join(known)}"
                )
        for key in known.keys() - cls.optional:
            if key not in values and not partial:
                raise ValueError(f"{where}.{key} is missing; expected {_describe(known[key])}")
        checked = {
            key: typed(values.get(key), hint, f"{where}.{key}")
            for key, hint in known.items()
            if key in values or not partial
        }
        checked = dict.fromkeys(known) | checked
        settings = cls(**checked)
        settings.check(where)
        return settings

    def check(self, where: str) -> None:
        """Ranges and combinations; raises ValueError."""

    @classmethod
    def expected(cls, key: str) -> str:
        """What a setting must be, in words."""
        return _describe(typing.get_type_hints(cls)[key])


def suggestion(key: str, known: typing.Iterable[str]) -> str:
    close = difflib.get_close_matches(str(key), list(known), n=1)
    return f" (did you mean {close[0]}?)" if close else ""


def _describe(hint: Any) -> str:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        return "one of " + ", ".join(map(repr, args))
    if origin in (types.UnionType, typing.Union):
        return " or ".join("null" if arg is type(None) else _describe(arg) for arg in args)
    if origin is tuple:
        return f"a list of {_describe(args[0])}"
    return {
        int: "an integer",
        float: "a number",
        str: "text",
        bool: "true or false",
        dict: "a mapping",
    }.get(hint, str(hint))


def typed(value: Any, hint: Any, where: str) -> Any:
    """The value as the hint's type; integers pass as floats, nothing else is converted."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        if value is None and type(None) in args:
            return None
        options = [arg for arg in args if arg is not type(None)]
        matching = [arg for arg in options if fits(value, arg)]
        if matching:
            return typed(value, matching[0], where)
    elif fits(value, hint):
        if origin is tuple:
            return tuple(typed(item, args[0], f"{where}[{i}]") for i, item in enumerate(value))
        return float(value) if hint is float else value
    raise ValueError(f"{where} must be {_describe(hint)}, got {value!r}{_exponent_hint(value)}")


def fits(value: Any, hint: Any) -> bool:
    origin = typing.get_origin(hint)
    if origin is Literal:
        return any(
            value == choice and type(value) is type(choice) for choice in typing.get_args(hint)
        )
    if origin is tuple:
        return isinstance(value, list)
    if isinstance(value, bool):
        return hint is bool
    if hint is float:
        return isinstance(value, int | float)
    return isinstance(value, hint)


def _exponent_hint(value: Any) -> str:
    """YAML reads 1e-3 as text: say how to write it."""
    if not isinstance(value, str) or "e" not in value.lower():
        return ""
    try:
        number = float(value)
    except ValueError:
        return ""
    mantissa, exponent = f"{number:e}".split("e")
    return f" (YAML reads this as text: write {float(mantissa)}e{int(exponent):+d})"


def require(condition: bool, where: str, expected: str, value: Any) -> None:
    if not condition:
        raise ValueError(f"{where} must be {expected}, got {value!r}")


def not_empty_and_distinct(values: tuple, where: str) -> None:
    require(len(values) > 0, where, "a list with at least one entry", list(values))
    require(len(set(values)) == len(values), where, "a list without repeats", list(values))
