"""BDM ratios of rows with and without the initialisations that they are compared with."""

import numpy as np
import pandas as pd
import pytest

from momos.report.shared.results import FRESH, against_shared_initializations, with_own_ratio


def imported_rows(model: str, seeds: int) -> pd.DataFrame:
    """As an evaluation.csv of before: a ratio to the run's own initialisation alone."""
    rows = {"model": model, "seed": range(seeds)}
    rows |= {"bdm_1d": 980.0, "bdm_1d_ratio": 0.97, "bdm_2d": 450.0, "bdm_2d_ratio": 0.91}
    return with_own_ratio(pd.DataFrame(rows))


def own_rows(model: str, seeds: int) -> pd.DataFrame:
    fresh = {"num_initializations": 20, "bdm_1d_ratio_own": 0.96, "bdm_2d_ratio_own": 0.92}
    fresh |= {"bdm_1d_fresh_mean": 1000.0, "bdm_1d_fresh_std": 5.0, "bdm_1d_z": -7.0}
    fresh |= {"bdm_2d_fresh_mean": 500.0, "bdm_2d_fresh_std": 0.0, "bdm_2d_z": np.nan}
    rows = imported_rows(model, seeds).assign(**fresh)
    return rows.assign(bdm_1d_ratio=0.965, bdm_2d_ratio=0.93)


def test_rows_without_initialisations_keep_the_ratio_to_their_own():
    rows = against_shared_initializations(imported_rows("mlp", 2))
    assert list(rows.bdm_1d_ratio) == list(rows.bdm_1d_ratio_own) == [0.97, 0.97]
    assert list(rows.bdm_2d_ratio_own) == [0.91, 0.91]
    others = [name for name in FRESH if not name.endswith("ratio_own")]
    assert rows[others].isna().all(axis=None)


def test_imported_rows_take_the_initialisations_of_the_models_own_runs():
    """Cells are means over both: their ratios must be to the same number."""
    parts = [own_rows("mlp", 2), imported_rows("mlp", 1), imported_rows("vit", 1)]
    rows = against_shared_initializations(pd.concat(parts, ignore_index=True))
    own, mlp, vit = rows[:2], rows.loc[2], rows.loc[3]
    assert list(own.bdm_1d_ratio) == [0.965, 0.965] and list(own.bdm_1d_z) == [-7, -7]
    assert (mlp.bdm_1d_ratio, mlp.bdm_1d_ratio_own) == (pytest.approx(0.98), 0.97)
    assert mlp.bdm_1d_z == pytest.approx((980 - 1000) / 5) and mlp.num_initializations == 20
    assert mlp.bdm_2d_ratio == pytest.approx(0.9) and np.isnan(mlp.bdm_2d_z)
    assert vit.bdm_1d_ratio == 0.97 and np.isnan(vit.bdm_1d_z)
