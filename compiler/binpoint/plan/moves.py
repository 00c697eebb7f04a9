"""Moves of elements as hardware units: concatenation, rearrangement, padding."""

from __future__ import annotations

import math
from typing import cast

import numpy as np

from binpoint.ir.constant import Constant
from binpoint.ops.concat import IntConcat
from binpoint.ops.copy import IntCopy
from binpoint.ops.pad import IntPad
from binpoint.ops.slices import IntGather
from binpoint.plan import units
from binpoint.plan.place import Draft, End, Place


def concat(place: Place) -> list[Draft]:
    """Operands side by side."""
    op = cast("IntConcat", place.op)
    parts = place.inputs
    if any(v.constant is not None for v in parts):
        raise place.refuse(
            "a constant operand of Concat has no form",
            "fold the constant into the layers that read it",
        )
    counts = [math.prod(v.shape[op.axis :]) for v in parts]
    lanes = place.fold(pe=math.gcd(*counts), default=math.gcd(*place.lanes)).pe
    outer = math.prod(place.result.shape[: op.axis])
    unit = units.Concat(
        outer, tuple(c // lanes for c in counts), place.result.interval.int_type(), lanes
    )
    return _one(
        place.name,
        unit,
        tuple(place.end(v, lanes) for v in parts),
        (place.end(place.result, lanes),),
    )


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


def _one(
    name: str, unit: units.Unit, reads: tuple[End, ...], writes: tuple[End, ...]
) -> list[Draft]:
    return [Draft(name, unit, reads, writes)]
