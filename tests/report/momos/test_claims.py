"""Each claim on frames whose verdict is known by construction.

The base is the published tables themselves: what they say of the claims can be read off the paper.
"""

import dataclasses
import re

import numpy as np
import pandas as pd
import pytest
import scipy.stats
from synthetic import MODELS, PAPER, ablation, described, distortion, evaluation, survey

from momos.report.momos import claims
from momos.report.momos.comparison import compare_accuracy, reproduction_claim
from momos.report.momos.evidence import Evidence
from momos.report.momos.study import read_published
from momos.report.shared import verdicts
from momos.report.shared.claims import read_claims
from momos.report.shared.verdicts import NOT_COMPARABLE, NOT_RUN, NOT_SUPPORTED, SUPPORTED

CLAIMS = read_claims(PAPER)
PUBLISHED = {f"M{number}" for number in range(1, 18)} | {f"S{number}" for number in range(1, 9)}
BY_ID = {claim.id: claim for claim in CLAIMS}


@pytest.fixture(scope="module")
def base():
    """The published numbers as if measured at the full budget, with an ablation in which large
    blocks lose more.
    """
    rows = pd.concat([evaluation(), ablation({2: 1.0, 4: 3.0, 8: 9.0})], ignore_index=True)
    check = read_published(PAPER, rows)
    epochs = distortion(rows)
    return Evidence(
        evaluation=rows,
        distortion=epochs,
        survey=survey([0.9] * 9 + [1.1]),
        published=check,
        source="cifar10",
        epochs=200,
    )


def change(evidence, column, value, **where):
    """Evidence with one column changed in some rows; value may be a function of the old values."""
    rows = evidence.evaluation.copy()
    chosen = np.logical_and.reduce(
        [
            rows[key].isin(wanted if isinstance(wanted, tuple) else (wanted,))
            for key, wanted in where.items()
        ]
    )
    assert chosen.any()
    rows.loc[chosen, column] = value(rows.loc[chosen, column]) if callable(value) else value
    return dataclasses.replace(evidence, evaluation=rows)


def drop(evidence, **where):
    rows = evidence.evaluation
    chosen = np.logical_and.reduce(
        [
            rows[key].isin(wanted if isinstance(wanted, tuple) else (wanted,))
            for key, wanted in where.items()
        ]
    )
    assert chosen.any()
    return dataclasses.replace(evidence, evaluation=rows[~chosen])


def row(name, evidence):
    return claims.judge_claim(BY_ID[name], evidence)


# What the published tables say of the paper's own claims (35 of 36 ratios below 1; ResNet20 rises
# to 0.79 at s=4, C=0.5 %).
@pytest.mark.parametrize(
    ("name", "verdict", "measured"),
    [
        ("M2", NOT_SUPPORTED, "35 of 36 deployed"),
        ("M5", SUPPORTED, "mlp +0.12 points; resnet20 -0.47 points; tiny_vit +0.10 points"),
        (
            "M6",
            SUPPORTED,
            "mlp 7.70 against 4.00; resnet20 3.10 against none; tiny_vit 8.40 against 4.00",
        ),
        ("M7", SUPPORTED, "tiny_vit +0.42 points"),
        ("M8", SUPPORTED, "81.44 % against 81.38 %"),
        ("M10", NOT_SUPPORTED, "resnet20 s=4 -0.316"),
        ("M11", NOT_SUPPORTED, "7 of 8; mlp 4 of 4; resnet20 3 of 4"),
        (
            "M12",
            NOT_SUPPORTED,
            "31 of 48; MoMos cells: mlp 0 of 8; resnet20 8 of 8; tiny_vit 7 of 8; mobilevit 0 of 8",
        ),
        ("M17", SUPPORTED, "mlp +13.45 points; resnet20 +58.61 points; tiny_vit +33.00 points"),
    ],
)
def test_the_published_tables_judge_the_papers_claims(base, name, verdict, measured):
    found = row(name, base)
    assert found.verdict == verdict and measured in found.measured


@pytest.mark.parametrize(
    ("name", "measured"),
    [
        ("M5", "mlp +0.12 points"),
        ("M6", "mlp 7.70 against 4.00"),
        ("M10", "mlp s=2 0.949; mlp s=4 1.000"),
        ("M11", "4 of 4; mlp 4 of 4"),
        ("M17", "mlp +13.45 points"),
    ],
)
def test_what_was_run_of_several_models_stands_beside_no_verdict(base, name, measured):
    found = row(name, drop(base, model=("resnet20", "tiny_vit")))
    assert found.verdict == NOT_RUN and "Not in the grid: resnet20" in found.note
    assert (found.part, found.decided) == (SUPPORTED, "") and found.part_decided
    text = f"On what was run alone: SUPPORTED, decided: {found.part_decided} ({measured}"
    assert found.also.startswith(text)
    assert row(name, base).part == "", "with all models there is a verdict"


