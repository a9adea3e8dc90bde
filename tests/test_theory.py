"""Counts of components against enumeration of every partition, dimensions against the rank of the
span.
"""

import inspect
from itertools import product

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from momos import theory
from momos.weights.blocks import num_motifs


def components_by_enumeration(num_blocks: int, num_motifs: int) -> set[frozenset]:
    """Every mosaic of k motifs, reduced to which blocks it sets equal (Prop. 3.7)."""
    found = set()
    for mosaic in product(range(num_motifs), repeat=num_blocks):
        classes = {
            label: frozenset(i for i, other in enumerate(mosaic) if other == label)
            for label in mosaic
        }
        found.add(frozenset(classes.values()))
    return found


def span(mosaic: list[int], num_motifs: int, block_size: int) -> np.ndarray:
    """(n * s, k * s): the linear map from motif values to weights."""
    placement = np.eye(num_motifs)[mosaic]
    return np.kron(placement, np.eye(block_size))


@pytest.mark.parametrize("n", range(1, 7))
@pytest.mark.parametrize("k", range(1, 6))
def test_num_components_equals_enumeration(n, k):
    found = components_by_enumeration(n, k)
    assert theory.num_components(n, k) == len(found)
    for j in range(1, k + 1):
        assert theory.stirling2(n, j) == sum(len(partition) == j for partition in found)


@given(st.integers(0, 60), st.integers(0, 60))
def test_stirling2_equals_the_closed_form(n, j):
    from math import comb, factorial

    total = sum((-1) ** i * comb(j, i) * (j - i) ** n for i in range(j + 1))
    assert theory.stirling2(n, j) * factorial(j) == total


def test_all_motifs_give_the_bell_numbers():
    assert [theory.num_components(n, n) for n in range(1, 11)] == [
        1,
        2,
        5,
        15,
        52,
        203,
        877,
        4140,
        21147,
        115975,
    ]
    assert theory.num_components(5, 100) == 52


@given(st.integers(1, 80), st.integers(2, 80))
def test_components_grow_exponentially(n, k):
    """Cor. 3.9; two motifs reach the bound exactly."""
    assert (
        theory.num_components(n, k)
        >= 2 ** (n - 1)
        == theory.growth_bound(n)
        == theory.num_components(n, 2)
    )


@given(st.integers(1, 60), st.integers(1, 60))
def test_components_do_not_fall_in_blocks_or_motifs(n, k):
    value = theory.num_components(n, k)
    assert theory.num_components(n + 1, k) >= value
    assert (theory.num_components(n, k + 1) > value) == (k < n)


@given(st.integers(1, 12), st.integers(1, 5), st.integers(1, 4), st.data())
@settings(max_examples=60, deadline=None)
def test_a_component_has_the_dimension_of_its_span(n, k, block_size, data):
    mosaic = data.draw(st.lists(st.integers(0, k - 1), min_size=n, max_size=n))
    rank = np.linalg.matrix_rank(span(mosaic, k, block_size))
    assert theory.component_dimension(mosaic, block_size) == rank
    assert rank <= theory.component_dimension_bound(k, block_size)


def test_the_dimension_bound_is_reached():
    assert (
        np.linalg.matrix_rank(span([0, 1, 2, 1], 3, 5))
        == theory.component_dimension_bound(3, 5)
        == 15
    )


# --- a last block that is cut off, the union of components, and when two of them are one


@given(st.integers(1, 8), st.integers(1, 5), st.integers(1, 4), st.data())
@settings(max_examples=100, deadline=None)
def test_a_component_of_a_cut_off_block_has_the_dimension_of_its_span(n, k, block_size, data):
    """Lemma 3.5 for d < n s, where the paper has the bound alone."""
    mosaic = data.draw(st.lists(st.integers(0, k - 1), min_size=n, max_size=n))
    num_weights = n * block_size - data.draw(st.integers(0, block_size - 1))
    rank = np.linalg.matrix_rank(span(mosaic, k, block_size)[:num_weights])
    assert theory.component_dimension(mosaic, block_size, num_weights) == rank
    assert rank <= theory.component_dimension_bound(k, block_size)


