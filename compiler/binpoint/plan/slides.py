"""Windows over maps as hardware units, and pools on top of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import cast

import numpy as np

from binpoint.ir.graph import Value
from binpoint.numeric.fixed import IntType
from binpoint.numeric.interval import Interval
from binpoint.numeric.mulshift import MulShift
from binpoint.ops.pooling import IntAverage, IntMaxPool, counts_of
from binpoint.ops.window import Window as Slide
from binpoint.plan import units
from binpoint.plan.place import Draft, End, Place
from binpoint.plan.staircase import mulshift
from binpoint.plan.store import as_it_is


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


def window_unit(
    place: Place, slide: Slide, x: Value, *, groups: int, words: int, lanes: int, fill: int
) -> Draft:
    """The unit that sends every window over `x`; padding is `fill`."""
    if x.shape[0] != 1:
        hint = "export the model for a batch of one"
        raise place.refuse("a window over a batch of more than one has no form", hint)
    bounds = x.interval.union(Interval(fill, fill)) if slide.padded else place.range(x)
    return slide_over(
        place, slide, x.shape[1:-1], bounds, place.end(x, lanes), (groups, words, fill)
    )


def slide_over(
    place: Place,
    slide: Slide,
    spatial: Sequence[int],
    bounds: Interval,
    operand: End,
    rest: tuple[int, int, int],
) -> Draft:
    """The same over a map of `spatial` pixels from `operand`; `rest` is groups, words, fill."""
    window, size = rows_first(slide, spatial)
    rows, columns = window.outputs(size)
    groups, words, fill = rest
    unit = units.Window(
        size=size,
        outputs=(rows, columns),
        kernel=(window.kernel[0], window.kernel[1]),
        strides=(window.strides[0], window.strides[1]),
        dilations=(window.dilations[0], window.dilations[1]),
        before=(window.before[0], window.before[1]),
        groups=groups,
        words=words,
        lanes=operand.lanes,
        elem=bounds.int_type(),
        fill=fill,
    )
    name = f"{place.name}_window"
    elements = rows * columns * groups * window.taps * words * operand.lanes
    return Draft(
        name, unit, (operand,), (End(name, operand.lanes, bounds, elements, between=True),)
    )


def maxpool(place: Place) -> list[Draft]:
    """The largest of each window; padding is the least element there is."""
    x, op = place.inputs[0], cast("IntMaxPool", place.op)
    pe = place.fold(pe=x.shape[-1], default=place.lanes[0]).pe
    words = x.shape[-1] // pe
    window = window_unit(place, op.window, x, groups=words, words=1, lanes=pe, fill=x.interval.lo)
    rows = math.prod(place.result.shape[:-1])
    store, kind = as_it_is(x.interval), x.interval.int_type()
    unit = units.Reduce("max", rows, words, op.window.taps, kind, kind, store, pe)
    return [window, Draft(place.name, unit, window.writes, (place.end(place.result, pe),))]


def average(place: Place) -> list[Draft]:
    """The sum of each window, rounded once."""
    x, op = place.inputs[0], place.op
    if not isinstance(op, IntAverage):
        raise place.refuse(
            "an average that onnxruntime adds in float32 has no form",
            "use a global average, or set the option semantics to dyadic",
        )
    counts = np.unique(counts_of(op.window, op.edge, x.shape[1:-1]))
    if counts.size != 1:
        raise place.refuse(
            "an average whose windows count different numbers of elements has no form",
            "count the padding, or choose one that does not reach beyond the edge",
        )
    pe = place.fold(pe=x.shape[-1], default=place.lanes[0]).pe
    words = x.shape[-1] // pe
    window = window_unit(place, op.window, x, groups=words, words=1, lanes=pe, fill=op.zero)
    taps = op.window.taps
    bounds = x.interval.union(Interval(op.zero, op.zero)) if op.window.padded else x.interval
    start, total = -op.zero * taps, (bounds - op.zero) * taps
    offset = (op.result.zero_point << op.shift) + (1 << (op.shift - 1))
    form = MulShift(op.multipliers[int(counts[0]) - op.least], op.shift, offset)
    store = mulshift([form], ((total.lo, total.hi),), op.lo, op.hi)
    rows = math.prod(place.result.shape[:-1])
    acc = partial_sums(bounds, taps, start)
    unit = units.Reduce("sum", rows, words, taps, bounds.int_type(), acc, store, pe, start=start)
    return [window, Draft(place.name, unit, window.writes, (place.end(place.result, pe),))]


def partial_sums(x: Interval, count: int, start: int) -> IntType:
    """Holds `start` and every sum of up to `count` elements on top of it."""
    whole = x.union(Interval(0, 0)) * count + start
    return whole.union(Interval(start, start)).int_type()