def test_one_model_may_refute_in_part(base):
    better = change(base, "test_accuracy_last", ADD["higher"](10), model="mlp", method="qat4")
    found = row("M17", drop(better, model=("resnet20", "tiny_vit")))
    assert (found.verdict, found.part) == (NOT_RUN, NOT_SUPPORTED)
    assert "mlp +3.45 points" in found.also


@pytest.mark.parametrize("name", ["M7", "M8", "M10", "M11"])
def test_of_other_models_than_a_claim_names_nothing_is_said(base, name):
    others = {"M7": ("tiny_vit",), "M8": ("resnet20",)}.get(name, ("mlp", "resnet20"))
    found = row(name, drop(base, model=others))
    assert (found.verdict, found.part, found.also) == (NOT_RUN, "", "")


def test_a_model_with_cells_missing_is_no_part(base):
    found = row("M6", drop(base, model=("resnet20", "tiny_vit")))
    cell = {"model": "mlp", "method": "momos_s4_c1"}
    lacking = row("M6", drop(drop(base, model=("resnet20", "tiny_vit")), **cell))
    assert found.part and not lacking.part


ADD = {
    "lower": lambda points: lambda old: old - points / 100,
    "higher": lambda points: lambda old: old + points / 100,
}


def supported_m2(base):
    return change(base, "bdm_1d_ratio", 0.99, model="resnet20", method="qat8")


def supported_m10(base):
    return change(base, "bdm_1d_ratio", 0.5, model="resnet20", method="momos_s4_c0_5")


def supported_m11(base):
    return supported_m10(base)


@pytest.mark.parametrize(
    ("name", "build"), [("M2", supported_m2), ("M10", supported_m10), ("M11", supported_m11)]
)
def test_claims_that_the_paper_misses_by_one_cell_hold_without_it(base, name, build):
    assert row(name, build(base)).verdict == SUPPORTED


@pytest.mark.parametrize("name", ["M3", "M4", "M9", "M13", "M14", "M15"])
def test_claims_that_the_base_was_built_to_support(base, name):
    assert row(name, base).verdict == SUPPORTED


def test_m12_is_supported_where_every_cell_follows(base):
    agreeing = dataclasses.replace(base, published=base.published.assign(agrees=True))
    assert row("M12", agreeing).verdict == SUPPORTED


ACCURACY = "test_accuracy_last"
REFUTED = {
    "M2": lambda base: change(
        supported_m2(base), "bdm_1d_ratio", 1.0, method="momos_s2_c5", model="mlp"
    ),
    "M3": lambda base: dataclasses.replace(
        base, distortion=distortion(base.evaluation, first=0.02, last=0.3)
    ),
    "M4": lambda base: dataclasses.replace(base, distortion=distortion(base.evaluation, last=0.05)),
    "M5": lambda base: change(base, ACCURACY, ADD["lower"](1), model="mlp", method="momos_s2_c10"),
    "M6": lambda base: change(base, ACCURACY, ADD["higher"](13), model="mlp", method="qat4"),
    "M7": lambda base: change(
        base, ACCURACY, ADD["lower"](0.59), model="tiny_vit", method="momos_s2_c0_5"
    ),
    "M8": lambda base: change(
        base, ACCURACY, ADD["lower"](0.07), model="resnet20", method="momos_s2_c0_5"
    ),
    "M9": lambda base: dataclasses.replace(
        base, evaluation=pd.concat([evaluation(), ablation({2: 3.0, 4: 2.0, 8: 9.0})])
    ),
    "M10": lambda base: change(
        supported_m10(base), "bdm_1d_ratio", 0.999, model="mlp", method="momos_s2_c0_5"
    ),
    "M11": lambda base: change(
        supported_m11(base), "bdm_1d_ratio", 0.94, model="mlp", method="momos_s4_c10"
    ),
    "M13": lambda base: change(base, "lower_complexity", 0.0, model="mlp", method="momos_s2_c10"),
    "M15": lambda base: change(base, "lzma", 1.1, model="mlp", method="momos_s2_c10"),
    "M16": lambda base: change(base, ACCURACY, ADD["higher"](2), model="mlp", method="momos_s2_c1"),
    "M17": lambda base: change(base, ACCURACY, ADD["higher"](3.5), model="mlp", method="qat4"),
}


@pytest.mark.parametrize("name", REFUTED)
def test_one_cell_beyond_the_threshold_refutes(base, name):
    assert row(name, REFUTED[name](base)).verdict == NOT_SUPPORTED


