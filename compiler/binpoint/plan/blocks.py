"""Reductions of whole axes as hardware units: sums, extremes and their places, softmax."""

from __future__ import annotations

from binpoint.ir.constant import Constant
from binpoint.ops.blocks import IntArgExtreme, IntExtreme, IntSum
from binpoint.ops.softmax import IntSoftmax, OnnxruntimeSoftmax
from binpoint.plan import units
from binpoint.plan.place import Draft, Place, array_of
from binpoint.plan.slides import partial_sums
from binpoint.plan.store import as_it_is
from binpoint.plan.sums import store_of
from binpoint.plan.units import Unit


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
    """Shares of rows, along the last axis."""
    x, table = place.inputs
    op = place.op
    assert isinstance(op, IntSoftmax | OnnxruntimeSoftmax)
    if op.block.inner != 1:
        raise place.refuse(
            "a softmax along another than the last axis has no form", "transpose it before export"
        )
    n = place.numbers()
    entries = array_of(table)
    storage = op.result.storage
    exact = isinstance(op, OnnxruntimeSoftmax)
    unit = units.Softmax(
        rows=op.block.outer,
        count=op.block.n,
        x=x.interval.int_type(),
        table=Constant(entries if exact else entries[::-1]),
        form="float" if exact else "table",
        factor=n["factor"] if exact else op.factor,
        shift=0 if exact else op.shift,
        zero=n["zero"],
        lo=n.get("lo", storage.min),
        hi=n["hi"],
    )
    return [Draft(place.name, unit, (place.end(x, 1),), (place.end(place.result, 1),))]
