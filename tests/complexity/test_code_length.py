"""Description lengths against the published tables and against a program's length counted bit by
bit.
"""

import csv
import math
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from momos.complexity import code_length
from momos.methods.method import parse

PAPER = Path(__file__).parents[2] / "data" / "paper"
TINY_VIT_1000 = 5_392_764  # tiny_vit_5m_224 with its 1000-class head


def published(table: str, model: str) -> dict[tuple[int, float], float]:
    """(block_size, capacity) -> RAC as printed."""
    with (PAPER / table).open(newline="") as file:
        rows = [
            row
            for row in csv.DictReader(file)
            if row["model"] == model and row["method"] == "momos"
        ]
    assert len(rows) == 8
    return {(int(row["block_size"]), float(row["capacity"])): float(row["rac"]) for row in rows}


def computed(num_weights: int, num_blocks: int, block_size: int, capacity: float) -> float:
    return code_length.rac(
        num_weights, num_blocks, block_size, max(math.floor(capacity * num_blocks), 1)
    )


def misses(cells: dict, sizes: list[int]) -> dict[tuple[int, float], float]:
    """Cells whose printed digit does not follow for tensors of the given sizes -> what Eq. 21
    gives.
    """
    wrong = {}
    for (block_size, capacity), printed in cells.items():
        value = computed(
            sum(sizes), sum(-(-size // block_size) for size in sizes), block_size, capacity
        )
        if f"{value:.1f}" != f"{printed:.1f}":
            wrong[block_size, capacity] = value
    return wrong


def tensor_sizes(build) -> list[int]:
    with torch.device("meta"):
        return [parameter.numel() for parameter in build().parameters()]


def resnet20_sizes() -> list[int]:
    """Tensor by tensor: 3 stages of 3 blocks of two 3x3 convolutions, each with a norm, and a
    linear layer.
    """
    pairs = [(3, 16)] + [(16, 16)] * 6 + [(16, 32)] + [(32, 32)] * 5 + [(32, 64)] + [(64, 64)] * 5
    return [size for a, b in pairs for size in (9 * a * b, b, b)] + [640, 10]


def mlp_sizes(hidden_layers: int) -> list[int]:
    widths = [3072] + [256] * hidden_layers + [10]
    return [size for a, b in zip(widths, widths[1:], strict=False) for size in (a * b, b)]


@pytest.mark.parametrize("sizes", [resnet20_sizes(), [269_722]], ids=["tensor", "model"])
def test_resnet20_follows_in_all_eight_cells(sizes):
    assert sum(sizes) == 269_722
    assert misses(published("table1.csv", "resnet20"), sizes) == {}


def test_tiny_vit_follows_in_seven_cells_with_1000_classes():
    import timm

    by_tensor = tensor_sizes(lambda: timm.create_model("tiny_vit_5m_224", num_classes=1000))
    assert sum(by_tensor) == TINY_VIT_1000
    for sizes in (by_tensor, [TINY_VIT_1000]):
        wrong = misses(published("table1.csv", "tiny_vit"), sizes)
        assert list(wrong) == [(2, 0.005)]
        assert wrong[2, 0.005] == pytest.approx(4.47, abs=0.005)


def test_tiny_vit_with_ten_classes_misses_five_cells():
    assert len(misses(published("table1.csv", "tiny_vit"), [5_074_974])) == 5


@pytest.mark.parametrize("hidden_layers", range(1, 9))
def test_mlp_does_not_follow_for_any_number_of_layers(hidden_layers):
    assert misses(published("table1.csv", "mlp"), mlp_sizes(hidden_layers))


def test_mobilevit_does_not_follow_and_repeats_the_mlp():
    import timm

    cells = published("table2.csv", "mobilevit")
    assert cells == published("table1.csv", "mlp")
    for num_classes in (10, 1000):
        assert misses(
            cells,
            tensor_sizes(lambda n=num_classes: timm.create_model("mobilevit_s", num_classes=n)),
        )


@given(st.integers(1, 2000), st.integers(1, 64), st.integers(1, 32), st.data())
def test_rac_is_the_length_of_a_stored_model(num_weights, block_size, bits, data):
    num_blocks = -(-num_weights // block_size)
    num_motifs = data.draw(st.integers(1, num_blocks))
    index_bits = (
        len(f"{num_motifs - 1:b}") if num_motifs > 1 else 0
    )  # digits that tell k motifs apart
    stored = "m" * (num_motifs * block_size * bits) + "i" * (num_blocks * index_bits)
    trivial = "w" * (num_weights * bits)
    assert code_length.momos_bits(num_blocks, block_size, num_motifs, bits) == len(stored)
    assert code_length.trivial_bits(num_weights, bits) == len(trivial)
    assert code_length.rac(num_weights, num_blocks, block_size, num_motifs, bits) == len(
        trivial
    ) / len(stored)
    regime = code_length.lower_complexity(num_weights, num_blocks, block_size, num_motifs, bits)
    assert regime == (len(stored) < len(trivial))


@pytest.mark.parametrize(
    ("num_motifs", "index_bits"),
    [(1, 0), (2, 1), (3, 2), (4, 2), (5, 3), (2**50, 50), (2**50 + 1, 51)],
)
def test_index_bits_are_exact_where_a_float_logarithm_is_not(num_motifs, index_bits):
    num_blocks = 2**51
    assert (
        code_length.momos_bits(num_blocks, 1, num_motifs, 32)
        == num_motifs * 32 + num_blocks * index_bits
    )


def test_the_lower_complexity_regime_is_strict():
    assert not code_length.lower_complexity(
        64, 16, 4, 16, bits=32
    )  # every block its own motif: longer than L_0
    assert code_length.lower_complexity(64, 16, 4, 13, bits=32)  # 13 * 128 + 16 * 4 = 1728 < 2048
    assert not code_length.lower_complexity(1, 1, 1, 1)  # 32 bits either way


def test_qat():
    assert [code_length.qat_rac(bits) for bits in (32, 16, 8, 4)] == [1, 2, 4, 8]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, 1, 1, 1), "num_weights must be a positive integer, got 0"),
        ((10, 5, 0, 1), "block_size must be a positive integer, got 0"),
        ((10, 5, 2, 0), "num_motifs must be a positive integer, got 0"),
        ((10, 5, 2, 6), r"num_motifs must be in 1..5 \(num_blocks\), got 6"),
        ((10, 4, 2, 1), "num_blocks must be in 5..10 for 10 weights in blocks of 2, got 4"),
        ((10, 11, 2, 1), "num_blocks must be in 5..10 for 10 weights in blocks of 2, got 11"),
        ((10, 5, 2, 1, 0), "bits must be a positive integer, got 0"),
        ((10, 5, 2, 1.0), r"num_motifs must be a positive integer, got 1.0"),
        ((10, "5", 2, 1), "num_blocks must be a positive integer, got '5'"),
    ],
)
def test_numbers_that_belong_to_no_model_are_refused(arguments, message):
    for function in (code_length.rac, code_length.lower_complexity):
        with pytest.raises(ValueError, match=message):
            function(*arguments)