def test_m3_takes_the_correlation_of_runs_that_have_their_distortion(base):
    """Imported runs may have relative distortion alone; a pipeline's own may not."""
    rows = base.distortion.copy()
    rows.loc[rows.seed != 0, ["distortion", "imported"]] = [np.nan, "gpu"]
    found, whole = (
        row("M3", dataclasses.replace(base, distortion=frame)) for frame in (rows, base.distortion)
    )
    assert found.verdict == SUPPORTED and found.measured == whole.measured
    own, others = map(int, re.search(r"over (\d+) runs: (\d+) imported ones", found.note).groups())
    assert f"fell in {own + others} of {own + others} runs" in found.measured
    assert others == 2 * len(
        rows[(rows.family == "momos") & (rows.grid == "main")].drop_duplicates(["model", "method"])
    )
    everything = rows.assign(distortion=np.nan, imported="gpu")
    assert row("M3", dataclasses.replace(base, distortion=everything)).verdict == NOT_RUN
    assert (
        row("M3", dataclasses.replace(base, distortion=rows.assign(imported=""))).verdict == NOT_RUN
    )


def test_m3_needs_distortion_and_loss_to_fall_together(base):
    falling = base.distortion.assign(val_loss=3 - base.distortion.val_loss)
    found = row("M3", dataclasses.replace(base, distortion=falling))
    assert found.verdict == NOT_SUPPORTED and "median correlation -1.000" in found.measured


def test_m14_counts_counterexamples(base, monkeypatch):
    monkeypatch.setattr(claims.theory, "check", lambda **grid: [("Cor. 3.9", "n=3, k=2", 1, 4)])
    assert row("M14", base).verdict == NOT_SUPPORTED


MISSING = {
    "M2": lambda base: drop(base, model="mlp", method="momos_s4_c5"),
    "M3": lambda base: dataclasses.replace(
        base, distortion=base.distortion[base.distortion.epoch == 1]
    ),
    "M4": lambda base: dataclasses.replace(
        base, distortion=base.distortion[base.distortion.model != "mlp"]
    ),
    "M5": lambda base: drop(base, model="tiny_vit"),
    "M6": lambda base: drop(base, model="resnet20"),
    "M7": lambda base: drop(base, model="tiny_vit"),
    "M8": lambda base: drop(base, model="resnet20"),
    "M9": lambda base: drop(base, grid="ablation"),
    "M10": lambda base: drop(base, model="mlp"),
    "M11": lambda base: drop(base, model="resnet20", method="momos_s2_c1"),
    "M13": lambda base: drop(base, model="mlp", method="momos_s4_c5"),
    "M15": lambda base: dataclasses.replace(base, evaluation=base.evaluation.drop(columns="zstd")),
    "M17": lambda base: drop(base, method="qat4"),
}


@pytest.mark.parametrize("name", MISSING)
def test_missing_runs_are_not_judged(base, name):
    found = row(name, MISSING[name](base))
    assert found.verdict == NOT_RUN and found.note


HOLES = {
    "M2": ("bdm_1d_ratio", {"model": "mlp", "method": "qat4", "seed": 1}),
    "M5": (ACCURACY, {"model": "mlp", "method": "momos_s2_c10", "seed": 1}),
    "M6": (ACCURACY, {"model": "mlp", "method": "qat16", "seed": 2}),
    "M7": (ACCURACY, {"model": "tiny_vit", "method": "baseline", "seed": 0}),
    "M8": (ACCURACY, {"model": "resnet20", "method": "qat16", "seed": 0}),
    "M9": (ACCURACY, {"grid": "ablation", "method": "s8_c0.1"}),
    "M10": ("bdm_1d_ratio", {"model": "mlp", "method": "momos_s4_c1", "seed": 0}),
    "M11": ("bdm_1d_ratio", {"model": "mlp", "method": "momos_s4_c1", "seed": 0}),
    "M13": ("lower_complexity", {"model": "mlp", "method": "momos_s4_c1", "seed": 0}),
    "M15": ("gzip", {"model": "mlp", "method": "baseline", "seed": 0}),
    "M17": (ACCURACY, {"model": "mlp", "method": "qat4", "seed": 0}),
}


@pytest.mark.parametrize("name", HOLES)
def test_one_missing_value_is_never_a_guess(base, name):
    column, where = HOLES[name]
    assert row(name, change(base, column, np.nan, **where)).verdict == NOT_RUN


@pytest.mark.parametrize("column", ["relative_distortion", "val_loss"])
def test_m3_with_a_missing_epoch_value_is_not_run(base, column):
    rows = base.distortion.copy()
    rows.loc[rows.index[7], column] = np.nan
    assert row("M3", dataclasses.replace(base, distortion=rows)).verdict == NOT_RUN


def test_m1_reports_the_share_of_other_pairs_without_a_verdict(base):
    found = row("M1", base)
    low, high = scipy.stats.binomtest(9, 10).proportion_ci(method="exact")
    assert found.verdict == NOT_RUN
    assert found.measured == f"9 of 10 = 0.900, 95 % interval {low:.3f} to {high:.3f}"


@pytest.mark.parametrize(("below", "verdict"), [(180, SUPPORTED), (179, NOT_SUPPORTED)])
def test_m1_is_judged_on_200_zoo_models(base, below, verdict):
    zoo = survey([0.9] * below + [1.0] * (200 - below), source="timm")
    assert row("M1", dataclasses.replace(base, survey=zoo)).verdict == verdict


