"""A moved number is noticed, a tolerated one is not: `compare` on made-up results, and
scripts/regress.py on files.
"""

import contextlib
import io
import json
import math
import runpy
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from momos.config import overlays
from momos.report import regression

ROOT = Path(__file__).parents[2]


def cell(
    name: str, kind: str, value: float | None, std: float | None = None, num_seeds: int = 3, **more
) -> dict:
    return {
        "id": name,
        "kind": kind,
        "value": value,
        "std": std,
        "num_seeds": num_seeds,
        "source": "x.csv",
        **more,
    }


def results(
    *cells: dict, claims=(("M1", "SUPPORTED"),), data=(("sha256", "abc"),), profile="digits"
) -> dict:
    told = [{"id": name, "verdict": verdict, "claim": "..."} for name, verdict in claims]
    return {
        "schema": 1,
        "profile": profile,
        "data": dict(data),
        "cells": list(cells),
        "claims": told,
    }


def verdicts(before: dict, after: dict, *, elsewhere: bool = False) -> dict[str, str]:
    table = regression.compare(
        regression.bless(before, "a1"), regression.bless(after, "b2" if elsewhere else "a1")
    )
    return dict(zip(table.id, table.verdict, strict=True))


def verdict(
    kind: str, before: float | None, after: float | None, *, elsewhere: bool = False, **more
) -> str:
    return verdicts(
        results(cell("a", kind, before, **more)),
        results(cell("a", kind, after, **more)),
        elsewhere=elsewhere,
    )["a"]


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


@pytest.mark.parametrize(("kind", "before", "after", "more", "expected"), [
    ("rac", 3.0, 3.1, {"std": 1.0}, "REGRESSION"),
    ("count", 14119, 14120, {"std": 9.0}, "REGRESSION"),
    ("exact", 142367.65, 142367.66, {"num_seeds": 1}, "REGRESSION"),
    ("bdm", 0.998, 0.980, {"std": 0.004}, "REGRESSION"),
    ("bdm", 0.998, 0.980, {"std": 0.005}, "moved"),
    ("norm", 20.0, 20.5, {"std": 0.2}, "moved"),
    ("accuracy", 88.0, 83.9, {"std": 1.0}, "REGRESSION"),
    ("accuracy", 88.0, 49.0, {"num_seeds": 1}, "moved"),
    ("accuracy", 88.0, 47.0, {"num_seeds": 1}, "REGRESSION"),
    ("ratio", 1.50, 1.64, {"num_seeds": 1}, "moved"),
    ("ratio", 1.50, 1.66, {"num_seeds": 1}, "REGRESSION"),
    ("estimate", 1.0, 4.99, {"num_seeds": 1}, "moved"),
    ("estimate", 1.0, 5.01, {"num_seeds": 1}, "REGRESSION"),
])  # fmt: skip
def test_bands_are_wider_on_a_machine_that_rounds_otherwise(kind, before, after, more, expected):
    assert verdict(kind, before, after, elsewhere=True, **more) == expected


@pytest.mark.parametrize("kind", sorted(regression.TOLERANCES))
def test_wider_and_not_narrower(kind):
    for std in (None, 0.1, 3.0):
        for num_seeds in (1, 3):
            here, there = (
                regression.allowed(kind, 5.0, std, num_seeds, elsewhere=elsewhere)
                for elsewhere in (False, True)
            )
            assert here == there if kind in regression.UNTRAINED else here <= there


@pytest.mark.parametrize(
    ("before", "after"), [(None, None), (None, "a1"), ("a1", None), ("a1", "b2")]
)
def test_machines_round_alike_only_if_both_are_known_to(before, after):
    one, two = (
        regression.bless(results(cell("a", "ratio", value, num_seeds=1)), rounding)
        for value, rounding in ((1.5, before), (1.6, after))
    )
    assert not regression.rounds_alike(one, two) and not regression.failed(
        regression.compare(one, two)
    )
    assert regression.failed(regression.compare(one | {"rounding": "a1"}, two | {"rounding": "a1"}))
    del one["rounding"]  # as it was blessed before machines were told apart
    assert not regression.rounds_alike(one, two)


