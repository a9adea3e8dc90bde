"""index.html as a whole: one small file whose numbers are those of results.json."""

import json
import re
import shutil

import pytest
from bs4 import BeautifulSoup
from pages import build, render
from synthetic import ROOT, TREE_METHODS, TREE_MODELS

from momos.page import script
from momos.page.numbers import EMPTY

HOSTILE = '</script><script>alert(1)</script><b class="x">&\'{{ 7 * 7 }}'


@pytest.fixture(scope="module")
def reports(tmp_path_factory):
    return build(tmp_path_factory.mktemp("page"))


@pytest.fixture(scope="module")
def soup(reports):
    return BeautifulSoup((reports / "index.html").read_text(), "html.parser")


@pytest.fixture(scope="module")
def results(reports):
    return json.loads((reports / "results.json").read_text())


def count_of(results, name):
    """counts/claims/SUPPORTED -> results["counts"]["claims"]["SUPPORTED"]"""
    for key in name.split("/"):
        results = results[key]
    return results


def is_number(element):
    """Whether an element says which of the results' numbers it is."""
    return any(element.get(name) for name in ("data-id", "data-measure", "data-field"))


def id_of(element):
    """A number's id: its own, its row's with its measure, or what the row's header says."""
    if element.get("data-id"):
        return element["data-id"]
    row = element.find_parent("tr")
    if element.get("data-measure"):
        return f"{row['data-row']}/{element['data-measure']}"
    return row.th.text


def tooltip(element):
    """A title of the element or of the nearest one around it that has any, as browsers show it."""
    return next(
        outer["title"] for outer in (element, *element.parents) if outer.get("title") is not None
    )


def test_every_number_of_a_table_is_in_the_results(soup, results):
    marked = soup.find_all(is_number)
    assert len(marked) > 1000
    cells = {cell["id"]: cell for cell in results["cells"]}
    for element in marked:
        if id_of(element).startswith("counts/"):
            assert int(element.text) == count_of(results, id_of(element))
            continue
        cell = cells[id_of(element)]
        value = cell[element.get("data-field", "value")]
        assert tooltip(element) == f"{cell['source']} (stage {cell['stage']})"
        ends = value if isinstance(value, list) else [value]
        texts = element.text.replace("−", "-").replace(",", "").split(" to ")
        for text, end in zip(texts, ends, strict=True):
            digits = len(text.partition(".")[2])
            assert float(text) == pytest.approx(end, abs=0.5001 * 10**-digits), element
    assert {element.get("data-field", "value") for element in marked} >= {
        "value",
        "interval",
        "num_seeds",
        "published",
        "difference",
        "tolerance",
    }


def test_the_last_table_has_every_number(soup, results):
    rows = soup.select("section[aria-labelledby=numbers] tbody tr")
    assert [row.th.text for row in rows] == [cell["id"] for cell in results["cells"]]
    for row, cell in zip(rows, results["cells"], strict=True):
        group = row.parent.find_all("tr")  # file and stage stand once, beside all of its rows
        origin = [part for part in group[0].find_all("td") if part.get("rowspan")]
        assert [part.text for part in origin] == [cell["source"], cell["stage"]]
        assert {part["rowspan"] for part in origin} == {str(len(group))}
        shown = [part["data-field"] for part in row.find_all("td") if part.get("data-field")]
        assert shown == [name for name in ("value", "interval") if cell.get(name) is not None]


def test_bit_planes_stand_beside_bdm_in_the_paper_tables(reports, results, tmp_path):
    ids = [f"complexity/mlp/{name}/planes_ratio" for name in ("qat4", "momos_s2_c10")]
    beside = next(cell for cell in results["cells"] if cell["id"].startswith("complexity/mlp/"))
    cells = [beside | {"id": name, "value": 0.9125} for name in ids]
    shutil.copytree(reports, tmp_path / "report")
    changed = results | {"cells": results["cells"] + cells}
    (tmp_path / "report" / "results.json").write_text(json.dumps(changed))
    page = BeautifulSoup(render(tmp_path / "report").read_text(), "html.parser")
    header = page.select_one("table.paper thead tr:last-child").find_all("th")
    assert header[-1].text == "Planes"
    last = [row.find_all(["td", "th"])[-1] for row in page.select("table.paper tbody tr")]
    assert [(id_of(cell), cell.text) for cell in last if is_number(cell)] == [
        (name, "0.912") for name in ids
    ]
    assert {cell.text for cell in last} == {"0.912", EMPTY}


