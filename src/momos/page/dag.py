"""The pipeline as a picture: the stages of dvc.yaml in layers, with arrows between them.

An arrow leads from a stage to each one that reads what it writes.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

WIDTH, HEIGHT, GAP_X, GAP_Y = 132, 34, 22, 46  # of a stage's box and between boxes


class Box(NamedTuple):
    name: str
    x: float  # centre
    y: float  # top


class Picture(NamedTuple):
    boxes: list[Box]
    arrows: list[str]  # SVG paths
    width: float
    height: float


def edges(stages: Mapping[str, Any]) -> dict[str, list[str]]:
    """Stage -> the stages that it waits for, in the order of dvc.yaml.

    A stage waits for another if one of its deps is, holds or lies in one of the other's outputs.
    Those that another of them waits for are left out.
    """
    outs = {name: _paths(stage, "outs", "metrics", "plots") for name, stage in stages.items()}
    direct = {
        name: [
            other
            for other in stages
            if other != name
            and any(_touch(dep, out) for dep in _paths(stage, "deps") for out in outs[other])
        ]
        for name, stage in stages.items()
    }
    return {
        name: [one for one in others if not any(_reaches(direct, two, one) for two in others)]
        for name, others in direct.items()
    }


def layout(waits: Mapping[str, list[str]]) -> Picture:
    """Place each stage one layer below the lowest stage that it waits for.

    A layer is centred. Its boxes stand in the order of the middles of what they wait for.
    """
    layers: dict[int, list[str]] = {}
    for name in waits:
        layers.setdefault(_depth(waits, name), []).append(name)
    width = max(len(names) for names in layers.values()) * (WIDTH + GAP_X) + GAP_X
    places: dict[str, Box] = {}
    for depth, names in sorted(layers.items()):
        names = sorted(names, key=lambda name: _middle(waits[name], places, width / 2))
        start = (width - len(names) * (WIDTH + GAP_X) + GAP_X + WIDTH) / 2
        for index, name in enumerate(names):
            places[name] = Box(name, start + index * (WIDTH + GAP_X), 6 + depth * (HEIGHT + GAP_Y))
    arrows = [
        _arrow(places[other], places[name]) for name, others in waits.items() for other in others
    ]
    return Picture(
        list(places.values()), arrows, width, 12 + len(layers) * (HEIGHT + GAP_Y) - GAP_Y
    )


def _arrow(start: Box, end: Box) -> str:
    """An SVG path out of the bottom of one box into the top of another."""
    top, bottom = start.y + HEIGHT, end.y - 3
    bend = (bottom - top) / 2
    points = (start.x, top), (start.x, top + bend), (end.x, bottom - bend), (end.x, bottom)
    first, *others = (f"{x:.0f},{y:.0f}" for x, y in points)
    return f"M{first}C{' '.join(others)}"


def _middle(names: list[str], places: Mapping[str, Box], default: float) -> float:
    return sum(places[name].x for name in names) / len(names) if names else default


def _depth(waits: Mapping[str, list[str]], name: str) -> int:
    return max((1 + _depth(waits, other) for other in waits[name]), default=0)


def _reaches(direct: Mapping[str, list[str]], start: str, goal: str) -> bool:
    """Whether `start` waits for `goal`, over any number of stages."""
    return goal in direct[start] or any(_reaches(direct, name, goal) for name in direct[start])


def _paths(stage: Mapping[str, Any], *keys: str) -> list[tuple[str, ...]]:
    """The paths of a stage's entries, part by part, without their options.

    A part that a matrix fills in is *.
    """
    entries = [
        next(iter(entry)) if isinstance(entry, Mapping) else entry
        for key in keys
        for entry in stage.get(key, [])
    ]
    return [
        tuple("*" if "${item." in part else part for part in entry.split("/")) for entry in entries
    ]


def _touch(one: tuple[str, ...], other: tuple[str, ...]) -> bool:
    """Whether they are the same or one lies in the other."""
    shared = min(len(one), len(other))
    return one[:shared] == other[:shared]
