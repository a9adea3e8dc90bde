import numpy as np
import pandas as pd
import pytest
from scipy import stats
from synthetic import survey

from momos.report.momos import survey as survey_statistics
from momos.report.shared import results
from momos.report.shared.statistics import clopper_pearson


def zoo(num_models: int = 40) -> pd.DataFrame:
    """timm's models of two families, of 10^5 to 10^8 weights; the larger, the more complex."""
    place = np.arange(num_models)
    frame = survey(0.8 + 0.3 * place / num_models, source="timm")
    families, tags = (
        np.where(place % 2, "resnet", "convnext"),
        np.where(place % 4 < 2, "a1_in1k", "augreg_in21k_ft_in1k"),
    )
    return frame.assign(
        family=families, tags=tags, num_weights=10 ** (5 + 3.2 * place / num_models)
    )


def row(frame: pd.DataFrame, by: str, group: str, source: str = "timm") -> pd.Series:
    (found,) = [
        found
        for _, found in frame.iterrows()
        if (found.source, found.by, found.group) == (source, by, group)
    ]
    return found


def test_groups_hold_medians_shares_and_counts():
    models = zoo()
    found = survey_statistics.group_statistics(models, seed=0)
    for by, group, part in (
        ("all", "all", models),
        ("family", "resnet", models[models.family == "resnet"]),
        ("size", "1 M to 5 M", models[models.num_weights.between(1e6, 5e6)]),
        ("recipe", "augreg", models[models.tags == "augreg_in21k_ft_in1k"]),
        ("data", "in21k, in1k", models[models.tags == "augreg_in21k_ft_in1k"]),
    ):
        numbers = row(found, by, group)
        assert numbers.num_models == len(part)
        assert numbers.ratio_1d == pytest.approx(part.bdm_1d_ratio.median())
        assert numbers.share_below == pytest.approx((part.bdm_1d_ratio < 1).mean())
        assert numbers.shuffled_1d == pytest.approx((part.bdm_1d / 0.99).median())
    assert found.groupby("by").num_models.sum().eq(len(models)).all(), (
        "each model is in one group of each kind"
    )


def test_the_share_has_an_exact_interval():
    """180 of 200: 0.850 to 0.938, as by R's binom.test."""
    found = row(
        survey_statistics.group_statistics(survey([0.9] * 180 + [1.1] * 20, source="timm"), seed=0),
        "all",
        "all",
    )
    assert (found.share_below_low, found.share_below_high) == pytest.approx(
        (0.8497872, 0.9378406), abs=1e-7
    )


def own_runs(methods: dict[str, list[float]], *, models: int = 2) -> pd.DataFrame:
    """Runs of this pipeline: a ratio a seed for each method (its group), alike for all models."""
    parts = [
        survey(ratios).assign(group=group, family=f"net{model}", title=f"Net{model}")
        for model in range(models)
        for group, ratios in methods.items()
    ]
    return pd.concat(parts, ignore_index=True)


def test_methods_trained_from_one_initialisation_are_one_pair():
    """Thirteen methods, two models, three seeds: 78 runs, and six initialisations."""
    methods = {f"m{number}": [0.90, 0.95, 1.20] for number in range(12)}
    runs = own_runs({"Baseline": [1.01, 0.99, 0.99], **methods})
    found = survey_statistics.group_statistics(runs, seed=0)
    whole, one = (
        row(found, "all", "all", results.OWN_SOURCE),
        row(found, "method", "m3", results.OWN_SOURCE),
    )
    assert (len(runs), whole.num_models, one.num_models) == (78, 6, 6)
    for numbers in (whole, one):  # the means: seeds 0 and 1 below 1, seed 2 above
        assert numbers.share_below == pytest.approx(4 / 6)
        exact = stats.binomtest(4, 6).proportion_ci(method="exact")
        ends = (numbers.share_below_low, numbers.share_below_high)
        assert ends == pytest.approx((exact.low, exact.high))
    mine = survey_statistics.initializations(runs[runs.family == "net0"])
    expected = [(1.01 + 12 * 0.9) / 13, (0.99 + 12 * 0.95) / 13, (0.99 + 12 * 1.2) / 13]
    assert list(mine.bdm_1d_ratio) == pytest.approx(expected)