def test_no_number_in_a_results_table_has_another_source(soup):
    cells = soup.select("td.num, td[data-field]")
    strays = [
        cell
        for cell in cells
        if not is_number(cell) and cell.text != EMPTY and not cell.find_parent(id="costs")
    ]
    assert len(cells) > 1000 and strays == []
    other = [
        cell
        for cell in soup.select("td:not(.num):not([data-field])")
        if re.fullmatch(r"[-−+]?[\d.,]+( ± .*)?", cell.text.strip())
    ]
    assert [cell for cell in other if not cell.find_parent(id="provenance")] == []


def test_the_prose_counts_what_the_results_count(soup, results):
    counts, sentences = results["counts"], [item.text for item in soup.select(".findings li")]
    assert sentences == results["findings"] and len(sentences) == 5
    tested = counts["claims"]["SUPPORTED"] + counts["claims"]["NOT SUPPORTED"]
    assert tested == 1 and sentences[0].startswith("The one claim that these runs test is not")
    tiles = {
        item.select_one(".what").text.strip(" ✓✗○≠"): item for item in soup.select(".tiles li")
    }
    for name, count in (counts["claims"] | counts["apart"]).items():
        links = tiles[name].select("a")
        assert len(links) == count == int(tiles[name].select_one(".count").text), name
    for name, count in counts["decided"].items():
        decided, others = tiles[name].select(".ids")
        assert len(decided.select("a")) == count and decided.text.startswith("Decided:")
        assert len(others.select("a")) == counts["claims"][name] - count
    assert (
        "2 seeds." in soup.select_one("header").text
        and "Imported" not in soup.select_one("header").text
    )


def test_both_tables_have_every_published_cell_and_every_method_here(soup):
    titles = [heading.text for heading in soup.select("#tables ~ h3")]
    assert titles[:3] == [
        "Table 1: MLP",
        "Table 1: ResNet20",
        "Table 1: Tiny-ViT (not run in this profile)",
    ]
    statuses = [cell["class"][-1] for cell in soup.select("table.paper td.status")]
    assert len(statuses) == 3 * 48 and {"pass", "fail", "not-run", "not-comparable"} == set(
        statuses
    )
    assert (
        len(soup.select("table.paper")[0].select("tbody tr")) == 12 + 1
    )  # the paper's, and both methods together
    text = {
        "pass": "PASS",
        "fail": "FAIL",
        "not-run": "NOT RUN",
        "not-comparable": "NOT COMPARABLE",
    }
    for cell in soup.select("table.paper td.status"):
        assert (
            cell.text.strip().endswith(text[cell["class"][-1]]) and cell.text.strip()[0] in "✓✗○≠"
        ), "never colour alone"


def test_nothing_is_loaded_from_elsewhere(soup, reports):
    for element in soup.find_all(True):
        for name in ("src", "srcset", "poster", "action", "data"):
            assert not element.get(name) or element[name].startswith("data:"), element.name
    for link in soup.find_all("link"):
        assert link["href"] == "data:,"
    style = "".join(element.text for element in soup.find_all("style"))
    assert "url(" not in style and "@import" not in style
    assert (reports / "index.html").stat().st_size < 4e6


@pytest.mark.parametrize("profile", ["digits", "cifar10", "cifar10_resnet20"])
def test_the_page_of_a_committed_report_is_small(profile, tmp_path):
    page = render(ROOT / "reports" / profile, tmp_path / "index.html")
    assert page.stat().st_size <= 3 * 2**20


def test_links_lead_somewhere(soup, reports):
    ids = [element["id"] for element in soup.find_all(id=True)]
    assert len(ids) == len(set(ids))
    targets = {link["href"] for link in soup.find_all("a")}
    for target in targets:
        assert target[1:] in ids if target.startswith("#") else (reports / target).is_file(), target
    assert {
        "results.json",
        "tables/table1.tex",
        "tables/table1.md",
        "figures/figure1.pdf",
    } <= targets


def test_tables_and_pictures_say_what_they_are(soup):
    assert all(table.caption and table.caption.text.strip() for table in soup.find_all("table"))
    assert all(head.get("scope") in ("col", "row", "colgroup") for head in soup.find_all("th"))
    assert all(image.get("alt") for image in soup.find_all("img")) and soup.html["lang"] == "en"
    levels = [int(heading.name[1]) for heading in soup.find_all(re.compile("^h[1-6]$"))]
    assert (
        levels[0] == 1
        and levels.count(1) == 1
        and all(below <= above + 1 for above, below in zip(levels, levels[1:], strict=False))
    )


