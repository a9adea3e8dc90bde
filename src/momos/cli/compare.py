"""`momos compare`: two or more weight files side by side, as a table and as a page."""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from momos.cli.arguments import NUM_FRESH, positive, require_output
from momos.cli.foreign import kinds_of
from momos.weights.files import one_line

if TYPE_CHECKING:
    from momos.cli.several import Measured

DESCRIPTION = (
    "Measures of several models against fresh weights of the same layout, with z; the bytes of "
    "their files; and each layer by itself. A folder of checkpoints gives curves along the "
    "training. All this is also written as one HTML page."
)
WEIGHTS_HELP = "a weight file as `momos measure` reads it, a .momos file, or a folder of either"
PAGE = Path("comparison.html")
COMPRESSORS = "gzip,zstd"


def add_commands(commands: "argparse._SubParsersAction") -> None:
    """Add `compare` to the parser of the command."""
    parser = commands.add_parser(
        "compare", help="several weight files side by side", description=DESCRIPTION
    )
    parser.add_argument("weights", type=Path, nargs="+", metavar="WEIGHTS", help=WEIGHTS_HELP)
    parser.add_argument(
        "--page",
        type=Path,
        metavar="FILE.html",
        help=f"where the page goes (default {PAGE}; with --json none)",
    )
    parser.add_argument("--json", action="store_true", help="print JSON in place of the table")
    parser.add_argument(
        "--init-seeds",
        type=positive,
        default=NUM_FRESH,
        metavar="N",
        help=f"initialisations (default {NUM_FRESH})",
    )
    parser.add_argument(
        "--init", default="default", metavar="NAME", help="as for `momos measure` (default PyTorch)"
    )
    parser.add_argument("--kinds", metavar="JSON", help="as for `momos measure`")
    parser.add_argument(
        "--compressors",
        default=COMPRESSORS,
        metavar="A,B",
        help=f"whose bytes are told (default {COMPRESSORS})",
    )
    parser.set_defaults(run=_run_compare)


def _run_compare(arguments: argparse.Namespace) -> int:
    page = arguments.page or (None if arguments.json else PAGE)
    if page is not None:
        require_output(page, ".html")
    from tqdm import tqdm

    from momos.cli.several import Measurer, sources

    found = sources(arguments.weights)
    measurer = Measurer(
        arguments.init_seeds,
        arguments.init,
        kinds_of(arguments.kinds),
        arguments.compressors.split(","),
    )
    measured = [
        measurer.measure(source) for source in tqdm(found, disable=None, desc="momos compare")
    ]
    if page is not None:
        _write_page(page, measured)
    if arguments.json:
        print(json.dumps([one.columns | {"layers": one.layers} for one in measured], indent=1))
    else:
        print(table([one.columns for one in measured]))
        print(f"{page} has the layers, too")
    return 0


def _write_page(path: Path, measured: "Sequence[Measured]") -> None:
    from momos.cli.several import layers_in_common, other_layers
    from momos.files.atomic import write_text
    from momos.page.comparison import render_comparison

    common = set(layers_in_common(measured))
    layers = [[row for row in one.layers if row["name"] in common] for one in measured]
    pictures = [{name: one.pictures[name] for name in one.pictures} for one in measured]
    rows = [one.columns for one in measured]
    write_text(path, render_comparison(rows, layers, pictures, others=other_layers(measured)))


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The page's table in plain text: a line a file, columns aligned."""
    from momos.page.comparison import cell_text, shown_columns

    columns = shown_columns(rows)
    lines = [["file", *(title for title, _ in columns.values())]]
    for row in rows:
        cells = [cell_text(row, key, form) for key, (_, form) in columns.items()]
        lines.append([one_line(row["name"]), *cells])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])])
        for line in lines
    )
