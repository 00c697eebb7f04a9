"""A proved form equals the float definition on every accumulator."""

from __future__ import annotations

import time

import numpy as np
import pytest

from binpoint.numeric.float32 import Ints, requantize
from binpoint.numeric.mulshift import decompose, prove_mulshift, thresholds

Rng = np.random.Generator
RANGES = [("i8", -128, 127), ("u8", 0, 255), ("i4", -8, 7), ("u2", 0, 3)]


def reachable(rng: Rng, channels: int, largest: int) -> tuple[Ints, Ints]:
    """Return least and largest accumulators, in either order of sign."""
    ends = np.sort(rng.integers(-largest, largest + 1, (2, channels)), axis=0)
    return ends[0], ends[1]


@pytest.mark.parametrize(("_name", "lo", "hi"), RANGES)
def test_thresholds_are_where_the_output_steps(
    _name: str, lo: int, hi: int, generator: Rng
) -> None:
    scale = np.exp(generator.uniform(-7, 0, 20)).astype(np.float32)
    bottom, top = reachable(generator, 20, 4000)
    for zero in (lo, hi, 0):
        table = thresholds(scale, zero, lo, hi, bottom, top)
        for c in range(20):
            acc = np.arange(int(bottom[c]), int(top[c]) + 1)
            y = requantize(acc, scale[c], zero, lo, hi)
            codes = np.arange(lo + 1, hi + 1)
            want = bottom[c] + np.searchsorted(y, codes)
            np.testing.assert_array_equal(table[c], want)


@pytest.mark.parametrize(("_name", "lo", "hi"), RANGES)
def test_a_proved_form_is_equal_everywhere(_name: str, lo: int, hi: int, generator: Rng) -> None:
    proved = 0
    for exponent in (-3, -6, -9):
        scale = np.exp(generator.uniform(exponent - 2, exponent, 40)).astype(np.float32)
        scale[0] = np.float32(2.0**exponent)
        bottom, top = reachable(generator, 40, 20_000)
        zero = int(generator.integers(lo, hi + 1))
        table = thresholds(scale, zero, lo, hi, bottom, top)
        for c, form in enumerate(prove_mulshift(table, scale, lo, bottom, top)):
            if form is None:
                continue
            proved += 1
            assert 0 <= form.multiplier < 2**31
            acc = np.arange(int(bottom[c]), int(top[c]) + 1)
            want = requantize(acc, scale[c], zero, lo, hi)
            np.testing.assert_array_equal(form.apply(acc, lo, hi), want)
    assert proved > 60


def test_most_large_scales_are_proved_and_ties_are_not(generator: Rng) -> None:
    scale = np.exp(generator.uniform(-5, -3, 300)).astype(np.float32)
    top = np.full(300, 30_000)
    table = thresholds(scale, 0, -128, 127, -top, top)
    forms = prove_mulshift(table, scale, -128, -top, top)
    assert sum(form is not None for form in forms) > 280
    half = np.array([0.5], dtype=np.float32)
    table = thresholds(half, 0, -128, 127, -top[:1], top[:1])
    assert prove_mulshift(table, half, -128, -top[:1], top[:1]) == (None,)


def test_extreme_scales_and_ranges() -> None:
    scale = np.array([1e-30, 1e-12, 3e-10, 0.7, 5.0, 2.0**31, 1e20], dtype=np.float32)
    top = np.full(len(scale), 2**31 - 1)
    bottom = -top - 1
    table = thresholds(scale, 3, -128, 127, bottom, top)
    acc = np.array([-(2**31), -(2**31) + 1, -2, -1, 0, 1, 2, 2**30, 2**31 - 2, 2**31 - 1])
    for c, form in enumerate(prove_mulshift(table, scale, -128, bottom, top)):
        if form is not None:
            want = requantize(acc, scale[c], 3, -128, 127)
            np.testing.assert_array_equal(form.apply(acc, -128, 127), want)
    one = np.zeros(len(scale), dtype=np.int64)
    table = thresholds(scale, 3, -128, 127, one, one)
    for form in prove_mulshift(table, scale, -128, one, one):
        assert form is not None
        assert form.apply(0, -128, 127) == 3


def test_the_mantissa_gives_the_scale_back(generator: Rng) -> None:
    scale = np.exp(generator.uniform(-60, 60, 1000)).astype(np.float32)
    mantissa, shift = decompose(scale)
    assert mantissa.min() >= 2**23
    assert mantissa.max() < 2**24
    np.testing.assert_array_equal(np.ldexp(mantissa.astype(np.float64), -shift), scale)


def test_a_thousand_channels_take_no_noticeable_time(generator: Rng) -> None:
    scale = np.exp(generator.uniform(-11, -3, 1000)).astype(np.float32)
    top = np.full(1000, 2**24)
    start = time.process_time()
    table = thresholds(scale, -5, -128, 127, -top, top)
    prove_mulshift(table, scale, -128, -top, top)
    assert time.process_time() - start < 1.0
