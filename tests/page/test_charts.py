"""The interactive charts: their colours, and what they draw."""

import pandas as pd
import pytest

from momos.page import chart_parts
from momos.page.charts import figure2


def luminance(colour: str) -> float:
    parts = [int(colour[index : index + 2], 16) / 255 for index in (1, 3, 5)]
    linear = [
        part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts
    ]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("colour", chart_parts.COLOURS)
@pytest.mark.parametrize("ground", ["#fdfdfb", "#14171b"])
def test_a_series_is_seen_on_light_and_dark(colour, ground):
    high, low = sorted((luminance(colour), luminance(ground)), reverse=True)
    assert (high + 0.05) / (low + 0.05) >= 3  # WCAG 1.4.11


def test_a_large_zoo_is_drawn_against_the_number_of_weights():
    pairs = pd.DataFrame(
        {
            "name": list("abcdef"),
            "title": list("abcdef"),
            "group": "timm",
            "num_weights": range(1, 7),
            "bdm_1d_ratio": 0.9,
        }
    )
    many = figure2.draw_ratio_against_size(pairs)
    few = figure2.draw_ratio_against_size(pairs.head(3))
    x = [
        next(layer["encoding"]["x"]["field"] for layer in spec["layer"] if "x" in layer["encoding"])
        for spec in (many, few)
    ]
    assert x == ["num_weights", "title"]
