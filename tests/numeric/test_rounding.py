"""Right shifts round as their rules say, over the whole of int64."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from binpoint.errors import RangeOverflow
from binpoint.numeric.rounding import Rounding, shift_right


def rounded(x: int, n: int, rounding: Rounding) -> int:
    """Return the definition on rationals."""
    value, half = Fraction(x, 2**n), Fraction(1, 2)
    match rounding:
        case Rounding.FLOOR:
            return math.floor(value)
        case Rounding.HALF_UP:
            return math.floor(value + half)
        case Rounding.HALF_EVEN:
            return round(value)
        case Rounding.HALF_AWAY:
            return math.floor(value + half) if value >= 0 else math.ceil(value - half)


@pytest.mark.parametrize("rounding", list(Rounding))
def test_every_byte_and_shift(rounding: Rounding) -> None:
    x, n = np.arange(-256, 256)[:, None], np.arange(12)[None, :]
    want = [[rounded(int(a), int(b), rounding) for b in n[0]] for a in x[:, 0]]
    np.testing.assert_array_equal(shift_right(x, n, rounding), want)


@given(
    st.one_of(st.integers(-(2**63), 2**63 - 1), st.sampled_from([-(2**63), 2**63 - 1, 2**62])),
    st.integers(0, 63),
    st.sampled_from(list(Rounding)),
)
def test_nothing_overflows(x: int, n: int, rounding: Rounding) -> None:
    assert int(shift_right(x, n, rounding)) == rounded(x, n, rounding)


@pytest.mark.parametrize("n", [-1, 64])
def test_other_shifts_are_refused(n: int) -> None:
    with pytest.raises(RangeOverflow):
        shift_right([1, 2], [0, n])
