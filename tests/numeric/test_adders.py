"""A graph of adders is its matrix, exactly, with fewer additions than the digits of its rows."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from binpoint.numeric.adders import adder_graph
from binpoint.numeric.digits import grid, terms

matrices = arrays.arrays(
    np.int64, st.tuples(st.integers(1, 6), st.integers(1, 6)), elements=st.integers(-300, 300)
)


@given(matrices)
def test_the_graph_is_the_matrix_and_never_longer_than_its_digits(weights: np.ndarray) -> None:
    graph = adder_graph(weights)
    assert (graph.matrix() == weights).all()
    rows = terms(weights).sum(axis=1)
    assert len(graph.adders) <= np.maximum(rows - 1, 0).sum()
    assert all(min(a.up, a.down) == 0 for a in graph.adders)


@given(matrices)
def test_the_same_matrix_gives_the_same_graph(weights: np.ndarray) -> None:
    assert adder_graph(weights) == adder_graph(weights.copy())


def test_equal_and_shifted_rows_are_made_once() -> None:
    row = np.array([3, -5, 7, 11])
    graph = adder_graph(np.stack([row, row * 4, -row, row]))
    assert len(graph.adders) == len(adder_graph(row[None]).adders)


def test_rows_of_zeros_and_single_powers_take_no_adder() -> None:
    graph = adder_graph(np.array([[0, 0], [0, -8], [4, 0]]))
    assert graph.adders == ()
    assert graph.rows[0] is None


@pytest.mark.parametrize(("count", "share"), [(1, 0.7), (4, 0.6)])
def test_a_layer_shares_much(count: int, share: float) -> None:
    weights = np.random.default_rng(1).choice(grid(count, 31), (16, 32))
    graph = adder_graph(weights)
    assert (graph.matrix() == weights).all()
    assert len(graph.adders) < share * (terms(weights).sum() - 16)
    assert max(graph.levels()) <= 9
