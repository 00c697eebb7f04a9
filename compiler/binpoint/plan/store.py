"""Store: what happens to an element before it leaves a unit, as constants per channel.

``pass``        as it is
``clamp``       clamp(x, lo, hi)
``mulshift``    clamp((x·m + k) >> s, lo, hi), and one more or less on a few listed x
``thresholds``  lo + the number of thresholds that x reaches
``lookup``      table[x − low]
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from binpoint.errors import NoIntegerForm
from binpoint.ir.constant import Constant
from binpoint.ir.op import IntArray
from binpoint.numeric.fixed import IntType
from binpoint.numeric.interval import Interval
from binpoint.numeric.mulshift import MulShift, Steps, decompose, fit
from binpoint.ops.requantize import OnnxruntimeRequantize, Requantize

_BITS = (12, 14, 16, 17, 20, 24, 27, 31)
_MANTISSA = 24
_MAX_SHIFT = 53
_MOST_CORRECTIONS = 64
_WIDEST = 62


@dataclass(frozen=True, slots=True)
class Store:
    """How an element is stored; arrays have one row for all channels or one a channel.

    Args:
        form: see the module.
        result: narrowest type of what is stored.
        lo, hi: clamp, where the form has one.
        multiplier: ``[C]``.
        offset: ``[C]``, zero point and one half inside.
        shift: ``[C]``, or one for all channels.
        total: type of ``x·m + k`` over everything reachable.
        even: whether exact ties go to the even number of steps from `zero`, not up.
        zero: zero point of the result.
        ups: ``[C, U]``, operands whose result is one more; unused places hold an unreachable one.
        downs: ``[C, D]``, operands whose result is one less.
        thresholds: ``[C, T]``.
        table: ``[C, codes]``; `low` is the operand of the first entry.
    """

    form: str
    result: IntType
    lo: int = 0
    hi: int = 0
    multiplier: Constant | None = None
    offset: Constant | None = None
    shift: Constant | None = None
    total: IntType | None = None
    even: bool = False
    zero: int = 0
    ups: Constant | None = None
    downs: Constant | None = None
    thresholds: Constant | None = None
    table: Constant | None = None
    low: int = 0

    @property
    def per_channel(self) -> bool:
        """Whether any constant differs between channels."""
        arrays = (self.multiplier, self.thresholds, self.table, self.ups, self.downs)
        return any(a is not None and a.array.shape[0] > 1 for a in arrays)


def as_it_is(x: Interval) -> Store:
    """No change."""
    return Store("pass", x.int_type())


def clamped(x: Interval, lo: int, hi: int) -> Store:
    """A clamp, or nothing where it cannot act."""
    if lo <= x.lo and x.hi <= hi:
        return as_it_is(x)
    return Store("clamp", x.clamp(lo, hi).int_type(), lo, hi)


def looked_up(x: Interval, table: NDArray[np.integer], low: int) -> Store:
    """Entries ``[C, codes]`` of the codes from `low` on, cut to those that occur."""
    cut = table[:, x.lo - low : x.hi - low + 1].astype(np.int64)
    if (cut == cut[:1]).all():
        cut = cut[:1]
    return Store("lookup", Interval.of(cut).int_type(), table=Constant(cut), low=x.lo)


def requantized(op: Requantize, x: Interval) -> Store:
    """The store that a Requantize is, over operands in `x`."""
    if isinstance(op, OnnxruntimeRequantize):
        return _proved(op)
    form = op.form
    numbers = zip(form.multipliers, form.shifts, strict=True)
    zero = op.result.zero_points[0]
    if form.offsets:
        found = [MulShift(m, s, k) for (m, s), k in zip(numbers, form.offsets, strict=True)]
    else:
        found = [MulShift(m, s, (zero << s) + (1 << (s - 1))) for m, s in numbers]
    return mulshift(found, ((x.lo, x.hi),) * len(found), op.lo, op.hi)


def mulshift(found: list[MulShift], reach: tuple[tuple[int, int], ...], lo: int, hi: int) -> Store:
    """Constants of all channels, with one shift for all where that stays within 64 bits."""
    reduced = [_reduced(f) for f in found]
    top = max(f.shift for f in reduced)
    common = [MulShift(f.multiplier << (top - f.shift), top, f.offset << (top - f.shift)) for f in reduced]
    if _bits(_total(common, reach)) > _WIDEST:
        common = reduced
    total = _total(common, reach)
    ends = np.array([[f.apply(np.array(r), lo, hi)] for f, r in zip(common, reach, strict=True)])
    shifts = sorted({f.shift for f in common})
    return Store(
        "mulshift",
        Interval.of(ends).int_type(),
        lo,
        hi,
        multiplier=_column([f.multiplier for f in common]),
        offset=_column([f.offset for f in common]),
        shift=_column(shifts if len(shifts) == 1 else [f.shift for f in common]),
        total=total.int_type(),
    )


def _column(numbers: list[int]) -> Constant:
    return Constant(np.array(numbers, np.int64))


def _reduced(form: MulShift) -> MulShift:
    """The same function with common factors of two taken out."""
    m, s, k = form.multiplier, form.shift, form.offset
    while s > 0 and not (m | k) & 1:
        m, s, k = m >> 1, s - 1, k >> 1
    return MulShift(m, s, k)


def _bits(x: Interval) -> int:
    return max(abs(x.lo), abs(x.hi)).bit_length() + 1


def _total(found: list[MulShift], reach: tuple[tuple[int, int], ...]) -> Interval:
    """The range of products, and of sums with the offset."""
    ends = [f.multiplier * x + f.offset for f, r in zip(found, reach, strict=True) for x in r]
    products = [f.multiplier * x for f, r in zip(found, reach, strict=True) for x in r]
    return Interval(min(ends + products), max(ends + products))


def _proved(op: OnnxruntimeRequantize) -> Store:
    """The narrowest multiplier that is proved equal over everything reachable.

    Without one, the float32 mantissa itself with a list of the few accumulators, all of them near
    ties, on which the runtime's roundings decide otherwise.
    """
    steps = op.thresholds()
    low, high = (np.array(ends, np.int64) for ends in zip(*op.reach, strict=True))
    ends = op.reference(np.stack([low, high]))[0]
    result = Interval.of(ends).int_type()
    if op.form.name == "thresholds":
        return Store("thresholds", result, op.lo, op.hi, thresholds=Constant(_distinct(steps)))
    scales = np.array(op.scales, np.float32)
    codes = np.arange(op.lo + 1, op.hi + 1, dtype=np.int64)
    where = Steps(codes, steps, steps - 1, steps <= high[:, None], steps > low[:, None])
    for bits in _BITS:
        found = [f for f in fit(where, scales, bits) if f is not None]
        if len(found) == len(scales):
            return replace(mulshift(found, op.reach, op.lo, op.hi), result=result)
    return replace(_corrected(op, scales, steps), result=result)


def _distinct(rows: IntArray) -> IntArray:
    return rows[:1] if (rows == rows[:1]).all() else rows


def _corrected(op: OnnxruntimeRequantize, scales: NDArray[np.float32], steps: IntArray) -> Store:
    mantissa, point = decompose(scales)
    zero = op.result.zero_points[0]
    found = [_nearest(int(m), int(p), zero) for m, p in zip(mantissa, point, strict=True)]
    lists = [_lists(op, found, steps, even=even) for even in (False, True)]
    sizes = [max(len(row) for row in ups + downs) for ups, downs in lists]
    even = sizes[1] < sizes[0]
    if min(sizes) > _MOST_CORRECTIONS:
        raise NoIntegerForm(
            "a requantizer whose float32 roundings matter too often",
            have=f"more than {_MOST_CORRECTIONS} accumulators of a channel",
            hint="set the option semantics to dyadic",
        )
    unreachable = max(hi for _, hi in op.reach) + 1
    base = mulshift(found, op.reach, op.lo, op.hi)
    ups, downs = (_listed(rows, unreachable) for rows in lists[even])
    return replace(base, even=even, zero=zero, ups=ups, downs=downs)


def _nearest(mantissa: int, point: int, zero: int) -> MulShift:
    """round(x·scale) half up, plus the zero point."""
    shift = min(max(point, 1), _MAX_SHIFT)
    if point > _MAX_SHIFT:
        mantissa = 0
    return MulShift(mantissa, shift, (zero << shift) + (1 << (shift - 1)))


def _lists(
    op: OnnxruntimeRequantize, found: list[MulShift], steps: IntArray, *, even: bool
) -> tuple[list[list[int]], list[list[int]]]:
    """Per channel, accumulators on which the op is one above, and one below, `found`."""
    zero = op.result.zero_points[0]
    pairs = [
        _differences(form, row, op.lo, reach, zero if even else None)
        for form, row, reach in zip(found, steps, op.reach, strict=True)
    ]
    return [up for up, _ in pairs], [down for _, down in pairs]


def _differences(
    form: MulShift, steps: IntArray, least: int, reach: tuple[int, int], zero: int | None
) -> tuple[list[int], list[int]]:
    """Accumulators within reach on which the stepwise function is one above, and one below, `form`.

    Both are monotone, so they differ only between a code's step in one and its step in the other. With
    `zero` an exact tie reaches an odd number of steps from it one accumulator later.
    """
    lo, hi = reach
    ups: list[int] = []
    downs: list[int] = []
    for index, step in enumerate(steps.tolist()):
        code = least + 1 + index
        goal = (code << form.shift) - form.offset
        own = hi + 1 if not form.multiplier else -(-goal // form.multiplier)
        if zero is not None and own * form.multiplier == goal and (code - zero) & 1:
            own += 1
        own = min(max(own, lo), hi + 1)
        if abs(own - step) > _MOST_CORRECTIONS:
            return list(range(_MOST_CORRECTIONS + 1)), []
        ups.extend(range(step, own))
        downs.extend(range(own, step))
    assert len(set(ups + downs)) == len(ups) + len(downs), "corrections by more than one"
    return ups, downs


def _listed(rows: list[list[int]], unreachable: int) -> Constant | None:
    width = max(len(row) for row in rows)
    if not width:
        return None
    return Constant(np.array([row + [unreachable] * (width - len(row)) for row in rows], np.int64))


def spread(array: NDArray[np.int64], folds: int, pe: int) -> NDArray[np.int64]:
    """Constants ``[C, …]`` as ``[folds, pe, …]``; one row is repeated for all channels."""
    if array.shape[0] == 1:
        return np.broadcast_to(array[None], (1, pe, *array.shape[1:]))
    return array.reshape(folds, pe, *array.shape[1:])
