"""The report's pages: README.md and claims.md."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from momos.report.momos import readings
from momos.report.momos.study import Settings, Study
from momos.report.momos.table_list import Table
from momos.report.shared import figures, findings, results, verdicts
from momos.report.shared import tables as rendering
from momos.report.shared.decisions import YES
from momos.report.shared.figures import Drawing

BESIDE = (
    "Beside this file, `index.html` is all of it in one page to open in a browser, and"
    " `results.json` has every number with its interval, the\n"
    "published one, and the file and stage that it came from. What is here is the same bytes for"
    " the same inputs; what it cost (`cost/`) and\n"
    "where it ran (`provenance.json`) are not, and `index.html` shows both."
)
LINKS = (
    "The same as [HTML](tables/table1.html) and [LaTeX](tables/table1.tex);"
    " [bytes on disk](tables/packing.md), [complexity](tables/complexity.md),"
    " [compressors](tables/compressors.md),"
    " [beside the published numbers](tables/comparison.md), [run by run](tables/runs.csv);"
    " [the survey of Figure 2](tables/zoo.md),{}"
    " [which measures agree](tables/zoo_agreement.md), [model by model](tables/survey.csv)."
)
NETWORKS = " [network by network](tables/zoo_networks.md),"  # where other people's were listed
SATURATION = (
    "BDM adds up, over the distinct blocks of 12 signs, each block's own complexity and log2 of how"
    " often it occurs. There are only 4,096\n"
    "such blocks. Once a model is large enough to hold nearly all of them, the first part no longer"
    " changes and the second grows with the\n"
    "logarithm of the counts: 1-D BDM saturates near 1.5e5 bits beyond about a million weights, and"
    " its ratio is then close to 1 whatever\n"
    "training did. A ratio near 1 is therefore no evidence that nothing changed, and ratios of"
    " models of different size do not compare. The\n"
    "complexity table has the 2-D variant (65,536 blocks of 4x4 signs), the normalised value, and"
    " the shuffled control beside it: what\n"
    "remains below 1 against the control is order among the signs, and not just a share of positive"
    " weights other than one half.\n\n"
    "Two initialisations of one network differ by chance, too: by 0.1 % of their BDM at 280,000"
    " weights, by 0.5 % at 124,000. So a ratio is taken\n"
    "to the mean of several initialisations that no run started from, and z says how many of their"
    " standard deviations the trained weights lie\n"
    "from it. Imported runs of a model without such a mean have the ratio to their own"
    " initialisation, and no z."
)


def claims_page(study: Study) -> str:
    """The text of claims.md: every verdict with its statistic and threshold."""
    intro = (
        f"# The papers' claims, judged on profile `{study.name}`\n\n"
        f"{verdicts.counts_text(study.verdicts)}.\n\n"
        "Each verdict follows from the statistic and the threshold in `data/paper/claims.yaml`,"
        " fixed before anything was measured;\n"
        "what was added since stands below the table.\n"
        "NOT RUN: this profile lacks the runs. NOT COMPARABLE: other data or budget than the"
        " paper's, for absolute published values.\n"
        "Decided: whether chance could turn the verdict. The statistic is taken of each"
        " initialisation (seed), methods paired by it, and its interval (t,\n"
        "or for shares Clopper-Pearson) must lie entirely on one side of the threshold; with equal"
        " values it decides nothing. A claim that is true by\n"
        "construction, or audits the publication, is counted apart. What stands under Also changes"
        " no verdict.\n"
    )
    added = (
        "## Added after the first measurement\n\n"
        "The claims' texts stay as they were. Some verdicts count something else since then; all"
        " else stands beside the verdict.\n\n"
    )
    additions = verdicts.additions_markdown(study.claims)
    return f"{intro}\n{verdicts.markdown(study.verdicts)}\n{added}{additions}"


def page(study: Study, tables: Mapping[str, Table], drawings: Mapping[str, Drawing]) -> str:
    """The text of README.md. tables: `table_list.tables`; drawings: `figure_list.drawings`."""
    main = [
        rendering.markdown(tables[name].text, tables[name].caption)
        for name in ("table1", "table2")
        if name in tables
    ]
    links = LINKS.format(NETWORKS if "zoo_networks" in tables else "")
    parts = [
        f"# MoMos, profile `{study.name}`",
        _data_text(study.data),
        _imported_text(study.imported),
        BESIDE,
        "## What was found\n\n" + _findings_text(study.verdicts),
        "## Claims\n\n" + _verdicts_text(study.verdicts),
        "## Results\n\n" + "\n".join([*main, links + _failures_text(study.results)]),
        _readings_text(study.readings, tables),
        "## Figures\n\n" + figures.markdown(drawings),
        "## Published RAC against Eq. 21\n\n" + _rac_text(study.check),
        "## How to read the BDM ratio\n\n" + SATURATION + "\n\n" + _saturation_text(study.cells),
        "## Settings\n\n" + rendering.markdown(_settings_table(study.settings)),
    ]
    return "\n\n".join(part.strip("\n") for part in parts if part) + "\n"


def _data_text(data: Mapping[str, Any]) -> str:
    sizes = ", ".join(f"{count:,} {split}" for split, count in data["sizes"].items())
    shape = " x ".join(map(str, data["image_shape"]))
    return (
        f"Data: `{data['source']}`, {len(data['classes'])} classes,"
        f" images of {shape} (channels x height x width): {sizes}.\n"
        f"SHA-256 of images, labels and splits: `{data['sha256']}`."
    )


def _imported_text(origins: Sequence[Mapping[str, Any]]) -> str:
    if not origins:
        return ""
    lines = [f"- {origin['text']}" for origin in origins]
    return "Not run here but imported, as numbers:\n\n" + "\n".join(lines)


def _findings_text(table: pd.DataFrame) -> str:
    return "\n".join(f"- {sentence}" for sentence in findings.sentences(table))


def _verdicts_text(table: pd.DataFrame) -> str:
    rows = []
    for name, count in verdicts.counts(table).items():
        mine = table[(table.verdict == name) & ~verdicts.is_apart(table)]
        decided = mine[mine.decided == YES]
        texts = [", ".join(part.id) or rendering.EMPTY for part in (mine, decided)]
        rows.append([name, count, texts[0], texts[1] if name in verdicts.JUDGED else ""])
    for name, count in verdicts.counts_apart(table).items():
        ids = ", ".join(table.id[table.decided == name]) or rendering.EMPTY
        rows.append([f"apart: {name}", count, ids, ""])
    counted = pd.DataFrame(rows, columns=["Verdict", "Claims", "Which", "Decided"])
    return (
        rendering.markdown(counted)
        + "\nEach with its statistic, threshold and numbers: [claims.md](claims.md)."
    )


def _readings_text(rows: pd.DataFrame, tables: Mapping[str, Table]) -> str:
    if not len(rows):
        return ""
    lines = "\n".join(f"- {sentence}" for sentence in readings.sentences(rows))
    shown = rendering.markdown(tables["readings"].text, tables["readings"].caption)
    link = "Cell by cell: [readings_cells](tables/readings_cells.md)."
    return f"## Readings of the paper\n\n{lines}\n\n{shown}\n{link}"


def _failures_text(measured: results.Results) -> str:
    num_failed = len(measured.not_surveyed)
    text = (
        f" {num_failed} surveyed models could not be measured;"
        " the last column of the latter says why."
    )
    return text if num_failed else ""


def _rac_text(check: pd.DataFrame) -> str:
    columns = [
        "Model",
        "Weights",
        "MoMos cells that follow",
        "Published (Eq. 21) where they differ",
    ]
    rows = [_rac_row(title, cells) for title, cells in check.groupby("title", sort=False)]
    agree = (
        f"{int(check.agrees.sum())} of {len(check)} published cells follow from Eq. 21"
        " to the printed digit; baseline and QAT cells do so by definition."
    )
    summary = rendering.markdown(pd.DataFrame(rows, columns=columns))
    return f"{agree} [All cells](tables/rac_check.md).\n\n{summary}"


def _rac_row(title: str, cells: pd.DataFrame) -> list[str]:
    momos = cells[cells.method == "momos"]
    differing = [
        f"{row.rac:.1f} ({row.rac_expected:.2f})" for row in momos.itertuples() if not row.agrees
    ]
    return [
        title,
        rendering.thousands(cells.num_weights.iloc[0]),
        f"{int(momos.agrees.sum())} of {len(momos)}",
        ", ".join(differing),
    ]


def _saturation_text(cells: pd.DataFrame) -> str:
    first = cells[cells.weights == "deployed"].drop_duplicates("model")
    parts = [
        f"{row.title} {row.bdm_1d_initial:,.0f} bits ({int(row.num_weights):,} weights)"
        for row in first.itertuples()
    ]
    return f"1-D BDM of the initial weights here: {', '.join(parts)}."


def _settings_table(settings: Settings) -> pd.DataFrame:
    rows = [
        (f"{section}.{key}", _yaml_text(value))
        for section, values in settings.items()
        for key, value in values.items()
    ]
    return pd.DataFrame(rows, columns=["Setting", "Value"])


def _yaml_text(value: Any) -> str:
    """A value as YAML's one-line style writes it."""
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_yaml_text, value))}]"
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{key}: {_yaml_text(part)}' for key, part in value.items())}}}"
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)
