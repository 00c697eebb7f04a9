"""reparameterize-norms: the float function stays, and the products behind a norm lose less."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from binpoint.ir.build import GraphBuilder
from binpoint.ir.evaluate import evaluate
from binpoint.ir.graph import Graph, Value
from binpoint.ir.text import dump
from binpoint.lower.to_integers import ToIntegers
from binpoint.numeric.fixed import FloatType, TensorType
from binpoint.ops.conv import Conv
from binpoint.ops.dense import Dense
from binpoint.ops.elementwise import Binary, Kind
from binpoint.ops.exactnorm import IntLayerNorm
from binpoint.ops.layernorm import LayerNorm
from binpoint.ops.shape import Reshape, Transpose
from binpoint.ops.unary import Unary
from binpoint.passes.manager import Pipeline, run
from binpoint.passes.samples import Samples
from binpoint.quantize.assign_types import AssignTypes
from binpoint.quantize.reparameterize import ReparameterizeNorms
from binpoint.quantize.simulate import Simulation
from tests.quantize.nets import context, normal, square

TOKENS, WIDTH, OUTS = 6, 16, 8


def block(
    rng: np.random.Generator, *, spread: float = 1.5, behind: float = 1.0, read: bool = False
) -> Graph:
    """A layer norm with channels of different scale and place, and three products behind it.

    `behind` to 1 the weights' columns undo the scales; with `read` something else reads the norm.
    """
    graph = Graph("block")
    build = GraphBuilder(graph)
    x = build.input("x", TensorType((1, TOKENS, WIDTH), FloatType()))
    gamma = 10.0 ** rng.uniform(-spread, spread / 3, WIDTH)
    beta = rng.normal(size=WIDTH) * gamma * spread
    parameters = [build.constant(p.astype(np.float32)) for p in (gamma, beta)]
    y = build.one(LayerNorm(2, 1e-5), x, *parameters, hint="norm")

    def weights(*shape: int) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
        return (rng.normal(size=shape) / gamma**behind).astype(np.float32)

    bias = build.constant(rng.normal(size=OUTS).astype(np.float32))
    rows = build.one(Reshape((TOKENS, WIDTH)), y)
    ends = [
        build.one(Dense(), y, build.constant(weights(OUTS, WIDTH)), hint="plain"),
        build.one(Dense(0.5), rows, build.constant(weights(OUTS, WIDTH)), bias, hint="scaled"),
    ]
    maps = build.one(Reshape((1, 2, 3, WIDTH)), y)
    first = build.one(Transpose((0, 3, 2, 1)), maps)
    turned = build.one(Transpose((0, 2, 3, 1)), first)
    taps = build.constant(weights(OUTS, 1, 1, WIDTH))
    ends.append(build.one(Conv(square(1, 0)), turned, taps, bias, hint="conv"))
    if read:
        ends.append(build.one(Unary("Abs"), y))
    graph.outputs = tuple(v.name for v in ends)
    graph.output_names = tuple(f"y{i}" for i in range(len(ends)))
    return graph


def bridges(rng: np.random.Generator) -> Graph:
    """A convolution whose tokens two products read, and their sum's product that goes to maps."""
    graph = Graph("bridges")
    build = GraphBuilder(graph)
    x = build.input("x", TensorType((1, 4, 4, 3), FloatType()))
    sizes = 10.0 ** rng.uniform(-1.5, 0.5, (2, WIDTH))

    def weights(*shape: int, behind: int = 0) -> Value:
        uneven = rng.normal(size=shape)
        uneven = uneven / sizes[behind - 1] if behind else uneven
        return build.constant(uneven.astype(np.float32))

    def rows(index: int, *shape: int) -> tuple[Value, Value]:
        scale = sizes[index].reshape(-1, *[1] * len(shape))
        taps = rng.normal(size=(WIDTH, *shape)) * scale
        bias = rng.normal(size=WIDTH) * sizes[index]
        return build.constant(taps.astype(np.float32)), build.constant(bias.astype(np.float32))

    maps = build.one(Conv(square(3, 1)), x, *rows(0, 3, 3, 3), hint="into")
    tokens = build.one(Reshape((16, WIDTH)), maps)
    a, b = (build.one(Dense(), tokens, weights(OUTS, WIDTH, behind=1)) for _ in range(2))
    back = build.one(Dense(), build.one(Binary(Kind.ADD), a, b), *rows(1, OUTS), hint="out")
    first = build.one(Transpose((0, 3, 1, 2)), build.one(Reshape((1, 4, 4, WIDTH)), back))
    last = build.one(Transpose((0, 2, 3, 1)), first)
    y = build.one(Conv(square(1, 0)), last, weights(OUTS, 1, 1, WIDTH, behind=2))
    graph.outputs, graph.output_names = (y.name,), ("y",)
    return graph


