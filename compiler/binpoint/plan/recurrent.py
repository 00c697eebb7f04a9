"""Recurrent layers as hardware units."""

from __future__ import annotations

from typing import cast

from binpoint.ir.constant import Constant
from binpoint.ir.graph import Value
from binpoint.ir.op import IntArray
from binpoint.numeric.interval import Interval
from binpoint.ops.cell import IntRecurrent
from binpoint.plan import units
from binpoint.plan.moves import source
from binpoint.plan.place import Draft, Place, array_of
from binpoint.plan.sums import Products


def recurrent(place: Place) -> list[Draft]:
    """One loop over all steps; initial states that are constants are streams from memories."""
    op = cast("IntRecurrent", place.op)
    a, r, bias, factors, *rest = place.inputs
    starts = op.starts(place.inputs)
    count, (batch, hidden) = a.shape[0], starts["start"].shape
    fold = place.fold(pe=hidden, simd=hidden)
    products = Products(array_of(r), array_of(bias), Interval.of_type(op.state.storage))
    total, scaled = _rescaled(products, array_of(factors), op.shift)
    sent = _sent(place)
    unit = units.Recurrent(
        kind=op.kind,
        count=count,
        batch=batch,
        hidden=hidden,
        a=a.interval.int_type(),
        factors=_constant(factors),
        shift=op.shift,
        total=total.int_type(),
        scaled=scaled.int_type(),
        tables=tuple(_constant(table) for table in rest[len(starts) :]),
        fraction=op.fraction,
        state_bits=op.state_bits,
        memory_bits=op.memory_bits,
        state=op.state.storage,
        sequence=op.sequence,
        sends=tuple(sent),
        pe=fold.pe,
        simd=fold.simd,
        **products.fields(),
    )
    sources = [
        source(place, array_of(v), v.interval, name, fold.pe)
        for name, v in starts.items()
        if v.constant is not None
    ]
    fed = {draft.name: draft.writes[0] for draft in sources}
    reads = [place.end(a, fold.pe)]
    reads += [fed.get(f"{place.name}_{name}", place.end(v, fold.pe)) for name, v in starts.items()]
    writes = tuple(place.end(v, fold.pe) for v in sent.values())
    return [*sources, Draft(place.name, unit, tuple(reads), writes)]


def _sent(place: Place) -> dict[str, Value]:
    """What is read by anyone: the states, the last of the cell."""
    results = dict(zip(("states", "cell"), place.step.writes, strict=False))
    graph = place.graph
    return {
        name: graph.value(value)
        for name, value in results.items()
        if value in graph.outputs or graph.consumers(value)
    }


def _rescaled(products: Products, factors: IntArray, shift: int) -> tuple[Interval, Interval]:
    """The range of a sum times its factor, with one half, and of the scaled sum."""
    low, high = (v * factors for v in products.ends())
    half = (1 << shift) >> 1
    total = Interval(int(low.min()), int(high.max()))
    return total.union(total + half), Interval(
        int((low + half >> shift).min()), int((high + half >> shift).max())
    )


def _constant(value: Value) -> Constant:
    return Constant(array_of(value))
