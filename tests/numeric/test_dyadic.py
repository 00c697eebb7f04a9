"""Scales are exact, canonical and readable."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from binpoint.errors import BinpointError, InvalidConstant, InvariantBroken
from binpoint.numeric.dyadic import Dyadic

DYADICS = st.builds(Dyadic.of, st.integers(1, 2**70), st.integers(-200, 200))
POSITIVE = st.floats(min_value=0, exclude_min=True, allow_infinity=False, allow_nan=False)


@given(POSITIVE)
def test_every_positive_float_is_exact(value: float) -> None:
    assert float(Dyadic.from_float(value)) == value
    assert Dyadic.from_float(value).as_fraction() == Fraction(value)


@given(st.floats(min_value=0, exclude_min=True, allow_infinity=False, width=32))
def test_every_positive_float32_is_exact(value: float) -> None:
    assert np.float32(float(Dyadic.from_float(np.float32(value)))) == np.float32(value)


@given(DYADICS, DYADICS)
def test_products_and_order_are_those_of_fractions(a: Dyadic, b: Dyadic) -> None:
    assert (a * b).as_fraction() == a.as_fraction() * b.as_fraction()
    assert (a < b) == (a.as_fraction() < b.as_fraction())
    assert (a >= b) == (a.as_fraction() >= b.as_fraction())


@given(DYADICS)
def test_text_fraction_and_one_return_the_same(a: Dyadic) -> None:
    assert Dyadic.parse(str(a)) == a
    assert Dyadic.from_fraction(a.as_fraction()) == a
    assert a * Dyadic.one() == a


@given(st.integers(1, 2**40), st.integers(0, 30), st.integers(-50, 50))
def test_equal_values_are_equal_objects(m: int, shift: int, exponent: int) -> None:
    assert Dyadic.of(m << shift, exponent - shift) == Dyadic.of(m, exponent)


def test_text() -> None:
    assert str(Dyadic(1, -5)) == "2^-5"
    assert str(Dyadic(1447, -16)) == "1447*2^-16"
    assert Dyadic(1, 3).is_power_of_two
    assert not Dyadic(3, 0).is_power_of_two


@pytest.mark.parametrize("value", [0.0, -1.0, float("inf"), float("nan")])
def test_no_other_float_is_a_scale(value: float) -> None:
    with pytest.raises(InvalidConstant):
        Dyadic.from_float(value)


@pytest.mark.parametrize("text", ["", "2^", "3", "2^-5 ", "-3*2^1", "0*2^1", "2**3", "1.5*2^0"])
def test_no_other_text_is_a_scale(text: str) -> None:
    with pytest.raises(BinpointError):
        Dyadic.parse(text)


def test_what_is_not_dyadic_is_refused() -> None:
    with pytest.raises(InvalidConstant):
        Dyadic.from_fraction(Fraction(1, 3))
    with pytest.raises(InvalidConstant):
        Dyadic.from_fraction(Fraction(-1, 2))
    with pytest.raises(InvariantBroken):
        Dyadic(2, 0)
    with pytest.raises(InvalidConstant):
        float(Dyadic(1, 5000))
