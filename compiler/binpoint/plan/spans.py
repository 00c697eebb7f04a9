"""with_spans(): of a softmax with a constant mask the rows without what the mask leaves out.

A mask lowers elements by so much that their terms are zero (`ops.distances`). So the largest of a
row, its sum and the shares of what is kept are those of the row without the others, whose share is
that of the term zero. The kernel gets the operand from before the mask, and the runs of elements
that each row keeps: of a causal mask the first r + 1 in row r. The masked operand, twice as wide,
is never stored.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from binpoint.ir.constant import Constant
from binpoint.ir.evaluate import constant_array
from binpoint.ir.graph import Graph, Value
from binpoint.ir.kernel import Argument, Buffer, KernelCall, Number, Table
from binpoint.ir.op import IntArray
from binpoint.numeric.fixed import I32, U8, U16
from binpoint.ops.distances import CODES
from binpoint.ops.logshares import NONE, IntLogShares
from binpoint.ops.pairwise import IntMinMax
from binpoint.ops.softmax import IntSoftmax
from binpoint.plan.fuse import Step, same_bytes

Kept = NDArray[np.bool_]
ROWS = ("x", "y", "outer", "n", "spans", "period", "columns", "none", "packed")
"""The arguments by which a kernel goes over rows, whether with a mask or without."""

_TRAIT = "spans"


def with_spans(steps: tuple[Step, ...], graph: Graph) -> tuple[Step, ...]:
    """The steps, each mask that a softmax alone reads as part of the softmax."""
    masks = {s.writes[0]: s for s in steps if isinstance(s.nodes[0].op, IntMinMax)}
    made = {step.name: step for step in steps}
    for step in steps:
        mask = masks.get(step.reads[0]) if step.reads else None
        merged = None if mask is None else _merged(step, mask, graph)
        if mask is not None and merged is not None:
            made[step.name] = merged
            del made[mask.name]
    return tuple(made[step.name] for step in steps if step.name in made)


def _merged(step: Step, mask: Step, graph: Graph) -> Step | None:
    """Both as one call, or None where that is not the same."""
    node = step.nodes[0]
    op = node.op
    if not isinstance(op, IntSoftmax | IntLogShares) or graph.sole_consumer(mask.writes[0]) != node:
        return None
    table = constant_array(graph.arguments(node)[1])
    keep = _kept(mask, table, graph)
    if keep is None or op.block.inner != 1 or op.block.n > U16.max:
        return None
    rows = _repeated(keep.reshape(op.block.outer, op.block.n))
    if not rows.any(axis=1).all():
        return None
    source, result = graph.value(mask.reads[0]), graph.value(step.writes[0])
    none = NONE if isinstance(op, IntLogShares) else op.result.zero_point
    return replace(
        step,
        nodes=(node, *mask.nodes),
        reads=mask.reads,
        call=_call(step.call, source, result, table, rows, none),
        origin=mask.origin + step.origin,
        in_place=mask.reads if same_bytes(source, result) else (),
    )


def _kept(mask: Step, table: IntArray, graph: Graph) -> Kept | None:
    """Which elements a mask keeps; None if it changes others than those whose term is zero then."""
    op, operands = mask.nodes[0].op, graph.arguments(mask.nodes[0])
    assert isinstance(op, IntMinMax)
    places = [constant_array(v) for v in operands if v.constant is not None]
    if op.largest or len(places) != 1 or not mask.reads:
        return None
    source = graph.value(mask.reads[0])
    reach = int(np.flatnonzero(table).max()) + 1
    keep = places[0] >= source.interval.hi
    beyond = keep | (places[0] <= source.interval.lo - reach)
    if source.shape != op.axes.shape or reach > CODES or not beyond.all():
        return None
    return np.broadcast_to(keep, op.axes.shape)


def _repeated(rows: Kept) -> Kept:
    """The first rows, which come again and again."""
    count = len(rows)
    for period in range(1, count):
        if count % period == 0 and (rows.reshape(-1, period, rows.shape[1]) == rows[:period]).all():
            return rows[:period]
    return rows


def _call(
    call: KernelCall, source: Value, result: Value, table: IntArray, rows: Kept, none: int
) -> KernelCall:
    """The kernel's call on runs of the unmasked operand's rows."""
    runs = [
        np.flatnonzero(np.diff(row, prepend=False, append=False)).reshape(-1, 2) for row in rows
    ]
    listed = [np.stack([start, end - start], axis=1) for start, end in (r.T for r in runs)]
    several = any(len(r) > 1 for r in runs)
    if several:
        heads = [(row.sum(), len(r)) for row, r in zip(rows, runs, strict=True)]
        listed = [np.concatenate([[h], r]) for h, r in zip(heads, listed, strict=True)]
    numbers = call.numbers
    elem = U8 if numbers["n"] <= U8.max else U16
    spans = Constant(np.concatenate(listed).reshape(-1).astype(elem.dtype))
    kept = [a for a in call.arguments if a.name not in ("x", "table", "outer", "n", "inner")]
    arguments = (
        Buffer("x", source.name, source.elem.storage),
        *kept,
        Table("table", Constant(table[:CODES].astype(np.int32)), I32),
        Table("spans", spans, elem),
        Number("outer", numbers["outer"] // len(rows)),
        Number("period", len(rows)),
        Number("columns", numbers["n"]),
        Number("none", none),
    )
    traits = (*call.traits, (_TRAIT, "spans" if several else "span"))
    if not several:
        return replace(call, arguments=arguments, traits=traits)
    size = source.elem.storage.dtype.itemsize + result.elem.storage.dtype.itemsize
    return replace(
        call,
        arguments=(*arguments, Number("packed", 0)),
        traits=traits,
        scratch=size * numbers["n"],
    )


def traits_of(call: KernelCall) -> tuple[tuple[str, str], ...]:
    """Of a kernel's traits the one that says how its rows are kept, if it has a mask."""
    return tuple(trait for trait in call.traits if trait[0] == _TRAIT)


def behind(call: KernelCall, own: int) -> tuple[tuple[Argument, ...], int]:
    """How a kernel with scratch memory of its own goes over rows, and all of its scratch."""
    rows = (a for a in call.arguments if a.name in ROWS)
    return tuple(
        replace(a, value=own) if isinstance(a, Number) and a.name == "packed" else a for a in rows
    ), own + call.scratch
