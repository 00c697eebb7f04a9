"""Results of eight bits from sums, with sixteen bits after the point in one word.

    total = floor(acc·2^up · scale / 2^32) + offset
    y = clamp((total >> 16) − bias, lo, hi)

``scale`` is the requantizer's factor times 2^(48 − up); ``bias`` is 128 for signed results, so that
all saturate unsigned; ``offset`` is bias, zero point and one half, times 2^16, and a margin. Let
the rounding of scale and the requantizer's own roundings (to float32, or none) move acc · factor by
at most e units of 2^-16, and let margin be the least integer above e. Flooring takes off less than
one unit. So wherever the low half of total is at least ``window = 2·margin``, total and the
requantizer's own value lie between the same two integers, and y is its result. Where it is below,
the kernel asks the requantizer itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from binpoint.ir.kernel import Epilogue, Number
from binpoint.ir.op import IntArray
from binpoint.ops.requantize import DyadicRequantize, OnnxruntimeRequantize, Requantize

_POINT = 16
_SCALE_BITS = 31
_LEAST_UP = 8
_FLOAT_BITS = 24
_MOST_WINDOW = 64


@dataclass(frozen=True, slots=True)
class Fixed:
    """Constants of each channel, and the requantizer for what they leave open.

    `settled` channels have the same result for every sum: their scale is zero and their sums do not
    matter.
    """

    up: int
    scales: IntArray
    offsets: IntArray
    window: int
    settled: IntArray
    epilogue: Epilogue


def fixed(op: Requantize, reach: IntArray) -> Fixed | None:
    """The constants for sums within ``reach`` ``[2, C]``, or None where a word is too narrow."""
    factors = _factors(op, reach.shape[1])
    if factors is None or op.result.storage.width != 8:
        return None
    (ends,) = op.reference(reach)
    settled = ends[0] == ends[1]
    alive = [f for f, s in zip(factors, settled, strict=True) if not s]
    up = _up(max(alive, default=Fraction(0)))
    most = np.where(settled, 0, np.abs(reach).max(axis=0))
    if (most >= 1 << (_SCALE_BITS - up)).any():
        return None
    exact = [f * 2 ** (48 - up) for f in factors]
    scales = np.array([0 if s else round(f) for f, s in zip(exact, settled, strict=True)], np.int64)
    zero = op.result.zero_points[0]
    span = max(op.hi - zero, zero - op.lo) + 1
    moved = max(
        (
            abs(int(m) - e) * min(Fraction(int(r)), (span + 1) / f) * Fraction(2**up, 2**32)
            for m, e, r, f, s in zip(scales, exact, most, factors, settled, strict=True)
            if not s
        ),
        default=Fraction(0),
    )
    margin = int(moved + _rounding(op, span)) + 1
    bias = -op.result.storage.min
    offset = (2 * (zero + bias) + 1) * 2 ** (_POINT - 1) + margin
    offsets = np.where(settled, ((ends[0] + bias) << _POINT) + 2 ** (_POINT - 1), offset)
    totals = (((reach * (~settled)) << up) * scales >> 32) + offsets
    if np.abs(totals).max() >= 2**31 or 2 * margin > _MOST_WINDOW:
        return None
    whole = all(s or e.denominator == 1 for e, s in zip(exact, settled, strict=True))
    return Fixed(up, scales, offsets, 2 * margin, settled, _epilogue(op, up, whole=whole))


def _factors(op: Requantize, channels: int) -> list[Fraction] | None:
    """What a sum is multiplied by, for each channel."""
    match op:
        case DyadicRequantize(multipliers=multipliers, shifts=shifts) if min(shifts) > 0:
            pairs = zip(multipliers, shifts, strict=True)
            found = [Fraction(m, 2**s) for m, s in pairs]
        case OnnxruntimeRequantize(scales=scales):
            found = [Fraction(float(np.float32(s))) for s in scales]
        case _:
            return None
    if min(found) <= 0:
        return None
    return found * (channels // len(found))


def _up(factor: Fraction) -> int:
    """The least left shift of a sum with which the largest factor fits a signed word."""
    up = _LEAST_UP
    while round(factor * Fraction(2**48, 2**up)) >= 1 << _SCALE_BITS:
        up += 1
    return up


def _rounding(op: Requantize, span: int) -> Fraction:
    """How far the requantizer's rounding moves values below `span`, in units of 2^-16.

    Sums of 24 bits are float32 numbers, so that only their product is rounded, by half a unit of
    its last place.
    """
    if isinstance(op, DyadicRequantize):
        return Fraction(0)
    exponent = (span - 1).bit_length()
    return Fraction(2 ** (exponent + _POINT), 2 ** (_FLOAT_BITS + 1))


def _epilogue(op: Requantize, up: int, *, whole: bool) -> Epilogue:
    """How results near a tie are made.

    A float32 scale that is a whole number here needs no further constants: ``tie`` carries out the
    roundings with it.
    """
    if not (whole and isinstance(op, OnnxruntimeRequantize)):
        return op.epilogue()
    zero, storage = op.result.zero_points[0], op.result.storage
    last = (Number("zero", zero), Number("lo", op.lo), Number("hi", op.hi))
    return Epilogue("tie", False, (Number("shift", 48 - up, "uint32_t"), *last), storage)
