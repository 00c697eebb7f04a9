"""Layers of all shapes and requantizers, side by side, for the kernels of instruction sets."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random

import numpy as np

from binpoint.ir.graph import Value
from binpoint.numeric.fixed import I8, I16, U8, IntType
from binpoint.ops.blocks import Block, IntSum
from binpoint.ops.broadcast import Broadcast
from binpoint.ops.conv import IntConv, IntDepthwise
from binpoint.ops.copy import transposed
from binpoint.ops.dense import IntDense
from binpoint.ops.lookup import IntLookup
from binpoint.ops.pairwise import IntAdd
from binpoint.ops.pooling import IntMaxPool
from binpoint.ops.requantize import DyadicRequantize, OnnxruntimeRequantize, Requantize
from binpoint.ops.runtime_pair import OnnxruntimeAdd
from binpoint.ops.window import Window
from binpoint.options import CompileOptions
from tests import laws
from tests.ops.integer_cases import SUM, onnxruntime_requantizer, outliers
from tests.ops.sketch import Sketch

OPTIONS = CompileOptions(planner="greedy")


def requantizer(s: Sketch, acc: Value, channels: int | None = None) -> Requantize:
    """Of slopes that use the codes; powers of two meet ties, which only the exact form rounds."""
    kind = s.type(s.storage(I8, U8))
    lo, hi = kind.storage.min, kind.storage.max
    if s.random.random() < 0.3:
        lo, hi = sorted((s.number(lo, hi), s.number(lo, hi)))
    ends = acc.interval.lo, acc.interval.hi
    reach = max(abs(ends[0]), abs(ends[1]), 1)
    channels = channels or s.pick(1, acc.shape[-1])
    slopes = [255 / reach * 2.0 ** s.random.uniform(-2, 4) for _ in range(channels)]
    match s.number(0, 3):
        case 0:
            shifts = [min(28 - int(np.floor(np.log2(slope))), 60) for slope in slopes]
            multipliers = tuple(int(m * 2.0**n) for m, n in zip(slopes, shifts, strict=True))
            return DyadicRequantize(multipliers, tuple(shifts), kind, lo, hi)
        case 1:
            slopes = [float(2.0 ** np.floor(np.log2(slope))) for slope in slopes]
        case _:
            pass
    scales = tuple(float(np.float32(slope)) for slope in slopes)
    return OnnxruntimeRequantize(scales, (ends,) * channels, kind, lo, hi)


def stored(s: Sketch, acc: Value) -> Value:
    """Requantized; now and then in a form that lanes cannot hold, or not at all."""
    if s.random.random() < 0.1:
        return s.add(onnxruntime_requantizer(s, acc.shape[-1], acc.interval), acc)
    return acc if s.random.random() < 0.1 else s.add(requantizer(s, acc), acc)


def window(s: Sketch, spatial: tuple[int, ...], *, dilated: bool) -> Window:
    """Any window with at least one tap on the input; strides may be larger than the kernel."""
    kernel = tuple(s.number(1, min(5, n)) for n in spatial)
    before, after = (tuple(s.number(0, k - 1) for k in kernel) for _ in range(2))
    room = [2 if dilated and 2 * (k - 1) < n else 1 for k, n in zip(kernel, spatial, strict=True)]
    return Window(
        kernel, tuple(s.number(1, 3) for _ in kernel), before, after,
        tuple(s.number(1, r) for r in room),
    )  # fmt: skip


def weights(s: Sketch, *shape: int) -> Value:
    """Of eight bits, or of a narrower type that takes a byte."""
    storage = s.pick(I8, I8, IntType(5, signed=True))
    return s.constant(s.codes(shape, storage.min, storage.max), storage)


def conv(s: Sketch) -> Value:
    spatial = tuple(s.number(1, 7) for _ in range(s.number(1, 2)))
    x = s.input(
        (s.number(1, 2), *spatial, s.pick(1, 2, 3, 5, 8, 16, 19)), s.type(s.storage(I8, U8))
    )
    view = window(s, spatial, dilated=True)
    outs = s.number(1, 13)
    w = weights(s, outs, *view.kernel, x.shape[-1])
    return stored(s, s.add(IntConv(view, 1, x.elem.zero_point, SUM), x, w, s.bias(outs)))


def dense(s: Sketch) -> Value:
    depth, count = s.pick(s.number(1, 70), 16, 32, 48, 64, 80), s.number(1, 19)
    x = s.input((s.number(1, 5), depth), s.type(s.storage(I8, I8, U8)))
    acc = s.add(IntDense(SUM), x, weights(s, count, depth), s.bias(count))
    return stored(s, acc)


def depthwise(s: Sketch) -> Value:
    spatial = tuple(s.pick(s.number(1, 9), s.number(4, 17)) for _ in range(s.number(1, 2)))
    x = s.input((s.number(1, 2), *spatial, s.number(1, 26)), s.type(s.storage(I8, U8)))
    view = window(s, spatial, dilated=False)
    count = x.shape[-1]
    w = weights(s, *view.kernel, count)
    acc = s.add(IntDepthwise(view, count, x.elem.zero_point, SUM), x, w, s.bias(count))
    return stored(s, acc)


def add(s: Sketch) -> Value:
    shape, storage = s.shape(), s.storage(I8, U8)
    if s.random.random() < 0.3:
        return wide_add(s)
    a, b, target = s.input(shape, s.type(storage)), s.input(shape, s.type(storage)), s.type(storage)
    lo, hi = sorted((s.number(storage.min, storage.max), s.number(storage.min, storage.max)))
    axes = Broadcast.of(shape, shape, "add")
    kinds = a.elem, b.elem, a.interval, b.interval
    return s.add(OnnxruntimeAdd(axes, *kinds, target, lo, hi).proved(), a, b)


def wide_add(s: Sketch) -> Value:
    """As in a residual stream: halfwords and bytes."""
    shape, kind = s.shape(), s.type(I16)
    a, b = s.input(shape, kind), s.input(shape, s.type(s.storage(I8, I16)))
    zeros = a.elem.zero_point, b.elem.zero_point
    axes, ma = Broadcast.of(shape, shape, "add"), s.number(-(2**13), 2**13)
    lo, hi = sorted((s.number(I16.min, I16.max), s.number(I16.min, I16.max)))
    return s.add(IntAdd(axes, ma, s.number(1, 2**13), s.number(1, 13), *zeros, kind, lo, hi), a, b)


def columns(s: Sketch) -> Value:
    x = s.input((s.number(1, 2), s.number(1, 40), s.number(4, 40)), s.type(s.storage(I8, U8)))
    acc = s.add(IntSum(Block.of(x.shape, (1,)), x.elem.zero_point, SUM), x)
    return s.add(requantizer(s, acc, 1), acc)


def maximum(s: Sketch) -> Value:
    spatial = tuple(s.number(1, 7) for _ in range(s.number(1, 2)))
    x = s.input((s.number(1, 2), *spatial, s.number(1, 40)), s.type(s.storage(I8, U8)))
    return s.add(IntMaxPool(window(s, spatial, dilated=True)), x)


def table(s: Sketch) -> Value:
    x, target = s.input(s.shape(), s.type(s.storage(I8, U8))), s.type(s.storage(I8, U8))
    entries = s.codes((256,), target.storage.min, target.storage.max)
    op = IntLookup(target, x.elem.storage.min)
    return s.add(op, x, s.build.constant(entries, target))


def copied(s: Sketch) -> Value:
    """Axes in another order: runs, gathered or spread bytes, or none of them."""
    x = s.input([s.pick(2, 3, 17, 19, 40) for _ in range(3)], s.type(s.storage(I8, U8)))
    order = s.pick((1, 0, 2), (0, 2, 1), (2, 0, 1), (2, 1, 0), (1, 2, 0))
    return s.add(transposed(x, order), x)


LAYERS = (conv, dense, depthwise, add, columns, maximum, table, copied, outliers)


def sketch(
    seed: int, count: int = 8, cases: Sequence[Callable[[Sketch], Value]] = LAYERS
) -> Sketch:
    """Every case a few times, side by side."""
    s = Sketch(Random(seed))
    for _ in range(count):
        for case in cases:
            s.output(case(s))
    s.prove()
    return s


def agree(s: Sketch, target: str, *, core: bool, options: CompileOptions = OPTIONS) -> None:
    """Twins on the host, or instructions on the core, compute what the ops define."""
    inputs = laws.samples(s.graph, s.rng)
    values = laws.evaluated(s.graph, inputs)
    if core:
        laws.law_8_instructions(s.graph, inputs, values, options, target)
    else:
        laws.law_4_kernels(s.graph, inputs, values, options, target)
