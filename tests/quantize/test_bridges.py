"""Bridges between convolutions and tokens: found, chosen by error, the float function unchanged."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from binpoint.ir.build import GraphBuilder
from binpoint.ir.graph import Graph
from binpoint.ir.op import FloatArray
from binpoint.ir.text import dump
from binpoint.numeric.fixed import FloatType, TensorType
from binpoint.ops.conv import Conv
from binpoint.ops.dense import Dense, MatMul
from binpoint.ops.elementwise import Binary, Kind
from binpoint.ops.layernorm import LayerNorm
from binpoint.ops.shape import reshape_value, transpose_value
from binpoint.ops.softmax import Softmax
from binpoint.ops.unary import Clip
from binpoint.passes.samples import Samples
from binpoint.quantize.assign_types import AssignTypes
from binpoint.quantize.bridges import ChooseBridges
from binpoint.quantize.simulate import Simulation
from tests.quantize.nets import cnn, context, normal, square

SIDE, WIDTH = 4, 8


def hybrid(rng: np.random.Generator) -> Graph:
    """As in MobileViT: a map from a convolution, attention over its tokens, a map again."""
    graph = Graph("hybrid")
    build = GraphBuilder(graph)

    def constant(*shape: int, size: float = 0.4) -> NDArray[np.float32]:
        return rng.normal(0, size, shape).astype(np.float32)

    def dense(x: str, hint: str) -> str:
        weights = build.constant(constant(WIDTH, WIDTH), hint=f"{hint}_w")
        return build.one(Dense(), graph.value(x), weights, hint=hint).name

    x = build.input("x", TensorType((1, SIDE, SIDE, 3), FloatType()))
    taps = [build.constant(a) for a in (constant(WIDTH, 3, 3, 3), constant(WIDTH))]
    x = build.one(Clip(0.0, None), build.one(Conv(square(3, 1)), x, *taps, hint="before"))
    tokens = reshape_value(build, x, (1, SIDE * SIDE, WIDTH))
    affine = [build.constant(a) for a in (np.ones(WIDTH, np.float32), constant(WIDTH))]
    norm = build.one(LayerNorm(2, 1e-5), tokens, *affine, hint="norm")
    q, k, v = (graph.value(dense(norm.name, hint)) for hint in "qkv")
    shares = build.one(Softmax(2), build.one(MatMul(), q, transpose_value(build, k, (0, 2, 1))))
    seen = build.one(MatMul(), shares, v)
    after = graph.value(dense(build.one(Binary(Kind.ADD), tokens, seen).name, "mlp"))
    back = reshape_value(build, after, (1, SIDE, SIDE, WIDTH))
    taps = [build.constant(a) for a in (constant(2, 3, 3, WIDTH), constant(2))]
    y = build.one(Conv(square(3, 1)), back, *taps, hint="last")
    graph.outputs, graph.output_names = (y.name,), ("y",)
    return graph


def outputs(graph: Graph, found: Samples, *, rounded: bool) -> FloatArray:
    simulation, (name,) = Simulation(graph, rounded=rounded), graph.outputs
    runs = [simulation.outputs(x, frozenset({name}))[name] for x in found.inputs()]
    return np.stack(runs).astype(np.float64)


def test_errors_of_other_samples_fall(rng: np.random.Generator) -> None:
    graph = hybrid(rng)
    found, others = normal(graph, rng, 16), normal(graph, rng, 32)
    given = context(found, bridges=True, activation_bits=4)
    chosen = ChooseBridges().run(graph.copy(), given)
    told = chosen.figures["choose-bridges"]
    # From the convolution to the norm, and from the last product back.
    assert told["bridges"] == 2
    assert told["changed"] > 0
    assert told["error_after"] < 0.98 * told["error_before"]
    want = outputs(graph, others, rounded=False)
    np.testing.assert_array_equal(outputs(chosen, others, rounded=False), want)
    kinds = {v.name: v.fixed for v in chosen.values() if v.fixed is not None}
    plain = AssignTypes().run(graph.copy(), given)
    errors: list[float] = []
    for types in (kinds, {name: plain.value(name).fixed for name in kinds}):
        alone = graph.copy()
        for name, kind in types.items():
            alone.set_value(replace(graph.value(name), fixed=kind))
        errors.append(float(np.square(outputs(alone, others, rounded=True) - want).sum()))
    assert errors[0] < 0.98 * errors[1]
    typed = AssignTypes().run(chosen.copy(), given)
    assert all(typed.value(name).fixed == kind for name, kind in kinds.items())


def test_twice_is_once_and_off_is_off(rng: np.random.Generator) -> None:
    graph = hybrid(rng)
    found = normal(graph, rng, 8)
    given = context(found, bridges=True, activation_bits=4)
    once = ChooseBridges().run(graph.copy(), given)
    twice = ChooseBridges().run(once.copy(), given)
    assert {v.name: v.fixed for v in twice.values()} == {v.name: v.fixed for v in once.values()}
    off = ChooseBridges().run(graph.copy(), context(found, activation_bits=4))
    assert dump(off) == dump(graph)


def test_a_net_without_tokens_has_no_bridges(rng: np.random.Generator) -> None:
    graph = cnn(rng)
    given = context(normal(graph, rng, 4), bridges=True)
    assert len(ChooseBridges().run(graph.copy(), given).figures) <= 1
