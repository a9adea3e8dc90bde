"""A moved number is noticed, a tolerated one is not: `compare` on made-up results, and scripts/regress.py on files."""

import contextlib
import io
import json
import math
import runpy
import shutil
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from momos import regression

ROOT = Path(__file__).parents[1]


def cell(name: str, kind: str, value: float | None, std: float | None = None, num_seeds: int = 3, **more) -> dict:
    return {"id": name, "kind": kind, "value": value, "std": std, "num_seeds": num_seeds, "source": "x.csv", **more}


def results(*cells: dict, claims=(("M1", "SUPPORTED"),), data=(("sha256", "abc"),), profile="digits") -> dict:
    told = [{"id": name, "verdict": verdict, "claim": "..."} for name, verdict in claims]
    return {"schema": 1, "profile": profile, "data": dict(data), "cells": list(cells), "claims": told}


def verdicts(before: dict, after: dict) -> dict[str, str]:
    table = regression.compare(regression.bless(before), regression.bless(after))
    return dict(zip(table.id, table.verdict, strict=True))


def verdict(kind: str, before: float | None, after: float | None, **more) -> str:
    return verdicts(results(cell("a", kind, before, **more)), results(cell("a", kind, after, **more)))["a"]


@pytest.mark.parametrize(("kind", "before", "after", "more", "expected"), [
    ("rac", 3.9506666, 3.9506667, {}, "REGRESSION"),
    ("rac", 3.9506666, 3.9506666, {}, "same"),
    ("count", 14119, 14120, {}, "REGRESSION"),
    ("exact", 142367.65, 142367.66, {}, "REGRESSION"),
    ("bdm", 0.998, 0.990, {}, "moved"),
    ("bdm", 0.998, 0.980, {}, "REGRESSION"),
    ("bdm", 0.998, 0.980, {"std": 1.0}, "REGRESSION"),
    ("accuracy", 88.0, 88.9, {"std": 0.1}, "moved"),
    ("accuracy", 88.0, 89.1, {"std": 0.1}, "REGRESSION"),
    ("accuracy", 88.0, 91.9, {"std": 1.0}, "moved"),
    ("accuracy", 88.0, 83.9, {"std": 1.0}, "REGRESSION"),
    ("norm", 20.0, 20.3, {"std": 5.0}, "moved"),
    ("norm", 20.0, 20.5, {"std": 5.0}, "REGRESSION"),
    ("accuracy", 88.0, 92.0, {"num_seeds": 1}, "moved"),
    ("accuracy", 88.0, 94.0, {"num_seeds": 1}, "REGRESSION"),
    ("ratio", 1.50, 1.51, {"std": 0.0}, "moved"),
    ("ratio", 1.50, 1.52, {"std": 0.0}, "REGRESSION"),
    ("ratio", 0.0, 1e-3, {"std": 0.0}, "REGRESSION"),
    ("rac", 3.0, None, {}, "MISSING"),
    ("rac", None, 3.0, {}, "NEW"),
    ("rac", None, None, {}, "same"),
])  # fmt: skip
def test_each_kind_has_its_tolerance(kind, before, after, more, expected):
    assert verdict(kind, before, after, **more) == expected


def test_seeds_that_agree_by_chance_are_allowed_the_usual_spread():
    """The median over methods of the same table, model and measure; other models and measures have no part in it."""
    spreads = {"t/mlp/a/acc": 0.01, "t/mlp/b/acc": 2.0, "t/mlp/c/acc": 3.0, "t/vit/a/acc": 50.0, "t/mlp/a/best": 50.0}
    before = results(*(cell(name, "accuracy", 80.0, std) for name, std in spreads.items()))
    moved = dict(zip(spreads, [7.9, 8.1, 12.1, 0.0, 0.0], strict=True))
    after = results(*(cell(name, "accuracy", 80.0 + moved[name], std) for name, std in spreads.items()))
    found = verdicts(before, after)
    assert [found[name] for name in spreads] == ["moved", "REGRESSION", "REGRESSION", "same", "same"]