def test_every_static_figure_and_its_caption_is_there(soup, reports):
    captions = json.loads((reports / "figures" / "captions.json").read_text())
    assert {figure["id"] for figure in soup.find_all("figure")} == {
        f"fig-{name}" for name in captions
    }
    charted = {element["data-chart"] for element in soup.select("[data-chart]")}
    assert charted == {"accuracy_rac", "training", "figure2", "figure4"}


def test_cost_by_stage_and_model_and_gpu_hours_apart(soup):
    rows = [
        [cell.text for cell in row.find_all(["th", "td"])] for row in soup.select("#costs tbody tr")
    ]
    runs = len(TREE_METHODS) * 2
    assert rows[0] == ["train", "MLP", str(runs), "0.14", "36.0", "0.00", "1.00", "–"]
    assert rows[1] == ["train", "ResNet20", str(runs), "0.14", "36.0", "0.14", "1.00", "2.00"]
    assert rows[-1][:3] == ["all", "all", str(runs * len(TREE_MODELS) + 9)]


def test_the_same_inputs_give_the_same_page(reports):
    before = (reports / "index.html").read_bytes()
    script.chart_script.cache_clear()
    assert render(reports).read_bytes() == before


def test_hostile_text_stays_text(reports, tmp_path):
    reports = shutil.copytree(reports, tmp_path / "digits")
    path = reports / "results.json"
    results = json.loads(path.read_text())
    results["names"]["models"]["mlp"] = results["names"]["methods"]["qat4"]["label"] = HOSTILE
    results["claims"][0] |= {"note": HOSTILE, "measured": HOSTILE}
    results["imported"] = [{"text": HOSTILE}]
    results["cells"][-1]["num_seeds"] = 99  # of the second paper's, say
    next(cell for cell in results["cells"] if cell.get("status"))["reason"] = HOSTILE
    path.write_text(json.dumps(results))
    captions = reports / "figures" / "captions.json"
    captions.write_text(json.dumps(json.loads(captions.read_text()) | {"figure1": HOSTILE}))
    (reports / "slt" / "figures").mkdir(parents=True)
    for kind in ("svg", "png"):
        (reports / "slt" / "figures" / f"llc.{kind}").write_bytes(
            (reports / "figures" / f"figure1.{kind}").read_bytes()
        )
    (reports / "slt" / "figures" / "captions.json").write_text(
        json.dumps({"llc": f"LLC along training. {HOSTILE}"})
    )
    droppings = ("tables/._table1.md", "@eaDir/a.svg", ".ipynb_checkpoints/a-checkpoint.csv")
    for name in droppings:  # what systems leave in folders
        (reports / name).parent.mkdir(exist_ok=True)
        (reports / name).touch()
    soup = BeautifulSoup(render(reports).read_text(), "html.parser")
    links = {link["href"] for link in soup.find_all("a", href=True)}
    assert "tables/table1.md" in links and not links & set(droppings)
    assert not soup.select("b.x") and not [
        script for script in soup.find_all("script") if script.text.strip() == "alert(1)"
    ]
    assert len(soup.find_all("script")) == 4 + 1
    header = soup.select_one("header").text
    assert f"Imported, not run here: {HOSTILE}" in header and "2 seeds." in header
    shown = soup.select_one("#claim-M1").text
    assert "{{ 7 * 7 }}" in shown and '<b class="x">' in shown
    spec = json.loads(soup.select_one('[data-chart="accuracy_rac"] + script').text)
    assert HOSTILE in json.dumps(spec, ensure_ascii=False).replace('\\"', '"')
    assert soup.select_one("section[aria-labelledby=singular] img")["alt"].startswith(
        "LLC along training."
    )


@pytest.mark.parametrize(
    "name",
    [
        "results.json",
        "provenance.json",
        "cost/cost.csv",
        "tables/training.csv",
        "figures/figure1.png",
    ],
)
def test_a_missing_part_is_named(reports, name):
    whole = (reports / name).read_bytes()
    (reports / name).unlink()
    try:
        with pytest.raises(ValueError, match=f"{re.escape(name)} is missing"):
            render(reports)
    finally:
        (reports / name).write_bytes(whole)
