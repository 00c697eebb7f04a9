"""shift-products: matrix products with powers of two as shifts."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from binpoint.ir.graph import Graph, Node
from binpoint.ops.dense import IntMatMul
from binpoint.ops.logshares import LOG2, IntLogShares, IntShiftMatMul, is_shift
from binpoint.ops.lookup import IntLookup
from binpoint.passes.base import Context, Effect, Pass, Stage
from binpoint.passes.cleanup import remove_dead


@dataclass(frozen=True, slots=True)
class ShiftProducts(Pass):
    """Let a matrix product take the codes of powers of two.

    1. A product whose left operand is what a table makes of the codes of a log2 softmax over the
       last axis reads the codes themselves and shifts the right operand by them. Other readers keep
       the table.
    """

    name: ClassVar[str] = "shift-products"
    before: ClassVar[Stage] = Stage.INTEGER
    after: ClassVar[Stage] = Stage.INTEGER
    effect: ClassVar[Effect] = Effect.KEEPS_VALUES

    def run(self, graph: Graph, context: Context) -> Graph:
        """See the class."""
        del context
        found = [node for node in graph.nodes() if isinstance(node.op, IntMatMul)]
        for node in found:
            _shifted(graph, node, node.op)
        return remove_dead(graph) if found else graph


def _shifted(graph: Graph, node: Node, op: object) -> None:
    assert isinstance(op, IntMatMul)
    table = graph.producer(node.inputs[0])
    if table is None or not isinstance(table.op, IntLookup) or op.zero_a != 0:
        return
    codes, entries = graph.arguments(table)
    shares = graph.producer(codes.name)
    assert entries.constant is not None
    if shares is None or not isinstance(shares.op, IntLogShares):
        return
    rows = shares.op.block.inner == 1 and shares.op.block.n == codes.shape[-1]
    if rows and shares.op.base == LOG2 and is_shift(entries.constant.array):
        shift = IntShiftMatMul(op.zero_b, op.result)
        graph.replace(replace(node, op=shift, inputs=(codes.name, node.inputs[1])))