def test_the_pairs_of_figure_2_are_baselines_and_models_from_elsewhere():
    runs = own_runs({"Baseline": [1.01, 0.99], "MoMos s=4": [0.5, 0.6]})
    elsewhere = survey([0.9, 0.8, 0.7], source="timm")
    pairs = survey_statistics.pairs(pd.concat([runs, elsewhere], ignore_index=True))
    assert list(pairs.bdm_1d_ratio) == pytest.approx([1.01, 0.99, 1.01, 0.99, 0.9, 0.8, 0.7])
    without = survey_statistics.pairs(runs[runs.group != "Baseline"])
    assert list(without.bdm_1d_ratio) == pytest.approx([0.5, 0.6] * 2)


def test_checkpoints_of_one_training_are_one_pair():
    """Six files: four of one training, one each of two others, of which one has another source."""
    zoo = survey([1.2, 0.9, 0.8, 0.7, 0.6, 1.1], source="hub").assign(
        series=["net", "net", "net", "net", None, ""], seed=np.nan
    )
    zoo.loc[5, "source"] = "timm"
    pairs = survey_statistics.pairs(zoo)
    assert list(pairs.bdm_1d_ratio) == pytest.approx([0.9, 0.6, 1.1])
    assert list(pairs.source) == ["hub", "hub", "timm"]
    found = row(survey_statistics.group_statistics(zoo, seed=0), "all", "all", "elsewhere")
    assert found.num_models == 2
    apart = zoo.assign(series=["net", "net", "other", "other", None, ""])
    assert list(survey_statistics.pairs(apart).bdm_1d_ratio) == pytest.approx(
        [1.05, 0.75, 0.6, 1.1]
    )
    assert len(survey_statistics.pairs(zoo[:0])) == 0


def test_an_initialisation_with_a_missing_value_has_no_mean():
    runs = own_runs({"a": [0.9, 0.9], "b": [float("nan"), 0.7]}, models=1)
    first, second = survey_statistics.initializations(runs).bdm_1d_ratio
    assert np.isnan(first) and second == pytest.approx(0.8)


def test_the_bootstrap_interval_is_scipys():
    values = np.random.default_rng(1).normal(size=60)
    low, high = survey_statistics.median_interval(values, 0)
    theirs = stats.bootstrap(
        (values,), np.median, method="percentile", n_resamples=20_000, random_state=5
    ).confidence_interval
    assert (low, high) == pytest.approx((theirs.low, theirs.high), abs=0.06) and low < np.median(
        values
    ) < high
    assert survey_statistics.median_interval(values, 0) == (low, high), "seeded"
    assert all(np.isnan(survey_statistics.median_interval(values[:1], 0)))


def test_own_runs_are_grouped_by_model_and_method_and_the_control_not_at_all():
    models = pd.concat(
        [survey([0.9, 1.1]), survey([1.0], source=results.CONTROL)], ignore_index=True
    )
    found = survey_statistics.group_statistics(models, seed=0)
    assert found[found.source == results.OWN_SOURCE].by.tolist() == ["all", "model", "method"]
    assert found[found.source == results.CONTROL].by.tolist() == ["all"]


def test_small_groups_are_pooled():
    models = zoo(7).assign(family=["a", "a", "a", "b", "b", "c", "c"])
    found = survey_statistics.group_statistics(models, seed=0)
    assert found[found.by == "family"].set_index("group").num_models.to_dict() == {
        "a": 3,
        "others": 4,
    }


@pytest.mark.parametrize(("tag", "recipe", "data"), [
    ("a1_in1k", "a1", "in1k"),
    ("augreg_in21k_ft_in1k", "augreg", "in21k, in1k"),
    ("in1k", "none named", "in1k"),
    ("gluon", "gluon", "none named"),
    ("", "none named", "none named"),
    (float("nan"), "none named", "none named"),
    ("clip_laion2b_ft_in12k_in1k", "clip", "laion2b, in12k, in1k"),
])  # fmt: skip
def test_tags_name_recipe_and_data(tag, recipe, data):
    assert (survey_statistics.recipe(tag), survey_statistics.training_data(tag)) == (recipe, data)


