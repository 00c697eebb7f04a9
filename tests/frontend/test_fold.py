"""fold-constants, fold-pad: what is computed at once, what becomes padding."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from binpoint.errors import InvalidConstant
from binpoint.frontend.fold import FoldArgMax, FoldConstants, FoldPad
from binpoint.ir.build import GraphBuilder
from binpoint.ir.graph import Graph, Value
from binpoint.ir.op import FloatOp
from binpoint.numeric.dyadic import Dyadic
from binpoint.numeric.fixed import I8, U8, FixedType, FloatType, TensorType
from binpoint.ops.conv import Conv
from binpoint.ops.elementwise import Binary, Kind, Scalar
from binpoint.ops.pad import Pad
from binpoint.ops.pool import AveragePool, MaxPool
from binpoint.ops.reduce import ArgExtreme
from binpoint.ops.softmax import Softmax
from binpoint.ops.unary import Clip, Unary
from binpoint.ops.window import Window
from binpoint.passes.base import Context

Apply = Callable[..., Graph]
X8 = FixedType.per_tensor(I8, Dyadic(1, -5), 3)
Y8 = FixedType.per_tensor(I8, Dyadic(1, -4), 3)


def start(fixed: FixedType | None = None) -> tuple[GraphBuilder, Value]:
    build = GraphBuilder(Graph("g"))
    return build, build.input("x", TensorType((1, 6, 5, 4), FloatType()), fixed=fixed)


def finish(build: GraphBuilder, output: Value) -> Graph:
    build.graph.outputs = build.graph.output_names = (output.name,)
    return build.graph


def conv(build: GraphBuilder, x: Value) -> Value:
    weights = np.random.default_rng(2).normal(size=(3, 3, 3, x.shape[-1])).astype(np.float32)
    window = Window((3, 3), (2, 1), (1, 0), (0, 1), (1, 1))
    return build.one(Conv(window), x, build.constant(weights))


def kinds(graph: Graph) -> list[str]:
    return [type(node.op).__name__ for node in graph.nodes()]


@pytest.mark.parametrize("kind", [None, X8])
def test_functions_of_constants_are_constants(apply: Apply, kind: FixedType | None) -> None:
    build, x = start()
    value = build.one(Unary("Tanh"), build.constant(np.linspace(-2, 2, 4, dtype=np.float32)))
    build.graph.set_value(value := replace(value, fixed=kind))
    value = build.one(Binary(Kind.ADD), x, value)
    done = apply(finish(build, value), FoldConstants())
    assert kinds(done) == ["Binary"]


def test_a_constant_that_is_not_finite_is_refused(context: Context) -> None:
    build, x = start()
    value = build.one(Unary("Log"), build.constant(np.zeros(4, np.float32)))
    graph = finish(build, build.one(Binary(Kind.ADD), x, value))
    with pytest.raises(InvalidConstant, match="NaN or infinity"):
        FoldConstants().run(graph, context)


@pytest.mark.parametrize("fixed", [None, X8])
def test_zeros_become_padding(apply: Apply, fixed: FixedType | None) -> None:
    build, x = start(fixed)
    padded = build.one(Pad((0, 1, 2, 0), (0, 2, 1, 0), 0.0), x)
    build.graph.set_value(padded := replace(padded, fixed=fixed))
    done = apply(finish(build, conv(build, padded)), FoldPad())
    assert kinds(done) == ["Conv"]
    op = done.nodes()[0].op
    assert isinstance(op, Conv)
    assert (op.window.before, op.window.after) == ((2, 2), (2, 2))


@pytest.mark.parametrize(
    ("pad", "kind", "reason"),
    [
        (Pad((0, 1, 1, 0), (0, 0, 0, 0), 0.5), None, "not of zeros"),
        (Pad((0, 1, 1, 0), (0, 0, 0, 1), 0.0), None, "batch or channel"),
        (Pad((0, 1, 1, 0), (0, 0, 0, 0), 0.0), Y8, "type of its own"),
    ],
)
def test_other_borders_stay(
    apply: Apply, caplog: pytest.LogCaptureFixture, pad: Pad, kind: FixedType | None, reason: str
) -> None:
    build, x = start(X8)
    padded = build.one(pad, x)
    build.graph.set_value(padded := replace(padded, fixed=kind))
    with caplog.at_level(logging.DEBUG):
        done = apply(finish(build, conv(build, padded)), FoldPad())
    assert len(done.nodes()) == 2
    assert reason in caplog.text


BORDER = Pad((0, 1, 1, 0), (0, 0, 1, 0), 0.0)
POOL = Window((2, 2), (2, 2), (0, 0), (0, 0), (1, 1))


def test_an_average_counts_the_border(apply: Apply) -> None:
    build, x = start()
    y = build.one(AveragePool(POOL), build.one(BORDER, x))
    done = apply(finish(build, y), FoldPad())
    padded = Window((2, 2), (2, 2), (1, 1), (0, 1), (1, 1))
    assert [n.op for n in done.nodes()] == [AveragePool(padded, (0, 1))]


def test_padding_that_does_not_count_keeps_a_border(
    apply: Apply, caplog: pytest.LogCaptureFixture
) -> None:
    build, x = start()
    inner = replace(POOL, before=(1, 0))
    y = build.one(AveragePool(inner), build.one(BORDER, x))
    with caplog.at_level(logging.DEBUG):
        assert kinds(apply(finish(build, y), FoldPad())) == ["Pad", "AveragePool"]
    assert "does not count" in caplog.text


@pytest.mark.parametrize("by", ["clamp", "type"])
def test_a_maximum_of_positive_elements_skips_the_border(apply: Apply, by: str) -> None:
    build, x = start(FixedType.per_tensor(U8, Dyadic(1, -5)) if by == "type" else None)
    x = x if by == "type" else build.one(Clip(0.0, None), x)
    y = build.one(MaxPool(POOL), build.one(BORDER, x))
    assert kinds(apply(finish(build, y), FoldPad()))[-1:] == ["MaxPool"]
    assert "Pad" not in kinds(apply(finish(build, y), FoldPad()))


def test_a_maximum_of_any_elements_keeps_the_border(
    apply: Apply, caplog: pytest.LogCaptureFixture
) -> None:
    build, x = start()
    y = build.one(MaxPool(POOL), build.one(BORDER, x))
    with caplog.at_level(logging.DEBUG):
        assert kinds(apply(finish(build, y), FoldPad())) == ["Pad", "MaxPool"]
    assert "below zero" in caplog.text


def test_the_place_of_a_maximum_skips_increasing_functions(apply: Apply) -> None:
    build, x = start()
    y = build.one(Softmax(3), build.one(Scalar(Kind.MUL, 3.0), build.one(Unary("Tanh"), x)))
    done = apply(finish(build, build.one(ArgExtreme(3, largest=True, last=False), y)), FoldArgMax())
    assert kinds(done) == ["ArgExtreme"]


@pytest.mark.parametrize(
    "op", [Softmax(2), Unary("Abs"), Scalar(Kind.MUL, -1.0), Scalar(Kind.SUB, 1.0, first=True)]
)
def test_the_place_of_a_maximum_needs_other_functions(apply: Apply, op: FloatOp) -> None:
    build, x = start()
    place = build.one(ArgExtreme(3, largest=True, last=False), build.one(op, x))
    assert len(apply(finish(build, place), FoldArgMax()).nodes()) == 2


def test_a_rounded_function_stays_before_the_place(apply: Apply) -> None:
    build, x = start()
    y = replace(build.one(Unary("Tanh"), x), fixed=X8)
    build.graph.set_value(y)
    place = build.one(ArgExtreme(3, largest=True, last=False), y)
    assert kinds(apply(finish(build, place), FoldArgMax())) == ["Unary", "ArgExtreme"]
