"""Numbers as readers see them, and what a table's cells say of where each is from.

A number of results.json has an id, table/model/method/measure. A row of a table says what its
numbers have in common (data-row: the id's first three parts; title: file and stage), a cell the
rest: data-measure, or data-id where it belongs to another row's id, and a title of its own where
it is from another file. data-field names the number's field, where that is not "value". In the
table of every number the row's header is the whole id.
"""

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from itertools import groupby
from typing import Any, NamedTuple

from markupsafe import Markup

EMPTY = "–"

Cell = Mapping[str, Any]


class Row(NamedTuple):
    id: str  # table/model/method
    title: str  # file and stage of its first number


def format_number(cell: Cell | None, field: str, digits: int, signed: bool = False) -> str:
    """A field of a cell; an interval as "low to high"; a dash for what is not there."""
    value = None if cell is None else cell.get(field)
    if isinstance(value, list):
        return " to ".join(_format_digits(end, digits) for end in value)
    return EMPTY if value is None else _format_digits(value, digits, "+" if signed else "")


def digits_of(cell: Cell, field: str) -> int:
    """Decimals for six significant digits of a field, at most four: of an interval's wider end."""
    value = cell.get(field)
    ends = value if isinstance(value, list) else [value or 0.0]
    largest = max(map(abs, ends))
    whole = len(str(int(largest))) if math.isfinite(largest) else 0
    return min(4, max(0, 6 - whole))


def _format_digits(value: float, digits: int, sign: str = "") -> str:
    """With a true minus sign, and no sign before zero."""
    text = f"{value:{sign},.{digits}f}"
    return (text.lstrip("+-") if float(text.replace(",", "")) == 0 else text).replace("-", "−")


def format_setting(value: Any) -> str:
    """A setting on one line: text as it is, anything else as JSON."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def class_name(text: str) -> str:
    """A status as the name of a CSS class."""
    return text.lower().replace(" ", "-")


def origin(cell: Cell) -> str:
    return f"{cell['source']} (stage {cell['stage']})"


def rows_by_id(cells: Iterable[Cell]) -> dict[str, Row]:
    rows: dict[str, Row] = {}
    for cell in cells:
        name = cell["id"].rpartition("/")[0]
        rows.setdefault(name, Row(name, origin(cell)))
    return rows


def row_attributes(row: Row) -> Markup:
    return Markup(' data-row="{}" title="{}"').format(*row)


def cell_attributes(cell: Cell, field: str, row: Row) -> Markup:
    """What a cell adds to its row's attributes."""
    prefix, _, measure = cell["id"].rpartition("/")
    where = ("data-measure", measure) if prefix == row.id else ("data-id", cell["id"])
    attributes = Markup(' {}="{}"').format(*where)
    if field != "value":
        attributes += Markup(' data-field="{}"').format(field)
    if origin(cell) != row.title:
        attributes += Markup(' title="{}"').format(origin(cell))
    return attributes


def by_origin(cells: Iterable[Cell]) -> Iterator[tuple[str, list[Cell]]]:
    """Runs of cells from the same file and stage."""
    for title, run in groupby(cells, key=origin):
        yield title, list(run)
