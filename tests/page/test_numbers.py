"""Numbers of results.json as the page prints them."""

import pytest

from momos.page.numbers import (
    EMPTY,
    cell_attributes,
    digits_of,
    format_number,
    row_attributes,
    rows_by_id,
)


@pytest.mark.parametrize(
    ("value", "digits", "signed", "text"),
    [
        (1.005, 1, False, "1.0"),
        (-2.5, 2, False, "−2.50"),
        (-0.0001, 2, True, "0.00"),
        (3.0, 1, True, "+3.0"),
        (12345.6, 1, False, "12,345.6"),
        ([-1.0, 2.0], 1, False, "−1.0 to 2.0"),
        (None, 2, False, "–"),
    ],
)
def test_numbers_as_readers_see_them(value, digits, signed, text):
    assert format_number({"value": value}, "value", digits, signed) == text
    assert format_number(None, "value", 2) == EMPTY


@pytest.mark.parametrize(
    ("value", "digits"),
    [
        (0.98765, 4), (-97.0793, 4), (142.22, 3), (-9999.9, 2), (142_222.5, 0), (9_036_096.0, 0),
        ([0.5, -1234.5], 2), (0, 4), (None, 4), (float("inf"), 4),
    ],
)  # fmt: skip
def test_six_digits_are_enough_for_every_number(value, digits):
    assert digits_of({"value": value}, "value") == digits


def test_a_cell_says_what_its_row_does_not():
    cells = [
        {"id": "table1/mlp/qat4/rac", "source": "a.csv", "stage": "evaluate"},
        {"id": "packing/mlp/qat4/rac", "source": "<b>.csv", "stage": "pack"},
    ]
    row = rows_by_id(cells)["table1/mlp/qat4"]
    assert row_attributes(row) == ' data-row="table1/mlp/qat4" title="a.csv (stage evaluate)"'
    assert cell_attributes(cells[0], "value", row) == ' data-measure="rac"'
    assert cell_attributes(cells[1], "interval", row) == (
        ' data-id="packing/mlp/qat4/rac" data-field="interval" title="&lt;b&gt;.csv (stage pack)"'
    )
