"""Requantizers as stores: the cheapest form that is proved equal over everything reachable.

Every requantizer is a staircase: a monotone function given by the accumulators at which it steps.
The narrowest multiplier whose ``(x·m + k) >> s`` steps at the same places is taken. Where there is
none, the multiplier is the scale's own 24-bit mantissa, and the few accumulators, all next to ties,
on which the staircase rounds otherwise are listed: comparing with them is far smaller in hardware
than carrying out float roundings.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from binpoint.errors import NoIntegerForm
from binpoint.ir.constant import Constant
from binpoint.ir.op import IntArray
from binpoint.numeric.interval import Interval
from binpoint.numeric.mulshift import MulShift, Steps, decompose, fit, thresholds
from binpoint.ops.requantize import DyadicRequantize, OnnxruntimeRequantize, Requantize
from binpoint.ops.thresholds import IntThresholds
from binpoint.plan.store import Store

_BITS = (8, 10, 12, 14, 16, 17, 20, 24, 27, 31)
_PROBED = 3
_MOST_CODES = 256
_COMPARED = 15
_MOST_COMPARED = 255
_MAX_SHIFT = 53
_MOST_CORRECTIONS = 64
_WIDEST = 62
Reach = tuple[tuple[int, int], ...]


def requantized(op: Requantize, x: Interval, *, bit: bool = False) -> Store:
    """The store that a Requantize is, over operands in `x`.

    With `bit` the result takes two values only, and is whether it is the larger one.

    Raises:
        NoIntegerForm: no form is proved equal.
    """
    match op:
        case OnnxruntimeRequantize():
            return _stored(_of_runtime(op))
        case IntThresholds() if op.form.name == "wide":
            found = mulshift(_forms(op), op.reach, op.lo, op.hi)
            return replace(found, result=_results(_of_thresholds(op)).int_type())
        case IntThresholds() if op.form.name == "wider":
            raise NoIntegerForm(
                "a rounding whose products leave 64 bits",
                have=f"{op.hi - op.lo + 1} codes",
                hint="quantize to 12 bits or fewer, or use scales that are powers of two",
            )
        case IntThresholds():
            stairs = _of_thresholds(op)
            if bit:
                assert op.bipolar, "more than two values"
                stairs = replace(stairs, steps=stairs.steps[:, :1], lo=0, hi=1)
            return _stored(stairs)
        case DyadicRequantize() if op.hi - op.lo < _MOST_CODES:
            return _stored(_of_dyadic(op, x))
        case _:
            reach = ((x.lo, x.hi),) * op.channels
            return mulshift(_forms(op), reach, op.lo, op.hi)


def _forms(op: Requantize) -> list[MulShift]:
    """The constants that an op is defined by."""
    form, zero = op.form, op.result.zero_points[0]
    numbers = list(zip(form.multipliers, form.shifts, strict=True))
    halves = [(zero << s) + (1 << (s - 1)) for _, s in numbers]
    offsets = form.offsets or tuple(halves)
    return [MulShift(m, s, k) for (m, s), k in zip(numbers, offsets, strict=True)]


@dataclass(frozen=True, slots=True)
class _Staircase:
    """y = lo + #{k: sign[c]·x >= steps[c, k]}, for sign[c]·x in reach[c].

    `lines` are straight lines that it rounds, as constants of ``(sign·x·m + k) >> s``; empty where
    it follows none.
    """

    steps: IntArray
    reach: Reach
    signs: tuple[int, ...]
    lo: int
    hi: int
    zero: int
    lines: tuple[MulShift, ...]
    slopes: NDArray[np.float32]


def _of_runtime(op: OnnxruntimeRequantize) -> _Staircase:
    reach, scales = op.reach, np.array(op.scales, np.float32)
    if (scales == scales[0]).all():
        reach = ((min(lo for lo, _ in reach), max(hi for _, hi in reach)),)
        scales = scales[:1]
    zero = op.result.zero_points[0]
    low, high = (np.array(ends, np.int64) for ends in zip(*reach, strict=True))
    steps = thresholds(scales, zero, op.lo, op.hi, low, high)
    lines = tuple(_line(Fraction(float(s)), Fraction(zero)) for s in scales)
    return _Staircase(steps, reach, (1,) * len(reach), op.lo, op.hi, zero, lines, scales)


def _of_thresholds(op: IntThresholds) -> _Staircase:
    signs = np.array(op.signs, np.int64)[:, None]
    ends = np.sort(np.array(op.reach, np.int64) * signs, axis=1)
    reach = tuple((int(lo), int(hi)) for lo, hi in ends)
    zero = op.result.zero_points[0]
    slopes = np.abs(np.array(op.slopes or [0.0] * len(reach), np.float32))
    lines = tuple(_line(abs(factor), start + zero) for factor, start in op.exact)
    return _Staircase(op.table.array, reach, op.signs, op.lo, op.hi, zero, lines, slopes)


def _of_dyadic(op: DyadicRequantize, x: Interval) -> _Staircase:
    forms = _forms(op)
    steps = [[_step(form, code, x) for code in range(op.lo + 1, op.hi + 1)] for form in forms]
    slopes = np.array([f.multiplier / 2.0**f.shift for f in forms], np.float32)
    reach = ((x.lo, x.hi),) * len(forms)
    table = np.array(steps, np.int64).reshape(len(forms), op.hi - op.lo)
    ones = (1,) * len(forms)
    return _Staircase(
        table, reach, ones, op.lo, op.hi, op.result.zero_points[0], tuple(forms), slopes
    )


def _line(slope: Fraction, start: Fraction) -> MulShift:
    """round(x·slope + start) half up, the slope with 24 bits."""
    mantissas, points = decompose(np.float32(float(slope)))
    mantissa, point = int(mantissas), int(points)
    shift = min(max(point, 1), _MAX_SHIFT)
    if point > _MAX_SHIFT:
        mantissa = 0
    return MulShift(
        mantissa << (shift - point if point < 1 else 0),
        shift,
        round((start + Fraction(1, 2)) * 2**shift),
    )


def _step(form: MulShift, code: int, x: Interval) -> int:
    """The least operand in `x`, or one past it, on which a form reaches a code."""
    goal = (code << form.shift) - form.offset
    if not form.multiplier:
        return x.lo if goal <= 0 else x.hi + 1
    return min(max(-(-goal // form.multiplier), x.lo), x.hi + 1)


def _stored(stairs: _Staircase) -> Store:
    if stairs.hi - stairs.lo <= _COMPARED:
        return _compared(stairs)
    found = _narrowest(stairs)
    if found is not None:
        return _signed(stairs, found)
    if stairs.lines:
        return _corrected(stairs)
    if stairs.hi - stairs.lo <= _MOST_COMPARED:
        return _compared(stairs)
    raise NoIntegerForm("a staircase of more than 256 codes that follows no line")


def _results(stairs: _Staircase) -> Interval:
    """All codes that occur."""
    low, high = (np.array(ends, np.int64)[:, None] for ends in zip(*stairs.reach, strict=True))
    least, most = ((stairs.steps <= end).sum(axis=1) for end in (low, high))
    return Interval(stairs.lo + int(least.min()), stairs.lo + int(most.max()))


def _compared(stairs: _Staircase) -> Store:
    steps, signs = stairs.steps, np.array(stairs.signs, np.int64)
    if stairs.lo == stairs.hi:
        return Store("clamp", Interval(stairs.lo, stairs.hi).int_type(), stairs.lo, stairs.hi)
    if (steps == steps[:1]).all() and (signs == signs[0]).all():
        steps, signs = steps[:1], signs[:1]
    result = _results(stairs).int_type()
    sign = Constant(signs) if (signs < 0).any() else None
    return Store("thresholds", result, stairs.lo, stairs.hi, thresholds=Constant(steps), sign=sign)


def _narrowest(stairs: _Staircase) -> list[MulShift] | None:
    """Constants of all channels with as few bits as are proved to step at the same places."""
    low, high = (np.array(ends, np.int64)[:, None] for ends in zip(*stairs.reach, strict=True))
    settled = (stairs.steps <= low) | (stairs.steps > high)
    moving = ~np.logical_and.reduce(settled, axis=1)
    if not (stairs.slopes[moving] > 0).all():
        return None
    codes = np.arange(stairs.lo + 1, stairs.hi + 1, dtype=np.int64)
    steps = stairs.steps
    whole = Steps(codes, steps, steps - 1, steps <= high, steps > low).select(moving)
    slopes = stairs.slopes[moving]
    few = np.arange(len(slopes)) < _PROBED
    for bits in _BITS:
        # Too few bits fail in almost every channel: some of them tell at once.
        if None in fit(whole.select(few), slopes[few], bits):
            continue
        found = [f for f in fit(whole, slopes, bits) if f is not None]
        if len(found) < len(slopes):
            continue
        rest = iter(found)
        level = stairs.lo + (steps <= low).sum(axis=1)
        return [
            next(rest) if moving[c] else MulShift(0, 1, (int(level[c]) << 1) + 1)
            for c in range(len(moving))
        ]
    return None


def _signed(stairs: _Staircase, found: list[MulShift]) -> Store:
    """The store of constants for sign·x, the sign taken into the multipliers."""
    pairs = zip(found, stairs.signs, strict=True)
    forms = [replace(form, multiplier=form.multiplier * sign) for form, sign in pairs]
    reach = tuple(
        (lo, hi) if sign > 0 else (-hi, -lo)
        for (lo, hi), sign in zip(stairs.reach, stairs.signs, strict=True)
    )
    store = mulshift(forms, reach, stairs.lo, stairs.hi)
    return replace(store, result=_results(stairs).int_type())


# ---- constants


def mulshift(found: list[MulShift], reach: Reach, lo: int, hi: int) -> Store:
    """Constants of all channels, with one shift for all where that stays within 64 bits."""
    reduced = [_reduced(f) for f in found]
    top = max(f.shift for f in reduced)
    common = [_widened(f, top - f.shift) for f in reduced]
    if _bits(_total(common, reach)) > _WIDEST:
        common = reduced
    ends = [f.apply(np.array(r), lo, hi) for f, r in zip(common, reach, strict=True)]
    shifts = [f.shift for f in common]
    return Store(
        "mulshift",
        Interval.of(np.array(ends)).int_type(),
        lo,
        hi,
        multiplier=_column([f.multiplier for f in common]),
        offset=_column([f.offset for f in common]),
        shift=_column(shifts),
        total=_total(common, reach).int_type(),
    )


def _widened(form: MulShift, bits: int) -> MulShift:
    return MulShift(form.multiplier << bits, form.shift + bits, form.offset << bits)


def _column(numbers: list[int]) -> Constant:
    """One number a channel, or one for all that share theirs."""
    alike = numbers[:1] if len(set(numbers)) == 1 else numbers
    return Constant(np.array(alike, np.int64))


def _reduced(form: MulShift) -> MulShift:
    """The same function with common factors of two taken out."""
    m, s, k = form.multiplier, form.shift, form.offset
    while s > 0 and not (m | k) & 1:
        m, s, k = m >> 1, s - 1, k >> 1
    return MulShift(m, s, k)


def _bits(x: Interval) -> int:
    return max(abs(x.lo), abs(x.hi)).bit_length() + 1


def _total(found: list[MulShift], reach: Reach) -> Interval:
    """The range of products, and of sums with the offset."""
    products = [(f, f.multiplier * x) for f, r in zip(found, reach, strict=True) for x in r]
    ends = [p for _, p in products] + [p + f.offset for f, p in products]
    return Interval(min(ends), max(ends))


# ---- corrections


def _corrected(stairs: _Staircase) -> Store:
    """The lines, with lists of the operands on which the staircase is one above or below."""
    lists = [_lists(stairs, even=even) for even in (False, True)]
    sizes = [max(len(row) for row in ups + downs) for ups, downs in lists]
    even = sizes[1] < sizes[0]
    if min(sizes) > _MOST_CORRECTIONS:
        raise NoIntegerForm(
            "a requantizer whose roundings near ties are too many to list",
            have=f"more than {_MOST_CORRECTIONS} accumulators of a channel",
            hint="set the option semantics to dyadic",
        )
    ups, downs = (_listed(rows, stairs) for rows in lists[even])
    base = _signed(stairs, list(stairs.lines))
    return replace(base, even=even, zero=stairs.zero, ups=ups, downs=downs)


def _lists(stairs: _Staircase, *, even: bool) -> tuple[list[list[int]], list[list[int]]]:
    """Per channel, operands on which the staircase is one above, and one below, its line."""
    zero = stairs.zero if even else None
    rows = zip(stairs.lines, stairs.steps, stairs.reach, strict=True)
    pairs = [_differences(form, row, stairs.lo, reach, zero) for form, row, reach in rows]
    return [up for up, _ in pairs], [down for _, down in pairs]


def _differences(
    form: MulShift, steps: IntArray, least: int, reach: tuple[int, int], zero: int | None
) -> tuple[list[int], list[int]]:
    """Operands within reach on which the staircase is one above, and one below, `form`.

    Both are monotone, so they differ only between a code's step in one and its step in the other.
    With `zero` an exact tie reaches an odd number of steps from it one accumulator later.
    """
    lo, hi = reach
    codes = least + 1 + np.arange(len(steps), dtype=np.int64)
    own = np.full(len(steps), hi + 1, np.int64)
    if form.multiplier:
        goals = (codes << form.shift) - form.offset
        own = -(-goals // form.multiplier)
        if zero is not None:
            own += (own * form.multiplier == goals) & ((codes - zero) & 1 == 1)
    own = np.clip(own, lo, hi + 1)
    apart = np.abs(own - steps)
    too_many = list(range(_MOST_CORRECTIONS + 1))
    if int(apart.sum()) > 2 * _MOST_CORRECTIONS:
        return too_many, []
    pairs = [(int(own[i]), int(steps[i])) for i in np.flatnonzero(apart)]
    ups = [x for mine, step in pairs for x in range(step, mine)]
    downs = [x for mine, step in pairs for x in range(mine, step)]
    if len(set(ups + downs)) < len(ups) + len(downs):
        return too_many, []
    return ups, downs


def _listed(rows: list[list[int]], stairs: _Staircase) -> Constant | None:
    """Lists of operands of equal length, filled up with one that is never reached."""
    width = max(len(row) for row in rows)
    if not width:
        return None
    never = 1 + max(max(abs(lo), abs(hi)) for lo, hi in stairs.reach)
    table = [
        [v * sign for v in row] + [never] * (width - len(row))
        for row, sign in zip(rows, stairs.signs, strict=True)
    ]
    return Constant(np.array(table, np.int64))
