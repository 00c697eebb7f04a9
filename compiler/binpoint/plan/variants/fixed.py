"""Results of eight bits or less from sums, with sixteen bits after the point in one word.

    total = floor((acc − moved)·2^up · scale / 2^32) + offset
    y = clamp((total >> 16) − bias, lo, hi)

That of a list of thresholds is the line that they follow, where they do.
``scale`` is the requantizer's factor times 2^(48 − up); ``bias`` is 128 for signed results, so that
all saturate unsigned; ``offset`` is bias, zero point, one half and moved · factor, times 2^16, and
a margin, which is the shift that the kernel takes from the offset's low byte. Let the rounding of
scale and offset and the requantizer's own roundings (to float32, or none) move the value by at most
e units of 2^-16, less than every margin. Flooring takes off less than one unit. So wherever the low
half of total is at least ``window``, which is above all margins + e, total and the requantizer's
own value lie between the same two integers, and y is its result. Where it is below, the kernel asks
the requantizer itself.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from fractions import Fraction

import numpy as np

from binpoint.ir.constant import Constant
from binpoint.ir.kernel import Epilogue, Number, Table
from binpoint.ir.op import IntArray
from binpoint.numeric.fixed import I32
from binpoint.ops.requantize import DyadicRequantize, OnnxruntimeRequantize, Requantize
from binpoint.ops.thresholds import IntThresholds

_POINT = 16
_WORD = 32
_SCALE_BITS = 31
_LEAST_UP = 8
_FLOAT_BITS = 24
_LOW_BYTE = 256
_MOST_ROWS = 8
_HALF = Fraction(1, 2)

_TRIES = 1024

Line = tuple[Fraction, Fraction, Fraction]
"""A factor, and the least and largest constant with which results are the same."""


@dataclass(frozen=True, slots=True)
class Fixed:
    """Constants of each channel, and the requantizer for what they leave open.

    `settled` channels have the same result for every sum: their scale is zero and their sums do not
    matter. `moved` parts of biases are not in the sums.
    """

    scales: IntArray
    offsets: IntArray
    moved: IntArray
    settled: IntArray
    window: int
    epilogue: Epilogue


@dataclass(frozen=True, slots=True)
class _Channel:
    """Constants of one channel; `error` in units of 2^-16."""

    up: int
    scale: int
    offset: int
    moved: int
    error: Fraction
    exact: bool


def fixed(
    op: Requantize, reach: IntArray, biases: IntArray, lifts: tuple[int, ...] = (0,)
) -> Fixed | None:
    """The constants for sums within ``reach`` ``[2, C]``, or None where a word is too narrow.

    Rows come multiplied by two to the power of `lifts`, in turn: their shift is less by as much.
    """
    factors = _lines(op, reach.shape[1])
    if factors is None or op.result.storage.width > 8:
        return None
    (ends,) = op.reference(reach)
    settled = ends[0] == ends[1]
    bias = _start(op)
    known = ((ends[0] + bias) << _POINT) + 2 ** (_POINT - 1)
    scales, offsets, moved = np.zeros_like(known), known.copy(), np.zeros_like(known)
    window, whole = 1, True
    for c in np.flatnonzero(~settled).tolist():
        low, high = (int(v) for v in reach[:, c])
        least = lifts[c % len(lifts)]
        made = _channel(op, factors[c], (low, high), int(biases[c]), least)
        if made is None:
            return None
        code = made.up - least
        scales[c], offsets[c], moved[c] = made.scale, made.offset + code, made.moved
        window = max(window, code + int(made.error) + 1)
        whole = whole and made.exact
    return Fixed(scales, offsets, moved, settled, window, _epilogue(op, moved, whole=whole))


def _channel(
    op: Requantize, line: Line, reach: tuple[int, int], bias: int, least: int
) -> _Channel | None:
    """Constants with the bias in the sums, else with most of it in the offset."""
    zero, factor = op.result.zero_points[0], line[0]
    span = max(op.hi - zero, zero - op.lo) + 2
    for moved, offset, away in _places(op, line, bias):
        low, high = reach[0] - moved, reach[1] - moved
        error = away + _rounding(op, max(-reach[0], reach[1]))
        # The margin is the code in the offset's low byte.
        up = max(_LEAST_UP, _up(factor), least + int(error) + 1)
        room = 1 << max(_SCALE_BITS - up, 0)
        if low < -room or high >= room or abs(offset) >= 2**30:
            continue
        exact = factor * 2 ** (48 - up)
        scale = round(exact)
        most = min(Fraction(max(-low, high)), span / factor + abs(moved))
        error += abs(scale - exact) * most * Fraction(2**up, 2**_WORD)
        totals = [((v << up) * scale >> _WORD) + offset for v in (low, high)]
        if max(abs(t) for t in totals) < 2**31 - _LOW_BYTE and error < up - least:
            return _Channel(up, scale, offset, moved, error, scale == exact)
    return None


def _places(op: Requantize, line: Line, bias: int) -> Iterator[tuple[int, int, Fraction]]:
    """What is taken out of the sums, the offset for it, and how far that is from the line.

    Offsets have no low byte. Where the line may be anywhere between two, it is one of these, with
    as little as possible taken out beside nothing or the bias.
    """
    factor, *ends = line
    unit = factor * 2**_POINT
    place = op.result.zero_points[0] + _start(op) + _HALF
    low, high = ((end + place) * 2**_POINT for end in ends)
    steps = round(bias * unit / _LOW_BYTE)
    for start in (0, round(steps * _LOW_BYTE / unit)):
        if low == high and low % _LOW_BYTE == 0:
            more = round(start * unit / _LOW_BYTE) * _LOW_BYTE
            yield start, round(low) + more, abs(start * unit - more)
            continue
        for moved in (start + sign * by for by in range(_TRIES) for sign in (1, -1)):
            offset = math.ceil((low + moved * unit) / _LOW_BYTE) * _LOW_BYTE
            if offset <= high + moved * unit:
                yield moved, offset, Fraction(0)
                break


def _start(op: Requantize) -> int:
    """What brings a result of its eight bits to no less than zero."""
    return _LOW_BYTE // 2 if op.result.storage.signed else 0


def _lines(op: Requantize, channels: int) -> list[Line] | None:
    """For each channel, by what a sum is multiplied and what is added before it is rounded."""
    zero = Fraction(0)
    match op:
        case DyadicRequantize(multipliers=multipliers, shifts=shifts) if min(shifts) > 0:
            pairs = zip(multipliers, shifts, strict=True)
            found = [(Fraction(m, 2**s), zero, zero) for m, s in pairs]
        case OnnxruntimeRequantize(scales=scales):
            found = [(Fraction(float(np.float32(s))), zero, zero) for s in scales]
        case IntThresholds():
            lines = [_line(op, channel) for channel in range(op.channels)]
            found = [line for line in lines if line is not None]
            if len(found) < len(lines):
                return None
        case _:
            return None
    if min(factor for factor, _, _ in found) <= 0:
        return None
    return found * (channels // len(found))


def _line(op: IntThresholds, channel: int) -> Line | None:
    """The factor of a channel, and the constants between which all steps are where they are.

    At a step the line is no lower than the middle between two codes, before it no higher.
    """
    if len(op.exact) != op.channels or op.signs[channel] < 0:
        return None
    factor = op.exact[channel][0]
    (low, high), steps = op.reach[channel], op.table.array[channel].tolist()
    over, under = 2 * factor.numerator, factor.denominator
    first = 2 * (op.lo - op.result.zero_points[0]) + 1
    middles = [(first + 2 * k) * under for k in range(len(steps))]
    pairs = list(zip(middles, steps, strict=True))
    least = max((m - over * t for m, t in pairs if t <= high), default=None)
    most = min((m - over * (t - 1) for m, t in pairs if t > low), default=None)
    if least is None or most is None:
        return factor, Fraction(0), Fraction(0)  # always the same result
    ends = Fraction(least, 2 * under), Fraction(most, 2 * under)
    return (factor, *ends) if least <= most else None


def _up(factor: Fraction) -> int:
    """The least left shift of a sum with which the factor fits a signed word."""
    up = 0
    while round(factor * Fraction(2**48, 2**up)) >= 1 << _SCALE_BITS:
        up += 1
    return up


def _rounding(op: Requantize, largest: int) -> Fraction:
    """How far the requantizer's rounding moves a value that does not saturate, in units of 2^-16.

    Sums up to 2^24 are float32 numbers, so that only their product is rounded, by half a unit of
    its last place. Larger ones are rounded too, by as much as twice that.
    """
    if not isinstance(op, OnnxruntimeRequantize):
        return Fraction(0)
    zero = op.result.zero_points[0]
    exponent = max(op.hi - zero, zero - op.lo).bit_length()
    half = Fraction(2 ** (exponent + _POINT), 2 ** (_FLOAT_BITS + 1))
    return half if largest <= 1 << _FLOAT_BITS else 3 * half


def _epilogue(op: Requantize, moved: IntArray, *, whole: bool) -> Epilogue:
    """How results near a tie are made.

    A float32 factor that is a whole scale needs no further constants: ``tie`` carries out the
    roundings with it.
    """
    found = op.epilogue()
    if whole and isinstance(op, OnnxruntimeRequantize):
        zero = Number("zero", op.result.zero_points[0])
        found = Epilogue("tie", False, (zero,), op.result.storage)
    if not moved.any():
        return found
    filled = np.pad(moved, (0, -moved.size % _MOST_ROWS)).astype(np.int32)
    return replace(found, arguments=(*found.arguments, Table("moved", Constant(filled), I32)))
