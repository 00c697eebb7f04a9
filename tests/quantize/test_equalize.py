"""equalize: the float results stay the same bits, and the channels come closer."""

from __future__ import annotations

import numpy as np
import pytest

from binpoint.ir.build import GraphBuilder
from binpoint.ir.evaluate import evaluate
from binpoint.ir.graph import Graph
from binpoint.ir.text import dump
from binpoint.numeric.fixed import FloatType, TensorType
from binpoint.ops.conv import Conv
from binpoint.ops.dense import Dense
from binpoint.ops.pool import MaxPool
from binpoint.ops.unary import Clip
from binpoint.passes.manager import Pipeline, run
from binpoint.quantize.assign_types import AssignTypes
from binpoint.quantize.equalize import Equalize
from binpoint.quantize.simulate import Simulation
from tests.quantize.nets import cnn, context, mlp, normal, square


def uneven(rng: np.random.Generator) -> Graph:
    """A conv with channels of very different size, a depthwise conv, a one-tap conv."""
    graph = Graph("uneven")
    build = GraphBuilder(graph)
    x = build.input("x", TensorType((1, 6, 6, 2), FloatType()))
    factors = 10.0 ** rng.uniform(-2, 2, 8)
    w0 = rng.normal(size=(8, 3, 3, 2)) * factors[:, None, None, None]
    w1 = rng.normal(size=(8, 3, 3, 1))
    w2 = rng.normal(size=(4, 1, 1, 8)) / factors
    constants = [build.constant(w.astype(np.float32)) for w in (w0, w1, w2)]
    biases = [build.constant(rng.normal(size=n).astype(np.float32)) for n in (8, 8, 4)]
    x = build.one(Conv(square(3, 1)), x, constants[0], biases[0], hint="a")
    x = build.one(Clip(0.0, None), x)
    x = build.one(MaxPool(square(2, 0)), x)
    x = build.one(Conv(square(3, 1), 8), x, constants[1], biases[1], hint="b")
    x = build.one(Clip(0.0, None), x)
    x = build.one(Conv(square(1, 0)), x, constants[2], biases[2], hint="c")
    graph.outputs, graph.output_names = (x.name,), ("y",)
    return graph


@pytest.mark.parametrize("make", [mlp, cnn, uneven])
def test_float_results_are_the_same_bits(rng: np.random.Generator, make: type) -> None:
    graph = make(rng)
    even = run(Pipeline(Equalize()), graph, context(normal(graph, rng), check=True))
    assert (dump(even) != dump(graph)) or make is not uneven
    for inputs in normal(graph, rng, 8).inputs():
        before = evaluate(graph, inputs)[graph.outputs[0]]
        after = evaluate(even, inputs)[even.outputs[0]]
        assert np.array_equal(before, after)


def test_uneven_channels_lose_less(rng: np.random.Generator) -> None:
    graph = uneven(rng)
    samples = normal(graph, rng)
    errors: dict[bool, float] = {}
    for equalize in (False, True):
        passes = Pipeline(Equalize(), AssignTypes())
        typed = run(passes, graph, context(samples, equalize=equalize))
        wanted, found = Simulation(graph, rounded=False), Simulation(typed, rounded=True)
        name = graph.outputs[0]
        runs = normal(graph, rng, 32)
        errors[equalize] = float(
            np.mean([(found.run(x)[name] - wanted.run(x)[name]) ** 2 for x in runs.inputs()])
        )
    assert errors[True] < errors[False] / 10


def test_running_twice_is_running_once(rng: np.random.Generator) -> None:
    graph = uneven(rng)
    samples = normal(graph, rng)
    once = run(Pipeline(Equalize(rounds=100)), graph, context(samples))
    twice = run(Pipeline(Equalize(rounds=100)), once, context(samples))
    assert dump(once) == dump(twice)


def test_off_is_off(rng: np.random.Generator) -> None:
    graph = uneven(rng)
    samples = normal(graph, rng)
    off = run(Pipeline(Equalize()), graph, context(samples, equalize=False))
    assert dump(off) == dump(graph)
    assert dump(run(Pipeline(Equalize()), graph, context())) == dump(graph)


@pytest.mark.parametrize("obstacle", ["none", "upper bound", "second reader", "output"])
def test_what_does_not_scale_through_is_left(rng: np.random.Generator, obstacle: str) -> None:
    graph = Graph("m")
    build = GraphBuilder(graph)
    x = build.input("x", TensorType((1, 4), FloatType()))
    factors = np.array([1.0, 1e-2, 1e2, 1.0])
    weights = rng.normal(size=(2, 4, 4))
    weights[0] *= factors[:, None]
    weights[1] /= factors
    constants = [build.constant(w.astype(np.float32)) for w in weights]
    first = build.one(Dense(), x, constants[0])
    middle = build.one(Clip(0.0, 6.0 if obstacle == "upper bound" else None), first)
    outputs = [build.one(Dense(), middle, constants[1])]
    if obstacle == "second reader":
        outputs.append(build.one(Clip(0.0, 1.0), middle))
    if obstacle == "output":
        outputs.append(first)
    graph.outputs = tuple(value.name for value in outputs)
    graph.output_names = graph.outputs
    even = run(Pipeline(Equalize()), graph, context(normal(graph, rng)))
    assert (dump(even) == dump(graph)) is (obstacle != "none")
