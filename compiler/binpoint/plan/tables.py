"""with_tables(): functions of 8-bit codes by a table of what their ops compute.

Exponentials by shifts or polynomials, and the gates made of them, are long; of a byte, or of the
distance between two, they have 256 results. So a gate is a lookup, and shares of exponentials are
made as those of a softmax by table, of the same integers. Where size counts the ops stay: layers of
all scales share their kernels.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from binpoint.ir.constant import Constant
from binpoint.ir.graph import Graph, Value
from binpoint.ir.kernel import KernelCall, Table
from binpoint.numeric.fixed import I32
from binpoint.ops.distances import CODES
from binpoint.ops.exponential import Exponential
from binpoint.ops.gate import IntGated
from binpoint.ops.lookup import codes_of, lookup_call
from binpoint.ops.rowgate import IntShiftGelu
from binpoint.ops.shares import IntShares, Rounded
from binpoint.options import CompileOptions
from binpoint.plan.fuse import Step

_BYTE = 8


def with_tables(steps: tuple[Step, ...], graph: Graph, options: CompileOptions) -> tuple[Step, ...]:
    """The steps, those that are faster by a table with its call."""
    if options.optimize == "size":
        return steps
    return tuple(replace(step, call=_call(step, graph)) for step in steps)


def _call(step: Step, graph: Graph) -> KernelCall:
    node, call = step.nodes[0], step.call
    x = graph.arguments(node)[0] if node.inputs else None
    if x is None or not x.elem.storage.width <= _BYTE:
        return call
    match node.op:
        case IntGated() as op:
            return _lookup(call, op, x, graph.value(step.writes[0]))
        case IntShares() as op:
            return _shares(call, op)
        case IntShiftGelu() as op:
            return _by_distance(call, op.terms)
        case _:
            return call


def _lookup(call: KernelCall, op: IntGated, x: Value, y: Value) -> KernelCall:
    """A gate, of all codes that its operand has."""
    storage, kind = x.elem.storage, y.elem.storage
    (entries,) = op.reference(np.clip(codes_of(storage), x.interval.lo, x.interval.hi))
    table = Table("table", Constant(entries.astype(kind.dtype)), kind)
    return lookup_call(x, table, y, storage.min, f"{call.formula}, by table")


def _shares(call: KernelCall, op: IntShares) -> KernelCall:
    """Shares; those that are rounded once are what a softmax by table makes."""
    made = _by_distance(call, op.terms)
    if not isinstance(op.division, Rounded):
        return made
    form = "table" if op.division.narrow else "wide"
    return replace(made, stem="softmax", traits=(("form", form),))


def _by_distance(call: KernelCall, exponential: Exponential) -> KernelCall:
    """A call of a kernel of rows, with the exponentials of all distances in a table."""
    own = [number.name for number in exponential.numbers()]
    terms = exponential.terms(np.arange(CODES)).astype(np.int32)
    table = Table("table", Constant(terms), I32)
    found = ((table if a.name == own[0] else a) for a in call.arguments if a.name not in own[1:])
    traits = {**dict(call.traits), "terms": "table"}
    return replace(call, arguments=tuple(found), traits=tuple(traits.items()))