def test_agreement_is_spearmans_within_a_source():
    generator = np.random.default_rng(0)
    models = survey(generator.normal(1, 0.1, 30), source="timm")
    models = models.assign(
        bdm_2d_ratio=np.exp(models.bdm_1d_ratio),
        gzip=generator.normal(2, 0.1, 30),
        lzma=np.exp(-models.bdm_1d_ratio),
    )
    found = survey_statistics.agreement(
        pd.concat([models, survey([1.0, 2.0, 3.0])], ignore_index=True), seed=0
    )
    matrix = found[found.source == "timm"].set_index("measure")
    assert matrix.loc["BDM 1-D", "BDM 2-D"] == pytest.approx(1)
    assert matrix.loc["BDM 1-D", "lzma, weights"] == pytest.approx(1), (
        "compressed / raw: larger is more complex"
    )
    assert matrix.loc["BDM 1-D", "gzip, weights"] == pytest.approx(
        stats.spearmanr(models.bdm_1d_ratio, 1 / models.gzip).statistic
    )
    assert np.isnan(matrix.loc["BDM 1-D", "gzip, signs"]), "the same for every model: no order"
    row = matrix.loc["BDM 1-D"]
    assert row["gzip, weights_low"] < row["gzip, weights"] < row["gzip, weights_high"]
    assert np.isnan(found[found.source != "timm"]["BDM 2-D_low"]).all(), "too few for an interval"
    shown = survey_statistics.agreement_table(found).set_index("Measure")
    assert " to " in shown["gzip, weights"].iloc[0] and shown["BDM 1-D"].iloc[0] == "1.00"
    assert found.groupby("source", sort=False).num_models.first().to_dict() == {
        "timm": 30,
        results.OWN_SOURCE: 3,
    }


def test_tables_say_intervals_and_missing_values():
    shown = survey_statistics.group_table(
        survey_statistics.group_statistics(survey([0.9], source="timm"), seed=0)
    )
    assert shown["1-D ratio"][0] == "0.900"
    assert shown["Share below 1"][0] == "1.00 (0.03 to 1.00)", "0.025 to 1"
    agreement = survey_statistics.agreement_table(
        survey_statistics.agreement(survey([0.9, 0.8], source="timm"), seed=0)
    )
    assert set(agreement["BDM 2-D"]) == {"–"}


def test_other_peoples_networks_are_one_source_by_family_task_and_size():
    """Each file has an address of its own; checkpoints of one training are one model."""
    families = ["carn (super-resolution)", "vdsr (super-resolution)", "srcnn (super-resolution)"]
    frame = survey([0.9, 0.8, 0.95, 0.7, 1.1, 1.2]).assign(
        source=[f"github:someone/{number}" for number in range(6)],
        name=[f"n{number}" for number in range(6)],
        family=[*families, "lstm (text)", "mlp", "mlp"],
        tags=np.nan,
        series=["", "", "", "", "run", "run"],
        num_initial=20,
        bdm_1d_z=[-9.0, -3.5, -3.8, np.nan, 2.0, -8.0],
        planes_ratio=[0.5, 0.6, 0.7, 0.8, 0.9, 1.0],
    )
    found = survey_statistics.group_statistics(frame, seed=0)
    assert set(found.source) == {"elsewhere"} and set(found.by) == {"all", "family", "task", "size"}
    whole = row(found, "all", "all", "elsewhere")
    assert whole.num_models == 5 and whole.share_below == pytest.approx(4 / 5)
    bound = stats.t.isf(0.001, 19) * np.sqrt(1 + 1 / 20)
    assert 3.5 < bound < 3.8
    # -9 and -3.8; the series' mean is -3; one has no z
    assert (whole.num_below_chance, whole.num_with_z) == (2, 4)
    assert row(found, "task", "super-resolution", "elsewhere").num_models == 3
    text = survey_statistics.group_table(found)
    assert text["Below chance"][0] == "2 of 4"
    matrix = survey_statistics.agreement(frame, seed=0)
    assert set(matrix.num_models) == {5} and "bit planes" in set(matrix.measure)


# --- networks of other people


