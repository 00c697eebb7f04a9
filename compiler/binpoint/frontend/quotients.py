"""split-quotients: a quotient of two computed values becomes a product."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from binpoint.ir.build import GraphBuilder
from binpoint.ir.graph import Graph
from binpoint.ops.elementwise import Binary, Kind
from binpoint.ops.unary import Unary
from binpoint.passes.base import Context, Effect, Pass, Stage


@dataclass(frozen=True, slots=True)
class SplitQuotients(Pass):
    """Put a / b as a · (1 / b), which has an integer form.

    1. The divisor is computed. Where it is a function of one value its reciprocal becomes part of
       that function's table, and so does the whole quotient where the dividend is one too.
    2. A model that comes quantized keeps its quotients: there float32 rounds them in its own way.
    """

    name: ClassVar[str] = "split-quotients"
    before: ClassVar[Stage] = Stage.FLOAT
    after: ClassVar[Stage] = Stage.FLOAT
    effect: ClassVar[Effect] = Effect.KEEPS_VALUES

    def run(self, graph: Graph, context: Context) -> Graph:
        """See the class."""
        del context
        if graph.quantized:
            return graph
        for node in graph.nodes():
            if node.op != Binary(Kind.DIV) or graph.arguments(node)[1].constant is not None:
                continue
            a, b = graph.arguments(node)
            inverse = GraphBuilder(graph, node.name, node.origin).one(Unary("Reciprocal"), b)
            graph.replace(replace(node, op=Binary(Kind.MUL), inputs=(a.name, inverse.name)))
        return graph
