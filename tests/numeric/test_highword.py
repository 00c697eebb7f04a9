"""The high word of one product rounds as the requantizer does, wherever it says so."""

from __future__ import annotations

import numpy as np
import pytest

from binpoint.numeric import float32
from binpoint.numeric.exact import window_bits
from binpoint.numeric.float32 import Floats, Ints
from binpoint.numeric.highword import HighWord, Staircase, high_word, thresholds_of

SIZE = 4001


def totals(form: HighWord, acc: Ints, prescale: int) -> Ints:
    """The 32-bit sums of accumulators ``[K, C]``."""
    scaled = (acc - np.array(form.bases)) << prescale
    assert np.abs(scaled * (np.array(form.multipliers) > 0)).max() < 2**31
    return ((scaled * np.array(form.multipliers)) >> 32) + np.array(form.offsets)


def check(form: HighWord, acc: Ints, expected: Ints, prescale: int, ends: tuple[int, int]) -> None:
    """Equal but within windows, which are narrow."""
    total, windows = totals(form, acc, prescale), np.array(form.windows)
    assert np.abs(total).max() < 2**31
    near = (total & ((1 << form.shift) - 1)) < 2 * windows
    found = np.clip(total >> form.shift, *ends)
    assert (near | (found == expected)).all()
    assert not near[:, windows == 0].any()


def staircase(
    scales: Floats, bias: Ints, zero: int, ends: tuple[int, int]
) -> tuple[Staircase, Ints]:
    """The requantizer of onnxruntime around each bias, and what it gives there."""
    lo, hi = ends
    low, high = bias - SIZE // 2, bias + SIZE // 2
    acc = low + np.arange(SIZE)[:, None]

    def codes(x: Ints) -> Ints:
        return float32.requantize(x, scales, zero, lo, hi)

    table = thresholds_of(codes, low, high, lo, hi)
    return Staircase(table, low, high, lo, zero, scales.astype(np.float64)), codes(acc)


@pytest.mark.parametrize("ends", [(-128, 127), (0, 255), (0, 15), (-5, 90)])
@pytest.mark.parametrize("prescale", [0, 7, 8])
def test_sums_round_as_onnxruntime_does(
    ends: tuple[int, int], prescale: int, rng: np.random.Generator
) -> None:
    proved = 0
    for _ in range(12):
        channels = int(rng.integers(1, 9))
        exponents = rng.uniform(-9, -3) + rng.uniform(-1.5, 0, channels)
        if rng.random() < 0.3:
            exponents = np.floor(exponents)
        scales = np.exp2(exponents).astype(np.float32)
        far = 2**30 if rng.random() < 0.3 else 2000
        bias = rng.integers(-far, far, channels)
        zero = int(rng.integers(ends[0], ends[1] + 1))
        stairs, expected = staircase(scales, bias, zero, ends)
        bits = window_bits(zero, *ends, exact_acc=far < 2**24)
        form = high_word(stairs, prescale, bits)
        assert form is not None
        acc = stairs.low + np.arange(SIZE)[:, None]
        check(form, acc, expected, prescale, ends)
        proved += form.windows.count(0)
    assert proved > 0


def test_a_grid_gives_shifts_that_kernels_can_share(rng: np.random.Generator) -> None:
    scales = np.exp2(rng.uniform(-8, -5, 4)).astype(np.float32)
    stairs, _ = staircase(scales, np.zeros(4, np.int64), 3, (-128, 127))
    form = high_word(stairs, 8, None, 4)
    assert form is None or form.shift % 4 == 0


def test_without_proof_and_window_there_is_none() -> None:
    # A half is a tie, which goes to even: no multiplication with ties upwards does that.
    scales = np.array([0.5], np.float32)
    stairs, _ = staircase(scales, np.zeros(1, np.int64), 0, (-128, 127))
    assert high_word(stairs, 8, None) is None


def test_a_steep_function_does_not_fit() -> None:
    scales = np.array([300.0], np.float32)
    stairs, _ = staircase(scales, np.zeros(1, np.int64), 0, (-128, 127))
    assert high_word(stairs, 8, 16) is None
