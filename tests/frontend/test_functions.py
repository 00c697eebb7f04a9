"""fuse-functions: formulas of one value become one op, in whatever spelling."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from binpoint.frontend.functions import FuseFunctions
from binpoint.ir.build import GraphBuilder
from binpoint.ir.graph import Graph, Value
from binpoint.ir.op import FloatOp
from binpoint.numeric.dyadic import Dyadic
from binpoint.numeric.fixed import I8, I16, FixedType, FloatType, TensorType
from binpoint.ops.composite import Composite
from binpoint.ops.elementwise import Binary, Kind, MinMax, Scalar
from binpoint.ops.unary import Clip, Unary

Apply = Callable[..., Graph]
X8 = FixedType.per_tensor(I8, Dyadic(1, -5), 3)


def start(fixed: FixedType | None = None) -> tuple[GraphBuilder, Value]:
    build = GraphBuilder(Graph("g"))
    return build, build.input("x", TensorType((3, 50), FloatType()), fixed=fixed)


def finish(build: GraphBuilder, *outputs: Value) -> Graph:
    build.graph.outputs = build.graph.output_names = tuple(v.name for v in outputs)
    return build.graph


def chain(build: GraphBuilder, x: Value, *ops: FloatOp) -> Value:
    for op in ops:
        x = build.one(op, x)
    return x


def ops(graph: Graph) -> list[object]:
    return [node.op for node in graph.nodes()]


def silu(build: GraphBuilder, x: Value) -> Value:
    return build.one(Binary(Kind.MUL), x, build.one(Unary("Sigmoid"), x))


def hard_swish(build: GraphBuilder, x: Value) -> Value:
    gate = chain(build, x, Scalar(Kind.ADD, 3.0), Clip(0.0, 6.0))
    return build.one(Scalar(Kind.DIV, 6.0), build.one(Binary(Kind.MUL), x, gate))


def gelu(build: GraphBuilder, x: Value) -> Value:
    inner = chain(build, x, Scalar(Kind.DIV, 2**0.5), Unary("Erf"), Scalar(Kind.ADD, 1.0))
    return build.one(Scalar(Kind.MUL, 0.5), build.one(Binary(Kind.MUL), x, inner))


def gelu_tanh(build: GraphBuilder, x: Value) -> Value:
    cube = chain(build, x, Scalar(Kind.POW, 3.0), Scalar(Kind.MUL, 0.044715))
    total = build.one(Binary(Kind.ADD), x, cube)
    gate = chain(build, total, Scalar(Kind.MUL, 0.7978845), Unary("Tanh"), Scalar(Kind.ADD, 1.0))
    return build.one(Binary(Kind.MUL), build.one(Scalar(Kind.MUL, 0.5), x), gate)


def mish(build: GraphBuilder, x: Value) -> Value:
    return build.one(Binary(Kind.MUL), x, chain(build, x, Unary("Softplus"), Unary("Tanh")))


def gated_clip(build: GraphBuilder, x: Value) -> Value:
    return build.one(MinMax(largest=False), x, build.one(Clip(-0.5, 0.5), x))


FORMULAS = [silu, hard_swish, gelu, gelu_tanh, mish, gated_clip]


@pytest.mark.parametrize("formula", FORMULAS)
@pytest.mark.parametrize("fixed", [None, X8])
def test_a_formula_becomes_one_op(
    apply: Apply, formula: Callable[[GraphBuilder, Value], Value], fixed: FixedType | None
) -> None:
    build, x = start(fixed)
    done = apply(finish(build, formula(build, x)), FuseFunctions())
    assert [type(op) for op in ops(done)] == [Composite]


@pytest.mark.parametrize("formula", FORMULAS)
def test_onnxruntime_computes_the_same_formula(
    apply: Apply, formula: Callable[[GraphBuilder, Value], Value]
) -> None:
    build, x = start()
    (op,) = ops(apply(finish(build, formula(build, x)), FuseFunctions()))
    assert isinstance(op, Composite)
    real = np.linspace(-8, 8, 256, dtype=np.float32)
    np.testing.assert_allclose(op.runtime(real), op.reference(real)[0], rtol=2e-5, atol=2e-6)


def test_a_formula_of_a_sum_starts_after_the_sum(apply: Apply) -> None:
    build, x = start()
    other = build.input("z", TensorType((3, 50), FloatType()))
    total = build.one(Binary(Kind.ADD), x, other)
    done = apply(finish(build, chain(build, silu(build, total), Unary("Exp"))), FuseFunctions())
    assert [type(op) for op in ops(done)] == [Binary, Composite]


def test_a_gate_of_another_value_stays(apply: Apply) -> None:
    build, x = start()
    gate = build.input("z", TensorType((3, 50), FloatType()))
    gate = chain(build, gate, Scalar(Kind.ADD, 3.0), Unary("Sigmoid"))
    done = apply(finish(build, build.one(Binary(Kind.MUL), x, gate)), FuseFunctions())
    assert [type(op) for op in ops(done)] == [Composite, Binary]


def test_a_clamp_at_the_start_stays(apply: Apply) -> None:
    build, x = start()
    done = apply(
        finish(build, chain(build, x, Clip(0.0, 6.0), Unary("Tanh"), Unary("Exp"))),
        FuseFunctions(),
    )
    assert [type(op) for op in ops(done)] == [Clip, Composite]


def test_clamps_in_a_row_are_one(apply: Apply) -> None:
    build, x = start()
    graph = finish(build, chain(build, x, Clip(None, 9.0), Clip(-1.0, 5.0), Clip(0.0, None)))
    assert ops(apply(graph, FuseFunctions())) == [Clip(0.0, 5.0)]


def test_rounded_and_shared_values_stay(apply: Apply) -> None:
    build, x = start()
    first = chain(build, x, Unary("Tanh"))
    build.graph.set_value(first := replace(first, fixed=X8))
    second = chain(build, first, Unary("Exp"))
    done = apply(finish(build, second, chain(build, second, Unary("Neg"))), FuseFunctions())
    assert [type(op) for op in ops(done)] == [Unary, Unary, Unary]


def test_a_wide_operand_is_not_tabulated(apply: Apply) -> None:
    build, x = start(FixedType.per_tensor(I16, Dyadic(1, -9)))
    done = apply(finish(build, silu(build, x)), FuseFunctions())
    assert [type(op) for op in ops(done)] == [Unary, Binary]