@pytest.mark.parametrize("bits", [0, 33, 7.5])
def test_qat_bits_out_of_range(bits):
    with pytest.raises(ValueError, match=f"bits must be .* got {bits}"):
        code_length.qat_rac(bits)


def described(num_weights: int, entry: dict, **about) -> dict:
    """The columns of a model that a method of these settings trained."""
    stored = parse(entry, "methods.m").stored({"num_weights": num_weights} | about)
    return code_length.describe_stored(num_weights, stored)


def test_columns_are_the_formula_of_each_kind_of_model():
    """ResNet20 at s=2, C=10 %, by hand: L = k s q + n ceil(log2 k), n = 134,861, k = 13,486."""
    mosaic = {"block_size": 2, "capacity": 0.1}
    counts = {"num_blocks": 134_861, "num_motifs": 13_486}
    momos = described(269_722, {"bits": 32} | mosaic, **counts)
    length = 13_486 * 2 * 32 + 134_861 * 14
    assert momos == {
        "rac": 269_722 * 32 / length,
        "description_bits": length,
        "trivial_bits": 269_722 * 32,
        "lower_complexity": True,
    }
    latent = described(269_722, {"bits": 8} | mosaic, **counts)
    assert latent == momos, "latent weights are 32-bit"
    assert described(100, {"bits": 4}) == {
        "rac": 8.0,
        "description_bits": 400,
        "trivial_bits": 3200,
        "lower_complexity": True,
    }
    assert described(100, {"bits": 32}) == {
        "rac": 1.0,
        "description_bits": 3200,
        "trivial_bits": 3200,
        "lower_complexity": False,
    }
    whole = described(
        100, {"bits": 32, "block_size": 2, "capacity": 1.0}, num_blocks=50, num_motifs=50
    )
    assert not whole["lower_complexity"] and whole["rac"] < 1
