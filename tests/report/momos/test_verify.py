"""`momos verify-report`: a synthetic report holds, and whatever is changed in it is named."""

import json
import runpy
import shutil

import pandas as pd
import pytest
from command import refused
from synthetic import PAPER, ROOT, Tree

from momos import cli
from momos.report.momos.verify import ROWS
from momos.report.shared import figures


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """The folder of a report that the stage wrote."""
    root = tmp_path_factory.mktemp("verified")
    tree = Tree(root)
    numbers = {
        "table": "slt_images", "model": "mlp", "method": "baseline", "measure": "llc_mean",
        "seed": [0, 1], "value": [1.5, 2.5], "unit": "nats", "source": "a", "stage": "complexity",
    }  # fmt: skip
    pd.DataFrame(numbers).to_csv(tree.results / "slt_numbers.csv", index=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        patch.setattr(figures, "write_all", lambda drawings, folder: None)  # the slow part
        runpy.run_path(str(ROOT / "stages" / "report.py"))["main"](*tree.arguments)
    return tree.reports


@pytest.fixture
def report(written, tmp_path):
    shutil.copytree(PAPER, tmp_path / "data" / "paper")
    return shutil.copytree(written, tmp_path / "reports" / "digits")


def verified(report, capsys):
    """Exit status, the summary, and a line of stderr per difference."""
    status = cli.main(["verify-report", str(report)])
    out, err = capsys.readouterr()
    return status, out, err.splitlines()


def change(report, name, key, value):
    """Write another number into a cell of results.json."""
    path = report / "results.json"
    document = json.loads(path.read_text())
    (cell,) = [cell for cell in document["cells"] if cell["id"] == name]
    cell[key] = value
    path.write_text(json.dumps(document))


def test_every_number_of_a_report_follows_from_its_tables(report, capsys):
    document = json.loads((report / "results.json").read_text())
    status, out, lines = verified(report, capsys)
    assert (status, lines) == (0, [])
    num_summaries = len(document["counts"]) + len(document["pareto"])
    assert out == (
        f"{len(document['cells']) + num_summaries} numbers follow from the tables, none differs\n"
    )
    tables = {cell["table"] for cell in document["cells"]}
    assert {"table1", "packing", "distortion", "zoo", "aggregate", "slt_images"} <= tables


CHANGES = [
    ("table1/mlp/qat8/test_accuracy_last", "value", 70.1),
    ("table1/mlp/qat4/test_accuracy_last", "values", [70.0, 70.9]),
    ("table1/mlp/baseline/test_accuracy_last", "published", 44.0),
    ("packing/mlp/baseline/entropy_bytes", "value", 1.0),
    ("distortion/mlp/momos_s2_c10/relative_distortion_best", "std", 0.5),
    ("slt_images/mlp/baseline/llc_mean", "interval", [0, 1]),
    ("zoo/timm/all/share_below_1", "value", 99.0),
    ("aggregate/all/qat4/accuracy_difference_iqm", "interval", [-1, 1]),
]


def test_each_changed_number_is_named(report, capsys):
    for one in CHANGES:
        change(report, *one)
    status, out, lines = verified(report, capsys)
    assert status == 1 and "8 differ" in out
    starts = {
        f"momos: {name}: {key} is {value!r}, the tables give " for name, key, value in CHANGES
    }
    assert {line[: line.index("give ") + 5] for line in lines} == starts and len(lines) == 8


def test_a_changed_claim_is_named(report, capsys):
    path = report / "results.json"
    document = json.loads(path.read_text())
    first, second, last = document["claims"][0], document["claims"][1], document["claims"].pop()
    verdict, first["verdict"], second["measured"] = first["verdict"], "HOLDS", "all"
    path.write_text(json.dumps(document))
    status, out, (lacking, changed, other) = verified(report, capsys)
    assert status == 1 and "3 differ" in out
    assert lacking == f"momos: claim {last['id']}: only one of both has it"
    assert changed == (
        f"momos: claim {first['id']}: verdict is 'HOLDS', claims.csv has {verdict!r}"
    )
    assert other.startswith(f"momos: claim {second['id']}: measured is 'all', claims.csv has '")
    document["claims"] = None
    path.write_text(json.dumps(document))
    assert "expected a report's folder" in refused(capsys, "verify-report", report)


def test_a_changed_run_is_named_wherever_it_counts(report, capsys):
    path = report / "tables" / "runs.csv"
    runs = pd.read_csv(path)
    chosen = (runs.model == "mlp") & (runs.method == "qat4") & (runs.seed == 1)
    runs.loc[chosen & (runs.weights == "deployed"), "bdm_1d"] += 1
    runs.to_csv(path, index=False)
    status, _, lines = verified(report, capsys)
    assert status == 1 and all("complexity/mlp/qat4/bdm_1d" in one for one in lines)


def test_cells_whose_rows_are_not_there_are_counted(report, capsys):
    before = json.loads((report / "results.json").read_text())["cells"]
    for file in ("packing_runs", "distortion_runs", "singular"):
        (report / "tables" / f"{file}.csv").unlink()
    surveyed = pd.read_csv(report / "tables" / "survey.csv").drop(columns="seed")
    surveyed.to_csv(report / "tables" / "survey.csv", index=False)
    status, out, lines = verified(report, capsys)
    assert (status, lines) == (0, [])
    for table in ROWS:
        name = "slt_images" if table == "slt" else table
        count = sum(cell["table"] == name for cell in before)
        assert count and f"{count} of {name}" in out


def test_a_measure_that_an_older_report_has_not_is_counted(report, capsys):
    """But one of its cells that is gone is a difference."""
    path = report / "results.json"
    document = json.loads(path.read_text())
    share = [cell["id"] for cell in document["cells"] if cell["measure"] == "share_below_1"]
    (pairs, *_) = [cell["id"] for cell in document["cells"] if cell["measure"] == "num_pairs"]
    document["cells"] = [cell for cell in document["cells"] if cell["id"] not in (*share, pairs)]
    path.write_text(json.dumps(document))
    status, out, lines = verified(report, capsys)
    assert status == 1 and f"not in this older report: {len(share)} of share_below_1" in out
    assert lines == [f"momos: {pairs}: the tables give it, results.json lacks it"]


def test_what_is_no_report_is_named(report, tmp_path, capsys):
    assert "results.json is missing: expected" in refused(capsys, "verify-report", tmp_path)
    (report / "tables" / "runs.csv").unlink()
    assert "runs.csv is missing: expected" in refused(capsys, "verify-report", report)
    (report / "results.json").write_text("{")
    assert "results.json" in refused(capsys, "verify-report", report)
    (report / "results.json").write_text("{}")
    assert "results.json: expected a report's, it lacks profile" in refused(
        capsys, "verify-report", report
    )