def test_m10_with_a_constant_ratio_is_not_supported(base):
    """Ratios that saturate at one value were measured: they do not fall."""
    constant = change(base, "bdm_1d_ratio", 0.98, model=("mlp", "resnet20"))
    assert row("M10", constant).verdict == NOT_SUPPORTED


def test_m16_needs_every_cell_unless_one_refutes(base):
    found = row("M16", base)
    assert found.verdict == NOT_RUN and "36 of 36" in found.measured and "12 of 48" in found.note
    four = (*MODELS, "mobilevit")
    whole = dataclasses.replace(base, evaluation=evaluation(models=four))
    assert row("M16", whole).verdict == SUPPORTED


def test_m16_allows_two_combined_standard_errors(base):
    """resnet20 s=4 C=1 %: published 48.74 +- 24.34 of 3 seeds, here +- 1 of 3: 2 sqrt(24.34^2/3 +
    1/3) = 28.13 points.
    """
    cell = {"model": "resnet20", "method": "momos_s4_c1"}
    for points, verdict in ((28.0, SUPPORTED), (28.2, NOT_SUPPORTED)):
        cells = compare_accuracy(
            change(base, ACCURACY, ADD["lower"](points), **cell), reproduction_claim(CLAIMS)
        )
        chosen = cells[(cells.model == "resnet20") & (cells.label == "MoMos s=4, C=1 %")].iloc[0]
        assert (chosen.verdict, chosen.difference) == (verdict, pytest.approx(-points))


def test_other_data_or_budget_is_not_comparable(base):
    other = dataclasses.replace(
        base, source="images", departures=("data.source is 'images', not 'cifar10'",)
    )
    assert "data.source is 'images'" in row("M16", other).note
    assert row("M16", other).verdict == NOT_COMPARABLE
    assert (
        row("M5", other).verdict == SUPPORTED
    )  # a relation between methods holds or not on any data
    assert "not the paper's data, recipe or budget" in row("M5", other).note
    assert set(compare_accuracy(other, reproduction_claim(CLAIMS)).verdict) == {
        NOT_COMPARABLE,
        NOT_RUN,
    }


def test_a_method_that_states_its_motifs_joins_no_claim_about_capacity(base):
    extra = base.evaluation[
        (base.evaluation.method == "momos_s4_c1") & (base.evaluation.grid == "main")
    ]
    extra = extra.assign(method="fixed", capacity=np.nan, label="MoMos s=4, k=7", bdm_1d_ratio=9.0)
    more = dataclasses.replace(
        base, evaluation=pd.concat([base.evaluation, extra], ignore_index=True)
    )
    for name in ("M10", "M11"):
        assert row(name, more) == row(name, base)


def test_an_ablation_run_that_repeats_the_grid_counts_once(base):
    run = base.distortion[base.distortion.grid == "main"].iloc[:1]
    repeated = base.distortion[
        (base.distortion.model == run.model[0]) & (base.distortion.method == run.method[0])
    ].assign(grid="ablation", method="again")
    repeated = repeated.assign(relative_distortion=repeated.relative_distortion * 100)
    more = dataclasses.replace(
        base, distortion=pd.concat([base.distortion, repeated], ignore_index=True)
    )
    for name in ("M3", "M4"):
        assert row(name, more) == row(name, base)


def test_what_goes_beyond_the_paper_counts_and_is_named(base):
    """QAT at 2 bits, as accurate as the baseline, compresses 16 times: M6 fails by it, and by
    nothing of the paper's.
    """
    two = base.evaluation[(base.evaluation.model == "mlp") & (base.evaluation.method == "qat16")]
    two = described(two.assign(method="qat2", bits=2, rac=16.0))
    found = row(
        "M6",
        dataclasses.replace(base, evaluation=pd.concat([base.evaluation, two], ignore_index=True)),
    )
    assert (
        found.verdict == NOT_SUPPORTED
        and "On the paper's own configurations alone: SUPPORTED" in found.note
    )


def test_m17_notes_what_2_bits_show(base):
    two = base.evaluation[base.evaluation.method == "qat4"]
    two = described(
        two.assign(method="qat2", bits=2, test_accuracy_last=two.test_accuracy_last - 0.1)
    )
    found = row(
        "M17",
        dataclasses.replace(base, evaluation=pd.concat([base.evaluation, two], ignore_index=True)),
    )
    assert (
        "At 2 bits: mlp +23.45 points; resnet20 +68.61 points; tiny_vit +43.00 points."
        in found.note
    )
    assert found.measured == "mlp +13.45 points; resnet20 +58.61 points; tiny_vit +33.00 points"


