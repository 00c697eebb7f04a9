"""Thresholds of chains that are straight lines, clipped and rounded: many codes at once.

`monotone` undoes any chain, code by code; a line through rationals needs one division for each.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

import numpy as np

from binpoint.numeric import monotone
from binpoint.numeric.monotone import Clip, Ints, Round, Rule, Scale, Shift, Step, Steps

_Bounds = tuple[Fraction | None, Fraction | None]


def without_idle_rounds(steps: Steps, channels: int) -> Steps:
    """The chain without roundings of what is an integer already, for integer arguments."""
    kept: list[Step] = []
    for step in steps:
        if isinstance(step, Round) and all(_is_whole(kept, c) for c in range(channels)):
            continue
        kept.append(step)
    return tuple(kept) if any(isinstance(s, Round) for s in kept) else steps


def _is_whole(steps: Sequence[Step], channel: int) -> bool:
    if not all(isinstance(s, Scale | Shift) for s in steps):
        return False
    line = monotone.affine(steps, channel)
    return line is not None and all(n.denominator == 1 for n in line)


def thresholds(
    steps: Steps, lo: int, hi: int, reach: Sequence[tuple[int, int]]
) -> tuple[tuple[int, ...], Ints]:
    """As `monotone.thresholds`, and the same for every chain."""
    signs = tuple(s or 1 for s in monotone.signs_of(steps, len(reach)))
    rows = [
        _row(steps, channel, (lo, hi), sorted(sign * end for end in ends))
        for channel, (sign, ends) in enumerate(zip(signs, reach, strict=True))
    ]
    found = [row for row in rows if row is not None]
    if len(found) < len(rows):
        return monotone.thresholds(steps, lo, hi, reach)
    return signs, np.array(found, np.int64).reshape(len(rows), hi - lo)


def _row(steps: Steps, channel: int, codes: tuple[int, int], ends: list[int]) -> Ints | None:
    """The thresholds of one channel, in argument times sign; None for what is no rational line."""
    found = _line(steps, channel)
    if found is None:
        return None
    (a, b), bounds, rule = found
    low, high = ends
    places = [rule.reaches(code) for code in range(codes[0] + 1, codes[1] + 1)]
    # Places are multiples of one half.
    twice = np.array([int(2 * place) for place, _ in places], object)
    closed = np.array([c for _, c in places], bool)
    # (place - b) / a as a fraction with a denominator for all.
    above = (twice * b.denominator - 2 * b.numerator) * a.denominator
    below = 2 * b.denominator * a.numerator
    first = np.where(closed, -(-above // below), above // below + 1)
    row = np.clip(first, low, high + 1).astype(np.int64)
    for least, most in bounds:
        if most is not None:
            row[~_hold(twice, closed, most)] = high + 1
        if least is not None:
            row[_hold(twice, closed, least)] = low
    return row


def _hold(twice: np.ndarray, closed: np.ndarray, number: Fraction) -> np.ndarray:
    """Whether the half-lines from half of `twice` on hold a number."""
    double = 2 * number
    under = twice * double.denominator < double.numerator
    return np.asarray(under | (closed & (twice * double.denominator == double.numerator)), bool)


def _line(
    steps: Steps, channel: int
) -> tuple[tuple[Fraction, Fraction], list[_Bounds], Rule] | None:
    """Size of the slope and offset, bounds of clippings in order, and the last rounding."""
    a, b = Fraction(1), Fraction(0)
    bounds: list[_Bounds] = []
    *line, last = steps
    for step in line:
        match step:
            case Scale(factors):
                factor = factors[channel if len(factors) > 1 else 0]
                if not factor.exact or not factor.numerator:
                    return None
                a, b = a * factor.numerator, b * factor.numerator
                bounds = [_scaled(pair, factor.numerator) for pair in bounds]
            case Shift(offsets):
                offset = offsets[channel if len(offsets) > 1 else 0]
                b += offset
                bounds = [_moved(pair, offset) for pair in bounds]
            case Clip(low, high):
                bounds.append((low, high))
            case _:
                return None
    return ((abs(a), b), bounds, last.rule) if isinstance(last, Round) else None


def _scaled(pair: _Bounds, factor: Fraction) -> _Bounds:
    low, high = (None if end is None else end * factor for end in pair)
    return (low, high) if factor > 0 else (high, low)


def _moved(pair: _Bounds, offset: Fraction) -> _Bounds:
    low, high = (None if end is None else end + offset for end in pair)
    return low, high