def family(
    num: int, broken: int = 0, *, change=-80.0, where="t/mlp", kind="accuracy", num_seeds=3
) -> list[dict]:
    """Cells of `num` methods that are alike, some of them changed."""
    more = {"std": 0.5, "num_seeds": num_seeds} if num_seeds > 1 else {"num_seeds": 1}
    return [
        cell(f"{where}/m{index}/measure", kind, 90.0 + (change if index < broken else 0.0), **more)
        for index in range(num)
    ]


def broken_of(before: list[dict], after: list[dict], *, elsewhere: bool) -> int:
    return list(verdicts(results(*before), results(*after), elsewhere=elsewhere).values()).count(
        "REGRESSION"
    )


@pytest.mark.parametrize("num_seeds", [1, 3])
@pytest.mark.parametrize(("num", "few"), [(1, 0), (3, 0), (4, 1), (8, 2), (13, 3)])
def test_elsewhere_a_few_of_those_that_are_alike_may_break(num, few, num_seeds):
    before = family(num, num_seeds=num_seeds)
    for broken in range(num + 1):
        after = family(num, broken, num_seeds=num_seeds)
        assert broken_of(before, after, elsewhere=True) == (0 if broken <= few else broken)
        assert broken_of(before, after, elsewhere=False) == broken, (
            "on a machine that rounds alike there are no excuses"
        )


def test_each_side_counts_for_itself_and_larger_changes_are_no_better():
    before = family(8)
    after = family(8, 3)
    after[0]["value"] = 150.0
    assert broken_of(before, after, elsewhere=True) == 0, "two below, one above"
    after = family(8, 3)
    after[0]["value"] = -1e9
    assert broken_of(before, after, elsewhere=True) == 3


def test_other_tables_models_measures_and_numbers_of_seeds_are_not_alike():
    others = [
        *family(9, where="u/mlp"),
        *family(9, where="t/vit"),
        *family(9, where="t/mlp/x", num_seeds=1),
    ]
    others = [
        other if index % 3 else other | {"id": f"t/mlp/m{index}/other"}
        for index, other in enumerate(others)
    ]
    assert broken_of([*family(3), *others], [*family(3, 1), *others], elsewhere=True) == 1


def test_what_vanished_is_never_excused():
    """A sparsity that falls to exactly 0: no zero block was there to be drawn.."""
    before = family(8)
    for now, broken in ((0.0, 1), (1e-3, 0)):
        assert (
            broken_of(before, [before[0] | {"value": now}, *before[1:]], elsewhere=True) == broken
        )


@pytest.mark.parametrize("kind", sorted(regression.UNTRAINED))
def test_what_no_training_touches_is_never_excused(kind):
    assert (
        broken_of(family(13, kind=kind), family(13, 1, kind=kind, change=1e-3), elsewhere=True) == 1
    )


@pytest.mark.parametrize("elsewhere", [False, True])
def test_a_method_that_breaks_on_every_model_and_seed_is_noticed(elsewhere):
    """Four methods of thirteen, as those with blocks of 4: two seeds of three fall to chance level,
    so that the spread is large, too.
    """
    before = [each for model in ("mlp", "vit") for each in family(13, where=f"t/{model}")]
    after = [
        each | {"std": 45.0}
        for model in ("mlp", "vit")
        for each in family(13, 4, where=f"t/{model}")
    ]
    assert broken_of(before, after, elsewhere=elsewhere) == 8


def test_what_is_resampled_over_models_and_seeds_has_its_interval_for_a_spread():
    """Half of 95 % is 1.96 standard errors of a mean over 3 seeds: sqrt(3) times as much is a
    standard deviation over seeds.
    """

    def told(value, **more):
        return results(cell("a", "accuracy", value, interval_method="bootstrap", **more))

    band = 4 * math.sqrt(3)
    for moved, expected in ((band - 0.01, "moved"), (band + 0.01, "REGRESSION")):
        interval = [-20 - 1.96, -20 + 1.96]
        assert (
            verdicts(told(-20.0, interval=interval), told(-20.0 + moved, interval=interval))["a"]
            == expected
        )
    assert verdicts(told(-20.0, interval=None), told(-18.9, interval=None))["a"] == "REGRESSION"


