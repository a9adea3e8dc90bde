"""Names that users choose: entries of models, methods and language_models, and the profile.

They become folders, arguments of shell commands, keys that DVC looks up by a dotted path, columns
of tables, and text in HTML and LaTeX. So they are plain.
"""

import re
import unicodedata
from collections.abc import Iterable
from itertools import combinations

from momos.settings import require

NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,62}")
RULE = "a name of at most 63 letters (a to z), digits and _, beginning with a letter"
PROFILE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,62}")
PROFILE_RULE = "a plain name of at most 63 letters (a to z), digits, _ and -"
# Folders beside the profiles' own
TAKEN = ("expected",)
# What tables read as a missing value, a number or a truth value
WORDS = ("na", "nan", "null", "none", "inf", "infinity", "true", "false")


def check_names(names: Iterable[object], where: str) -> None:
    """Raises ValueError, with the rule and a suggestion, for an entry that can't be called so.

    where: the section. Two names that differ in capitals alone would share a folder on macOS and
    Windows.
    """
    names = list(names)
    for name in names:
        plain = isinstance(name, str) and NAME.fullmatch(name)
        require(plain, f"{where}: the name of an entry", f"{RULE}{_better(name)}", name)
        word = str(name).casefold() in WORDS
        expected = f"none of the words {', '.join(WORDS)}, which tables read as values"
        require(not word, f"{where}: the name of an entry", expected, name)
    for one, other in combinations(map(str, names), 2):
        expected = f"another name than {one!r}, apart from capitals"
        require(one.casefold() != other.casefold(), f"{where}.{other}", expected, other)


def check_profile(name: object) -> str:
    """Return the profile's name. Raises ValueError for one that can't be a folder's."""
    plain = isinstance(name, str) and PROFILE.fullmatch(name)
    require(plain, "profile", f"{PROFILE_RULE}{_better(name)}", name)
    free = str(name).casefold() not in TAKEN
    require(free, "profile", f"another name than {', '.join(TAKEN)}, which is a folder's", name)
    return str(name)


def _better(name: object) -> str:
    """Words for a message that name the closest name that can be one; empty for no text."""
    if not isinstance(name, str):
        return ""
    text = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode()
    plain = re.sub(r"[^A-Za-z0-9]+", "_", text).strip("_")
    if plain and not plain[0].isalpha():
        plain = f"m{plain}"
    return f" (such as {plain[:63]})" if plain else ""
