"""Draw docs/picture.svg: what a mosaic of motifs is, and what accuracy it costs.

The upper half runs Algorithm 1 of the MoMos paper on eight made-up blocks of two weights. The lower
half shows test accuracy against compression, from the numbers of a report. The picture follows the
reader's light or dark setting. scripts/readme.py writes the file.
"""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from momos.report.shared.results import TITLES

BLOCKS = ((0.9, 0.2), (-0.7, 0.6), (0.8, 0.4), (0.1, -0.9), (-0.5, 0.5), (0.3, -0.8), (0.9, 0.1),
          (-0.6, 0.8))  # fmt: skip
PICKED = (0, 1, 3)  # the blocks that serve as motifs
CELL = 26  # pixels of one weight
WIDTH, HEIGHT = 880, 408
PANEL, PANEL_TOP, PANEL_BOTTOM = 215, 205, 360  # width, and the ends of the accuracy axis
LOWEST, HIGHEST = 20.0, 100.0  # accuracy in percent
TICKS = (1, 2, 4, 8, 16)  # of the compression axis, which is logarithmic


class Line(NamedTuple):
    """One line of a panel: the methods of params.yaml that it joins."""

    label: str
    style: str  # a CSS class
    methods: tuple[str, ...]


LINES = (
    Line("baseline", "base", ("baseline",)),
    Line("quantised (QAT)", "qat", ("qat16", "qat8", "qat4")),
    Line(
        "MoMos, blocks of 2",
        "two",
        ("momos_s2_c10", "momos_s2_c5", "momos_s2_c1", "momos_s2_c0_5"),
    ),
    Line(
        "MoMos, blocks of 4",
        "four",
        ("momos_s4_c10", "momos_s4_c5", "momos_s4_c1", "momos_s4_c0_5"),
    ),
)
STYLE = """
svg{background:#fff;font:13px sans-serif}text{fill:#222}.small{font-size:11px}
.axis{stroke:#999;fill:none}.grid{stroke:#e4e4e4}.edge{stroke:#555;fill:none;stroke-width:1.5}
.base{--c:#0072b2}.qat{--c:#d55e00}.two{--c:#00835f}.four{--c:#b5538f}
.base,.qat,.two,.four{stroke:var(--c);fill:none;stroke-width:2}
.qat{stroke-dasharray:7 3}.four{stroke-dasharray:3 3}circle{stroke-dasharray:none}
.base circle,.qat circle,.two circle,.four circle{fill:var(--c)}
@media (prefers-color-scheme:dark){svg{background:#0d1117}text{fill:#e6edf3}.axis{stroke:#777}
.grid{stroke:#2a2f36}.edge{stroke:#bbb}.base{--c:#56b4e9}.qat{--c:#f0883e}.two{--c:#2fc99a}
.four{--c:#e08fc0}}
""".strip()


def svg(cells: Mapping[str, Mapping], models: Sequence[str]) -> str:
    """Return the picture as text.

    cells: those of reports/expected/<profile>.json. models: names of params.yaml, one panel each.
    """
    parts = [*_mosaic(), *_legend()]
    for number, model in enumerate(models):
        parts += _panel(cells, model, 60 + number * (PANEL + 70))
    about = "Weights as a mosaic of motifs; test accuracy against compression of three networks"
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="{about}"><style>{STYLE}</style>'
    )
    return "\n".join([head, *parts, "</svg>", ""])


def assigned() -> list[int]:
    """Return the number of the nearest motif of each made-up block."""
    motifs = [BLOCKS[index] for index in PICKED]
    return [
        min(range(len(motifs)), key=lambda number: math.dist(block, motifs[number]))
        for block in BLOCKS
    ]


