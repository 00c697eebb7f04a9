"""Integers as sums of signed powers of two: all of eight bits, against every sum there is."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from binpoint.errors import InvariantBroken
from binpoint.numeric.digits import digits, grid, nearest, parts, terms

_SHIFTS = 9


def sums(count: int) -> set[int]:
    """Every sum of so many signed powers of two, or of none in place of some."""
    powers = [0, *(sign << s for s in range(_SHIFTS) for sign in (1, -1))]
    return {sum(chosen) for chosen in itertools.combinations_with_replacement(powers, count)}


@pytest.mark.parametrize("count", [1, 2, 3])
def test_the_grid_has_every_sum_of_so_many_powers_and_no_other(count: int) -> None:
    assert set(grid(count, 127).tolist()) == {v for v in sums(count) if abs(v) <= 127}


def test_no_code_of_eight_bits_needs_more_than_four() -> None:
    assert grid(4, 127).tolist() == list(range(-127, 128))
    assert terms([0, 1, 3, 7, -11, 85]).tolist() == [0, 1, 2, 2, 3, 4]


@given(st.integers(-(2**60), 2**60))
def test_digits_add_up_and_no_two_are_neighbours(number: int) -> None:
    found = digits(number)
    assert sum(d.value for d in found) == number
    assert all(a.shift >= b.shift + 2 for a, b in itertools.pairwise(found))
    assert len(found) == terms(number)


def test_positive_and_negative_digits_stand_apart() -> None:
    numbers = np.arange(-5000, 5001)
    up, down = parts(numbers)
    assert (up - down == numbers).all()
    assert not (up & down).any()
    for number, a, b in zip(numbers.tolist(), up.tolist(), down.tolist(), strict=True):
        assert a == sum(d.value for d in digits(number) if not d.negative)
        assert -b == sum(d.value for d in digits(number) if d.negative)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_the_nearest_code_is_the_nearest_of_all(count: int) -> None:
    codes = grid(count, 127)
    numbers = np.arange(-140 * 4, 140 * 4 + 1) / 4
    apart = np.abs(numbers[:, None] - codes[None])
    least = apart.min(axis=1, keepdims=True)
    smallest = np.where(apart == least, np.abs(codes)[None], 1000).min(axis=1)
    found = nearest(numbers, codes)
    assert (np.abs(found) == smallest).all()
    assert (np.abs(numbers - found) == least[:, 0]).all()


def test_what_is_too_large_to_split_is_refused() -> None:
    with pytest.raises(InvariantBroken):
        terms(1 << 61)
