import re
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
from synthetic import COMPRESSORS, evaluation

from momos.report.shared import results, tables

NASTY = pd.DataFrame(
    {"a_b & 50%": ["x_1 {y} $2 #3 ~ ^ \\", "<script>|\n"], "n": ["1.0 ± 0.5", "–"]}
)


@pytest.fixture(scope="module")
def cells():
    return results.cells(evaluation())


class Balanced(HTMLParser):
    """Collects rows of cells, and fails on a tag that is closed out of turn."""

    void = {"meta"}

    def __init__(self, text: str):
        super().__init__(convert_charrefs=True)
        self.open, self.rows, self.tags = [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
        if tag not in self.void:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] in ("td", "th"):
            self.rows[-1][-1] += data


def latex_rows(text: str) -> list[list[str]]:
    lines = [
        line.removesuffix(r"\\").strip()
        for line in text.splitlines()
        if line.endswith(r"\\") and not line.startswith(r"\caption")
    ]
    return [re.split(r"(?<!\\)&", line) for line in lines]


def widths(row: list[str]) -> int:
    spans = [re.match(r"\s*\\multicolumn\{(\d+)\}", cell) for cell in row]
    return sum(int(span.group(1)) if span else 1 for span in spans)


def test_cells_average_over_seeds_with_the_sample_deviation():
    rows = evaluation(models=("mlp",))
    cell = results.cells(rows).set_index(["method", "weights"]).loc[("qat4", "deployed")]
    values = [0.4335, 0.4435, 0.4535]
    assert cell.test_accuracy_last == pytest.approx(0.4435) and cell.num_seeds == 3
    assert cell.test_accuracy_last_std == pytest.approx(np.std(values, ddof=1))


def test_a_mean_over_a_missing_value_is_missing():
    rows = evaluation(models=("mlp",))
    rows.loc[(rows.method == "baseline") & (rows.seed == 1), "test_accuracy_last"] = np.nan
    cell = results.cells(rows).set_index("method").loc["baseline"]
    assert np.isnan(cell.test_accuracy_last) and not np.isnan(cell.test_accuracy_best)


def test_main_table_is_laid_out_as_the_papers(cells):
    table = tables.main_table(cells)
    assert table.shape == (12, 1 + 3 * 5)
    assert list(table[("", "Method")][:5]) == [
        "Baseline",
        "QAT 16 bit",
        "QAT 8 bit",
        "QAT 4 bit",
        "MoMos s=2, C=10 %",
    ]
    row = table[table[("", "Method")] == "QAT 4 bit"].iloc[0]
    assert row["ResNet20"].to_list() == [
        "30.69 ± 1.00",
        "31.19 ± 1.00",
        "8.0",
        "8.8",
        "0.87 (0.87)",
    ]


def test_main_table_marks_a_cell_that_was_not_run(cells):
    table = tables.main_table(cells[(cells.model != "mlp") | (cells.method != "qat8")])
    row = table[table[("", "Method")] == "QAT 8 bit"].iloc[0]
    assert set(row["MLP"]) == {tables.EMPTY} and tables.EMPTY not in set(row["ResNet20"])


def test_one_seed_has_no_spread():
    table = tables.main_table(results.cells(evaluation(models=("mlp",), seeds=(0,))))
    assert table[("MLP", "Acc. last")][0] == "57.80"


def test_complexity_and_compressor_tables_have_both_views(cells):
    complexity, compressors = (
        tables.complexity_table(cells),
        tables.compressor_table(cells, COMPRESSORS),
    )
    assert len(complexity) == len(compressors) == 3 * (12 + 3)
    assert "QAT 8 bit (latent weights)" in set(complexity.Method)
    assert complexity["2-D / shuffled"][0] == "0.900" and complexity["Zeros (%)"][0] == "25.0"
    assert list(compressors.columns[2:]) == [
        *COMPRESSORS,
        *(f"{name} (signs)" for name in COMPRESSORS),
    ]


