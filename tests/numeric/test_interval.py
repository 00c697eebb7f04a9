"""Ranges contain what they must, and no more at their ends."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from binpoint.errors import AccumulatorOverflow, InvariantBroken
from binpoint.numeric.fixed import I8, I16, I32, U8, IntType
from binpoint.numeric.interval import Interval

NUMBERS = st.integers(-(2**70), 2**70)
SMALL = st.integers(-6, 6)


@st.composite
def intervals(draw: st.DrawFn, numbers: st.SearchStrategy[int] = NUMBERS) -> Interval:
    """Draw a range."""
    lo, hi = sorted((draw(numbers), draw(numbers)))
    return Interval(lo, hi)


def members(interval: Interval) -> range:
    """Return all members."""
    return range(interval.lo, interval.hi + 1)


@given(intervals(SMALL), intervals(SMALL))
def test_arithmetic_is_the_range_of_all_results(a: Interval, b: Interval) -> None:
    pairs = [(x, y) for x in members(a) for y in members(b)]
    assert a + b == Interval.of([x + y for x, y in pairs])
    assert a - b == Interval.of([x - y for x, y in pairs])
    assert a * b == Interval.of([x * y for x, y in pairs])
    assert -a == Interval.of([-x for x in members(a)])
    assert a.union(b) == Interval.of([*members(a), *members(b)])
    assert a.clamp(b.lo, b.hi) == Interval.of([min(max(x, b.lo), b.hi) for x in members(a)])
    assert a.contains(b) == (set(members(b)) <= set(members(a)))


@given(intervals(), NUMBERS)
def test_a_number_is_a_range_of_one(a: Interval, x: int) -> None:
    assert a + x == a + Interval(x, x)
    assert a - x == a - Interval(x, x)
    assert a * x == a * Interval(x, x)
    assert a.contains(x) == (a.lo <= x <= a.hi)


@given(intervals(st.integers(-(2**63), 2**63 - 1)))
def test_the_smallest_type_holds_the_range_and_one_bit_less_does_not(a: Interval) -> None:
    kind = a.int_type()
    assert kind.signed == (a.lo < 0)
    assert Interval.of_type(kind).contains(a)
    assert kind.width == 1 or not Interval.of_type(IntType(kind.width - 1, kind.signed)).contains(a)


def test_candidates() -> None:
    assert Interval(-128, 127).width_in((I32, I16, I8)) == I8
    assert Interval(0, 255).width_in((I8, U8, I16)) == U8
    assert Interval(-129, 0).width_in((I8, I16, I32)) == I16
    with pytest.raises(AccumulatorOverflow):
        Interval(0, 2**40).width_in((I8, I32))
    with pytest.raises(AccumulatorOverflow):
        Interval(-1, 2**63).int_type()


def test_arrays() -> None:
    assert Interval.of(np.array([[3, -4], [5, 0]], dtype=np.int8)) == Interval(-4, 5)
    assert str(Interval(-4, 5)) == "[-4, 5]"
    for wrong in (np.array([], dtype=np.int64), np.array([1.5])):
        with pytest.raises(InvariantBroken):
            Interval.of(wrong)
    with pytest.raises(InvariantBroken):
        Interval(1, 0)
