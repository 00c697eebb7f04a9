"""Moves of elements as hardware units: concatenation, rearrangement, padding."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import cast

import numpy as np

from binpoint.ir.constant import Constant
from binpoint.ir.op import IntArray
from binpoint.numeric.interval import Interval
from binpoint.ops.concat import IntConcat
from binpoint.ops.copy import IntCopy
from binpoint.ops.pad import IntPad
from binpoint.ops.slices import IntGather
from binpoint.plan import units
from binpoint.plan.place import Draft, End, Place, array_of


def concat(place: Place) -> list[Draft]:
    """Operands side by side."""
    op = cast("IntConcat", place.op)
    parts = place.inputs
    counts = [math.prod(v.shape[op.axis :]) for v in parts]
    lanes = place.fold(pe=math.gcd(*counts), default=math.gcd(*place.lanes)).pe
    outer = math.prod(place.result.shape[: op.axis])
    unit = units.Concat(
        outer, tuple(c // lanes for c in counts), place.result.interval.int_type(), lanes
    )
    sources: list[Draft] = []
    reads: list[End] = []
    for index, part in enumerate(parts):
        if part.constant is None:
            reads.append(place.end(part, lanes))
            continue
        sources.append(source(place, array_of(part), part.interval, f"operand{index}", lanes))
        reads.extend(sources[-1].writes)
    ends = (place.end(place.result, lanes),)
    return [*sources, Draft(place.name, unit, tuple(reads), ends)]


def copy(place: Place) -> list[Draft]:
    """Any rearrangement that is affine in the indices."""
    op = cast("IntCopy", place.op)
    (x,) = place.inputs
    whole = (
        math.gcd(op.sizes[-1], op.offset, x.type.size, *op.strides[:-1])
        if op.strides[-1] == 1
        else 1
    )
    lanes = place.fold(pe=whole, default=math.gcd(place.lanes[0], whole)).pe
    sizes = (*op.sizes[:-1], op.sizes[-1] // lanes)
    strides = (*(s // lanes for s in op.strides[:-1]), op.strides[-1])
    unit = units.Copy(
        x.type.size // lanes, sizes, strides, op.offset // lanes, x.interval.int_type(), lanes
    )
    return _one(place.name, unit, (place.end(x, lanes),), (place.end(place.result, lanes),))


def gather(place: Place) -> list[Draft]:
    """Rows in the order of constant indices."""
    (x,), op = place.inputs, cast("IntGather", place.op)
    inner = math.prod(x.shape[op.axis + 1 :])
    lanes = place.fold(pe=inner, default=math.gcd(place.lanes[0], inner)).pe
    whole = np.arange(x.type.size // lanes).reshape(*x.shape[: op.axis + 1], inner // lanes)
    table = Constant(np.take(whole, op.indices.array, op.axis).reshape(-1))
    kind = x.interval.int_type()
    unit = units.Gather(x.type.size // lanes, (), (), 0, kind, lanes, table)
    return _one(place.name, unit, (place.end(x, lanes),), (place.end(place.result, lanes),))


def pad(place: Place) -> list[Draft]:
    """The operand in a frame."""
    op = cast("IntPad", place.op)
    (x,) = place.inputs
    whole = math.gcd(op.before[-1], x.shape[-1], op.after[-1])
    lanes = place.fold(pe=whole, default=math.gcd(place.lanes[0], whole)).pe
    before, sizes, wide = (
        (*w[:-1], w[-1] // lanes) for w in (op.before, x.shape, place.result.shape)
    )
    one = (1,) * len(sizes)
    unit = units.Frame(before, sizes, wide, one, op.code, place.result.interval.int_type(), lanes)
    return _one(place.name, unit, (place.end(x, lanes),), (place.end(place.result, lanes),))


def source(place: Place, array: IntArray, bounds: Interval, name: str, lanes: int) -> Draft:
    """A constant operand as a stream."""
    end = End(f"{place.name}_{name}", lanes, bounds, array.size, between=True)
    unit = units.Source(Constant(array.reshape(-1)), bounds.int_type(), lanes)
    return Draft(end.value, unit, (), (end,))


def turned(place: Place, end: End, block: tuple[int, int, int], name: str) -> tuple[Draft, End]:
    """``[outer, n, inner]`` as ``[outer, inner, n]``, on the way into or out of a unit."""
    outer, n, inner = block
    unit = units.Copy(
        end.elements, (outer, inner, n), (n * inner, 1, inner), 0, end.bounds.int_type(), 1
    )
    result = End(f"{place.name}_{name}", 1, end.bounds, end.elements, between=True)
    return Draft(result.value, unit, (replace(end, lanes=1),), (result,)), result


def _one(
    name: str, unit: units.Unit, reads: tuple[End, ...], writes: tuple[End, ...]
) -> list[Draft]:
    return [Draft(name, unit, reads, writes)]
