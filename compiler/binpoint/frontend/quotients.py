"""split-quotients: a quotient of two computed values becomes a product."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from binpoint.frontend.edit import drop_unread
from binpoint.ir.build import GraphBuilder
from binpoint.ir.evaluate import constant_array
from binpoint.ir.graph import Graph
from binpoint.ops.elementwise import Binary, Kind
from binpoint.ops.unary import Unary
from binpoint.passes.base import Context, Effect, Pass, Stage


@dataclass(frozen=True, slots=True)
class SplitQuotients(Pass):
    """Put a / b as a · (1 / b), which has an integer form.

    1. The divisor is computed. Where it is a function of one value its reciprocal becomes part of
       that function's table, and so does the whole quotient where the dividend is one too.
    2. In a model that comes quantized the reciprocal has no type: its range comes from samples,
       and the report counts it among what onnxruntime computes in float. A constant divisor that
       came quantized is read as the real numbers that it stands for.
    """

    name: ClassVar[str] = "split-quotients"
    before: ClassVar[Stage] = Stage.FLOAT
    after: ClassVar[Stage] = Stage.FLOAT
    effect: ClassVar[Effect] = Effect.KEEPS_VALUES

    def run(self, graph: Graph, context: Context) -> Graph:
        """See the class."""
        del context
        for node in graph.nodes():
            a, b = graph.arguments(node) if node.op == Binary(Kind.DIV) else (None, None)
            if a is None or b is None:
                continue
            build = GraphBuilder(graph, node.name, node.origin)
            if b.constant is not None:
                real = b if b.fixed is None else build.constant(constant_array(b), hint=b.name)
                graph.replace(replace(node, inputs=(a.name, real.name)))
                drop_unread(graph, b.name)
                continue
            inverse = build.one(Unary("Reciprocal"), b)
            graph.replace(replace(node, op=Binary(Kind.MUL), inputs=(a.name, inverse.name)))
        return graph
