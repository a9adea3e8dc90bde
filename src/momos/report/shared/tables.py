"""Tables for readers: numbers become text, and text becomes Markdown, HTML or LaTeX.

Nothing is read here, and there are no statistics. The frames of numbers are `cells`: a row per
model, method and view (weights: deployed, latent), with `title` (the model) and `label` (the
method), a mean over seeds per measure and its sample standard deviation as <measure>_std.
Accuracies lie in [0, 1] and are printed in percent.
"""

import html as escaping
import math
import re
from collections.abc import Callable, Mapping, Sequence

import pandas as pd

EMPTY = "–"
LATEX = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
    "–": "--",
    "−": r"$-$",
    "×": r"$\times$",
    "≤": r"$\le$",
    "≥": r"$\ge$",
    "<": r"$<$",
    ">": r"$>$",
}
LATEX_NEEDS = r"% \usepackage[T1]{fontenc} \usepackage{booktabs,longtable}"
STYLE = (
    "body{font:15px/1.4 sans-serif;margin:2em}table{border-collapse:collapse}"
    "caption{text-align:left;padding:.6em 0;max-width:60em}"
    "th,td{padding:.25em .7em;text-align:right}th:first-child,td:first-child,.text{text-align:left}"
    "thead tr:last-child th{border-bottom:1px solid}"
    "thead tr:first-child th{border-top:2px solid}tbody tr:last-child td{border-bottom:2px solid}"
)


def main_table(cells: pd.DataFrame) -> pd.DataFrame:
    """Table 1: a row per method, and for each model accuracy, compression and complexity.

    Accuracy is that of the last weights (as published) and of those with the lowest validation
    loss. Compression is RAC by Eq. 21 and on disk. Complexity is the 1-D BDM ratio of the deployed
    weights and that of their bit planes, with those of the latent ones beside them.
    """
    measures = {
        "Acc. last": lambda row, _: mean_std(row, "test_accuracy_last"),
        "Acc. best": lambda row, _: mean_std(row, "test_accuracy_best"),
        "RAC (formula)": lambda row, _: number(row["rac"], 1),
        "RAC (measured bytes)": lambda row, _: number(row["rac_measured"], 1),
        "BDM": lambda row, latent: number(row["bdm_1d_ratio"], 2) + _beside(latent, "bdm_1d_ratio"),
    }
    if "planes_ratio" in cells:
        measures["Planes"] = lambda row, latent: (
            number(row["planes_ratio"], 2) + _beside(latent, "planes_ratio")
        )
    return _by_model(cells, measures)


def complexity_table(cells: pd.DataFrame) -> pd.DataFrame:
    """Measures beside the 1-D BDM ratio, which saturates.

    They are z and the ratio to the run's own initialisation, the normalised value and the shuffled
    control, all of it in 2-D, bit planes, and simple counts. Runs from before bit planes were
    measured leave those out.
    """
    columns = {
        "1-D ratio": ("bdm_1d_ratio", 3),
        "1-D z": ("bdm_1d_z", 1),
        "1-D to own": ("bdm_1d_ratio_own", 3),
        "1-D normalised": ("bdm_1d_normalized", 3),
        "1-D / shuffled": ("bdm_1d_against_shuffled", 3),
        "2-D ratio": ("bdm_2d_ratio", 3),
        "2-D z": ("bdm_2d_z", 1),
        "2-D to own": ("bdm_2d_ratio_own", 3),
        "2-D normalised": ("bdm_2d_normalized", 3),
        "2-D / shuffled": ("bdm_2d_against_shuffled", 3),
        "Planes ratio": ("planes_ratio", 3),
        "Planes z": ("planes_z", 1),
        "Zeros (%)": ("zeros_percent", 1),
        "L2 norm": ("l2_norm", 1),
        "Distinct blocks": ("distinct_blocks", 0),
    }
    if "planes_ratio" not in cells:
        columns = {name: one for name, one in columns.items() if not name.startswith("Planes")}
    return _per_cell(cells.assign(zeros_percent=100 * cells.sparsity), columns)


def compressor_table(cells: pd.DataFrame, names: Sequence[str]) -> pd.DataFrame:
    """Raw / compressed bytes of the float32 weights and of their signs, by compressor."""
    plain = {name: (name, 2) for name in names}
    return _per_cell(cells, plain | {f"{name} (signs)": (f"{name}_binary", 2) for name in names})


def rac_table(check: pd.DataFrame) -> pd.DataFrame:
    """Published RAC, Eq. 21 and the RAC measured here, a row per published cell.

    check: title, label, table, num_weights, rac (published), rac_expected, agrees,
    num_weights_here, rac_here (NaN: not in the grid).
    """
    texts = {
        "Model": check.title,
        "Method": check.label,
        "Published": [number(value, 1) for value in check.rac],
        "Published model's weights": [thousands(value) for value in check.num_weights],
        "Eq. 21": [number(value, 2) for value in check.rac_expected],
        "Agrees": ["yes" if agrees else "NO" for agrees in check.agrees],
        "Weights here": [thousands(value) for value in check.num_weights_here],
        "RAC here": [number(value, 2) for value in check.rac_here],
    }
    return pd.DataFrame(texts)


