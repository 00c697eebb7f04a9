"""propagate-types: where stated types go, and where they stay."""

from __future__ import annotations

import logging
from dataclasses import replace

import numpy as np
import pytest

from binpoint.frontend.types import PropagateTypes
from binpoint.ir.build import GraphBuilder
from binpoint.ir.evaluate import evaluate
from binpoint.ir.graph import Graph, Value
from binpoint.ir.text import dump
from binpoint.ir.verify import verify
from binpoint.numeric.dyadic import Dyadic
from binpoint.numeric.fixed import I8, U8, FixedType, FloatType, TensorType
from binpoint.ops.dense import Dense
from binpoint.ops.rescaled import Quantize
from binpoint.ops.shape import Reshape, Transpose
from binpoint.ops.unary import Clip, Unary
from binpoint.passes.base import Context

T1 = FixedType.per_tensor(I8, Dyadic(1, -4), 3)
T2 = FixedType.per_tensor(U8, Dyadic(3, -6), 7)


def real(build: GraphBuilder, name: str, *shape: int, fixed: FixedType | None = None) -> Value:
    return build.input(name, TensorType(shape, FloatType()), fixed=fixed)


def typed(graph: Graph, value: Value, kind: FixedType) -> Value:
    value = replace(graph.value(value.name), fixed=kind)
    graph.set_value(value)
    return value


def finish(graph: Graph, *outputs: Value) -> None:
    graph.outputs = tuple(v.name for v in outputs)
    graph.output_names = graph.outputs


def run(graph: Graph, context: Context) -> Graph:
    done = PropagateTypes().run(graph.copy(), context)
    verify(done, "float")
    again = PropagateTypes().run(done.copy(), context)
    assert dump(again) == dump(done)
    return done


def dense(build: GraphBuilder, x: Value) -> Value:
    rng = np.random.default_rng(1)
    return build.one(
        Dense(), x, build.constant(rng.normal(size=(6, x.shape[-1])).astype(np.float32))
    )


def test_a_type_goes_up_through_clip_and_moves(context: Context) -> None:
    build = GraphBuilder(Graph("g"))
    y = dense(build, real(build, "x", 2, 5))
    clipped = build.one(Clip(0.0, None), y)
    flat = typed(build.graph, build.one(Reshape((12,)), clipped), T1)
    finish(build.graph, flat)
    done = run(build.graph, context)
    assert done.value(y.name).fixed == T1
    assert done.value(clipped.name).fixed == T1
    assert done.value("x").fixed is None


def test_a_type_reaches_an_input(context: Context) -> None:
    build = GraphBuilder(Graph("g"))
    x = real(build, "x", 2, 5)
    moved = typed(build.graph, build.one(Transpose((1, 0)), x), T1)
    finish(build.graph, moved)
    assert run(build.graph, context).value("x").fixed == T1


def test_equal_quantizers_become_one_type(context: Context) -> None:
    build = GraphBuilder(Graph("g"))
    y = dense(build, real(build, "x", 2, 5))
    firsts = [typed(build.graph, build.one(Quantize(T1), y), T1) for _ in range(2)]
    seconds = [typed(build.graph, build.one(Unary("Tanh"), v), T2) for v in firsts]
    finish(build.graph, *seconds)
    done = run(build.graph, context)
    assert done.value(y.name).fixed == T1
    assert not any(isinstance(n.op, Quantize) for n in done.nodes())


def test_a_quantizer_before_an_output_is_replaced_by_its_operand(context: Context) -> None:
    build = GraphBuilder(Graph("g"))
    y = dense(build, real(build, "x", 2, 5))
    out = typed(build.graph, build.one(Quantize(T1), y), T1)
    build.graph.set_value(replace(out, source="logits"))
    finish(build.graph, out)
    done = run(build.graph, context)
    assert done.outputs == (y.name,)
    assert done.value(y.name).fixed == T1
    assert done.value(y.name).source == "logits"


def test_what_is_read_in_different_types_is_computed_once_for_each(context: Context) -> None:
    build = GraphBuilder(Graph("g"))
    y = dense(build, real(build, "x", 2, 5))
    one = typed(build.graph, build.one(Quantize(T1), y), T1)
    two = typed(build.graph, build.one(Quantize(T2), y), T2)
    finish(build.graph, one, two)
    done = run(build.graph, context)
    assert [done.value(name).fixed for name in done.outputs] == [T1, T2]
    makers = [done.producer(name) for name in done.outputs]
    assert [type(m.op) for m in makers if m] == [Dense, Dense]
    assert len(done.nodes()) == 2


def test_an_input_read_in_different_types_stays_with_its_quantizers(
    context: Context, caplog: pytest.LogCaptureFixture
) -> None:
    build = GraphBuilder(Graph("g"))
    x = real(build, "x", 2, 5)
    one = typed(build.graph, build.one(Quantize(T1), x), T1)
    two = typed(build.graph, build.one(Quantize(T2), x), T2)
    finish(build.graph, one, two)
    with caplog.at_level(logging.DEBUG):
        done = run(build.graph, context)
    assert done.value(x.name).fixed is None
    assert "readers want different ones" in caplog.text


def test_an_output_keeps_its_reals(context: Context, caplog: pytest.LogCaptureFixture) -> None:
    build = GraphBuilder(Graph("g"))
    y = dense(build, real(build, "x", 2, 5))
    one = typed(build.graph, build.one(Quantize(T1), y), T1)
    finish(build.graph, y, one)
    with caplog.at_level(logging.DEBUG):
        done = run(build.graph, context)
    assert done.value(y.name).fixed is None
    assert "it is an output" in caplog.text


def test_a_type_goes_down_through_moves(context: Context) -> None:
    build = GraphBuilder(Graph("g"))
    x = real(build, "x", 2, 5, fixed=T1)
    a = build.one(Transpose((1, 0)), x)
    b = build.one(Clip(-1.0, 1.0), a)
    c = build.one(Unary("Tanh"), b)
    finish(build.graph, c)
    done = run(build.graph, context)
    assert [done.value(v.name).fixed for v in (a, b, c)] == [T1, T1, None]


def test_a_change_of_type_in_a_move_stays(context: Context) -> None:
    build = GraphBuilder(Graph("g"))
    x = real(build, "x", 2, 5, fixed=T1)
    a = build.one(Transpose((1, 0)), x)
    b = typed(build.graph, build.one(Clip(0.0, None), a), T2)
    finish(build.graph, b)
    done = run(build.graph, context)
    assert done.value("x").fixed == T1
    assert done.value(b.name).fixed == T2


@pytest.mark.parametrize("low", [None, -0.71, 0.0])
@pytest.mark.parametrize("high", [None, 0.33, 6.0])
def test_rounding_before_and_after_a_clamp_are_equal(low: float | None, high: float | None) -> None:
    rng = np.random.default_rng(3)
    x = np.concatenate([rng.normal(size=500) * 4, np.arange(-200, 200) / 32]).astype(np.float32)

    def rounded(*ops: Clip | Quantize) -> np.ndarray:
        build = GraphBuilder(Graph("g"))
        y = real(build, "x", len(x))
        for op in ops:
            y = build.one(op, y)
        return T2.quantize(evaluate(build.graph, {"x": x})[y.name])

    clip = Clip(low, high)
    assert np.array_equal(rounded(clip, Quantize(T2)), rounded(Quantize(T2), clip, Quantize(T2)))