@pytest.mark.parametrize(("block_size", "d"), [(1, 3), (1, 4), (2, 4), (2, 5), (3, 4), (3, 5)])
@pytest.mark.parametrize("k", [1, 2, 3])
def test_the_class_is_the_union_of_its_components(block_size, d, k):
    """Prop. 3.6: all weights of a few values, by every mosaic and all of its motifs."""
    n, values = -(-d // block_size), (0, 1, 2)
    motifs = list(product(values, repeat=block_size))
    union = set()
    for mosaic in product(range(k), repeat=n):
        for chosen in product(motifs, repeat=k):
            union.add(sum((chosen[motif] for motif in mosaic), ())[:d])
    expected = {
        weights
        for weights in product(values, repeat=d)
        if theory.num_motifs_needed(weights, block_size) <= k
    }
    assert union == expected
    assert theory.num_components(n, k) <= theory.num_mosaics(n, k) == k**n


@pytest.mark.parametrize(("block_size", "cut_off"), [(1, 0), (2, 0), (2, 1), (3, 2)])
@pytest.mark.parametrize(("n", "k"), [(1, 2), (2, 2), (3, 2), (3, 3), (4, 2)])
def test_two_mosaics_have_one_component_if_they_share_a_partition(n, k, block_size, cut_off):
    """Prop. 3.7: two spans are one if neither adds a dimension to the other."""
    mosaics = list(product(range(k), repeat=n))
    for one, other in product(mosaics, repeat=2):
        spans = [
            span(list(each), k, block_size)[: n * block_size - cut_off] for each in (one, other)
        ]
        ranks = {np.linalg.matrix_rank(matrix) for matrix in (*spans, np.hstack(spans))}
        assert theory.is_same_component(one, other) == (len(ranks) == 1)
    distinct = {theory.partition(mosaic) for mosaic in mosaics}
    assert len(distinct) == theory.num_components(n, k)
    assert distinct == components_by_enumeration(n, k)


@given(st.integers(1, 200), st.integers(1, 200), st.floats(0.001, 1))
@example(num_weights=100, block_size=1, capacity=0.07)  # whose float product is 7.000000000000001
@example(num_weights=100, block_size=1, capacity=0.29)  # 28.999999999999996
@settings(deadline=None)
def test_block_size_sets_blocks_and_motifs_as_the_projection_does(
    num_weights, block_size, capacity
):
    block_size = min(block_size, num_weights)
    blocks = -(-num_weights // block_size)
    expected = theory.num_components(blocks, num_motifs(blocks, capacity))
    assert theory.num_components_for_block_size(num_weights, block_size, capacity) == expected


@given(st.integers(2, 120), st.sampled_from([0.005, 0.05, 0.1, 0.3, 1.0]))
@settings(max_examples=30, deadline=None)
def test_components_fall_as_blocks_grow(num_weights, capacity):
    """Prop. 3.10."""
    counts = [
        theory.num_components_for_block_size(num_weights, size, capacity)
        for size in range(1, num_weights + 1)
    ]
    assert counts == sorted(counts, reverse=True)


GRID = {
    "max_blocks": 25,
    "num_weights": [1, 7, 48, 200],
    "block_sizes": [1, 2, 3, 4, 8, 300],
    "capacities": [0.01, 0.1, 1.0],
}


def test_no_counterexample_on_the_grid():
    assert theory.check(**GRID) == []


def test_the_check_finds_a_broken_bound(monkeypatch):
    monkeypatch.setattr(theory, "growth_bound", lambda n: 2 ** (n - 1) + 1)
    broken = theory.check(**GRID)
    assert {(one.statement, one.case) for one in broken} == {
        ("Cor. 3.9", f"n={n}, k=2") for n in range(2, 26)
    }
    assert all(one.left == one.right - 1 for one in broken)


@pytest.mark.parametrize(
    "wrong", [lambda d, s, c: s, lambda d, s, c: 1], ids=["rising", "constant"]
)
def test_the_check_finds_broken_monotonicity(monkeypatch, wrong):
    monkeypatch.setattr(theory, "num_components_for_block_size", wrong)
    broken = theory.check(**GRID)
    assert {one.statement for one in broken} == {"Prop. 3.10"}
    assert any(one.case == "d=200, C=0.1, s=1 and 2" for one in broken)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: theory.stirling2(-1, 2), "n=-1"),
        (lambda: theory.num_components(0, 1), "num_blocks must be at least 1, got 0"),
        (lambda: theory.num_components(3, 0), "num_motifs must be at least 1, got 0"),
        (lambda: theory.growth_bound(0), "num_blocks must be at least 1"),
        (lambda: theory.component_dimension([1], 0), "block_size must be at least 1"),
        (lambda: theory.component_dimension_bound(0, 2), "num_motifs must be at least 1"),
        (lambda: theory.component_dimension([0, 1], 3, 7), "num_weights must be in 4..6, .* got 7"),
        (lambda: theory.component_dimension([0, 1], 3, 3), "num_weights must be in 4..6, .* got 3"),
        (lambda: theory.num_mosaics(0, 2), "num_blocks must be at least 1"),
        (lambda: theory.num_motifs_needed([], 2), "num_weights must be at least 1, got 0"),
        (lambda: theory.is_same_component([0], [0, 1]), "the same number of blocks, got 1 and 2"),
        (
            lambda: theory.num_components_for_block_size(4, 5, 0.5),
            "block_size must be in 1..4 .* got block_size=5",
        ),
        (lambda: theory.num_components_for_block_size(4, 2, 0), "capacity=0"),
        (lambda: theory.num_components_for_block_size(4, 2, 1.5), "capacity=1.5"),
    ],
    ids=lambda value: None if inspect.isfunction(value) else value,
)
def test_arguments_without_meaning_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
