"""The survey: one row per pair, one pair in memory."""

import gc
import warnings
import weakref

import numpy as np
import pytest
import torch

from momos.zoo import Pair, survey

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # pybdm imports pkg_resources
    import pybdm

BDM_COLUMNS = [f"bdm_{n}d{suffix}" for n in (1, 2) for suffix in ("", "_initial", "_ratio", "_normalized", "_shuffled")]


def pair(name: str, seed: int, shift: float = 0.0) -> Pair:
    generator = torch.Generator().manual_seed(seed)

    def draw() -> dict[str, torch.Tensor]:
        return {"conv": torch.randn(8, 4, 3, 3, generator=generator), "bias": torch.randn(9, generator=generator)}

    trained = {key: tensor + shift for key, tensor in draw().items()}
    return Pair(name=name, family="test", source=f"seed {seed}", trained=trained, initial=draw())


def test_rows_name_their_pair_and_hold_the_survey_columns():
    rows = survey([pair("a", 1), pair("b", 2)], seed=0)
    assert [set(row) for row in rows] == [{"name", "family", "source", "num_weights", *BDM_COLUMNS}] * 2
    assert [(row["name"], row["family"], row["source"], row["num_weights"]) for row in rows] == [
        ("a", "test", "seed 1", 297),
        ("b", "test", "seed 2", 297),
    ]


def test_values_are_pybdms():
    one = pair("a", 1, shift=0.7)
    bits = [np.concatenate([tensor.numpy().ravel() > 0 for tensor in side.values()]).astype(int) for side in one[3:]]
    trained, initial = (pybdm.BDM(ndim=1).bdm(side) for side in bits)
    (row,) = survey([one], seed=0)
    assert (row["bdm_1d"], row["bdm_1d_initial"]) == pytest.approx((trained, initial), rel=1e-9)
    assert row["bdm_1d_ratio"] == pytest.approx(trained / initial, rel=1e-9)


def test_a_simpler_model_has_a_ratio_below_one():
    simple = pair("simple", 1, shift=100.0)
    (row,) = survey([simple], seed=0)
    assert row["bdm_1d_ratio"] < 0.5 and row["bdm_2d_ratio"] < 0.5


def test_a_row_does_not_depend_on_the_pairs_before_it():
    alone, after = survey([pair("b", 2)], seed=3), survey([pair("a", 1), pair("b", 2)], seed=3)
    assert after[1] == alone[0]


def test_pairs_of_a_generator_are_held_one_at_a_time():
    alive = []

    def pairs():
        for seed in range(4):
            gc.collect()
            assert sum(reference() is not None for reference in alive) <= 1
            one = pair(str(seed), seed)
            alive.append(weakref.ref(one.trained["conv"]))
            yield one
            del one

    assert len(survey(pairs(), seed=0)) == len(alive) == 4


def test_a_pair_that_cannot_be_measured_is_named():
    broken = pair("broken_net", 1)
    broken.trained["conv"][0] = float("nan")
    with pytest.raises(ValueError, match=r"survey of broken_net: tensor conv \(trained\) holds NaN"):
        survey([pair("a", 2), broken], seed=0)


def test_no_pairs_give_no_rows():
    assert survey([], seed=0) == []
