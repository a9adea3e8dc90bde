"""What all sections of params.yaml share: typed values, and errors that explain themselves.

An error names the key, the value and what was expected.
"""

import difflib
import functools
import re
import sys
import types
import typing
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any, ClassVar, Literal, Self  # Any: what YAML holds, and type hints

# Control characters, and line and paragraph breaks
UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The base of all sections, which are frozen dataclasses.

    A key whose field has a default may be left out.
    """

    section: ClassVar[str]
    # Keys that may be left out. They are None then: "does not apply".
    optional: ClassVar[frozenset[str]] = frozenset()

    @classmethod
    def from_mapping(cls, values: Any, where: str, *, partial: bool = False) -> Self:
        """Read a section. where: its name in messages. partial: keys may be missing, and are None.

        Raises ValueError for anything but a mapping with exactly this section's keys, each of its
        type, and for values that `check` refuses.
        """
        hints = cls._hints()
        if not isinstance(values, dict):
            raise ValueError(f"{where} must be a mapping of settings, got {values!r}")
        cls._check_keys(values, where, partial=partial)
        checked = {
            key: typed(values.get(key), hint, f"{where}.{key}")
            for key, hint in hints.items()
            if key in values or not (partial or key in cls._defaults())
        }
        settings = cls(**(dict.fromkeys(hints) | cls._defaults() | checked))
        settings.check(where)
        return settings

    @classmethod
    @functools.cache  # evaluating annotations took most of the time of reading all settings
    def _hints(cls) -> Mapping[str, Any]:
        """The type of each setting."""
        hints = typing.get_type_hints(cls)
        return {field.name: hints[field.name] for field in fields(cls)}

    @classmethod
    def _defaults(cls) -> dict[str, Any]:
        return {field.name: field.default for field in fields(cls) if field.default is not MISSING}

    @classmethod
    def _check_keys(cls, values: Mapping[str, Any], where: str, *, partial: bool) -> None:
        """Raises ValueError for a key that is unknown, or missing if not `partial`."""
        hints = cls._hints()
        for key in values:
            if key not in hints:
                close, expected = suggestion(key, hints), f"expected {', '.join(hints)}"
                raise ValueError(f"{where}.{key}: unknown key{close}; {expected}")
        for key in hints.keys() - cls.optional - cls._defaults().keys():
            if key not in values and not partial:
                raise ValueError(f"{where}.{key} is missing; expected {_describe(hints[key])}")

    def check(self, where: str) -> None:
        """Check ranges and combinations. Raises ValueError."""

    @classmethod
    def expected(cls, key: str) -> str:
        """What a setting must be, in words."""
        return _describe(cls._hints()[key])


def suggestion(key: str, known: typing.Iterable[str]) -> str:
    """Words for a message that name the known key closest to a wrong one; empty if none is."""
    close = difflib.get_close_matches(str(key), list(known), n=1)
    return f" (did you mean {close[0]}?)" if close else ""


def _describe(hint: Any) -> str:
    """A type, in the words of YAML."""
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
    """The value as the hint's type: integers pass as floats, nothing else is converted.

    Raises ValueError for a value of another type.
    """
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
        if hint is str:  # it stands in tables, messages and paths
            require(not UNPRINTABLE.search(value), where, "printable text on one line", value)
        return float(value) if hint is float else value
    raise ValueError(f"{where} must be {_describe(hint)}, got {value!r}{_exponent_hint(value)}")


def fits(value: Any, hint: Any) -> bool:
    """Whether a value of YAML has this type; items of a list are not looked at."""
    origin = typing.get_origin(hint)
    if origin is Literal:
        return any(
            value == choice and type(value) is type(choice) for choice in typing.get_args(hint)
        )
    if origin is tuple:
        return isinstance(value, list | tuple)
    if isinstance(value, bool):
        return hint is bool
    if hint is float:
        largest = sys.float_info.max  # neither .inf nor .nan is a setting
        return isinstance(value, int | float) and -largest <= value <= largest
    return isinstance(value, hint)


def _exponent_hint(value: Any) -> str:
    """Words for a message that say how to write a number that stands in quotes."""
    if not isinstance(value, str) or "e" not in value.lower():
        return ""
    try:
        number = float(value)
    except ValueError:
        return ""
    mantissa, exponent = f"{number:e}".split("e")
    return f" (quoted, this is text: write {float(mantissa)}e{int(exponent):+d})"


def require(condition: object, where: str, expected: str, value: object) -> None:
    """Raises ValueError, naming key, value and what was expected, unless the condition is true."""
    if not condition:
        raise ValueError(f"{where} must be {expected}, got {value!r}")


def not_empty_and_distinct(values: tuple, where: str) -> None:
    """Raises ValueError for a list without entries, or with an entry twice."""
    require(len(values) > 0, where, "a list with at least one entry", list(values))
    require(len(set(values)) == len(values), where, "a list without repeats", list(values))


def advice(path: Path) -> str:
    """What to add to the command where this folder is a copy that DVC made for an experiment.

    `dvc exp run --temp` and `--queue` copy what git knows, and people's own files in data/raw and
    data/zoo are not among it. path: what is missing there.
    """
    if "/.dvc/tmp/exps/" not in f"{Path.cwd().as_posix()}/":
        return ""
    return (
        f". This is DVC's copy of the repository, without files that git ignores: add `-C {path}` "
        "to `dvc exp run` (or run it without --temp and --queue)"
    )