def comparison_table(comparison: pd.DataFrame) -> pd.DataFrame:
    """Published accuracies and BDM ratios beside those measured here.

    comparison: title, label, verdict, bdm_ratio, bdm_here, and in percent accuracy_mean,
    accuracy_std (both published), here, here_std, difference.
    """
    texts = {
        "Model": comparison.title,
        "Method": comparison.label,
        "Published acc.": [
            spread(row.accuracy_mean, row.accuracy_std) for row in comparison.itertuples()
        ],
        "Acc. here": [spread(row.here, row.here_std) for row in comparison.itertuples()],
        "Difference": [signed(value, 2) for value in comparison.difference],
        "Verdict": comparison.verdict,
        "Published BDM": [number(value, 2) for value in comparison.bdm_ratio],
        "BDM here": [number(value, 2) for value in comparison.bdm_here],
    }
    return pd.DataFrame(texts)


def capacity_table(points: pd.DataFrame) -> pd.DataFrame:
    """Accuracy (percent) with a row per model and block size, a column per capacity.

    points: title, block_size, capacity, accuracy.
    """
    wide = points.pivot_table(
        index=["title", "block_size"], columns="capacity", values="accuracy", sort=True
    )
    texts = wide.map(lambda value: number(value, 2))
    texts.columns = [f"C={100 * capacity:.10g} %" for capacity in wide.columns]
    return (
        texts.reset_index()
        .rename(columns={"title": "Model", "block_size": "Block size"})
        .astype({"Block size": int})
    )


def _by_model(cells: pd.DataFrame, measures: Mapping[str, Callable]) -> pd.DataFrame:
    """Columns (model, measure), a row per method.

    measures: name -> a function of the deployed row and of the latent one, or None, to text.
    """
    deployed = cells[cells.weights == "deployed"].set_index(["title", "label"])
    latent = cells[cells.weights == "latent"].set_index(["title", "label"])
    titles, labels = (
        list(dict.fromkeys(deployed.index.get_level_values(level))) for level in (0, 1)
    )
    rows: dict[str, dict[tuple[str, str], str]] = {label: {} for label in labels}
    for (title, label), row in deployed.iterrows():
        other = latent.loc[(title, label)] if (title, label) in latent.index else None
        rows[label] |= {(title, name): text(row, other) for name, text in measures.items()}
    columns = pd.MultiIndex.from_product([titles, measures])
    frame = pd.DataFrame(
        [[row.get(column, EMPTY) for column in columns] for row in rows.values()], columns=columns
    )
    frame.insert(0, ("", "Method"), labels)
    return frame


def _per_cell(cells: pd.DataFrame, columns: Mapping[str, tuple[str, int]]) -> pd.DataFrame:
    """A row per model, method and view."""
    view = {"deployed": "", "latent": " (latent weights)"}
    names = [
        label + view[weights] for label, weights in zip(cells.label, cells.weights, strict=True)
    ]
    values = {
        name: [number(value, digits) for value in cells[key]]
        for name, (key, digits) in columns.items()
    }
    return pd.DataFrame({"Model": list(cells.title), "Method": names} | values)


def number(value: float | None, digits: int) -> str:
    """A number with so many digits after the point; EMPTY for None and NaN."""
    return EMPTY if value is None or math.isnan(value) else f"{value:.{digits}f}"


def signed(value: float, digits: int) -> str:
    """As `number`, with + or - in front."""
    return EMPTY if math.isnan(value) else f"{value:+.{digits}f}"


def thousands(value: float) -> str:
    """An integer with commas: 269722 -> "269,722"; EMPTY for NaN."""
    return EMPTY if math.isnan(value) else f"{int(value):,}"


def spread(mean: float, std: float) -> str:
    """mean ± std with two digits; the mean alone where the std is NaN (one seed)."""
    return number(mean, 2) if math.isnan(std) else f"{number(mean, 2)} ± {number(std, 2)}"


def mean_std(row: pd.Series, measure: str) -> str:
    """A fraction in percent, with its standard deviation."""
    return spread(100 * row[measure], 100 * row[f"{measure}_std"])


def _beside(latent: pd.Series | None, measure: str) -> str:
    return "" if latent is None else f" ({number(latent[measure], 2)})"


def markdown(frame: pd.DataFrame, caption: str = "") -> str:
    """A pipe table under its caption; two levels of column names are joined."""
    names = [" ".join(part for part in _levels(name) if part) for name in frame.columns]
    rows = [
        names,
        ["---" if _is_text(frame, i) else "---:" for i in range(len(names))],
        *frame.astype(str).to_numpy().tolist(),
    ]
    lines = ["| " + " | ".join(map(_markdown_cell, row)) + " |" for row in rows]
    return "\n".join(([caption, ""] if caption else []) + lines) + "\n"