def _mosaic() -> list[str]:
    mosaic = assigned()
    motifs = [BLOCKS[index] for index in PICKED]
    parts = [_text(20, 24, "16 weights, cut into blocks of 2")]
    parts += _row(BLOCKS, 20, 36)
    parts.append(_text(20, 100, "after the projection: each block is its nearest motif"))
    parts += _row([motifs[number] for number in mosaic], 20, 112)
    parts.append(_text(560, 24, "3 motifs, picked among the blocks"))
    for number, motif in enumerate(motifs):
        parts += _row([motif], 560 + 90 * number, 36)
        parts.append(_text(560 + 90 * number + CELL, 78, str(number + 1), "middle"))
    parts.append(_text(560, 112, "the mosaic: which motif stands where"))
    parts += [
        _text(572 + 32 * place, 134, str(number + 1), "middle")
        for place, number in enumerate(mosaic)
    ]
    return parts


def _row(blocks: Sequence[Sequence[float]], left: int, top: int) -> list[str]:
    parts = []
    for place, block in enumerate(blocks):
        start = left + place * (len(block) * CELL + 8)
        parts += [
            f'<rect x="{start + i * CELL}" y="{top}" width="{CELL}" height="{CELL}" '
            f'fill="{_shade(weight)}"/>'
            for i, weight in enumerate(block)
        ]
        parts.append(
            f'<rect class="edge" x="{start}" y="{top}" width="{len(block) * CELL}" '
            f'height="{CELL}"/>'
        )
    return parts


def _shade(weight: float) -> str:
    """Return a colour: blue for positive weights, orange for negative ones."""
    red, green, blue = (33, 113, 181) if weight > 0 else (217, 95, 14)
    share = abs(weight)
    mixed = (round(245 + (part - 245) * share) for part in (red, green, blue))
    return "#" + "".join(f"{part:02x}" for part in mixed)


def _legend() -> list[str]:
    parts = []
    for number, line in enumerate(LINES):
        left = 60 + 200 * number
        parts.append(
            f'<g class="{line.style}"><path d="M{left} 171h26"/>'
            f'<circle cx="{left + 13}" cy="171" r="4"/></g>'
        )
        parts.append(_text(left + 34, 175, line.label))
    return parts


def _panel(cells: Mapping[str, Mapping], model: str, left: int) -> list[str]:
    parts = _axes(model, left)
    for line in LINES:
        points = [
            _point(cells, model, method, left)
            for method in line.methods
            if f"table1/{model}/{method}/rac" in cells
        ]
        path = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
        dots = "".join(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4"/>' for x, y in points)
        parts.append(f'<g class="{line.style}"><path d="{path}"/>{dots}</g>')
    return parts


def _point(cells: Mapping[str, Mapping], model: str, method: str, left: int) -> tuple[float, float]:
    rac = cells[f"table1/{model}/{method}/rac"]["value"]
    accuracy = cells[f"table1/{model}/{method}/test_accuracy_last"]["value"]
    return _across(rac, left), _down(max(accuracy, LOWEST))


def _axes(model: str, left: int) -> list[str]:
    parts = [_text(left + PANEL / 2, 198, f"{TITLES[model]}: test accuracy (%)", "middle")]
    for accuracy in (20, 40, 60, 80, 100):
        height = _down(accuracy)
        parts.append(f'<path class="grid" d="M{left} {height:.1f}h{PANEL}"/>')
        parts.append(_text(left - 6, height + 4, str(accuracy), "end", "small"))
    for times in TICKS:
        parts.append(_text(_across(times, left), PANEL_BOTTOM + 16, str(times), "middle", "small"))
    parts.append(f'<path class="axis" d="M{left} {PANEL_TOP}V{PANEL_BOTTOM}h{PANEL}"/>')
    parts.append(_text(left + PANEL / 2, PANEL_BOTTOM + 36, "times smaller", "middle"))
    return parts


def _across(rac: float, left: int) -> float:
    return left + 12 + (PANEL - 24) * math.log2(rac) / math.log2(TICKS[-1])


def _down(accuracy: float) -> float:
    share = (accuracy - LOWEST) / (HIGHEST - LOWEST)
    return PANEL_BOTTOM - (PANEL_BOTTOM - PANEL_TOP - 4) * share


def _text(x: float, y: float, words: str, anchor: str = "start", style: str = "") -> str:
    look = f' class="{style}"' if style else ""
    return f'<text{look} x="{x:g}" y="{y:g}" text-anchor="{anchor}">{words}</text>'
