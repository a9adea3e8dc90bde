"""The published tables: what follows from Eq. 21, and which settings depart from the paper's."""

import numpy as np
import pytest
from synthetic import PAPER

from momos import config
from momos.report.shared import published


def paper_settings():
    params = config.profile_settings("cifar10", PAPER.parents[1] / "profiles")
    return params, params["models"]


def test_the_paper_profile_departs_in_nothing_and_every_change_is_named():
    params, models = paper_settings()
    assert published.departures(params, models) == ()
    for section, key, value in (
        ("data", "source", "images"),
        ("augment", "flip", False),
        ("augment", "rand_augment_ops", 0),
        ("train", "batch_size", 64),
        ("train", "epochs", 199),
        ("train", "patience", 19),
        ("train", "precision", "bf16"),
    ):
        changed = params | {section: params[section] | {key: value}}
        assert [text.split(" is ")[0] for text in published.departures(changed, models)] == [
            f"{section}.{key}"
        ]
    for patience in (None, 20, 50):
        assert (
            published.departures(
                params | {"train": params["train"] | {"patience": patience}}, models
            )
            == ()
        )
    changed = models | {
        "resnet20": models["resnet20"] | {"lr": 0.05},
        "other": {"arch": "resnet18"},
    }
    assert published.departures(params, changed) == ("models.resnet20.lr is 0.05, not 0.1",)


def test_rac_check_counts():
    check = published.rac_check(published.read_tables(PAPER))
    agree = check.groupby(["model", "method"]).agrees.sum().to_dict()
    assert {model: agree[model, "momos"] for model in published.NUM_WEIGHTS} == {
        "mlp": 0,
        "resnet20": 8,
        "tiny_vit": 7,
        "mobilevit": 0,
    }
    assert all(
        agree[model, "baseline"] == 1 and agree[model, "qat"] == 3
        for model in published.NUM_WEIGHTS
    )
    missed = check[(check.model == "tiny_vit") & ~check.agrees].iloc[0]
    assert (missed.rac, round(missed.rac_expected, 2)) == (
        4.7,
        4.47,
    )  # the two numbers of method A5
    assert published.NUM_WEIGHTS["mlp"] == 1_052_426


@pytest.mark.parametrize(
    ("size", "capacity", "rac"), [(2, 0.1, 3.1), (2, 0.005, 6.2), (4, 0.1, 5.0), (4, 0.005, 13.3)]
)
def test_expected_rac_of_resnet20_by_hand(size, capacity, rac):
    """Eq. 21 in floating point from d = 269,722 alone."""
    blocks = np.ceil(269_722 / size)
    motifs = np.floor(capacity * blocks)
    by_hand = 269_722 * 32 / (motifs * size * 32 + blocks * np.ceil(np.log2(motifs)))
    found = published.expected_rac("resnet20", bits=32, block_size=size, capacity=capacity)
    assert found == pytest.approx(by_hand, rel=1e-12) and round(found, 1) == rac


def test_missing_published_files_are_named(tmp_path):
    with pytest.raises(ValueError, match=r"table1\.csv is missing"):
        published.read_tables(tmp_path)
