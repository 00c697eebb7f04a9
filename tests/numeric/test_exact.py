"""The exact integer form equals the float definition, above all next to ties."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from binpoint.errors import NoIntegerForm
from binpoint.numeric.exact import (
    ExactScale,
    near_tie,
    requantize_exact,
    round_to_float,
    window_bits,
)
from binpoint.numeric.float32 import requantize
from binpoint.numeric.interval import Interval
from binpoint.numeric.mulshift import decompose

Rng = np.random.Generator
Ints = npt.NDArray[np.int64]
RANGES = ((-128, 127), (0, 255), (-8, 7), (-(2**15), 2**15 - 1))


def adversarial(rng: Rng, scale: np.float32, span: int) -> Ints:
    """Return accumulators next to ties of the output, and anywhere in int32."""
    ties = (rng.integers(-span, span, 2000) + 0.5) / np.float64(scale)
    near = np.clip(ties, -(2.0**31), 2.0**31 - 1).astype(np.int64) + rng.integers(-3, 4, 2000)
    anywhere = rng.integers(-(2**31), 2**31, 1000)
    acc = np.concatenate([near, anywhere, rng.integers(-1000, 1000, 500), [-(2**31), 2**31 - 1]])
    return np.clip(acc, -(2**31), 2**31 - 1)


def test_a_million_values_with_all_sizes_of_scale(generator: Rng) -> None:
    for index in range(320):
        scale = np.float32(np.exp(generator.uniform(-22, 1)))
        if index % 8 == 0:
            scale = np.float32(2.0 ** generator.integers(-70, 60))
        lo, hi = RANGES[index % 4]
        zero = (lo, hi, int(generator.integers(lo, hi + 1)))[index % 3]
        acc = adversarial(generator, scale, 2 * (hi - lo))
        want = requantize(acc, scale, zero, lo, hi)
        have = requantize_exact(acc, *decompose(scale), zero, lo, hi)
        np.testing.assert_array_equal(have, want)


def test_channels_broadcast(generator: Rng) -> None:
    scale = np.exp(generator.uniform(-12, -3, (64, 1))).astype(np.float32)
    acc = generator.integers(-(2**24), 2**24, (64, 1000))
    have = requantize_exact(acc, *decompose(scale), 7, -128, 127)
    np.testing.assert_array_equal(have, requantize(acc, scale, 7, -128, 127))


@pytest.mark.parametrize("bits", [8, 20, 24, 25, 31])
def test_constants_for_a_range_give_the_same(bits: int, generator: Rng) -> None:
    for index in range(60):
        scale = np.float32(np.exp(generator.uniform(-18, 4)))
        if index % 8 == 0:
            scale = np.float32(2.0 ** generator.integers(-28, 40))
        lo, hi = RANGES[index % 3]
        zero = int(generator.integers(lo, hi + 1))
        top = 2**bits
        acc = np.clip(adversarial(generator, scale, 2 * (hi - lo)), -top, top - 1)
        constants = ExactScale.of(scale, zero, lo, hi, Interval(-top, top - 1))
        want = requantize(acc, scale, zero, lo, hi)
        np.testing.assert_array_equal(constants.apply(acc), want)


def test_a_scale_below_all_accumulators_vanishes() -> None:
    constants = ExactScale.of(np.float32(1e-20), 3, -128, 127, Interval(-(2**31), 2**31 - 1))
    assert constants.mantissa == 0
    assert constants.apply([-(2**31), 0, 2**31 - 1]).tolist() == [3, 3, 3]
    with pytest.raises(NoIntegerForm):
        ExactScale.of(np.float32(4e-10), 0, -128, 127, Interval(-(2**31), 2**31 - 1))
    with pytest.raises(NoIntegerForm):
        window_bits(0, -(2**20), 2**20, exact_acc=True)


@pytest.mark.parametrize(("lo", "hi"), RANGES)
def test_the_window_exceeds_the_error_of_two_roundings(lo: int, hi: int) -> None:
    for zero in (lo, 0, hi):
        reach = max(hi - zero, zero - lo) + 1
        two = (1 + Fraction(1, 2**24)) ** 2 - 1
        assert Fraction(1, 2 ** window_bits(zero, lo, hi, exact_acc=False)) >= reach * two
        one = Fraction(1, 2**24)
        assert Fraction(1, 2 ** window_bits(zero, lo, hi, exact_acc=True)) >= reach * one


def test_the_window_is_needed(generator: Rng) -> None:
    different = 0
    for _ in range(200):
        scale = np.float32(np.exp(generator.uniform(-12, -8)))
        acc = np.clip(adversarial(generator, scale, 300), -(2**24), 2**24)
        mantissa, shift = decompose(scale)
        plain = (acc * mantissa + (np.int64(1) << (shift - 1))) >> shift
        want = requantize(acc, scale, 0, -128, 127)
        different += int((np.clip(plain, -128, 127) != want).sum())
    assert different > 0


def test_near_ties_are_rare(generator: Rng) -> None:
    constants = ExactScale.of(np.float32(0.00123), 0, -128, 127, Interval(-(2**20), 2**20))
    acc = generator.integers(-(2**17), 2**17, 100_000)
    total = acc * constants.mantissa + constants.offset
    assert near_tie(total, constants.shift, constants.window).mean() < 1e-3


@given(st.integers(0, 2**62))
def test_rounding_to_float_is_that_of_the_processor(value: int) -> None:
    mantissa, exponent = round_to_float(np.array([value]))
    assert int(mantissa[0]) << int(exponent[0]) == int(np.array([value]).astype(np.float32)[0])
    assert int(mantissa[0]) <= 2**24
