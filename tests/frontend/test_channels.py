"""remove-channels: what goes, what stays, and that results are equal, in integers bit for bit."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from binpoint.frontend.channels import RemoveChannels, RemoveTypedChannels, macs
from binpoint.ir.build import GraphBuilder
from binpoint.ir.evaluate import evaluate
from binpoint.ir.graph import Graph, Value
from binpoint.ir.op import FloatOp
from binpoint.ir.verify import verify
from binpoint.lower.to_integers import ToIntegers
from binpoint.numeric.dyadic import Dyadic
from binpoint.numeric.fixed import I8, I32, U8, FixedType, FloatType, TensorType
from binpoint.ops.affine import Affine
from binpoint.ops.concat import Concat
from binpoint.ops.conv import Conv
from binpoint.ops.dense import Dense
from binpoint.ops.elementwise import Binary, Kind
from binpoint.ops.pool import AveragePool, MaxPool
from binpoint.ops.reduce import Reduce
from binpoint.ops.shape import Reshape, Transpose
from binpoint.ops.slices import Take
from binpoint.ops.unary import Clip, Unary
from binpoint.ops.window import Window
from binpoint.options import CompileOptions
from binpoint.passes.base import Context
from binpoint.passes.manager import Pipeline, run

Apply = Callable[..., Graph]


class Net:
    """A random net with zeroed rows and columns, of real numbers or of integer types throughout."""

    def __init__(self, seed: int, *, typed: bool = False, bias: str = "codes") -> None:
        self.rng = np.random.default_rng(seed)
        self.typed, self.bias = typed, bias
        self.build = GraphBuilder(Graph("g"))
        kind = self.kind() if typed else None
        self.x = self.build.input("x", TensorType((1, 6, 5, 3), FloatType()), fixed=kind)

    def kind(self) -> FixedType:
        scale = Dyadic.from_float(float(np.float32(self.rng.uniform(0.01, 0.03))))
        if self.rng.integers(2):
            return FixedType.per_tensor(U8, scale, int(self.rng.integers(100, 150)))
        return FixedType.per_tensor(I8, scale, int(self.rng.integers(-20, 20)))

    def add(self, op: FloatOp, *operands: Value, keep: bool = False) -> Value:
        value = self.build.one(op, *operands)
        if self.typed:
            kind = operands[0].fixed if keep else self.kind()
            value = replace(value, fixed=kind)
            self.build.graph.set_value(value)
        return value

    def weights(self, shape: tuple[int, ...], rows: list[int], columns: list[int]) -> Value:
        array = self.rng.normal(size=shape)
        array[rows] = 0
        array[..., columns] = 0
        if not self.typed:
            return self.build.constant(array.astype(np.float32))
        scales = tuple(Dyadic.from_float(float(s)) for s in self.rng.uniform(0.005, 0.01, shape[0]))
        codes = np.clip(np.rint(array * 30), -127, 127).astype(np.int8)
        return self.build.constant(codes, fixed=FixedType(I8, scales, (0,), 0))

    def offsets(self, x: Value, weights: Value) -> tuple[Value, ...]:
        count = weights.shape[0]
        if self.bias == "none":
            return ()
        real = self.rng.normal(size=count).astype(np.float32)
        if not self.typed or self.bias == "real":
            return (self.build.constant(real),)
        assert x.fixed is not None
        assert weights.fixed is not None
        kind = FixedType(I32, tuple(x.fixed.scale * s for s in weights.fixed.scales), (0,), 0)
        codes = kind.quantize(real).astype(np.int32)
        return (self.build.constant(codes, fixed=kind),)

    def conv(
        self,
        x: Value,
        channels: int,
        *,
        rows: list[int] | None = None,
        columns: list[int] | None = None,
        kernel: int = 1,
        pad: int = 0,
        groups: int = 1,
    ) -> Value:
        shape = (channels, kernel, kernel, x.shape[-1] // groups)
        weights = self.weights(shape, rows or [], columns or [])
        window = Window((kernel,) * 2, (1, 1), (pad,) * 2, (pad,) * 2, (1, 1))
        return self.add(Conv(window, groups), x, weights, *self.offsets(x, weights))

    def dense(self, x: Value, count: int, columns: list[int] | None = None) -> Value:
        weights = self.weights((count, x.shape[-1]), [], columns or [])
        return self.add(Dense(), x, weights, *self.offsets(x, weights))

    def graph(self, *outputs: Value) -> Graph:
        graph = self.build.graph
        graph.outputs = graph.output_names = tuple(v.name for v in outputs)
        return graph


def shapes(graph: Graph) -> list[int]:
    """Channels of the results of all nodes."""
    return [graph.results(node)[0].shape[-1] for node in graph.nodes()]


def assert_equal_integers(first: Graph, second: Graph, context: Context) -> None:
    """Lower both in both semantics; evaluate; outputs must be equal."""
    rng = np.random.default_rng(5)
    for quantized in (False, True):
        for graph in (first, second):
            graph.quantized = quantized
        a, b = (ToIntegers().run(g.copy(), context) for g in (first, second))
        for graph in (a, b):
            verify(graph, "integer")
        (name,) = a.inputs
        value = a.value(name)
        for _ in range(3):
            x = rng.integers(value.interval.lo, value.interval.hi + 1, value.shape)
            one, two = evaluate(a, {name: x}), evaluate(b, {name: x})
            for old, new in zip(a.outputs, b.outputs, strict=True):
                np.testing.assert_array_equal(one[old], two[new])


def network(net: Net) -> Graph:
    """Padding, a residual, a depthwise stage, pooling, a flattening: what nets are made of."""
    y = net.conv(net.x, 8, rows=[1, 4], kernel=3, pad=1)
    y = net.add(Clip(0.0, None), y, keep=True)
    z = net.conv(y, 8, rows=[1, 4, 6], columns=[3])
    y = net.add(Binary(Kind.ADD), y, z)
    y = net.conv(y, 8, rows=[2], kernel=3, groups=8)
    y = net.add(Unary("HardSwish"), y)
    y = net.add(MaxPool(Window((2, 2), (1, 1), (1, 0), (0, 1), (1, 1))), y, keep=True)
    y = net.add(AveragePool(Window((2, 2), (1, 1), (0, 1), (1, 0), (1, 1))), y, keep=True)
    y = net.conv(y, 6, rows=[0])
    pooled = net.add(Reduce((1, 2), mean=True), y)
    gate = net.add(Unary("Sigmoid"), net.conv(net.conv(pooled, 4, rows=[3]), 6))
    y = net.add(Binary(Kind.MUL), y, gate)
    flat = net.add(Reshape((1, 4 * 3 * 6)), y, keep=True)
    return net.graph(net.dense(flat, 5, columns=[5, 11, 17, 23, 29, 35, 41, 47, 53, 59, 65, 71]))


@pytest.mark.parametrize("seed", range(4))
def test_values_are_kept(apply: Apply, seed: int) -> None:
    graph = network(Net(seed))
    done = apply(graph, RemoveChannels())
    assert macs(done) < 0.8 * macs(graph)


@pytest.mark.parametrize("bias", ["codes", "real", "none"])
@pytest.mark.parametrize("seed", range(4))
def test_integer_results_are_equal(apply: Apply, context: Context, seed: int, bias: str) -> None:
    graph = network(Net(seed, typed=True, bias=bias))
    done = apply(graph, RemoveChannels())
    assert macs(done) < macs(graph)
    assert_equal_integers(graph, done, context)


def test_it_runs_when_types_are_assigned(context: Context) -> None:
    graph = network(Net(1, typed=True))
    context = replace(context, options=CompileOptions(check=True))
    done = run(Pipeline(RemoveTypedChannels()), graph, context)
    assert macs(done) < macs(graph)
    assert_equal_integers(graph, done, context)


@pytest.mark.parametrize("typed", [False, True])
def test_unread_channels_are_not_computed(apply: Apply, typed: bool) -> None:
    net = Net(1, typed=typed)
    y = net.add(Unary("Tanh"), net.conv(net.x, 8, kernel=3, pad=1))
    done = apply(net.graph(net.conv(y, 4, columns=[0, 5, 6], kernel=3, pad=1)), RemoveChannels())
    assert shapes(done) == [5, 5, 4]


@pytest.mark.parametrize("typed", [False, True])
def test_constant_channels_become_bias(apply: Apply, context: Context, typed: bool) -> None:
    net = Net(2, typed=typed)
    y = net.add(Unary("Tanh"), net.conv(net.x, 8, rows=[0, 5, 6]))
    graph = net.graph(net.conv(y, 4, kernel=3))
    done = apply(graph, RemoveChannels())
    assert shapes(done) == [5, 5, 4]
    if typed:
        assert_equal_integers(graph, done, context)


def test_a_constant_that_is_not_zero_stays_before_padding(apply: Apply) -> None:
    net = Net(3)
    y = net.conv(net.x, 8, rows=[0, 5, 6])
    done = apply(net.graph(net.conv(y, 4, kernel=3, pad=1)), RemoveChannels())
    assert shapes(done) == [8, 4]


def test_a_constant_that_is_clamped_to_zero_goes_before_padding(apply: Apply) -> None:
    net = Net(3, bias="none")
    y = net.add(Clip(0.0, None), net.conv(net.x, 8, rows=[0, 5, 6]))
    done = apply(net.graph(net.conv(y, 4, kernel=3, pad=1)), RemoveChannels())
    assert shapes(done) == [5, 5, 4]


def test_outputs_keep_their_channels(apply: Apply) -> None:
    net = Net(4)
    y = net.conv(net.x, 8, rows=[0, 5, 6])
    done = apply(net.graph(net.conv(y, 4), y), RemoveChannels())
    assert shapes(done) == [8, 4]


def test_a_residual_ties_channels(apply: Apply) -> None:
    net = Net(5, bias="none")
    a, b = net.conv(net.x, 8, rows=[0, 1]), net.conv(net.x, 8, rows=[1, 2])
    done = apply(net.graph(net.conv(net.add(Binary(Kind.ADD), a, b), 4)), RemoveChannels())
    assert sorted(shapes(done)) == [4, 7, 7, 7]


def test_other_ops_keep_their_operands(apply: Apply) -> None:
    net = Net(6)
    y = net.add(Transpose((0, 3, 1, 2)), net.conv(net.x, 8, rows=[0, 5]))
    done = apply(net.graph(net.conv(y, 4)), RemoveChannels())
    assert shapes(done) == [8, y.shape[-1], 4]


def test_one_channel_stays(apply: Apply) -> None:
    net = Net(7)
    y = net.conv(net.x, 8, rows=list(range(8)))
    done = apply(net.graph(net.conv(y, 4)), RemoveChannels())
    assert shapes(done) == [1, 4]


@pytest.mark.parametrize("typed", [False, True])
def test_concat_and_selections_follow(apply: Apply, context: Context, typed: bool) -> None:
    net = Net(8, typed=typed)
    a = net.conv(net.x, 6, rows=[1])
    b = net.add(Take((range(1), range(6), range(5), (4, 0, 2))), net.conv(net.x, 5), keep=True)
    joined = net.add(Concat(3), a, b)
    graph = net.graph(net.conv(joined, 4, columns=[2, 7]))
    done = apply(graph, RemoveChannels())
    by_op = {
        type(n.op).__name__: done.results(n)[0].shape[-1]
        for n in done.nodes()
        if not isinstance(n.op, Conv)
    }
    assert by_op == {"Take": 2, "Concat": 6}
    # Of five channels the selection reads three, of which one meets weights of zero.
    widths = sorted(done.results(n)[0].shape[-1] for n in done.nodes() if isinstance(n.op, Conv))
    assert widths == [2, 4, 4]
    if typed:
        assert_equal_integers(graph, done, context)


def test_parameters_follow(apply: Apply) -> None:
    net = Net(9)
    y = net.conv(net.x, 8, rows=[3])
    scale = net.build.constant(np.array([1, 0, 2, 3, 4, 5, 6, 7], np.float32))
    shift = net.build.constant(np.arange(8, dtype=np.float32))
    y = net.add(Affine(), y, scale, shift)
    y = net.add(Binary(Kind.MUL), y, net.build.constant(np.ones((1, 1, 1, 8), np.float32) * 2))
    done = apply(net.graph(net.conv(y, 4, columns=[6])), RemoveChannels())
    assert shapes(done) == [5, 5, 5, 4]


def test_a_tie_in_rounding_is_not_called_constant(apply: Apply) -> None:
    net = Net(10, typed=True)
    y = net.conv(net.x, 3, rows=[0, 1])
    node = net.build.graph.producer(y.name)
    assert node is not None
    assert net.x.fixed is not None
    bias = net.build.graph.value(node.inputs[2])
    assert bias.constant is not None
    assert bias.fixed is not None
    step = bias.fixed.scales[0]
    kind = FixedType.per_tensor(I8, step * Dyadic(1, 1))
    codes = bias.constant.array.copy()
    codes[0] = 7
    graph = net.build.graph
    graph.set_value(replace(y, fixed=kind))
    constant = net.build.constant(codes, fixed=bias.fixed)
    graph.replace(replace(node, inputs=(*node.inputs[:2], constant.name)))
    y = graph.value(y.name)
    done = apply(net.graph(net.conv(y, 4)), RemoveChannels())
    assert shapes(done) == [2, 4]


def test_what_went_is_logged(apply: Apply, caplog: pytest.LogCaptureFixture) -> None:
    net = Net(1)
    y = net.conv(net.x, 8)
    graph = net.graph(net.conv(y, 4, columns=[0, 5, 6]))
    with caplog.at_level(logging.INFO):
        apply(graph, RemoveChannels())
    assert "3 channels removed, 630 of 1680 MACs" in caplog.text
