"""Manifests of weight files: CSV tables as people write them, or spreadsheets save them."""

import csv
import json
from pathlib import Path

from momos.settings import UNPRINTABLE
from momos.survey.wheels import Wheel
from momos.weights.initial import require_kinds

COLUMNS = (
    "arch", "file", "name", "source", "family", "task", "init", "kinds", "parameters", "wheel",
    "sha256_wheel",
)  # fmt: skip
# what a manifest may say beside for its readers, and what of it stands in the survey's table
NOTES = ("architecture", "trained_on", "commit", "licence", "sha256_source", "notes")
SHOWN_NOTES = ("trained_on", "licence", "notes")
Kinds = tuple[tuple[str, str], ...]


def read_rows(manifest: Path) -> list[tuple[int, dict[str, str]]]:
    """(line, row) of a manifest.

    What spreadsheets add is passed over: a byte order mark, empty rows, empty columns at the end.

    Raises ValueError naming the manifest, and the line or columns, for another encoding, columns
    that are unknown or there twice, rows that are too short or too long, control characters, and
    where there are no rows.
    """
    try:
        content = manifest.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise ValueError(
            f"{manifest}, line {line}: expected text in UTF-8, got the byte "
            f"0x{error.object[error.start]:02x}"
        ) from error
    reader = csv.DictReader(content.splitlines(keepends=True), strict=True, restkey="")
    try:
        return _checked(reader, manifest)
    except csv.Error as error:
        raise ValueError(
            f"{manifest}, line {reader.line_num + 1}: expected CSV: {error}"
        ) from error


def _checked(reader: csv.DictReader, manifest: Path) -> list[tuple[int, dict[str, str]]]:
    """The rows of a reader, which have its columns."""
    columns = [name.strip() for name in reader.fieldnames or ()]
    while columns and not columns[-1]:
        columns.pop()
    reader.fieldnames = columns
    if len(set(columns)) < len(columns):
        raise ValueError(f"{manifest} must have each column once, got {', '.join(columns)}")
    known = {*COLUMNS, *NOTES}
    if not {"arch", "file"} & set(columns) or not set(columns) <= known:
        got = ", ".join(columns) or "none"
        raise ValueError(
            f"{manifest} must have the columns arch or file and at most "
            f"{', '.join((*COLUMNS, *NOTES))}, separated by commas, got {got}"
        )
    rows = []
    for row in reader:
        more = "".join(row.pop("", None) or [])
        if not more and not any(row.values()):
            continue
        missing = [column for column in columns if row[column] is None]
        if missing or more:
            got = f"no value for {missing[0]}" if missing else "more values than columns"
            raise ValueError(
                f"{manifest}, line {reader.line_num}: expected {len(columns)} columns, got {got}"
            )
        for column in set(COLUMNS) & row.keys():
            if UNPRINTABLE.search(text(row, column)):
                raise ValueError(
                    f"{manifest}, line {reader.line_num}, column {column}: expected printable "
                    f"text on one line, got {row[column]!r}"
                )
        rows.append((reader.line_num, row))
    if not rows:
        raise ValueError(f"{manifest}: expected a row for each model, found none")
    return rows


def text(row: dict[str, str], column: str) -> str:
    """A cell without spaces around it; empty for a column that is not there."""
    return (row.get(column) or "").strip()


def shown_notes(row: dict[str, str]) -> dict[str, str]:
    """What a row says for readers, each on one line: trained_on, licence, notes."""
    plain = {name: UNPRINTABLE.sub(" ", row.get(name) or "") for name in SHOWN_NOTES}
    return {name: " ".join(value.split()) for name, value in plain.items()}


def kinds(row: dict[str, str], manifest: Path, line: int) -> Kinds:
    """The rows of the column kinds. Raises ValueError naming manifest, line and column."""
    try:
        found = json.loads(text(row, "kinds") or "[]")
        require_kinds(found)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"{manifest}, line {line}, column kinds: expected JSON such as "
            f'[["name", "parameter"]], got {text(row, "kinds")!r} ({error})'
        ) from error
    return tuple((rule, kind) for rule, kind in found)


def wheel(row: dict[str, str], manifest: Path, line: int) -> Wheel | None:
    """The wheel that the row's file lies in, None without one.

    Raises ValueError naming manifest, line and columns for a wheel that is not pinned.
    """
    found = Wheel(text(row, "wheel"), text(row, "sha256_wheel"))
    if found == Wheel("", ""):
        return None
    try:
        found.check()
    except ValueError as error:
        columns = "columns wheel and sha256_wheel"
        raise ValueError(f"{manifest}, line {line}, {columns}: {error}") from error
    return found


def number(row: dict[str, str], column: str, manifest: Path, line: int) -> int | None:
    """A positive whole number, None for an empty cell."""
    cell = text(row, column)
    if cell and not (cell.isascii() and cell.isdigit() and int(cell)):
        raise ValueError(
            f"{manifest}, line {line}, column {column}: expected a positive whole number, "
            f"got {cell!r}"
        )
    return int(cell) if cell else None