def _markdown_cell(text: str) -> str:
    """Text that ends no cell and no line, and begins no element of HTML."""
    plain = re.sub(r"<(?=[A-Za-z/!?])", "&lt;", text)
    return plain.replace("|", "\\|").replace("\n", " ")


def code(text: str) -> str:
    """Text on one line as Markdown's code: between more backticks than it has in a row."""
    ticks = "`" * (1 + max(map(len, re.findall("`+", text)), default=0))
    return f"`{text}`" if ticks == "`" else f"{ticks} {text} {ticks}"


def html(frame: pd.DataFrame, caption: str) -> str:
    """A whole page with its style in it, everything escaped."""
    head = "".join(f"<tr>{row}</tr>\n" for row in _html_head(frame))
    body = "".join(
        f"<tr>{_html_row(frame, row)}</tr>\n" for row in frame.astype(str).to_numpy().tolist()
    )
    title = escaping.escape(caption)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n'
        f'<head><meta charset="utf-8"><title>{title}</title><style>{STYLE}</style></head>\n'
        f"<body>\n<table>\n<caption>{title}</caption>\n<thead>\n{head}</thead>\n"
        f"<tbody>\n{body}</tbody>\n</table>\n</body>\n</html>\n"
    )


def _html_head(frame: pd.DataFrame) -> list[str]:
    groups = _groups(frame)
    last = "".join(
        f'<th scope="col">{escaping.escape(_levels(name)[-1])}</th>' for name in frame.columns
    )
    if not groups:
        return [last]
    first = "".join(
        f'<th colspan="{width}" scope="colgroup">{escaping.escape(name)}</th>'
        for name, width in groups
    )
    return [first, last]


def _html_row(frame: pd.DataFrame, row: list[str]) -> str:
    marks = [' class="text"' if _is_text(frame, i) else "" for i in range(len(row))]
    return "".join(
        f"<td{mark}>{escaping.escape(cell)}</td>" for mark, cell in zip(marks, row, strict=True)
    )


def latex(frame: pd.DataFrame, caption: str, name: str) -> str:
    """A booktabs longtable, which breaks over pages, with \\label{tab:name}.

    LATEX_NEEDS says which packages it uses.
    """
    columns = "".join("l" if _is_text(frame, i) else "r" for i in range(frame.shape[1]))
    head = _latex_head(frame)
    body = [_latex_row(row) for row in frame.astype(str).to_numpy().tolist()]
    lines = [
        LATEX_NEEDS,
        r"{\footnotesize\setlength{\tabcolsep}{3pt}",
        rf"\begin{{longtable}}{{{columns}}}",
        rf"\caption{{{latex_escape(caption)}}}\label{{tab:{name}}}\\",
        r"\toprule",
        *head,
        r"\midrule",
        r"\endfirsthead",
        r"\toprule",
        *head,
        r"\midrule",
        r"\endhead",
        r"\bottomrule",
        r"\endlastfoot",
        *body,
        r"\end{longtable}}",
    ]
    return "\n".join(lines) + "\n"


def _latex_head(frame: pd.DataFrame) -> list[str]:
    groups = _groups(frame)
    last = _latex_row([_levels(name)[-1] for name in frame.columns])
    if not groups:
        return [last]
    cells, rules, start = [], [], 1
    for name, width in groups:
        cells.append(rf"\multicolumn{{{width}}}{{c}}{{{latex_escape(name)}}}")
        rules += [rf"\cmidrule(lr){{{start}-{start + width - 1}}}"] if name else []
        start += width
    return [" & ".join(cells) + r" \\", "".join(rules), last]


def _latex_row(cells: Sequence[str]) -> str:
    return " & ".join(latex_escape(cell) for cell in cells) + r" \\"


def latex_escape(text: str) -> str:
    """Plain text as LaTeX prints it."""
    return "".join(LATEX.get(character, character) for character in text)


def _groups(frame: pd.DataFrame) -> list[tuple[str, int]]:
    """Upper column names and how many columns each spans; empty for a single level."""
    if frame.columns.nlevels == 1:
        return []
    groups: list[list] = []
    for upper, _ in frame.columns:
        if groups and groups[-1][0] == upper:
            groups[-1][1] += 1
        else:
            groups.append([upper, 1])
    return [(name, width) for name, width in groups]


def _levels(name: object) -> tuple[str, ...]:
    return name if isinstance(name, tuple) else (str(name),)


def _is_text(frame: pd.DataFrame, column: int) -> bool:
    """Whether a column holds a word anywhere, and is aligned to the left."""
    return any(
        character.isalpha() for cell in frame.iloc[:, column].astype(str) for character in cell
    )
