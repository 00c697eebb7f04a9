"""Slim-integers keeps every integer, and takes what it can."""

from __future__ import annotations

from random import Random

import numpy as np
import pytest

from binpoint import pipelines
from binpoint.ir.evaluate import evaluate
from binpoint.ir.graph import Graph, Value
from binpoint.ir.verify import verify
from binpoint.lower.slim import SlimIntegers
from binpoint.numeric.fixed import I8
from binpoint.ops.conv_transpose import IntConvTranspose, Spread
from binpoint.ops.lookup import IntLookup
from binpoint.ops.pooling import IntMaxPool
from binpoint.ops.requantize import DyadicRequantize, OnnxruntimeRequantize
from binpoint.ops.window import Window
from binpoint.options import CompileOptions
from binpoint.passes.base import Context
from binpoint.target import load_target
from tests import laws
from tests.ops.integer_cases import SUM
from tests.ops.sketch import Sketch


def slim(graph: Graph) -> Graph:
    """The graph after the pass."""
    context = Context(load_target("cortex-m4"), CompileOptions(), None)
    return SlimIntegers().run(graph.copy(), context)


def ops(graph: Graph) -> list[str]:
    """Names of the ops."""
    return [type(node.op).__name__ for node in graph.nodes()]


def transposed(s: Sketch, *, exact: bool) -> Value:
    """Any window; `exact`: as many results as the operand times the stride."""
    rank = s.number(1, 2)
    spatial = tuple(s.number(2, 6) for _ in range(rank))
    strides = tuple(s.pick(1, 2, 2, 3) for _ in range(rank))
    kernel = tuple(s.number(1, 5) for _ in range(rank))
    before = tuple(s.number(0, k - 1) for k in kernel)
    outputs = tuple(n * t for n, t in zip(spatial, strides, strict=True))
    if not exact:
        outputs = tuple(max(1, o + s.number(-3, 2)) for o in outputs)
    window = Window(kernel, strides, before, (0,) * rank, (1,) * rank)
    x = s.input((s.number(1, 2), *spatial, s.number(1, 3)), s.type(I8))
    outs = s.number(1, 3)
    w = s.weights(x, outs, *kernel, x.shape[-1])
    op = IntConvTranspose(Spread(window, outputs), 1, x.elem.zero_point, SUM, ("a note",))
    acc = s.add(op, x, w, s.bias(outs))
    target = s.type(I8)
    count = s.pick(1, outs)
    scales = tuple(float(np.float32(s.random.uniform(0.001, 0.01))) for _ in range(count))
    if s.pick(True, False):
        reach = ((acc.interval.lo, acc.interval.hi),) * count
        return s.add(OnnxruntimeRequantize(scales, reach, target, -128, 127), acc)
    multipliers = tuple(int(scale * 2**30) for scale in scales)
    return s.add(DyadicRequantize(multipliers, (30,) * count, target, -128, 127), acc)


@pytest.mark.parametrize("exact", [True, False])
def test_transposed_convolutions_keep_their_results(*, exact: bool) -> None:
    split = 0
    for seed in range(40):
        s = Sketch(Random(seed))
        s.output(transposed(s, exact=exact))
        after = slim(s.graph)
        verify(after, "integer")
        split += "IntConvTranspose" not in ops(after)
        inputs = laws.samples(s.graph, s.rng)
        for sample in inputs:
            name = s.graph.outputs[0]
            assert (evaluate(s.graph, sample)[name] == evaluate(after, sample)[name]).all()
    assert split > (10 if exact else 0)


def test_places_that_see_the_same_are_channels_of_one_convolution() -> None:
    s = Sketch(Random(1))
    x = s.input((1, 4, 4, 2), s.type(I8))
    window = Window((2, 2), (2, 2), (0, 0), (0, 0), (1, 1))
    op = IntConvTranspose(Spread(window, (8, 8)), 1, x.elem.zero_point, SUM, ("a note",))
    acc = s.add(op, x, s.weights(x, 3, 2, 2, 2), s.bias(3))
    target = s.type(I8)
    s.output(s.add(DyadicRequantize((2**20,), (30,), target, -128, 127), acc))
    after = slim(s.graph)
    assert ops(after) == ["IntConv", "DyadicRequantize", "IntCopy"]
    (conv, *_) = after.nodes()
    assert laws.op_of(conv).work(after.arguments(conv), after.results(conv)).notes == ("a note",)


def test_hardware_keeps_its_transposed_convolutions() -> None:
    assert SlimIntegers.name in str(pipelines.mcu())
    assert SlimIntegers.name not in str(pipelines.fpga())


def pooled(s: Sketch, *, rising: bool) -> None:
    x = s.input((1, 6, 6, 3), s.type(I8))
    entries = np.sort(s.codes((256,), -128, 127))
    table = s.build.constant(entries if rising else entries[::-1], s.type(I8))
    y = s.add(IntLookup(table.elem, -128), x, table)
    window = Window((2, 2), (2, 2), (0, 0), (0, 0), (1, 1))
    s.output(s.add(IntMaxPool(window), y))


def test_a_rising_table_is_read_after_the_pool() -> None:
    s = Sketch(Random(2))
    pooled(s, rising=True)
    after = slim(s.graph)
    verify(after, "integer")
    assert ops(after) == ["IntMaxPool", "IntLookup"]
    for sample in laws.samples(s.graph, s.rng):
        name = s.graph.outputs[0]
        assert (evaluate(s.graph, sample)[name] == evaluate(after, sample)[name]).all()


def test_a_falling_table_stays_before_it() -> None:
    s = Sketch(Random(3))
    pooled(s, rising=False)
    assert ops(slim(s.graph)) == ["IntLookup", "IntMaxPool"]
