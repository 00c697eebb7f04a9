"""split-quotients: quotients of computed values have an integer form; values are kept."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from binpoint.frontend.quotients import SplitQuotients
from binpoint.ir.build import GraphBuilder
from binpoint.ir.evaluate import constant_array
from binpoint.ir.graph import Graph
from binpoint.ir.text import dump
from binpoint.numeric.dyadic import Dyadic
from binpoint.numeric.fixed import I8, FixedType, FloatType, TensorType
from binpoint.ops.elementwise import Binary, Kind, Scalar
from binpoint.ops.unary import Unary

Apply = Callable[..., Graph]


def share(*, of: bool = True) -> GraphBuilder:
    """x over one more than its size, or over a constant."""
    build = GraphBuilder(Graph("g"))
    x = build.input("x", TensorType((2, 3), FloatType()))
    size = build.one(Scalar(Kind.ADD, 1.0), build.one(Unary("Abs"), x))
    constant = build.constant(np.linspace(1, 2, 3, dtype=np.float32).reshape(1, 3))
    y = build.one(Binary(Kind.DIV), x, size if of else constant)
    build.graph.outputs = build.graph.output_names = (y.name,)
    return build


def test_a_computed_divisor_is_inverted(apply: Apply) -> None:
    graph = apply(share().graph, SplitQuotients())
    ops = [node.op for node in graph.nodes()]
    assert Unary("Reciprocal") in ops
    assert Binary(Kind.MUL) in ops
    assert dump(apply(graph, SplitQuotients())) == dump(graph)


def test_a_constant_divisor_stays(apply: Apply) -> None:
    graph = share(of=False).graph
    assert dump(apply(graph, SplitQuotients())) == dump(graph)


def test_a_quantized_constant_divisor_becomes_real(apply: Apply) -> None:
    build = GraphBuilder(Graph("g"))
    x = build.input("x", TensorType((2, 3), FloatType()))
    kind = FixedType.per_tensor(I8, Dyadic(1, -4))
    codes = build.constant(np.array([[8, 16, 32]], np.int8), fixed=kind)
    y = build.one(Binary(Kind.DIV), x, codes)
    build.graph.outputs = build.graph.output_names = (y.name,)
    graph = apply(build.graph, SplitQuotients())
    (node,) = graph.nodes()
    (divisor,) = (v for v in graph.arguments(node) if v.constant)
    assert divisor.fixed is None
    np.testing.assert_array_equal(constant_array(divisor), [[0.5, 1.0, 2.0]])