@pytest.mark.parametrize("kind", ["main", "complexity", "nasty"])
def test_html_is_well_formed_and_complete(cells, kind):
    frame = {
        "main": tables.main_table(cells),
        "complexity": tables.complexity_table(cells),
        "nasty": NASTY,
    }[kind]
    page = Balanced(tables.html(frame, "A < B & C"))
    body = page.rows[-len(frame) :]
    assert body == [[str(cell) for cell in row] for row in frame.to_numpy().tolist()]
    assert not {tag for tag, _ in page.tags} & {
        "script",
        "link",
        "img",
    }  # self-contained, and nothing smuggled in
    spans = [int(attributes["colspan"]) for tag, attributes in page.tags if "colspan" in attributes]
    assert sum(spans) == (frame.shape[1] if frame.columns.nlevels == 2 else 0)


@pytest.mark.parametrize("kind", ["main", "complexity", "nasty"])
def test_latex_is_well_formed(cells, kind):
    one_line = NASTY.replace("\n", " ", regex=True)
    frame = {
        "main": tables.main_table(cells),
        "complexity": tables.complexity_table(cells),
        "nasty": one_line,
    }[kind]
    text = tables.latex(frame, "50 % of a_b", "t")
    stack = []
    for step, name in re.findall(r"\\(begin|end)\{(\w+)\}", text):
        if step == "begin":
            stack.append(name)
        else:
            assert stack.pop() == name
    assert stack == []
    rows = latex_rows(text)
    assert {widths(row) for row in rows} == {frame.shape[1]}
    assert len(re.search(r"\\begin\{longtable\}\{([lr]+)\}", text).group(1)) == frame.shape[1]
    plain = re.sub(r"\\[%&#_{}$]", "", text)
    assert plain.count("{") == plain.count("}") and plain.count("$") % 2 == 0
    content = [
        line
        for line in re.sub(r"\$[^$]*\$", "", plain).splitlines()[1:]
        if not line.startswith("\\multicolumn")
    ]
    assert not any(re.search(r"[%#_]", line) for line in content)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a_b", r"a\_b"),
        ("5 %", r"5 \%"),
        ("1 ± 2", r"1 $\pm$ 2"),
        ("\\x", r"\textbackslash{}x"),
        ("{&}", r"\{\&\}"),
        ("a < b", "a $<$ b"),
    ],
)
def test_latex_escape(text, expected):
    assert tables.latex_escape(text) == expected


def test_markdown_keeps_its_columns_whatever_is_in_the_cells():
    lines = tables.markdown(NASTY, "caption").splitlines()
    assert lines[0] == "caption" and lines[1] == ""
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in lines[2:]} == {NASTY.shape[1] + 1}
    assert lines[3] == "| --- | ---: |"


def test_rac_table_shows_both_numbers():
    check = pd.DataFrame(
        {
            "title": ["T"],
            "label": ["MoMos"],
            "rac": [4.7],
            "num_weights": [5392764],
            "rac_expected": [4.469],
            "agrees": [False],
            "num_weights_here": [np.nan],
            "rac_here": [np.nan],
        }
    )
    assert tables.rac_table(check).iloc[0].to_list() == [
        "T",
        "MoMos",
        "4.7",
        "5,392,764",
        "4.47",
        "NO",
        "–",
        "–",
    ]


def test_capacity_table_has_a_column_per_capacity():
    points = pd.DataFrame(
        {
            "title": "MLP",
            "block_size": [2.0, 2.0, 4.0],
            "capacity": [0.1, 0.005, 0.1],
            "accuracy": [90.0, 80.0, 85.0],
        }
    )
    table = tables.capacity_table(points)
    assert list(table.columns) == ["Model", "Block size", "C=0.5 %", "C=10 %"]
    assert table.to_numpy().tolist() == [["MLP", 2, "80.00", "90.00"], ["MLP", 4, "–", "85.00"]]