def test_both_methods_together_are_no_momos_cell(base):
    both = base.evaluation[
        (base.evaluation.model == "mlp") & (base.evaluation.method == "momos_s2_c10")
    ]
    both = described(both.assign(method="both", bits=8, lower_complexity=0.0))
    found = row(
        "M13",
        dataclasses.replace(base, evaluation=pd.concat([base.evaluation, both], ignore_index=True)),
    )
    assert found.verdict == SUPPORTED and found.measured == "24 of 24"


def test_every_claim_of_the_file_gets_its_row_unchanged(base):
    table = claims.judge(CLAIMS, base)
    assert list(table.columns) == [
        "id",
        "where",
        "claim",
        "statistic",
        "threshold",
        "verdict",
        "measured",
        "note",
        "decided",
        "interval",
        "also",
        "part",
        "part_decided",
    ]
    assert list(table.id) == [claim.id for claim in CLAIMS]
    assert PUBLISHED <= set(table.id), "one may be added, none may go"
    for column in ("where", "claim", "statistic", "threshold"):
        assert list(table[column]) == [getattr(claim, column) for claim in CLAIMS]
    assert set(table.verdict[table.id.str.startswith("S")]) == {NOT_RUN}
    apart = verdicts.counts_apart(table)
    assert apart == {"by construction": 3, "audit": 1}
    assert sum(verdicts.counts(table).values()) + sum(apart.values()) == len(CLAIMS)


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (lambda known: known[1:], r"not in the file: \['M1'\]"),
        (
            lambda known: [*known, dataclasses.replace(known[0], id="M99")],
            r"no function: \['M99'\]",
        ),
    ],
)
def test_claims_and_functions_must_be_the_same(base, edit, words):
    with pytest.raises(ValueError, match=words):
        claims.judge(edit(CLAIMS), base)


def always(claim):
    """The claim with a threshold that everything meets."""
    return with_conditions(claim, ">=")


def never(claim):
    """The claim with a threshold that nothing meets."""
    return with_conditions(claim, "<")


def with_conditions(claim, operator):
    changed = [
        dataclasses.replace(condition, operator=operator, value=-np.inf, factor=1)
        for condition in claim.conditions
    ]
    return dataclasses.replace(claim, conditions=tuple(changed), one_is_enough=False)


@pytest.mark.parametrize("name", claims.JUDGES.functions)
def test_the_threshold_of_the_file_decides(base, name):
    four = pd.concat([evaluation(models=(*MODELS, "mobilevit")), ablation({2: 1, 4: 3, 8: 9})])
    whole = {
        "M1": dataclasses.replace(base, survey=survey([0.9] * 200, source="timm")),
        "M16": dataclasses.replace(base, evaluation=four),
    }.get(name, base)
    assert claims.judge_claim(always(BY_ID[name]), whole).verdict == SUPPORTED
    assert claims.judge_claim(never(BY_ID[name]), whole).verdict == NOT_SUPPORTED


def spread(evidence, column, *, sigma, seed=0, **where):
    """Noise of this standard deviation on a column of the main grid's runs, or of those chosen."""
    generator, where = np.random.default_rng(seed), {"grid": "main"} | where
    return change(
        evidence, column, lambda old: old + generator.normal(size=len(old)) * sigma, **where
    )


def more_seeds(evidence, model, seeds):
    """The first seed's runs of a model again, under other seeds."""
    rows = evidence.evaluation
    first = rows[(rows.model == model) & (rows.seed == 0) & (rows.grid == "main")]
    parts = [rows, *(first.assign(seed=seed) for seed in seeds)]
    return dataclasses.replace(evidence, evaluation=pd.concat(parts, ignore_index=True))


def test_seeds_that_all_methods_share_do_not_hide_a_difference(base):
    """The base's seeds lie a point apart, the methods of a seed by the published difference: paired
    they have no spread, which decides nothing; with a little noise of their own they decide.
    """
    assert row("M5", base).decided == "no" and "without spread" in row("M5", base).interval
    noisy = spread(base, ACCURACY, sigma=0.0005)
    found = row("M5", noisy)
    assert (found.verdict, found.decided) == (SUPPORTED, "yes")
    apart = noisy.evaluation.copy()
    chosen = apart.method == "momos_s2_c10"
    apart.loc[chosen, "seed"] = (apart.seed[chosen] + 1) % 3  # other pairs of the same runs
    assert row("M5", dataclasses.replace(noisy, evaluation=apart)).decided == "no"