def lost(
    graph: Graph,
    rng: np.random.Generator,
    passes: Pipeline,
    samples: Samples | None = None,
    /,
    **options: object,
) -> float:
    """Power of the error of all outputs, over that of the outputs, on samples of its own."""
    typed = run(passes, graph, context(samples or normal(graph, rng), **options))
    exact, found = Simulation(graph, rounded=False), Simulation(typed, rounded=True)
    noise = signal = 0.0
    for inputs in normal(graph, rng, 32).inputs():
        wanted, have = exact.run(inputs), found.run(inputs)
        for old, new in zip(graph.outputs, typed.outputs, strict=True):
            noise += float(np.square(have[new] - wanted[old]).sum())
            signal += float(np.square(wanted[old]).sum())
    return noise / signal


@pytest.mark.parametrize("net", [block, bridges])
def test_the_float_function_stays(
    net: Callable[[np.random.Generator], Graph], rng: np.random.Generator
) -> None:
    graph = net(rng)
    done = run(Pipeline(ReparameterizeNorms()), graph, context(normal(graph, rng), check=True))
    assert dump(done) != dump(graph)
    for inputs in normal(graph, rng, 8).inputs():
        before, after = evaluate(graph, inputs), evaluate(done, inputs)
        for a, b in zip(graph.outputs, done.outputs, strict=True):
            np.testing.assert_allclose(after[b], before[a], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("bits", [8, 6, 4])
@pytest.mark.parametrize("activations", ["asymmetric", "symmetric"])
def test_uneven_channels_lose_less(rng: np.random.Generator, bits: int, activations: str) -> None:
    options = {"activation_bits": bits, "weight_bits": 8, "activations": activations}
    graph = block(rng)
    before = lost(graph, rng, Pipeline(AssignTypes()), **options)
    after = lost(graph, rng, Pipeline(ReparameterizeNorms(), AssignTypes()), **options)
    assert after < before / 4


@pytest.mark.parametrize("apart", [1e-5, 0.1])
def test_samples_that_are_alike_leave_others_their_room(
    apart: float, rng: np.random.Generator
) -> None:
    graph = block(rng)
    x = rng.normal(size=(1, TOKENS, WIDTH))
    near = x + apart * rng.normal(size=(8, TOKENS, WIDTH))
    samples = Samples({graph.inputs[0]: near.astype(np.float32)})
    passes = Pipeline(ReparameterizeNorms(), AssignTypes())
    found = run(passes + Pipeline(ToIntegers()), graph, context(samples))
    assert any(isinstance(node.op, IntLayerNorm) for node in found.nodes())
    before = lost(graph, rng, Pipeline(AssignTypes()), samples)
    assert lost(graph, rng, passes, samples) < 1.25 * before


@pytest.mark.parametrize("bits", [8, 6])
def test_bridges_with_uneven_channels_lose_less(rng: np.random.Generator, bits: int) -> None:
    graph = bridges(rng)
    options = {"activation_bits": bits, "weight_bits": bits}
    done = run(Pipeline(ReparameterizeNorms()), graph, context(normal(graph, rng), **options))
    told = done.figures["reparameterize-norms"]
    assert (told["norms"], told["bridges"], told["moved"]) == (0, 2, 2)
    before = lost(graph, rng, Pipeline(AssignTypes()), **options)
    after = lost(graph, rng, Pipeline(ReparameterizeNorms(), AssignTypes()), **options)
    assert after < before / 4


def test_where_weights_lose_more_less_is_moved(rng: np.random.Generator) -> None:
    """Even columns of three bits: with the power 1 they lose half of what the operand gains."""
    graph = block(rng, spread=2.5, behind=0.0)
    options = {"activation_bits": 8, "weight_bits": 3}
    before = lost(graph, rng, Pipeline(AssignTypes()), **options)
    after = lost(graph, rng, Pipeline(ReparameterizeNorms(), AssignTypes()), **options)
    assert after < before / 2


def test_twice_is_once(rng: np.random.Generator) -> None:
    graph = block(rng)
    given = context(normal(graph, rng))
    once = run(Pipeline(ReparameterizeNorms()), graph, given)
    assert dump(run(Pipeline(ReparameterizeNorms()), once, given)) == dump(once)


@pytest.mark.parametrize("case", ["another reader", "off", "no samples"])
def test_it_does_nothing_where_it_may_not(case: str, rng: np.random.Generator) -> None:
    graph = block(rng, read=case == "another reader")
    given = context(None if case == "no samples" else normal(graph, rng), equalize=case != "off")
    assert dump(run(Pipeline(ReparameterizeNorms()), graph, given)) == dump(graph)
