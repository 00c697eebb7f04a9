"""split-projections: parts of a layer's result become layers of their own; values are kept."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from binpoint.frontend.projections import SplitProjections
from binpoint.ir.build import GraphBuilder
from binpoint.ir.graph import Graph, Value
from binpoint.numeric.dyadic import Dyadic
from binpoint.numeric.fixed import I8, FixedType, FloatType, TensorType
from binpoint.ops.conv import Conv
from binpoint.ops.dense import Dense
from binpoint.ops.shape import Reshape
from binpoint.ops.slices import take_value
from binpoint.ops.unary import Unary
from binpoint.ops.window import Window

Apply = Callable[..., Graph]
T1 = FixedType.per_tensor(I8, Dyadic(1, -4), 3)
T2 = FixedType.per_tensor(I8, Dyadic(1, -3), 3)
WINDOW = Window((1, 1), (1, 1), (0, 0), (0, 0), (1, 1))


def layer(channels: int, *, spatial: bool = False) -> tuple[GraphBuilder, Value]:
    """A layer of this many channels on five positions, with a bias."""
    build, rng = GraphBuilder(Graph("g")), np.random.default_rng(channels)
    positions = (1, 5) if spatial else (5,)
    x = build.input("x", TensorType((1, *positions, 4), FloatType()))
    shape = (channels, 1, 1, 4) if spatial else (channels, 4)
    weights = build.constant(rng.normal(size=shape).astype(np.float32))
    bias = build.constant(rng.normal(size=channels).astype(np.float32))
    return build, build.one(Conv(WINDOW) if spatial else Dense(), x, weights, bias)


def channels(build: GraphBuilder, value: Value, rows: range) -> Value:
    """Some of the channels on the last axis."""
    return take_value(build, value, [*(range(n) for n in value.shape[:-1]), rows])


def finish(build: GraphBuilder, *outputs: Value) -> Graph:
    """The graph, with functions of its parts as outputs."""
    ends = [build.one(Unary("Tanh"), value) for value in outputs]
    build.graph.outputs = tuple(v.name for v in ends)
    build.graph.output_names = build.graph.outputs
    return build.graph


def kinds(graph: Graph) -> list[str]:
    return [type(node.op).__name__ for node in graph.nodes()]


@pytest.mark.parametrize("spatial", [False, True])
def test_each_part_has_a_layer(apply: Apply, spatial: bool) -> None:
    build, whole = layer(9, spatial=spatial)
    parts = (range(3), range(3, 7), range(8, 6, -1))
    graph = finish(build, *(channels(build, whole, rows) for rows in parts))
    done = apply(graph, SplitProjections())
    made = [node for node in done.nodes() if isinstance(node.op, Dense | Conv)]
    assert len(made) == 3
    assert "Take" not in kinds(done)
    assert sorted(done.value(node.inputs[1]).shape[0] for node in made) == [2, 3, 4]


def test_a_part_may_go_into_a_layer_that_is_read_in_parts(apply: Apply) -> None:
    build, whole = layer(7)
    first, second = (channels(build, whole, r) for r in (range(3), range(3, 7)))
    weights = build.constant(np.linspace(-1, 1, 12, dtype=np.float32).reshape(4, 3))
    inner = build.one(Dense(), first, weights)
    halves = [channels(build, inner, r) for r in (range(2), range(2, 4))]
    assert kinds(apply(finish(build, second, *halves), SplitProjections())).count("Dense") == 4


def test_parts_of_another_axis_than_channels(apply: Apply) -> None:
    build, whole = layer(12)
    apart = build.one(Reshape((1, 5, 3, 4)), whole)
    every = [range(n) for n in apart.shape]
    taken = [take_value(build, apart, [*every[:2], range(i, i + 1), every[3]]) for i in range(3)]
    done = apply(finish(build, *taken), SplitProjections())
    assert kinds(done).count("Dense") == 3
    assert "Take" not in kinds(done)
    assert {
        done.value(node.inputs[0]).shape for node in done.nodes() if isinstance(node.op, Unary)
    } == {(1, 5, 1, 4)}


def test_parts_that_overlap_stay(apply: Apply) -> None:
    build, whole = layer(6)
    graph = finish(build, channels(build, whole, range(4)), channels(build, whole, range(3, 6)))
    assert kinds(apply(graph, SplitProjections())).count("Dense") == 1


def test_what_another_op_reads_stays(apply: Apply) -> None:
    build, whole = layer(6)
    graph = finish(
        build, channels(build, whole, range(3)), channels(build, whole, range(3, 6)), whole
    )
    assert kinds(apply(graph, SplitProjections())).count("Dense") == 1


def test_what_is_an_output_stays(apply: Apply) -> None:
    build, whole = layer(6)
    flat = build.one(Reshape((30,)), whole)
    parts = [channels(build, whole, rows) for rows in (range(3), range(3, 6))]
    graph = finish(build, *parts)
    graph.outputs = graph.output_names = (*graph.outputs, flat.name)
    assert kinds(apply(graph, SplitProjections())).count("Dense") == 1


def test_tokens_are_no_parts(apply: Apply) -> None:
    build, whole = layer(6)
    tokens = [
        take_value(build, whole, [range(1), positions, range(6)])
        for positions in (range(1), range(1, 5))
    ]
    assert kinds(apply(finish(build, *tokens), SplitProjections())).count("Dense") == 1


@pytest.mark.parametrize("part", [None, T1, T2])
def test_types_of_parts(apply: Apply, part: FixedType | None) -> None:
    build, whole = layer(6)
    build.graph.set_value(replace(whole, fixed=T1))
    whole = build.graph.value(whole.name)
    parts = [channels(build, whole, rows) for rows in (range(3), range(3, 6))]
    for value in parts:
        build.graph.set_value(replace(value, fixed=part))
    done = apply(finish(build, *parts), SplitProjections())
    layers = [node for node in done.nodes() if isinstance(node.op, Dense)]
    assert len(layers) == (1 if part == T2 else 2)
    assert {done.value(node.outputs[0]).fixed for node in layers} == {T1}
