"""Small float graphs to quantize."""

from __future__ import annotations

import itertools

import numpy as np

from binpoint.ir.build import GraphBuilder
from binpoint.ir.graph import Graph
from binpoint.numeric.fixed import FloatType, TensorType
from binpoint.ops.conv import Conv
from binpoint.ops.dense import Dense
from binpoint.ops.shape import Reshape
from binpoint.ops.unary import Clip
from binpoint.ops.window import Window
from binpoint.options import CompileOptions
from binpoint.passes.base import Context
from binpoint.passes.samples import Samples
from binpoint.target import load_target


def context(samples: Samples | None = None, **options: object) -> Context:
    """A context for the host with these options."""
    return Context(load_target("host"), CompileOptions(**options), samples)  # pyright: ignore[reportArgumentType]


def mlp(rng: np.random.Generator, sizes: tuple[int, ...] = (8, 16, 4)) -> Graph:
    """Dense layers with biases, a Relu between each two."""
    graph = Graph("mlp")
    build = GraphBuilder(graph)
    x = build.input("x", TensorType((1, sizes[0]), FloatType()))
    for index, (inputs, outputs) in enumerate(itertools.pairwise(sizes)):
        weights = build.constant(
            rng.normal(size=(outputs, inputs)).astype(np.float32), hint=f"w{index}"
        )
        bias = build.constant(rng.normal(size=outputs).astype(np.float32), hint=f"b{index}")
        x = build.one(Dense(), x, weights, bias, hint=f"dense{index}")
        if index < len(sizes) - 2:
            x = build.one(Clip(0.0, None), x, hint=f"relu{index}")
    graph.outputs, graph.output_names = (x.name,), ("y",)
    return graph


def cnn(rng: np.random.Generator) -> Graph:
    """Conv, Relu, depthwise conv without bias, Relu6, one-tap conv, reshape, dense."""
    graph = Graph("cnn")
    build = GraphBuilder(graph)
    x = build.input("x", TensorType((1, 6, 6, 2), FloatType()))

    def weights(*shape: int) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
        return rng.normal(size=shape).astype(np.float32)

    three, one = square(3, 1), square(1, 0)
    first = build.constant(weights(4, 3, 3, 2), hint="w0")
    x = build.one(Conv(three), x, first, build.constant(weights(4), hint="b0"), hint="conv")
    x = build.one(Clip(0.0, None), x, hint="relu")
    x = build.one(Conv(three, 4), x, build.constant(weights(4, 3, 3, 1), hint="w1"), hint="depth")
    x = build.one(Clip(0.0, 6.0), x, hint="relu6")
    last = build.constant(weights(3, 1, 1, 4), hint="w2")
    x = build.one(Conv(one), x, last, build.constant(weights(3), hint="b2"), hint="point")
    x = build.one(Reshape((1, 108)), x, hint="flat")
    x = build.one(Dense(), x, build.constant(weights(5, 108), hint="w3"), hint="dense")
    graph.outputs, graph.output_names = (x.name,), ("y",)
    return graph


def square(size: int, pad: int) -> Window:
    """A square window of stride one."""
    return Window((size, size), (1, 1), (pad, pad), (pad, pad), (1, 1))


def normal(graph: Graph, rng: np.random.Generator, count: int = 64) -> Samples:
    """Normal samples for the only input."""
    shape = graph.value("x").shape[1:]
    return Samples({"x": rng.normal(size=(count, *shape)).astype(np.float32)})