def test_cells_come_and_go():
    found = verdicts(results(cell("a", "rac", 1.0), cell("b", "rac", 2.0)), results(cell("b", "rac", 2.0), cell("c", "rac", 3.0)))
    assert found == {"a": "MISSING", "b": "same", "c": "NEW", "claims/M1": "same", "data/sha256": "same"}


def test_other_data_is_a_regression_and_another_verdict_is_not():
    before = results(claims=[("M1", "SUPPORTED"), ("M2", "NOT RUN")])
    after = results(claims=[("M1", "NOT SUPPORTED")], data=[("sha256", "xyz")])
    assert verdicts(before, after) == {"claims/M1": "moved", "claims/M2": "MISSING", "data/sha256": "REGRESSION"}


def test_unknown_kinds_and_other_profiles_are_errors():
    with pytest.raises(ValueError, match="kind must be one of .*, got 'speed'"):
        verdict("speed", 1.0, 2.0)
    with pytest.raises(ValueError, match="'digits', got those of 'cifar10'"):
        verdicts(results(), results(profile="cifar10"))


@given(st.sampled_from(sorted(regression.TOLERANCES)), st.floats(-1e6, 1e6), st.floats(0, 100), st.integers(1, 5), st.floats(0, 3))
def test_the_band_is_where_the_verdict_turns(kind, value, std, num_seeds, share):
    """Inside the band: no regression; outside: a regression. The band contains the value itself and never shrinks with the spread."""
    band = regression.allowed(kind, value, std, num_seeds)
    assert band >= 0 and band >= regression.allowed(kind, value, None, num_seeds)
    after = value + share * band
    moved = abs(after - value)  # as rounded
    if not math.isclose(moved, band, rel_tol=1e-6) and after != value:
        assert verdict(kind, value, after, std=std, num_seeds=num_seeds) == ("moved" if moved < band else "REGRESSION")


def regress(folder: Path, *arguments: str) -> tuple[int, str]:
    """The script as a process would run it, without a process's imports."""
    out = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        patch.chdir(folder)
        patch.setattr(sys, "argv", ["regress.py", *arguments])
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(str(ROOT / "scripts" / "regress.py"), run_name="__main__")
    return ended.value.code, out.getvalue()


def test_the_script_blesses_compares_and_says_what_moved(tmp_path):
    shutil.copy(ROOT / "profiles" / "digits.yaml", tmp_path / "params.yaml")
    code, out = regress(tmp_path)
    assert code == 2 and "reports/digits/results.json is missing (`make repro` writes it)" in out
    fresh = tmp_path / "reports" / "digits" / "results.json"
    fresh.parent.mkdir(parents=True)
    fresh.write_text(json.dumps(results(cell("table1/mlp/baseline/rac", "rac", 1.0), cell("b", "accuracy", 88.0, std=0.1))))
    code, out = regress(tmp_path)
    assert code == 2 and "reports/expected/digits.json is missing (`make bless` writes it)" in out
    code, out = regress(tmp_path, "--bless")
    assert code == 0 and "2 NEW" not in out and "4 NEW" in out
    code, out = regress(tmp_path)
    assert code == 0 and out.strip() == "0 REGRESSION, 0 MISSING, 0 NEW, 0 moved, 4 same: no regression."
    fresh.write_text(json.dumps(results(cell("table1/mlp/baseline/rac", "rac", 1.1), cell("b", "accuracy", 88.5, std=0.1))))
    code, out = regress(tmp_path)
    first, second = [line for line in out.splitlines() if line.startswith("|")][2:]
    assert code == 1 and "table1/mlp/baseline/rac" in first and "REGRESSION" in first and "b" in second and "moved" in second
    code, out = regress(tmp_path, "--bless")
    assert code == 0 and "table1/mlp/baseline/rac" in out
    assert regress(tmp_path)[0] == 0
    (tmp_path / "reports" / "expected" / "digits.json").write_text("{")
    assert regress(tmp_path)[0] == 2
