"""Which measure predicts how far independent networks can be quantised, over all and within."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from momos.report.slt import study


def networks(number=12):
    generator = np.random.default_rng(0)
    model = np.repeat(["a", "b"], number // 2)
    n_q = generator.permutation(number) + 100.0 * (model == "b")
    return pd.DataFrame({
        "model": model,
        "n_q": n_q,
        "planes_ratio": 1 - n_q / 1000,
        "bdm_1d_z": generator.normal(size=number) + 5 * (model == "b"),
        "zstd": generator.normal(size=number),
        "rac": 1.0,
    })  # fmt: skip


def test_correlations_over_networks_and_within_their_models_are_scipys():
    frame = networks()
    found = study._independent_quantisability(frame, "n_q").set_index("measure")
    assert found.index[0] == "planes_ratio" and set(found.index) == {
        "planes_ratio", "bdm_1d_z", "zstd",
    }, "rac is the same for all"  # fmt: skip
    assert (found.num_runs == 12).all()
    inside = frame.assign(model=0) - frame.groupby("model").transform("mean").assign(model=0)
    for name in found.index:
        for data, column in ((frame, "spearman"), (inside, "spearman_within")):
            expected = stats.spearmanr(data[name], data.n_q).statistic
            assert found.loc[name, column] == pytest.approx(expected)
        low, value, high = (found.loc[name, part] for part in ("low", "spearman", "high"))
        assert low <= value <= high
    assert found.spearman["bdm_1d_z"] > 0.5 > abs(found.spearman_within["bdm_1d_z"])


def test_networks_beyond_the_grid_take_no_part_and_few_have_no_interval():
    frame = networks()
    frame.loc[:4, "n_q"] = np.nan
    found = study._independent_quantisability(frame, "n_q")
    assert (found.num_runs == 7).all() and found.low.isna().all()
    assert found.spearman.notna().all()
