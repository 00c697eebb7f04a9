"""A requantizer as the epilogue of kernels for instruction sets: constants for the high word."""

from __future__ import annotations

import numpy as np

from binpoint.numeric.exact import window_bits
from binpoint.numeric.fixed import IntType
from binpoint.numeric.float32 import Ints
from binpoint.numeric.highword import HighWord, Staircase, high_word, thresholds_of
from binpoint.numeric.mulshift import FLOAT_BITS
from binpoint.ops.affine import AffineRequantize
from binpoint.ops.requantize import (
    DyadicRequantize,
    OnnxruntimeRequantize,
    Ranges,
    Requantize,
)
from binpoint.ops.thresholds import IntThresholds

_NARROW = 8
_EXACT_BITS = 60
"""Of the window of a function without float32: it holds the errors of the constants only."""


def high_word_of(op: Requantize, reach: Ranges, prescale: int, grid: int = 1) -> HighWord | None:
    """Return the constants of `op` for sums within `reach`, scaled up by ``2**prescale``.

    A shift of `grid` or more is a multiple of it, so that kernels can share code.

    None for a result of more than 8 bits, sums of too wide a range, a function that falls, or one
    without proof.
    """
    low, high = (np.array(ends, np.int64) for ends in zip(*reach, strict=True))
    slope = np.broadcast_to(_slope(op), low.shape)
    largest = max(int(np.abs(low).max()), int(np.abs(high).max()))
    if op.result.storage.width > _NARROW or slope.min() < 0:
        return None

    def codes(acc: Ints) -> Ints:
        return op.reference(acc)[0]

    zero, bits = op.result.zero_points[0], None
    if isinstance(op, OnnxruntimeRequantize):
        bits = window_bits(zero, op.lo, op.hi, exact_acc=largest <= 1 << FLOAT_BITS)
    if isinstance(op, DyadicRequantize):
        bits = _EXACT_BITS
    if isinstance(op, AffineRequantize):
        zero = int(max(abs(k) / 2.0**s for k, s in zip(op.offsets, op.shifts, strict=True))) + 1
    table = thresholds_of(codes, low, high, op.lo, op.hi)
    return high_word(Staircase(table, low, high, op.lo, zero, slope), prescale, bits, grid)


def _slope(op: Requantize) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    """Steps of the result per step of the sum, per channel or one for all."""
    match op:
        case OnnxruntimeRequantize():
            return np.array(op.scales, np.float64)
        case DyadicRequantize() | AffineRequantize():
            return np.array(op.multipliers) * 2.0 ** -np.array(op.shifts, np.float64)
        case IntThresholds():
            return np.array(op.signs) * (np.abs(op.slopes) if op.slopes else _spread(op))
        case _:
            return np.array([-1.0])


def _spread(op: IntThresholds) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    """The mean slope between the first and the last step."""
    steps = op.table.array
    if not steps.shape[1]:
        return np.zeros(len(steps))
    return steps.shape[1] / (steps[:, -1] - steps[:, 0] + 1.0)


def saturation(lo: int, hi: int) -> tuple[str, str, str]:
    """Return the saturating instruction with its bits, and the ends that are narrower, if any."""
    signed = lo < 0
    bits = max((hi + 1).bit_length() - 1, 0)
    if not signed and lo == 0 and hi == (1 << bits) - 1 and bits:
        return f"usat{bits}", "", ""
    if signed and lo == -(1 << bits) and hi == (1 << bits) - 1:
        return f"ssat{bits + 1}", "", ""
    kind = next(k for k in (IntType(n, signed) for n in (8, 16)) if k.min <= lo and hi <= k.max)
    name = f"{'s' if signed else 'u'}sat{kind.width}"
    return name, str(lo) if lo > kind.min else "", str(hi) if hi < kind.max else ""
