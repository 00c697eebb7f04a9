"""Whole axes as hardware units: sums, extremes and their places, softmax, layer norm."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from binpoint.ir.constant import Constant
from binpoint.ir.op import IntArray
from binpoint.numeric.interval import Interval
from binpoint.ops import rowgate
from binpoint.ops.blocks import Block, IntArgExtreme, IntExtreme, IntSum
from binpoint.ops.exactnorm import IntLayerNorm
from binpoint.ops.exponential import Exponential
from binpoint.ops.rowgate import IntShiftGelu
from binpoint.ops.shares import IntShares, Reciprocal, Rounded
from binpoint.ops.softmax import IntSoftmax, OnnxruntimeSoftmax
from binpoint.plan import units
from binpoint.plan.moves import turned
from binpoint.plan.place import Draft, Place, array_of
from binpoint.plan.slides import partial_sums
from binpoint.plan.store import as_it_is
from binpoint.plan.sums import store_of
from binpoint.plan.units import Unit

_NARROW = 8


def block(place: Place) -> list[Draft]:
    """The middle of ``[outer, n, inner]``: the results of all inner elements are held."""
    x, op = place.inputs[0], place.op
    assert isinstance(op, IntSum | IntExtreme | IntArgExtreme)
    outer, n, inner = op.block.outer, op.block.n, op.block.inner
    pe = place.fold(pe=inner, default=place.lanes[0]).pe
    ends = (place.end(x, pe),), (place.end(place.result, pe),)
    folds, kind = inner // pe, x.interval.int_type()
    match op:
        case IntSum():
            start = -op.zero * n
            acc = place.graph.value(place.step.nodes[0].outputs[0])
            sums = partial_sums(x.interval, n, start)
            unit: Unit = units.Reduce(
                "sum", outer, folds, n, kind, sums, store_of(place, acc), pe, held=True, start=start
            )
        case IntExtreme():
            name = "max" if op.largest else "min"
            unit = units.Reduce(
                name, outer, folds, n, kind, kind, as_it_is(x.interval), pe, held=True
            )
        case IntArgExtreme():
            relation = (">" if op.largest else "<") + ("=" if op.last else "")
            unit = units.Arg(relation, outer, folds, n, kind, pe)
    return [Draft(place.name, unit, *ends)]


def softmax(place: Place) -> list[Draft]:
    """Shares of rows."""
    table = place.inputs[1]
    op = place.op
    assert isinstance(op, IntSoftmax | OnnxruntimeSoftmax)
    n = place.numbers()
    entries = array_of(table)
    storage = op.result.storage
    exact = isinstance(op, OnnxruntimeSoftmax)
    unit = units.Softmax(
        rows=op.block.outer * op.block.inner,
        count=op.block.n,
        x=place.inputs[0].interval.int_type(),
        table=Constant(entries if exact else entries[::-1]),
        form="float" if exact else "table",
        factor=n["factor"] if exact else op.factor,
        shift=0 if exact else op.shift,
        zero=n["zero"],
        lo=n.get("lo", storage.min),
        hi=n["hi"],
    )
    return _over_rows(place, unit, op.block, 1)


def shares(place: Place) -> list[Draft]:
    """Shares of rows by exponentials that are computed beforehand, for every distance."""
    op, x = place.op, place.inputs[0]
    assert isinstance(op, IntShares)
    terms, storage, zero = _exponentials(place, op.terms), op.result.storage, op.result.zero_point
    rows, division = op.block.outer * op.block.inner, op.division
    if isinstance(division, Rounded):
        unit: Unit = units.Softmax(
            rows=rows,
            count=op.block.n,
            x=x.interval.int_type(),
            table=Constant(terms[::-1]),
            form="table",
            factor=division.factor,
            shift=division.shift,
            zero=zero,
            lo=storage.min,
            hi=storage.max,
        )
    else:
        assert isinstance(division, Reciprocal)
        unit = units.Reciprocal(
            form="shares",
            rows=rows,
            count=op.block.n,
            x=x.interval.int_type(),
            table=Constant(terms),
            numerator=division.numerator,
            drop=division.shift,
            zero=0,
            scale=1,
            down=1,
            origin=zero,
            lo=storage.min,
            hi=storage.max,
        )
    return _over_rows(place, unit, op.block, 1)


def shiftgelu(place: Place) -> list[Draft]:
    """Rows of ShiftGELU."""
    op, x = place.op, place.inputs[0]
    assert isinstance(op, IntShiftGelu)
    storage = op.store.result.storage
    unit = units.Reciprocal(
        form="gelu",
        rows=op.block.outer * op.block.inner,
        count=op.block.n,
        x=x.interval.int_type(),
        table=Constant(_exponentials(place, op.terms)),
        numerator=rowgate.NUMERATOR,
        drop=rowgate.DROP,
        zero=op.zero,
        scale=op.store.multiplier,
        down=op.store.shift,
        origin=op.store.result.zero_point,
        lo=storage.min,
        hi=storage.max,
    )
    return _over_rows(place, unit, op.block, 1)


def _exponentials(place: Place, terms: Exponential) -> IntArray:
    """Of every distance between two codes of 8 bits."""
    width = place.inputs[0].elem.storage.width
    if width > _NARROW:
        raise place.refuse(
            "an exponential of a wide operand has no form", "quantize its operand to 8 bits"
        )
    return terms.terms(np.arange(1 << width, dtype=np.int64))


def layernorm(place: Place) -> list[Draft]:
    """Rows normalized; a word's elements are of one channel where a channel has several."""
    (x, m, k), op = place.inputs, place.op
    assert isinstance(op, IntLayerNorm)
    bounds, count = x.interval, op.block.n
    most = (count if op.each == 1 else op.each) if op.block.inner == 1 else 1
    pe = place.fold(pe=most, default=place.lanes[0]).pe
    apart = bounds if op.centre is None else bounds - op.centre
    square = max(apart.lo**2, apart.hi**2)
    unit = units.LayerNorm(
        rows=op.block.outer * op.block.inner,
        count=count,
        x=bounds.int_type(),
        multipliers=Constant(array_of(m)),
        offsets=Constant(array_of(k)),
        each=op.each,
        centre=op.centre,
        spare=op.spare,
        epsilon=op.epsilon,
        least_up=op.least_up,
        shift=op.shift,
        lo=op.lo,
        hi=op.hi,
        apart=apart.int_type(),
        sums=(bounds.union(Interval(0, 0)) * count).int_type(),
        squares=Interval(0, square * count).int_type(),
        pe=pe,
    )
    return _over_rows(place, unit, op.block, pe)


def _over_rows(place: Place, unit: Unit, block: Block, lanes: int) -> list[Draft]:
    """A unit that takes row after row; rows along another than the last axis are turned first."""
    x, y = place.end(place.inputs[0], lanes), place.end(place.result, lanes)
    if block.inner == 1:
        return [Draft(place.name, unit, (x,), (y,))]
    before, x = turned(place, x, (block.outer, block.n, block.inner), "rows")
    after = replace(y, value=f"{place.name}_turned", between=True)
    back, _ = turned(place, after, (block.outer, block.inner, block.n), "back")
    return [
        before,
        Draft(place.name, unit, (x,), (after,)),
        replace(back, writes=(y,)),
    ]
