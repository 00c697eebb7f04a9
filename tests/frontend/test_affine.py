"""fold-affine, fold-bias: what becomes weights, and what stays."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from binpoint.frontend.affine import FoldAffine, FoldBias
from binpoint.ir.build import GraphBuilder
from binpoint.ir.graph import Graph, Value
from binpoint.numeric.dyadic import Dyadic
from binpoint.numeric.fixed import I8, I32, FixedType, FloatType, TensorType
from binpoint.ops.affine import Affine
from binpoint.ops.conv import Conv
from binpoint.ops.conv_transpose import ConvTranspose, Spread
from binpoint.ops.dense import Dense, MatMul
from binpoint.ops.elementwise import Binary, Kind, Scalar
from binpoint.ops.shape import Reshape, Transpose
from binpoint.ops.unary import Clip, Unary
from binpoint.ops.window import Window

Apply = Callable[..., Graph]
X8 = FixedType.per_tensor(I8, Dyadic(1, -5), 3)
W8 = FixedType.per_tensor(I8, Dyadic(3, -9))
ACC = FixedType.per_tensor(I32, Dyadic(3, -14))


class Net:
    """A graph of one chain, grown at its end."""

    def __init__(self, *shape: int, fixed: FixedType | None = None) -> None:
        self.rng = np.random.default_rng(3)
        self.build = GraphBuilder(Graph("g"))
        self.end = self.build.input("x", TensorType(shape, FloatType()), fixed=fixed)

    def real(self, *shape: int) -> Value:
        return self.build.constant(self.rng.normal(size=shape).astype(np.float32))

    def add(self, op: object, *constants: Value, first: bool = False) -> Net:
        operands = (*constants, self.end) if first else (self.end, *constants)
        self.end = self.build.one(op, *operands)  # pyright: ignore[reportArgumentType]
        return self

    def conv(self, channels: int, pad: int = 0, groups: int = 1, bias: bool = True) -> Net:
        window = Window((3, 2), (1, 1), (pad, pad), (pad, pad), (1, 1))
        weights = self.real(channels, 3, 2, self.end.shape[-1] // groups)
        rest = [self.real(channels)] if bias else []
        return self.add(Conv(window, groups), weights, *rest)

    def transposed(self, channels: int, groups: int = 1) -> Net:
        h, w = self.end.shape[1:3]
        window = Window((2, 2), (2, 2), (0, 0), (0, 0), (1, 1))
        weights = self.real(channels, 2, 2, self.end.shape[-1] // groups)
        return self.add(ConvTranspose(Spread(window, (2 * h, 2 * w)), groups), weights)

    def dense(self, count: int, bias: bool = True) -> Net:
        rest = [self.real(count)] if bias else []
        return self.add(Dense(), self.real(count, self.end.shape[-1]), *rest)

    def affine(self) -> Net:
        channels = self.end.shape[-1]
        return self.add(Affine(), self.real(channels), self.real(channels))

    def typed(self, kind: FixedType) -> Net:
        self.end = replace(self.end, fixed=kind)
        self.build.graph.set_value(self.end)
        return self

    def graph(self) -> Graph:
        graph = self.build.graph
        graph.outputs = graph.output_names = (self.end.name,)
        return graph


def kinds(graph: Graph) -> list[str]:
    return [type(node.op).__name__ for node in graph.nodes()]


@pytest.mark.parametrize(
    "net",
    [
        Net(1, 6, 5, 4).conv(8).affine(),
        Net(1, 6, 5, 4).conv(8, pad=1, groups=4, bias=False).affine(),
        Net(1, 6, 5, 4).transposed(6, groups=2).affine(),
        Net(3, 7).dense(5, bias=False).affine(),
        Net(3, 7).dense(5).add(Scalar(Kind.DIV, 3.0)).add(Scalar(Kind.SUB, 2.0, first=True)),
        Net(3, 7).dense(5).add(Unary("Neg")).affine().affine(),
    ],
)
def test_functions_after_weights_are_folded(apply: Apply, net: Net) -> None:
    graph = net.graph()
    assert kinds(apply(graph, FoldAffine())) == kinds(graph)[:1]


def test_arithmetic_with_one_number_per_channel_is_folded(apply: Apply) -> None:
    net = Net(1, 6, 5, 4).conv(8, pad=1)
    net.add(Binary(Kind.MUL), net.real(1, 1, 1, 8), first=True)
    net.add(Binary(Kind.SUB), net.real(1, 1, 1, 8), first=True)
    assert kinds(apply(net.graph(), FoldAffine())) == ["Conv"]


@pytest.mark.parametrize(
    "net",
    [
        Net(1, 6, 5, 4).affine().conv(8),
        Net(1, 6, 5, 4).affine().conv(8, groups=2),
        Net(1, 6, 5, 4).add(Scalar(Kind.DIV, 255.0)).conv(8, pad=1),
        Net(1, 6, 5, 4).add(Scalar(Kind.MUL, 255.0)).transposed(8, groups=2),
        Net(3, 7).affine().dense(5, bias=False),
    ],
)
def test_functions_before_weights_are_folded(apply: Apply, net: Net) -> None:
    assert len(apply(net.graph(), FoldAffine()).nodes()) == 1


def test_a_flattening_in_between_keeps_channels_apart(apply: Apply) -> None:
    net = Net(1, 4, 3, 5).add(Clip(0.0, None)).affine().add(Reshape((1, 60))).dense(7)
    assert kinds(apply(net.graph(), FoldAffine())) == ["Clip", "Reshape", "Dense"]


def test_a_shift_before_padding_stays(apply: Apply, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        done = apply(Net(1, 6, 5, 4).affine().conv(8, pad=1).graph(), FoldAffine())
    assert kinds(done) == ["Affine", "Conv"]
    assert "padded with zero" in caplog.text


def test_a_rounded_value_stays(apply: Apply) -> None:
    done = apply(Net(3, 7).dense(5).typed(X8).affine().graph(), FoldAffine())
    assert kinds(done) == ["Dense", "Affine"]


def test_a_value_with_two_readers_stays(apply: Apply) -> None:
    net = Net(3, 7).dense(5)
    first = net.end
    net.affine().add(Binary(Kind.ADD), first)
    assert kinds(apply(net.graph(), FoldAffine())) == ["Dense", "Affine", "Binary"]


def test_a_factor_of_attention_goes_to_the_weights(apply: Apply) -> None:
    net = Net(1, 6, 8)
    x = net.end
    key = net.dense(8).add(Reshape((1, 6, 2, 4))).add(Transpose((0, 2, 3, 1))).end
    net.end = x
    net.dense(8).add(Reshape((1, 6, 2, 4))).add(Transpose((0, 2, 1, 3))).add(MatMul(), key)
    done = apply(net.add(Scalar(Kind.DIV, 2.0)).graph(), FoldAffine())
    assert "Scalar" not in kinds(done)
    assert kinds(done)[-1] == "MatMul"


def test_two_functions_in_a_row_are_one(apply: Apply) -> None:
    net = Net(3, 7).add(Scalar(Kind.MUL, 3.0)).affine()
    assert kinds(apply(net.graph(), FoldAffine())) == ["Affine"]
    graph = net.graph()
    graph.quantized = True
    assert kinds(apply(graph, FoldAffine())) == ["Scalar", "Affine"]


def test_a_product_per_channel_becomes_affine(apply: Apply) -> None:
    net = Net(3, 7, fixed=X8)
    done = apply(net.add(Binary(Kind.MUL), net.real(1, 7)).typed(X8).graph(), FoldAffine())
    assert kinds(done) == ["Affine"]


@pytest.mark.parametrize("quantized", [True, False])
def test_a_quotient_per_channel_stays_one_where_quantizers_round(
    apply: Apply, *, quantized: bool
) -> None:
    net = Net(3, 7, fixed=X8)
    graph = net.add(Binary(Kind.DIV), net.real(1, 7)).typed(X8).graph()
    graph.quantized = quantized
    done = apply(graph, FoldAffine())
    assert [node.op for node in done.nodes()] == [Affine(divides=True)]


def test_other_constant_divisors_become_factors(apply: Apply) -> None:
    net = Net(3, 7, fixed=X8)
    graph = net.add(Binary(Kind.DIV), net.real(3, 1)).typed(X8).graph()
    assert [node.op for node in apply(graph, FoldAffine()).nodes()] == [Binary(Kind.MUL)]


def test_a_quotient_before_weights_is_folded_too(apply: Apply) -> None:
    net = Net(3, 7)
    graph = net.add(Affine(divides=True), net.real(7), net.real(7)).dense(4).graph()
    assert kinds(apply(graph, FoldAffine())) == ["Dense"]


def test_a_sum_with_stored_integers_becomes_the_bias(apply: Apply) -> None:
    net = Net(3, 7, fixed=X8)
    weights = net.build.constant(net.rng.integers(-127, 128, (5, 7)).astype(np.int8), fixed=W8)
    codes = net.rng.integers(-9999, 9999, (1, 5)).astype(np.int32)
    net.add(Dense(), weights).add(Binary(Kind.ADD), net.build.constant(codes, fixed=ACC))
    graph = net.add(Clip(0.0, None)).typed(X8).graph()
    done = apply(graph, FoldBias())
    assert kinds(done) == ["Dense", "Clip"]
    bias = done.arguments(done.nodes()[0])[2]
    assert bias.fixed == ACC
    assert bias.constant is not None
    np.testing.assert_array_equal(bias.constant.array, codes[0])


def test_a_sum_in_other_steps_becomes_a_real_bias(apply: Apply) -> None:
    net = Net(3, 7, fixed=X8)
    weights = net.build.constant(net.rng.integers(-127, 128, (5, 7)).astype(np.int8), fixed=W8)
    codes = net.rng.integers(-100, 100, (5,)).astype(np.int8)
    net.add(Dense(), weights).add(Binary(Kind.ADD), net.build.constant(codes, fixed=X8))
    done = apply(net.typed(X8).graph(), FoldBias())
    assert kinds(done) == ["Dense"]
    assert done.arguments(done.nodes()[0])[2].fixed is None


def test_a_second_bias_is_added(apply: Apply) -> None:
    net = Net(1, 6, 5, 4).conv(8)
    net.add(Binary(Kind.ADD), net.real(1, 1, 1, 8), first=True)
    assert kinds(apply(net.graph(), FoldBias())) == ["Conv"]


def test_a_sum_along_another_axis_stays(apply: Apply) -> None:
    net = Net(7, 7).dense(7)
    net.add(Binary(Kind.ADD), net.real(7, 1))
    assert kinds(apply(net.graph(), FoldBias())) == ["Dense", "Binary"]
