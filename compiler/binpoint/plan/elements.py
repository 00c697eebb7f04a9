"""Element by element as hardware units: stores on their own, tables, pairs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import cast

import numpy as np
from numpy.typing import NDArray

from binpoint.ir.constant import Constant
from binpoint.ir.graph import Value
from binpoint.numeric.interval import Interval
from binpoint.ops.copy import row_major
from binpoint.ops.pairwise import Pairwise
from binpoint.ops.requantize import Clamp, Requantize
from binpoint.plan import units
from binpoint.plan.moves import source
from binpoint.plan.place import Draft, End, Place, array_of
from binpoint.plan.staircase import requantized
from binpoint.plan.store import Store, as_it_is, clamped, looked_up

_NARROW = 8


def requantize(place: Place) -> list[Draft]:
    """A change of scale on its own."""
    op, x = cast("Requantize", place.op), place.inputs[0].interval
    return [_map(place, requantized(op, x, bit=place.result.name in place.bipolar))]


def clamp(place: Place) -> list[Draft]:
    """A clamp on its own."""
    op = cast("Clamp", place.op)
    return [_map(place, clamped(place.inputs[0].interval, op.lo, op.hi))]


def function(place: Place) -> list[Draft]:
    """Any function of one element, and of its channel, by table."""
    return [_map(place, _tabulated(place))]


def _map(place: Place, store: Store) -> Draft:
    x, y = place.inputs[0], place.result
    channels = x.shape[-1] if store.per_channel else x.type.size
    pe = place.fold(pe=channels, default=place.lanes[0]).pe
    folds = channels // pe if store.per_channel else 1
    unit = units.Map(x.type.size // pe, folds, x.interval.int_type(), store, pe)
    return Draft(place.name, unit, (place.end(x, pe),), (place.end(y, pe),))


def _tabulated(place: Place) -> Store:
    """Any function of one narrow operand and of the channel: its definition on all its codes."""
    x, *parameters = place.inputs
    if x.elem.storage.width > _NARROW:
        raise place.refuse(
            "a function of a wide operand has no form", "quantize its operand to 8 bits"
        )
    channels = 1 if place.step.call.stem in ("lookup", "gated") else x.shape[-1]
    codes = np.arange(x.interval.lo, x.interval.hi + 1, dtype=np.int64)
    grid = np.broadcast_to(codes[:, None], (len(codes), channels))
    (table,) = place.op.reference(grid, *(array_of(p) for p in parameters))
    return looked_up(x.interval, np.ascontiguousarray(table.T), x.interval.lo)


def pair(place: Place) -> list[Draft]:
    """Two operands element by element, one of them repeated over rows if need be.

    What is repeated in another way is written out first.
    """
    op = cast("Pairwise", place.op)
    sizes = op.axes.sizes
    sides = [
        _side(place, index, strides, sizes)
        for index, strides in enumerate((op.axes.left, op.axes.right))
    ]
    if min(side.outer for side in sides) > 0:
        sides[0] = _written_out(place, 0, op.axes.left, sizes)
    outer = max(side.outer for side in sides)
    held = None if outer == 0 else [side.outer for side in sides].index(outer)
    fixed = next((i for i, side in enumerate(sides) if side.constant is not None), None)
    row = math.prod(sizes[outer:])
    if fixed is not None and held not in (None, fixed):
        sides[fixed] = _streamed(place, fixed, sides[fixed])
        fixed = None
    a, b = place.inputs
    width = row if outer else (a.shape[-1] if a.shape else 1)
    pe = place.fold(pe=width, default=max(place.lanes)).pe
    form, numbers, product, store = _pair_form(place, op, a, b)
    unit = units.Pair(
        form=form,
        rows=math.prod(sizes) // row,
        folds=row // pe,
        a=a.interval.int_type(),
        b=b.interval.int_type(),
        product=product.int_type(),
        store=store,
        pe=pe,
        numbers=numbers,
        constant=None if fixed is None else _row_of(sides[fixed], row),
        constant_first=fixed == 0,
        held=held if fixed is None else None,
    )
    reads = tuple(replace(side.end, lanes=pe) for i, side in enumerate(sides) if i != fixed)
    own = Draft(place.name, unit, reads, (place.end(place.result, pe),))
    return [*(draft for side in sides for draft in side.drafts), own]


@dataclass(frozen=True, slots=True)
class _Side:
    """An operand of a pair: how many leading axes repeat it, and where its elements come from."""

    outer: int
    end: End
    constant: NDArray[np.int64] | None = None
    drafts: tuple[Draft, ...] = ()


def _side(place: Place, index: int, strides: Sequence[int], sizes: Sequence[int]) -> _Side:
    outer = next((i for i, s in enumerate(strides) if s), len(strides))
    if tuple(strides[outer:]) != tuple(row_major(sizes)[outer:]):
        return _written_out(place, index, strides, sizes)
    value = place.inputs[index]
    constant = None if value.constant is None else array_of(value).reshape(-1)
    return _Side(outer, place.end(value, 1), constant)


def _written_out(place: Place, index: int, strides: Sequence[int], sizes: Sequence[int]) -> _Side:
    """An operand with its elements repeated."""
    value = place.inputs[index]
    elements = math.prod(sizes)
    name = f"{place.name}_operand{index}"
    end = End(name, 1, value.interval, elements, between=True)
    unit = units.Copy(
        value.type.size, tuple(sizes), tuple(strides), 0, value.interval.int_type(), 1
    )
    if value.constant is not None:
        return _Side(0, end, array_of(value).reshape(-1)[unit.indices()])
    return _Side(0, end, None, (Draft(name, unit, (place.end(value, 1),), (end,)),))


def _streamed(place: Place, index: int, side: _Side) -> _Side:
    """A constant operand as a stream, from a memory."""
    value = place.inputs[index]
    assert side.constant is not None
    draft = source(place, side.constant, value.interval, f"operand{index}", 1)
    return _Side(side.outer, draft.writes[0], None, (draft,))


def _row_of(side: _Side, row: int) -> Constant:
    """A constant operand, one row."""
    assert side.constant is not None
    return Constant(np.broadcast_to(side.constant.reshape(1, -1), (1, row)))


def _pair_form(
    place: Place, op: Pairwise, a: Value, b: Value
) -> tuple[str, tuple[tuple[str, int], ...], Interval, Store]:
    """Form, its numbers, the range of what is stored, and how it is stored."""
    traits, n = dict(place.step.call.traits), place.numbers()
    match (place.step.call.stem, traits["form"]):
        case (_, "max" | "min" as form):
            both = a.interval.union(b.interval)
            return form, (), both, as_it_is(both)
        case ("add" | "chain", "narrow" | "wide"):
            total = a.interval * n["ma"] + b.interval * n["mb"]
            numbers = (("ma", n["ma"]), ("mb", n["mb"]))
            return "linear", numbers, total, _shifted(place, 1, n, total)
        case ("mul", "narrow" | "wide"):
            product = (a.interval - n["zero_a"]) * (b.interval - n["zero_b"])
            numbers = (("zero_a", n["zero_a"]), ("zero_b", n["zero_b"]))
            return "product", numbers, product, _shifted(place, n["multiplier"], n, product)
        case _:
            return _pair_table(place, op, a, b)


def _shifted(place: Place, multiplier: int, n: dict[str, int], x: Interval) -> Store:
    total = (x * multiplier + n["offset"]).union(x * multiplier)
    column = [Constant(np.array([v], np.int64)) for v in (multiplier, n["offset"], n["shift"])]
    return Store(
        "mulshift",
        place.result.interval.int_type(),
        n["lo"],
        n["hi"],
        multiplier=column[0],
        offset=column[1],
        shift=column[2],
        total=total.int_type(),
    )


def _pair_table(
    place: Place, op: Pairwise, a: Value, b: Value
) -> tuple[str, tuple[tuple[str, int], ...], Interval, Store]:
    """The definition on all pairs that occur, for float chains that no formula equals."""
    if max(a.elem.storage.width, b.elem.storage.width) > _NARROW:
        raise place.refuse(
            "a function of two wide operands has no form", "quantize the operands to 8 bits"
        )
    left, right = (np.arange(v.interval.lo, v.interval.hi + 1, dtype=np.int64) for v in (a, b))
    table: NDArray[np.int64] = op.codes(left[:, None], right[None, :]).reshape(1, -1)
    numbers = (("low_a", a.interval.lo), ("low_b", b.interval.lo), ("count_b", len(right)))
    index = Interval(0, table.size - 1)
    return "table", numbers, index, looked_up(index, table, 0)