def test_seeds_that_agree_by_chance_are_allowed_the_usual_spread():
    """The median over methods of the same table, model and measure; other models and measures have
    no part in it.
    """
    spreads = {
        "t/mlp/a/acc": 0.01,
        "t/mlp/b/acc": 2.0,
        "t/mlp/c/acc": 3.0,
        "t/vit/a/acc": 50.0,
        "t/mlp/a/best": 50.0,
    }
    before = results(*(cell(name, "accuracy", 80.0, std) for name, std in spreads.items()))
    moved = dict(zip(spreads, [7.9, 8.1, 12.1, 0.0, 0.0], strict=True))
    after = results(
        *(cell(name, "accuracy", 80.0 + moved[name], std) for name, std in spreads.items())
    )
    found = verdicts(before, after)
    assert [found[name] for name in spreads] == [
        "moved",
        "REGRESSION",
        "REGRESSION",
        "same",
        "same",
    ]


def test_cells_come_and_go():
    found = verdicts(
        results(cell("a", "rac", 1.0), cell("b", "rac", 2.0)),
        results(cell("b", "rac", 2.0), cell("c", "rac", 3.0)),
    )
    assert found == {
        "a": "MISSING",
        "b": "same",
        "c": "NEW",
        "claims/M1": "same",
        "data/sha256": "same",
    }


def test_weights_that_are_out_of_reach_are_no_failure_and_broken_ones_are():
    known = cell("zoo/elsewhere/net/bdm", "bdm", 0.9, num_seeds=0)
    absent = cell("zoo/elsewhere/net/bdm", "bdm", None, num_seeds=0, not_fetched="no registry")
    with_it, without = results(known), results(absent)
    assert verdicts(with_it, without) == {
        "zoo/elsewhere/net/bdm": regression.NOT_RUN, "claims/M1": "same", "data/sha256": "same",
    }  # fmt: skip
    table = regression.compare(regression.bless(with_it), regression.bless(without))
    assert not regression.failed(table)
    assert verdicts(without, with_it)["zoo/elsewhere/net/bdm"] == regression.NEW
    assert verdicts(without, without)["zoo/elsewhere/net/bdm"] == regression.SAME
    broken = results(cell("zoo/elsewhere/net/bdm", "bdm", None, num_seeds=0))
    for lost in (broken, results()):
        assert verdicts(with_it, lost)["zoo/elsewhere/net/bdm"] == regression.MISSING


def test_other_data_is_a_regression_and_another_verdict_is_not():
    before = results(claims=[("M1", "SUPPORTED"), ("M2", "NOT RUN")])
    after = results(claims=[("M1", "NOT SUPPORTED")], data=[("sha256", "xyz")])
    assert verdicts(before, after) == {
        "claims/M1": "moved",
        "claims/M2": "MISSING",
        "data/sha256": "REGRESSION",
    }


def test_unknown_kinds_and_other_profiles_are_errors():
    with pytest.raises(ValueError, match="kind must be one of .*, got 'speed'"):
        verdict("speed", 1.0, 2.0)
    with pytest.raises(ValueError, match="'digits', got those of 'cifar10'"):
        verdicts(results(), results(profile="cifar10"))