def test_models_may_have_other_numbers_of_seeds(base):
    evidence = more_seeds(spread(base, ACCURACY, sigma=0.0005), "mlp", [3, 4])
    evidence = spread(evidence, ACCURACY, sigma=0.0003, seed=1, model="mlp")
    for name in ("M5", "M17"):
        found = row(name, evidence)
        assert "mlp" in found.interval and "(n=5)" in found.interval and "(n=3)" in found.interval
        assert found.decided == "yes"
    assert "11 of 11" in row("M13", evidence).interval, "five, three and three initialisations"
    first = row("M11", evidence).interval  # of eight parts four are shown, the open ones first
    assert first.count("(n=5)") == 4 and "of 8 parts: 0 met" in first
    quiet = row("M11", spread(evidence, "bdm_1d_ratio", sigma=1e-4, model="mlp")).interval
    assert quiet.count("(n=3)") == 4 and "of 8 parts: 4 met" in quiet
    for name in ("M2", "M6", "M8", "M10", "M15"):
        assert row(name, evidence).verdict in (SUPPORTED, NOT_SUPPORTED)


@pytest.mark.parametrize("name", [f"M{number}" for number in (2, 4, 5, 6, 7, 8, 9, 10, 11, 17)])
def test_one_seed_decides_no_verdict_of_means(base, name):
    rows = base.evaluation[base.evaluation.seed == 0]
    epochs = base.distortion[base.distortion.seed == 0]
    found = row(name, dataclasses.replace(base, evaluation=rows, distortion=epochs))
    assert found.verdict in (SUPPORTED, NOT_SUPPORTED) and found.decided == "no"
    above = change(base, "bdm_1d_z", 10.0, model="resnet20", method="qat8", seed=0)
    refuted_by_counting = name == "M2"  # one initialisation, beyond chance, against "every one"
    found = row(name, dataclasses.replace(above, evaluation=above.evaluation.query("seed == 0")))
    assert found.decided == ("yes" if refuted_by_counting else "no")


def test_an_initialisation_counts_against_m2_where_a_run_lies_above_chance(base):
    """35 of 36 published cells lie below 1, the other one at 1.00: a ratio that chance gives."""
    found = row("M2", base)
    assert (found.verdict, found.decided) == (NOT_SUPPORTED, "no") and "9 of 9" in found.interval
    cell = {"model": "resnet20", "method": "qat8"}
    rare = 0.05 / len(base.main_rows)  # less than 0.001 each: all together stay below 5 %
    bound = scipy.stats.t.isf(rare, 19) * np.sqrt(1 + 1 / 20)
    assert f"z <= {bound:.2f}, p < {rare:.2g}" in found.interval
    for z, decided in ((bound - 0.01, "no"), (bound + 0.01, "yes")):
        assert row("M2", change(base, "bdm_1d_z", z, **cell, seed=0)).decided == decided
    found = row("M2", change(base, "bdm_1d_z", 10.0, **cell))
    low, high = scipy.stats.binomtest(6, 9).proportion_ci(method="exact")
    assert f"6 of 9, {100 * low:.1f} to {100 * high:.1f} %" in found.interval
    assert (found.verdict, found.decided) == (NOT_SUPPORTED, "yes")
    whole = row("M2", supported_m2(base))
    assert (whole.verdict, whole.decided) == (SUPPORTED, "no") and "9 of 9" in whole.interval


def test_an_initialisation_of_which_chance_is_not_known_is_no_case_of_m2(base):
    cell = {"model": "mlp", "method": "qat8"}
    found = row("M2", change(base, "bdm_1d_z", np.nan, **cell, seed=0))
    assert "8 of 8" in found.interval and found.decided == "no"
    above = change(base, "bdm_1d_z", 10.0, model="mlp", method="qat4", seed=0)
    found = row("M2", change(above, "bdm_1d_z", np.nan, **cell, seed=0))
    assert "8 of 9" in found.interval and found.decided == "yes"
    found = row("M2", change(base, "bdm_1d_z", np.nan, grid="main"))
    assert "(no z)" in found.interval and found.decided == "no"


def test_m11_is_decided_by_differences_of_ratios_seed_by_seed(base):
    """Blocks of 4 lie lower by 0.02 to 0.08 everywhere: seeds that shift both hide nothing."""
    shifts = np.random.default_rng(0).normal(size=3) * 0.05
    rows = supported_m11(base).evaluation.copy()
    rows["bdm_1d_ratio"] += rows.seed.map(dict(enumerate(shifts)))
    shifted = spread(dataclasses.replace(base, evaluation=rows), "bdm_1d_ratio", sigma=1e-4)
    found = row("M11", shifted)
    assert (found.verdict, found.decided) == (SUPPORTED, "yes")
    loud = row("M11", spread(shifted, "bdm_1d_ratio", sigma=0.05, seed=5))
    assert loud.decided == "no", "whichever way the means fall"
    away = change(shifted, "bdm_1d_ratio", lambda old: old + 1, model="mlp", method="momos_s4_c10")
    found = row("M11", away)
    assert (found.verdict, found.decided) == (NOT_SUPPORTED, "yes")
    assert found.interval.startswith(f"{100 * (1 - 0.05 / 8):.4g} % t: mlp C=10 % ")


