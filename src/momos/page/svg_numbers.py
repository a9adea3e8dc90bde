"""Numbers, moves and paths of an SVG, rounded and in as few characters as SVG allows."""

import re
from collections.abc import Iterable, Iterator

DECIMALS = 3  # of a coordinate in points: with two, dashes of long curves end elsewhere
UNIT = 10**DECIMALS
POINTS = {"M": 1, "L": 1, "Q": 2, "C": 3, "z": 0}  # a path's command -> the points that it takes
NUMBER = re.compile(r"-?\d+(?:\.\d+)?(?:e-?\d+)?")
COMMAND = re.compile(r"([A-Za-z])([^A-Za-z]*)")
MOVE = re.compile(r"translate\(([^)]*)\)")
ZERO_BEFORE_POINT = re.compile(r"(?<![\d.])0(?=\.\d)")

Segment = tuple[str, list[int]]  # a relative command and its coordinates in units


def short_number(number: str) -> str:
    return _decimal(round(float(number) * UNIT))


def _decimal(units: int) -> str:
    """units * 10**-DECIMALS as text: no zero before the point, none at the end."""
    whole, part = divmod(abs(units), UNIT)
    digits = f"{part:0{DECIMALS}d}".rstrip("0")
    text = f"{whole or ''}.{digits}" if digits else str(whole)
    return f"-{text}" if units < 0 else text


def short_transform(transform: str) -> str:
    """Moves rounded like coordinates. Factors and angles keep their digits."""
    rounded = MOVE.sub(
        lambda move: NUMBER.sub(lambda one: short_number(one.group()), move.group()), transform
    )
    return ZERO_BEFORE_POINT.sub("", rounded.replace(") ", ")"))


def short_path(path: str) -> str:
    """A path with relative, rounded coordinates and without lines of no length.

    Errors do not add up: each point is rounded where it stands. A path with a command other than
    M, L, Q, C and z, which Matplotlib does not write, stays as it is.
    """
    commands = [(name, NUMBER.findall(numbers)) for name, numbers in COMMAND.findall(path)]
    if any(name not in POINTS or len(numbers) != 2 * POINTS[name] for name, numbers in commands):
        return path
    return "".join(_joined(_segments(commands)))


def _segments(commands: Iterable[tuple[str, list[str]]]) -> Iterator[Segment]:
    """Relative commands for absolute ones; h and v for level and upright lines."""
    here = start = (0, 0)
    is_first = True  # of its subpath: such a line draws a dot even if it has no length
    for name, numbers in commands:
        units = [round(float(number) * UNIT) for number in numbers]
        points = list(zip(units[::2], units[1::2], strict=True))
        steps = [value for x, y in points for value in (x - here[0], y - here[1])]
        if name != "L":
            yield name.lower(), steps
        elif any(steps) or is_first:
            yield _line(*steps)
        here = points[-1] if points else start
        start = here if name == "M" else start
        is_first = name in "Mz"


def _line(dx: int, dy: int) -> Segment:
    if not dy:
        return "h", [dx]
    return ("l", [dx, dy]) if dx else ("v", [dy])


def _joined(segments: Iterable[Segment]) -> Iterator[str]:
    """The path's text, without letters that repeat the last one and spaces that part nothing."""
    before = last = ""
    for name, steps in segments:
        # A line needs no letter after a move. A move always needs one: else it would be a line.
        if name in "mz" or name != before and (before, name) != ("m", "l"):
            yield name
            last = ""
        for text in map(_decimal, steps):
            is_parted = text[0] == "-" or text[0] == "." and "." in last
            yield text if is_parted or not last else f" {text}"
            last = text
        before = name
