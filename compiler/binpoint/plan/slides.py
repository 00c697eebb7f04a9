"""Windows over maps as hardware units, and pools on top of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import cast

import numpy as np

from binpoint.ir.constant import Constant
from binpoint.ir.graph import Value
from binpoint.ir.op import IntArray
from binpoint.numeric import float32
from binpoint.numeric.fixed import IntType
from binpoint.numeric.interval import Interval
from binpoint.numeric.mulshift import MulShift
from binpoint.ops.pooling import IntAverage, IntMaxPool, OnnxruntimeAverage, counts_of
from binpoint.ops.window import Window as Slide
from binpoint.plan import units
from binpoint.plan.floats import Quantizer, bits_of, float_steps, terms_of
from binpoint.plan.place import Draft, End, Place
from binpoint.plan.staircase import mulshift
from binpoint.plan.store import as_it_is
from binpoint.plan.units import Unit


def rows_first(window: Slide, spatial: Sequence[int]) -> tuple[Slide, tuple[int, int]]:
    """The same window over rows and columns: a signal becomes a column, of one element a row."""
    if len(spatial) == 2:
        return window, (spatial[0], spatial[1])
    one, zero = (1,), (0,)
    flat = Slide(
        window.kernel + one,
        window.strides + one,
        window.before + zero,
        window.after + zero,
        window.dilations + one,
    )
    return flat, (spatial[0], 1)


def is_pointwise(window: Slide) -> bool:
    """Whether windows are the elements themselves."""
    return set(window.kernel + window.strides) == {1} and not window.padded


@dataclass(frozen=True, slots=True)
class Words:
    """How windows are sent: for each pixel `groups` runs of `words` words of `lanes` a tap.

    Padding is `fill`; `together` rows of a window are sent in one word.
    """

    groups: int
    words: int
    lanes: int
    fill: int
    together: int = 1


def window_unit(place: Place, slide: Slide, x: Value, words: Words) -> Draft:
    """The unit that sends every window over `x`."""
    fill = Interval(words.fill, words.fill)
    bounds = x.interval.union(fill) if slide.padded else place.range(x)
    return slide_over(place, slide, x.shape[:-1], replace(place.end(x, 1), bounds=bounds), words)


def slide_over(
    place: Place, slide: Slide, shape: Sequence[int], operand: End, words: Words
) -> Draft:
    """The same over images of pixels from `operand`, with the bounds of padding in it."""
    window, size = rows_first(slide, shape[1:])
    rows, columns = window.outputs(size)
    unit = units.Window(
        size=size,
        outputs=(rows, columns),
        kernel=(window.kernel[0], window.kernel[1]),
        strides=(window.strides[0], window.strides[1]),
        dilations=(window.dilations[0], window.dilations[1]),
        before=(window.before[0], window.before[1]),
        groups=words.groups,
        words=words.words,
        lanes=words.lanes,
        elem=operand.bounds.int_type(),
        fill=words.fill,
        images=shape[0],
        together=words.together,
    )
    name = f"{place.name}_window"
    elements = shape[0] * rows * columns * window.taps * words.groups * words.words * words.lanes
    sent = End(name, words.together * words.lanes, operand.bounds, elements, between=True)
    return Draft(name, unit, (replace(operand, lanes=words.lanes),), (sent,))


def maxpool(place: Place) -> list[Draft]:
    """The largest of each window; padding is the least element there is."""
    x, op = place.inputs[0], cast("IntMaxPool", place.op)
    pe = place.fold(pe=x.shape[-1], default=place.lanes[0]).pe
    words = x.shape[-1] // pe
    window = window_unit(place, op.window, x, Words(words, 1, pe, x.interval.lo))
    rows = math.prod(place.result.shape[:-1])
    store, kind = as_it_is(x.interval), x.interval.int_type()
    unit = units.Reduce("max", rows, words, op.window.taps, kind, kind, store, pe)
    return [window, Draft(place.name, unit, window.writes, (place.end(place.result, pe),))]


def average(place: Place) -> list[Draft]:
    """The sum of each window, rounded once; in integers, or in float32 as onnxruntime adds."""
    x, op = place.inputs[0], place.op
    assert isinstance(op, IntAverage | OnnxruntimeAverage)
    pe = place.fold(pe=x.shape[-1], default=place.lanes[0]).pe
    words = x.shape[-1] // pe
    zero = op.zero if isinstance(op, IntAverage) else op.x.zero_point
    window = window_unit(place, op.window, x, Words(words, 1, pe, zero))
    bounds = x.interval.union(Interval(zero, zero)) if op.window.padded else x.interval
    counts = np.tile(counts_of(op.window, op.edge, x.shape[1:-1]).reshape(-1), x.shape[0])
    found, kinds = np.unique(counts, return_inverse=True)
    if isinstance(op, IntAverage):
        unit: Unit = _whole_average(place, op, bounds, found, kinds, pe)
    else:
        unit = _float_average(place, op, bounds, found, kinds, pe)
    return [window, Draft(place.name, unit, window.writes, (place.end(place.result, pe),))]


def _whole_average(
    place: Place, op: IntAverage, bounds: Interval, counts: IntArray, kinds: IntArray, pe: int
) -> units.Reduce:
    taps = op.window.taps
    start, total = -op.zero * taps, (bounds - op.zero) * taps
    offset = (op.result.zero_point << op.shift) + (1 << (op.shift - 1))
    forms = [MulShift(op.multipliers[int(n) - op.least], op.shift, offset) for n in counts]
    store = mulshift(forms, ((total.lo, total.hi),) * len(forms), op.lo, op.hi)
    acc = partial_sums(bounds, taps, start)
    return units.Reduce(
        "sum",
        len(kinds),
        place.inputs[0].shape[-1] // pe,
        taps,
        bounds.int_type(),
        acc,
        store,
        pe,
        start=start,
        kinds=None if len(forms) == 1 else Constant(kinds.astype(np.int64)),
    )


def _float_average(
    place: Place,
    op: OnnxruntimeAverage,
    bounds: Interval,
    counts: IntArray,
    kinds: IntArray,
    pe: int,
) -> units.FloatSum:
    table = terms_of(place, np.arange(bounds.lo, bounds.hi + 1), op.x)
    limit = float(np.abs(table).max()) * op.window.taps * 2
    result = place.result.interval

    def quantizer(count: int) -> Quantizer:
        scale, zero = float(op.result.scale), op.result.zero_point
        return lambda total: float32.quantize_average(total, count, scale, zero, op.lo, op.hi)

    return units.FloatSum(
        rows=len(kinds),
        folds=place.inputs[0].shape[-1] // pe,
        taps=op.window.taps,
        x=bounds.int_type(),
        table=bits_of(table),
        low=bounds.lo,
        weights=None,
        steps=float_steps([quantizer(int(n)) for n in counts], result, limit),
        kinds=Constant(kinds.astype(np.int64)),
        lo=result.lo,
        result=result.int_type(),
        pe=pe,
    )


def partial_sums(x: Interval, count: int, start: int) -> IntType:
    """Holds `start` and every sum of up to `count` elements on top of it."""
    whole = x.union(Interval(0, 0)) * count + start
    return whole.union(Interval(start, start)).int_type()