def test_m2_says_what_chance_gives(base):
    """z is 1000 (ratio - 1); the bound of 20 initialisations is 3.67 (t at p < 0.001)."""
    evidence = change(base, "bdm_1d_z", -3.6, grid="main")
    evidence = change(evidence, "bdm_1d_z", -3.7, model="mlp")
    evidence = change(evidence, "bdm_1d_z", 3.7, model="tiny_vit", method="qat16", seed=2)
    also = row("M2", evidence).also
    assert "|z| > 3.67" in also and "Against 20 initialisations" in also
    assert "every configuration lies below in 3 of 9" in also
    assert "the baseline lies below in 3 of 9" in also
    assert "some configuration lies above in 1 of 9" in also
    without = row("M2", change(base, "bdm_1d_z", np.nan, grid="main"))
    assert without.also.startswith("No z") and without.verdict == NOT_SUPPORTED


def test_m6_is_decided_where_no_cell_near_the_margin_changes_the_order(base):
    """MLP, QAT at 4 bits 44 % against 58 %: only with it near would QAT compress more."""
    quiet = spread(base, ACCURACY, sigma=0.0002)
    found = row("M6", quiet)
    assert found.verdict == SUPPORTED
    assert "tiny_vit MoMos 8.40, QAT 4.00" in found.interval
    refuted = change(quiet, ACCURACY, lambda old: old + 0.14, model="mlp", method="qat4")
    found = row("M6", refuted)
    assert (found.verdict, found.decided) == (NOT_SUPPORTED, "yes")
    num_compared = sum(
        len(base.family_cells(model, family)) for model in MODELS for family in ("momos", "qat")
    )
    level = f"{100 * (1 - 0.05 / num_compared):.4g} % t"  # each of 33 cells may be called near
    assert num_compared == 33 and "QAT 8.00" in found.interval
    assert found.interval.startswith(level)
    loud = spread(refuted, ACCURACY, sigma=0.02, seed=3, model="mlp", method="qat4")
    assert row("M6", loud).decided == "no"


def collapsed(base, points):
    """The last weights of ResNet20's smallest capacity fall by so many points."""
    cell = {"model": "resnet20", "method": "momos_s2_c0_5"}
    return change(base, ACCURACY, ADD["lower"](points), **cell)


def test_the_collapse_of_last_weights_is_named_where_it_decides(base):
    found = row("M8", collapsed(base, 5))
    assert found.verdict == NOT_SUPPORTED
    assert "With the best weights: SUPPORTED" in found.also
    assert "collapse of the last weights after a late redraw" in found.also
    assert "up to 5.5 points below the best ones (ResNet20, MoMos s=2, C=0.5 %)" in found.also
    small = row("M8", collapsed(base, 0.2)).also
    assert "collapse" not in small and "choice of weights decides" in small
    assert "decides this verdict" not in row("M8", base).also


@pytest.mark.parametrize("name", ["M5", "M6", "M7", "M8", "M9", "M17"])
def test_claims_about_accuracy_have_both_weights(base, name):
    best = base.evaluation.assign(test_accuracy_best=base.evaluation.test_accuracy_last)
    found = row(name, dataclasses.replace(base, evaluation=best))
    assert f"With the best weights: {found.verdict}" in found.also and found.measured in found.also


def test_stale_statistics_stand_beside_a_verdict_and_change_none(base):
    """ResNet20's motifs lose 5 points with the statistics as trained, and none without them."""
    frame = collapsed(base, 5).evaluation
    again = base.evaluation.test_accuracy_last.where(frame.model == "resnet20")
    frame = frame.assign(test_accuracy_last_remeasured=again)
    found = row("M8", dataclasses.replace(base, evaluation=frame))
    plain = row("M8", collapsed(base, 5))
    assert (found.verdict, found.measured) == (NOT_SUPPORTED, plain.measured)
    text = "BatchNorm's statistics measured again with them: SUPPORTED"
    assert text in found.also and row("M8", base).measured in found.also
    for without in (frame.assign(test_accuracy_last_remeasured=np.nan), base.evaluation):
        assert "measured again" not in row("M8", dataclasses.replace(base, evaluation=without)).also


def test_m9_is_about_test_accuracy_and_has_a_statistic_without_a_floor(base):
    """Blocks of 8 that are bad at every capacity lose nothing: the second statistic sees it."""
    drops = {2: 1.0, 4: 3.0, 8: 0.0}
    rows = ablation(drops)
    rows["test_accuracy_last"] -= rows.block_size.map({2: 0.0, 4: 0.05, 8: 0.5})
    found = row(
        "M9",
        dataclasses.replace(base, evaluation=pd.concat([evaluation(), rows], ignore_index=True)),
    )
    assert found.verdict == NOT_SUPPORTED and "Test accuracy" in found.note
    assert "Without a floor" in found.also and "(< -0.8): SUPPORTED" in found.also
    assert "mlp C=0.5 % -1.000" in found.also and "mlp C=10 % -1.000" in found.also