@given(
    st.sampled_from(sorted(regression.TOLERANCES)),
    st.floats(-1e6, 1e6),
    st.floats(0, 100),
    st.integers(1, 5),
    st.floats(0, 3),
)
def test_the_band_is_where_the_verdict_turns(kind, value, std, num_seeds, share):
    """Inside the band: no regression; outside: a regression. The band contains the value itself and
    never shrinks with the spread.
    """
    band = regression.allowed(kind, value, std, num_seeds)
    assert band >= 0 and band >= regression.allowed(kind, value, None, num_seeds)
    after = value + share * band
    moved = abs(after - value)  # as rounded
    if not math.isclose(moved, band, rel_tol=1e-6) and after != value:
        assert verdict(kind, value, after, std=std, num_seeds=num_seeds) == (
            "moved" if moved < band else "REGRESSION"
        )


def regress(folder: Path, *arguments: str) -> tuple[int, str]:
    """The script as a process would run it, without a process's imports."""
    out = io.StringIO()
    with (
        pytest.MonkeyPatch.context() as patch,
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(out),
    ):
        patch.chdir(folder)
        patch.setattr(sys, "argv", ["regress.py", *arguments])
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(str(ROOT / "scripts" / "regress.py"), run_name="__main__")
    return ended.value.code, out.getvalue()


def test_the_script_blesses_compares_and_says_what_moved(tmp_path):
    text = overlays.complete_text(ROOT / "profiles" / "digits.yaml")
    (tmp_path / "params.yaml").write_text(text)
    code, out = regress(tmp_path)
    assert code == 2 and "reports/digits/results.json is missing (`make repro` writes it)" in out
    fresh = tmp_path / "reports" / "digits" / "results.json"
    fresh.parent.mkdir(parents=True)
    fresh.write_text(
        json.dumps(
            results(
                cell("table1/mlp/baseline/rac", "rac", 1.0), cell("b", "accuracy", 88.0, std=0.1)
            )
        )
    )
    code, out = regress(tmp_path)
    assert code == 2 and "reports/digits/provenance.json is missing (`make repro` writes it)" in out
    machine = tmp_path / "reports" / "digits" / "provenance.json"
    machine.write_text(json.dumps({"rounding": "a1"}))
    code, out = regress(tmp_path)
    assert code == 2 and "reports/expected/digits.json is missing (`make bless` writes it)" in out
    code, out = regress(tmp_path, "--bless")
    assert code == 0 and "2 NEW" not in out and "4 NEW" in out
    code, out = regress(tmp_path)
    assert (
        code == 0
        and out.splitlines()[-1]
        == "0 REGRESSION, 0 MISSING, 0 NEW, 0 moved, 4 same: no regression."
    )
    assert "of a machine that rounds like this one" in out
    machine.write_text(json.dumps({"rounding": "b2"}))
    code, out = regress(tmp_path)
    assert code == 0 and "of a machine that rounds otherwise" in out
    fresh.write_text(
        json.dumps(
            results(
                cell("table1/mlp/baseline/rac", "rac", 1.1), cell("b", "accuracy", 88.5, std=0.1)
            )
        )
    )
    code, out = regress(tmp_path)
    first, second = [line for line in out.splitlines() if line.startswith("|")][2:]
    assert (
        code == 1
        and "table1/mlp/baseline/rac" in first
        and "REGRESSION" in first
        and "b" in second
        and "moved" in second
    )
    code, out = regress(tmp_path, "--bless")
    assert code == 0 and "table1/mlp/baseline/rac" in out
    assert regress(tmp_path)[0] == 0
    (tmp_path / "reports" / "expected" / "digits.json").write_text("{")
    assert regress(tmp_path)[0] == 2


def test_a_decision_that_changes_has_moved_and_breaks_nothing():
    def document(decided):
        claim = {"id": "M1", "verdict": "SUPPORTED"} | ({"decided": decided} if decided else {})
        return regression.bless(results() | {"claims": [claim]})

    rows = regression.compare(document("yes"), document("no")).set_index("id")
    assert rows.verdict["claims/M1"] == regression.SAME
    assert rows.verdict["claims/M1/decided"] == regression.MOVED and not regression.failed(
        rows.reset_index()
    )
    before = document(None)
    del before["decided"]
    new = regression.compare(before, document("yes")).set_index("id")
    assert new.verdict["claims/M1/decided"] == regression.NEW
