"""Patches: bit for bit what the layers compute on whole maps, in all witnesses."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from random import Random
from typing import ClassVar

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from syrupy.assertion import SnapshotAssertion

from binpoint.emit.mcu_c import render
from binpoint.ir.evaluate import evaluate
from binpoint.ir.graph import Graph, Node, Value
from binpoint.numeric.dyadic import Dyadic
from binpoint.numeric.fixed import I8, U8, FixedType, IntType, TensorType
from binpoint.numeric.interval import Interval
from binpoint.ops.broadcast import Broadcast
from binpoint.ops.concat import IntConcat
from binpoint.ops.conv import IntConv, IntDepthwise
from binpoint.ops.copy import transposed
from binpoint.ops.dense import IntDense
from binpoint.ops.halo import regions, spatial
from binpoint.ops.outliers import OutlierTest
from binpoint.ops.pairwise import IntAdd
from binpoint.ops.patched import Patched, View
from binpoint.ops.pooling import IntMaxPool
from binpoint.ops.requantize import Clamp, DyadicRequantize
from binpoint.ops.window import Window
from binpoint.options import CompileOptions
from binpoint.plan.arrange import arrange
from binpoint.plan.patches import undivided
from binpoint.plan.stages import body_of, joined, put, spans
from binpoint.target import load_target, microcontroller
from tests import laws
from tests.ops.integer_cases import SUM
from tests.ops.sketch import Sketch

_SLOW = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example]
randoms = st.randoms(use_true_random=False)


class Maps(Sketch):
    """A sketch of a net of maps: their types, and how many channels they have."""

    storages: ClassVar[tuple[IntType, ...]] = (I8, U8)
    few: ClassVar[tuple[int, ...]] = (1, 2, 3, 4, 5)


def net(
    random: Random, layers: int = 4, kind: type[Maps] = Maps, start: IntType | None = None
) -> tuple[Maps, Value]:
    """Convolutions, pools and joined branches after each other, on one map of one or two axes.

    It starts with codes of the type `start`, by default one of the types of maps.
    """
    s = kind(random, "patches")
    sizes = tuple(s.number(4, 13) for _ in range(s.pick(1, 2, 2, 2)))
    shape = (1, *sizes, s.pick(*s.few))
    if s.random.random() < 0.3:
        first = s.input((1, shape[-1], *sizes), s.type(I8), Interval.of_type(I8))
        x = s.build.one(transposed(first, (0, *range(2, len(shape)), 1)), first)
    else:
        x = s.input(shape, s.type(start or s.pick(*s.storages)))
    for _ in range(s.number(1, layers)):
        x = s.pick(_conv, _conv, _depthwise, _dense, _pool, _residual, _branches)(s, x)
    s.graph.outputs = (x.name,)
    return s, x


def _window(s: Maps, x: Value) -> Window:
    sizes = spatial(x)
    kernel = tuple(s.number(1, min(4, n)) for n in sizes)
    strides = tuple(s.number(1, 2) for _ in sizes)
    before = tuple(s.number(0, k - 1) for k in kernel)
    after = tuple(s.number(0, k - 1) for k in kernel)
    room = zip(sizes, kernel, strict=True)
    dilations = tuple(s.number(1, 2) if 2 * (k - 1) < n else 1 for n, k in room)
    return Window(kernel, strides, before, after, dilations)


def _rounded(s: Maps, acc: Value) -> Value:
    kind = s.type(s.pick(*s.storages))
    shifts = tuple(s.number(6, 12) for _ in range(acc.shape[-1]))
    numbers = tuple(s.number(2 ** (n - 6), 2 ** (n - 3)) for n in shifts)
    storage = kind.storage
    op = DyadicRequantize(numbers, shifts, kind, storage.min, storage.max)
    return s.build.one(op, acc)


def _conv(s: Maps, x: Value, window: Window | None = None) -> Value:
    window = window or _window(s, x)
    outs = s.pick(*s.few)
    zero = x.elem.zero_point if window.padded else 0
    w = s.weights(x, outs, *window.kernel, x.shape[-1])
    return _rounded(s, s.build.one(IntConv(window, 1, zero, SUM), x, w, s.bias(outs)))


def _depthwise(s: Maps, x: Value) -> Value:
    window, channels = _window(s, x), x.shape[-1]
    w = s.weights(x, *window.kernel, channels)
    op = IntDepthwise(window, channels, x.elem.zero_point, SUM)
    return _rounded(s, s.build.one(op, x, w, s.bias(channels)))


def _dense(s: Maps, x: Value) -> Value:
    outs = s.pick(*s.few)
    return _rounded(s, s.build.one(IntDense(SUM), x, s.weights(x, outs, x.shape[-1]), s.bias(outs)))


def _pool(s: Maps, x: Value) -> Value:
    return s.build.one(IntMaxPool(replace(_window(s, x), dilations=(1,) * len(spatial(x)))), x)


def _same(x: Value) -> Window:
    """Three taps, the size kept."""
    ones = (1,) * len(spatial(x))
    return Window((3,) * len(ones), ones, ones, ones, ones)


def _residual(s: Maps, x: Value) -> Value:
    window = _same(x)
    w = s.weights(x, *window.kernel, x.shape[-1])
    taps = IntDepthwise(window, x.shape[-1], x.elem.zero_point, SUM)
    acc = s.build.one(taps, x, w, s.bias(x.shape[-1]))
    storage = x.elem.storage
    y = s.build.one(DyadicRequantize((64,), (12,), x.elem, storage.min, storage.max), acc)
    axes, zero = Broadcast.of(x.shape, y.shape), x.elem.zero_point
    op = IntAdd(axes, 700, 500, 11, zero, zero, x.elem, storage.min, storage.max)
    return s.build.one(op, x, y)


def _branches(s: Maps, x: Value) -> Value:
    """A map pooled in three, beside itself."""
    pooled = s.build.one(IntMaxPool(_same(x)), x)
    return s.build.one(IntConcat(len(x.shape) - 1, x.elem), x, pooled)


def patched(s: Sketch, first: int = 0, last: int | None = None) -> Graph | None:
    """The net with a part in patches, of any extents; None where nothing is divisible.

    It is of the spans from `first` to before `last`, by default the longest part.
    """
    runs = spans(s.graph)
    if not runs or not runs[0][first:last]:
        return None
    span = joined(runs[0][first:last])
    result = s.graph.value(span.end)
    extents = tuple(s.number(1, n) for n in spatial(result))
    whole = tuple((0, n - 1) for n in spatial(result))
    if any(
        last < first
        for region in regions(body_of(s.graph, span), whole).values()
        for first, last in region
    ):
        return None
    graph = s.graph.copy()
    node = put(graph, span, (body_of(s.graph, span),), extents)
    if s.random.random() < 0.3:
        shares = tuple(s.number(1, 3) for _ in extents)
        assert isinstance(node.op, Patched)
        graph.replace(replace(node, op=replace(node.op, shares=(shares,))))
    return graph


@settings(max_examples=60, suppress_health_check=_SLOW)
@given(randoms)
def test_patches_compute_what_whole_maps_do(random: Random) -> None:
    s, x = net(random)
    graph = patched(s)
    if graph is None:
        return
    rng = np.random.default_rng(random.getrandbits(32))
    for sample in laws.samples(s.graph, rng):
        expected = evaluate(s.graph, sample)[x.name]
        np.testing.assert_array_equal(evaluate(graph, sample)[x.name], expected)
        np.testing.assert_array_equal(evaluate(undivided(graph), sample)[x.name], expected)


@settings(max_examples=2, suppress_health_check=_SLOW, phases=[Phase.explicit, Phase.generate])
@given(randoms)
def test_witnesses_agree_on_patches(random: Random) -> None:
    s, _ = net(random, 3)
    graph = patched(s)
    if graph is None:
        return
    inputs = laws.samples(graph, np.random.default_rng(1))
    values = laws.evaluated(graph, inputs)
    laws.law_1_shapes(graph, values)
    laws.law_3_check_graph(graph, inputs, values)
    laws.law_4_kernels(graph, inputs, values, CompileOptions(name="patches"))
    laws.law_4_kernels(graph, inputs, values, CompileOptions(name="patches"), "cortex-m4")


@pytest.mark.needs("arm-none-eabi-gcc", "qemu-system-arm")
def test_patches_on_the_emulated_core() -> None:
    for seed in (4, 6):
        s, _ = net(Random(seed), 4)
        graph = patched(s)
        assert graph is not None
        inputs = laws.samples(graph, np.random.default_rng(seed))
        values = laws.evaluated(graph, inputs)
        laws.law_8_instructions(graph, inputs, values, CompileOptions(name="patches"), "cortex-m4")


def test_the_c_of_a_choice_between_two_pieces(golden_c: SnapshotAssertion) -> None:
    """A test that both patches share, the pieces of two bodies, and what calls one of them."""
    kind = TensorType((1, 4, 2, 1), FixedType.per_tensor(I8, Dyadic(1, -4)))
    x, y = (Value(name, kind, bounds=Interval(-128, 127)) for name in ("x", "y"))
    bodies: list[Graph] = []
    for hi in (127, 7):
        body = Graph("net")
        _ = body.add_value(x)
        body.inputs, body.outputs = ("x",), ("y",)
        _ = body.add(Node("clamp", Clamp(-7, hi), ("x",), ("y",)), [y])
        bodies.append(body)
    test = OutlierTest(-9, 7, Fraction(1, 3), 0, ())
    op = Patched(tuple(bodies), (2, 2), View.dense(x.shape), test=test)
    graph = Graph("net")
    _ = graph.add_value(x)
    graph.inputs, graph.outputs = ("x",), ("y",)
    _ = graph.add(Node("patches", op, ("x",), ("y",)), [y])
    options = CompileOptions(name="net")
    target = microcontroller(load_target("host"))
    text = render(arrange(graph, options, target), target, options).files["net.c"].decode()
    assert "if (outliers > 1) {" in text
    first, last = text.index("/* outliers:"), text.index("int net_run")
    assert text[first:last] == golden_c