def test_m9_needs_seeds_to_be_decided(base):
    """Spearman 1, 1, 0.5 by seed: mean 0.83, and an interval from 0.1."""
    parts = [ablation({2: 1.0, 4: 3.0, 8: 9.0}).assign(seed=seed) for seed in (0, 1)]
    parts.append(ablation({2: 3.0, 4: 1.0, 8: 9.0}).assign(seed=2))
    rows = pd.concat([evaluation(), *parts], ignore_index=True)
    found = row("M9", dataclasses.replace(base, evaluation=rows))
    half = scipy.stats.t.ppf(0.975, 2) * np.std([1, 1, 0.5], ddof=1) / np.sqrt(3)
    mean = 2.5 / 3
    assert f"mlp {mean - half:.4g} to {mean + half:.4g} (n=3)" in found.interval
    assert found.decided == "no" and "seed 0, 1, 2" in found.note


@pytest.mark.parametrize("name", ["M3", "M4"])
def test_distortion_is_said_to_follow_the_learning_rate(base, name):
    """The base's distortion falls in every epoch, as the learning rate does."""
    also = row(name, base).also
    assert "learning rate over epochs, median of runs 1.000" in also
    assert "can't be told apart" in also, "a correlation names no cause"
    up = dataclasses.replace(base, distortion=distortion(base.evaluation, first=0.01, last=0.04))
    assert "median of runs -1.000" in row(name, up).also


def test_m3_and_m4_are_decided_by_configuration(base):
    generator = np.random.default_rng(0)
    noisy = base.distortion.copy()
    grid = noisy.grid == "main"
    noisy["relative_distortion"] *= 1 + 0.01 * generator.normal(size=len(noisy))
    main = dataclasses.replace(base, distortion=noisy[grid])
    assert row("M3", main).verdict == SUPPORTED and row("M4", main).decided == "yes"
    far = noisy[grid].copy()
    far.loc[far.method == "momos_s4_c1", "relative_distortion"] *= 10
    found = row("M4", dataclasses.replace(base, distortion=far))
    assert (found.verdict, found.decided) == (NOT_SUPPORTED, "yes")
    assert "s=4, C=1 %" in found.interval and "3 failed" in found.interval


def test_m4_says_of_what_its_interval_is(base):
    """The verdict is on medians, and a t interval is of a mean: 0.01, 0.01 and 0.07 differ."""
    epochs = base.distortion.copy()
    chosen = (epochs.method == "momos_s2_c10") & (epochs.model == "mlp")
    epochs.loc[chosen, "relative_distortion"] = epochs.seed[chosen].map({0: 0.01, 1: 0.01, 2: 0.07})
    found = row("M4", dataclasses.replace(base, distortion=epochs))
    assert found.verdict == SUPPORTED and found.decided == "no"
    assert "the verdict is on medians over seeds, the interval is that of their mean" in found.note
    assert "the interval is that of the mean over initialisations" in row("M3", base).note


def test_what_holds_by_construction_is_marked_even_where_it_fails(base):
    marked = {name: row(name, base).decided for name in ("M12", "M13", "M14", "M15")}
    assert marked == {"M12": "audit"} | dict.fromkeys(("M13", "M14", "M15"), "by construction")
    broken = row("M15", REFUTED["M15"](base))
    assert (broken.verdict, broken.decided) == (NOT_SUPPORTED, "by construction")
    assert "6 of 9" in broken.interval
    assert all(BY_ID[name].also[0].reason for name in marked)


def test_m16_is_decided_by_intervals_over_seeds(base):
    four = evaluation(models=(*MODELS, "mobilevit"))
    whole = dataclasses.replace(base, evaluation=four)
    found = row("M16", whole)
    assert found.verdict == SUPPORTED and found.decided == "no", "three seeds, a point apart"
    quiet = four.assign(
        test_accuracy_last=four.groupby(["model", "method"]).test_accuracy_last.transform("mean")
        + (four.seed - 1) * 1e-4
    )
    assert row("M16", dataclasses.replace(whole, evaluation=quiet)).decided == "yes"
    away = quiet.copy()
    away.loc[(away.model == "mlp") & (away.method == "qat8"), ACCURACY] += 0.05
    found = row("M16", dataclasses.replace(whole, evaluation=away))
    assert (found.verdict, found.decided) == (NOT_SUPPORTED, "yes") and "1 failed" in found.interval


def test_m1_with_the_claims_models_is_decided_by_an_exact_interval(base):
    for below, decided in ((190, "yes"), (182, "no"), (165, "yes"), (176, "no")):
        zoo = survey([0.9] * below + [1.0] * (200 - below), source="timm")
        found = row("M1", dataclasses.replace(base, survey=zoo))
        low, high = scipy.stats.binomtest(below, 200).proportion_ci(method="exact")
        assert found.decided == decided == ("yes" if low >= 0.9 or high < 0.9 else "no")
        assert found.verdict == (SUPPORTED if below >= 180 else NOT_SUPPORTED)
