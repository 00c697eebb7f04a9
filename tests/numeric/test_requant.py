"""A ratio is approximated as closely as the bits allow."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from binpoint.errors import RangeOverflow
from binpoint.numeric.requant import approximate, approximate_all

RATIOS = st.fractions(min_value=Fraction(1, 10**6), max_value=10**4, max_denominator=10**9)


@given(RATIOS, st.integers(14, 31), st.integers(0, 62))
def test_no_other_multiplier_is_nearer(ratio: Fraction, bits: int, max_shift: int) -> None:
    try:
        found = approximate(ratio, bits, max_shift)
    except RangeOverflow:
        assert ratio * 2**max_shift <= Fraction(1, 2)
        return
    assert 0 < found.multiplier < 2**bits
    assert 0 <= found.shift <= max_shift
    assert found.multiplier % 2 == 1 or found.shift == 0
    assert found.error == abs(found.value - ratio) / ratio
    for shift in range(max_shift + 1):
        below = ratio * 2**shift // 1
        for other in (below, below + 1):
            if 0 < other < 2**bits:
                assert abs(Fraction(other, 2**shift) - ratio) >= abs(found.value - ratio)


@given(st.integers(-30, 30))
def test_powers_of_two_are_shifts(exponent: int) -> None:
    found = approximate(Fraction(2) ** exponent, 31, 62)
    assert found.error == 0
    assert (found.multiplier, found.shift) == (2 ** max(exponent, 0), max(-exponent, 0))


@given(st.integers(1, 2**31 - 1), st.integers(0, 62))
def test_what_can_be_exact_is(multiplier: int, shift: int) -> None:
    found = approximate(Fraction(multiplier, 2**shift), 31, 62)
    assert found.error == 0
    assert found.value == Fraction(multiplier, 2**shift)


@pytest.mark.parametrize("ratio", [Fraction(0), Fraction(-1), Fraction(2**31), Fraction(1, 2**70)])
def test_other_ratios_are_refused(ratio: Fraction) -> None:
    with pytest.raises(RangeOverflow):
        approximate(ratio, 31, 62)


def test_channels() -> None:
    ratios = [Fraction(1, 3), Fraction(1, 8), Fraction(5)]
    assert approximate_all(ratios, 15, 40) == tuple(approximate(r, 15, 40) for r in ratios)