def other_people() -> pd.DataFrame:
    """Three networks with the survey's columns, two of them checkpoints of one training."""
    frame = survey([0.8, 0.9, 0.95], source="PyPI: net==1").assign(series=["", "s", "s"])
    numbers = {"bdm_1d": 80.0, "bdm_1d_initial": 100.0, "bdm_1d_shuffled": 97.0}
    numbers |= {"bdm_1d_permuted": 85.0, "planes_ratio": [0.5, 0.7, 1.1], "planes_z": -9.0}
    return frame.assign(**numbers, bdm_1d_z=[-20.0, -1.0, -2.0], num_initial=20)


UNREACHED = pd.DataFrame({
    "name": ["away", "broken"], "family": "f", "source": "PyPI: other==1",
    "error": ["NotFetched: other==1: No matching distribution", "ValueError: tensor w is empty"],
})  # fmt: skip


def test_a_named_task_comes_before_the_brackets_of_a_family():
    rows = survey([0.9, 0.8, 0.7, 0.6, 0.5, 0.4]).assign(
        source="hub",
        name=list("abcdef"),
        family="mlp (a library)",
        task=["agents", "agents", "agents", None, None, None],
    )
    found = survey_statistics.group_statistics(rows, seed=0)
    assert row(found, "task", "agents", "elsewhere").ratio_1d == pytest.approx(0.8)
    assert row(found, "task", "a library", "elsewhere").ratio_1d == pytest.approx(0.5)


def test_a_network_says_its_task_what_of_its_file_is_no_weight_and_how_it_was_stored():
    digest = "0123456789abcdef" * 4
    models = other_people().assign(
        task=["agents", None, None],
        family=["mlp", "mtcnn (faces)", "mlp"],
        num_buffers=[3.0, np.nan, 0.0],
        num_tied=[1.0, np.nan, 0.0],
        notes=["batch norm folded", None, f"transposed; sha256 of the file: {digest}"],
    )
    table = survey_statistics.network_table(survey_statistics.networks(models, UNREACHED[:0]))
    assert list(table.Task) == ["agents", "faces", "–"]
    assert list(table["Left out"]) == ["3 buffers, 1 tied copies", "–", "–"]
    last = "transposed; sha256 of the file: 01234567.."
    assert list(table.Notes) == ["batch norm folded", "–", last]


def test_what_a_ratio_below_1_is_made_of_adds_up():
    shares = survey_statistics.shares(other_people()).iloc[0]
    assert tuple(shares) == (3.0, 12.0, 5.0) and shares.sum() == 20.0


def test_networks_are_a_row_each_and_those_out_of_reach_are_not_run():
    models = survey_statistics.networks(
        pd.concat([survey([0.7]), other_people()], ignore_index=True), UNREACHED
    )
    table = survey_statistics.network_table(models).set_index("Network")
    assert list(table.index) == ["m0", "m1", "m2", "away", "broken"], "no own run"
    assert list(table.State) == ["measured"] * 3 + ["NOT RUN", "ValueError: tensor w is empty"]
    assert table.loc["m0", "Within rows"] == "12.00" and table.loc["away", "1-D ratio"] == "–"
    assert list(survey_statistics.not_fetched(UNREACHED).name) == ["away"]


def test_other_peoples_networks_are_counted_apart_from_own_ones_and_timms():
    rows = [survey([0.7, 1.2]), survey([0.5], source="timm"), other_people()]
    text = survey_statistics.elsewhere_text(pd.concat(rows, ignore_index=True))
    low, high = clopper_pearson(2, 2)
    assert f"2 of 2 below 1 (95 % interval {low:.3f} to {high:.3f}), 1 of 2 below chance" in text
    assert text.endswith("by bit planes 2 of 2 below 1."), "0.5, and 0.7 with 1.1"
    assert survey_statistics.elsewhere_text(survey([0.7])) == ""


def test_groups_have_medians_of_bit_planes_where_they_were_measured():
    rows = pd.concat([survey([0.7, 0.9]), other_people()], ignore_index=True)
    groups = survey_statistics.group_statistics(rows, seed=0).set_index(["source", "by"])
    assert groups.loc[("elsewhere", "all"), "ratio_planes"] == pytest.approx((0.5 + 0.9) / 2)
    table = survey_statistics.group_table(groups.reset_index())
    assert list(table["Planes ratio"])[0] == "–"
