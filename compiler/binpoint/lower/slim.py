"""Slim-integers: the same integers for less work on a microcontroller.

A transposed convolution of stride s is, for each of the s places that a result can have within a
stride, an ordinary convolution with every s-th tap; places that see the same part of the operand
are channels of one convolution. What comes out is brought into order by a copy.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from binpoint.ir.build import GraphBuilder
from binpoint.ir.graph import Graph, Node, Value
from binpoint.ir.op import IntArray
from binpoint.numeric.fixed import FixedType
from binpoint.ops.concat import IntConcat
from binpoint.ops.conv import IntConv
from binpoint.ops.conv_transpose import IntConvTranspose, Spread
from binpoint.ops.copy import IntCopy, row_major
from binpoint.ops.lookup import IntLookup
from binpoint.ops.pooling import IntMaxPool
from binpoint.ops.requantize import DyadicRequantize, OnnxruntimeRequantize, Requantize
from binpoint.ops.window import Window
from binpoint.passes.base import Context, Effect, Pass, Stage


@dataclass(frozen=True, slots=True)
class SlimIntegers(Pass):
    """Pool before tables, and transposed convolutions as ordinary ones.

    1. MaxPool of what a rising table gives is the table of the pooled operand.
    2. A transposed convolution and its Requantize become convolutions of the operand, one for all
       results that see the same part of it, and a copy that puts their results in order.
    """

    name: ClassVar[str] = "slim-integers"
    before: ClassVar[Stage] = Stage.INTEGER
    after: ClassVar[Stage] = Stage.INTEGER
    effect: ClassVar[Effect] = Effect.KEEPS_VALUES

    def run(self, graph: Graph, context: Context) -> Graph:
        """See the class."""
        del context
        for node in graph.nodes():
            match node.op:
                case IntMaxPool():
                    _pool_first(graph, node)
                case IntConvTranspose():
                    _split(graph, node, node.op)
                case _:
                    pass
        return graph


def _pool_first(graph: Graph, pool: Node) -> None:
    """Rule 1."""
    table = graph.producer(pool.inputs[0])
    if table is None or not isinstance(table.op, IntLookup):
        return
    if graph.sole_consumer(pool.inputs[0]) is None or pool.inputs[0] in graph.outputs:
        return
    x, entries = graph.arguments(table)
    assert entries.constant is not None
    reached = slice(x.interval.lo - table.op.low, x.interval.hi - table.op.low + 1)
    if (np.diff(entries.constant.array[reached].astype(np.int64)) < 0).any():
        return
    (result,) = graph.results(pool)
    graph.remove(pool.name)
    graph.remove(table.name)
    graph.drop_value(pool.inputs[0])
    build = GraphBuilder(graph, pool.name, pool.origin)
    pooled = build.one(pool.op, x)
    graph.add(replace(table, inputs=(pooled.name, entries.name), outputs=(result.name,)), ())


# ---- rule 2


@dataclass(frozen=True, slots=True)
class Place:
    """Results of one place within a stride, on one axis: y[m·s + place].

    They see x[m + first .. m + last], through taps `start`, `start` + s, ... from the last on.
    """

    start: int
    first: int
    last: int


def _places(kernel: int, stride: int, before: int) -> list[Place]:
    places: list[Place] = []
    for place in range(stride):
        start, last = (place + before) % stride, (place + before) // stride
        places.append(Place(start, last - -(-(kernel - start) // stride) + 1, last))
    return places


def _split(graph: Graph, node: Node, op: IntConvTranspose) -> None:
    """Rule 2, where every place has taps and no result is cut off within a stride."""
    rounding = graph.sole_consumer(node.outputs[0])
    if rounding is None or not isinstance(rounding.op, Requantize) or op.groups > 1:
        return
    window, outputs = op.spread.window, op.spread.outputs
    sizes = zip(window.kernel, window.strides, window.before, strict=True)
    axes = [_places(k, s, b) for k, s, b in sizes]
    whole = all(o % s == 0 for o, s in zip(outputs, window.strides, strict=True))
    if not whole or set(window.dilations) != {1} or set(window.strides) == {1}:
        return
    x, w, bias = graph.arguments(node)
    seen = [sorted({(p.first, p.last) for p in places}) for places in axes]
    windows = {
        views: _window(op.spread, views, x.shape[1:-1]) for views in itertools.product(*seen)
    }
    members = {v: list(itertools.product(*map(_members, axes, v))) for v in windows}
    steps = _steps([m for v in windows for m in members[v]], window.strides)
    if None in windows.values() or steps is None or _tiled(rounding.op, 1) is None:
        return
    (result,) = graph.results(rounding)
    graph.remove(rounding.name)
    graph.remove(node.name)
    graph.drop_value(node.outputs[0])
    build = GraphBuilder(graph, node.name, node.origin + rounding.origin)
    parts = [
        _part(build, op, rounding.op, (x, w, bias), (view, axes, members[views]))
        for views, view in windows.items()
        if view is not None
    ]
    joined = parts[0]
    if len(parts) > 1:
        joined = build.one(IntConcat(len(x.shape) - 1, joined.elem), *parts)
    copy = _ordered(joined, steps, window.strides, result)
    name = graph.fresh(rounding.name)
    graph.add(Node(name, copy, (joined.name,), (result.name,), build.origin), ())


def _members(places: Sequence[Place], view: tuple[int, int]) -> list[int]:
    return [i for i, p in enumerate(places) if (p.first, p.last) == view]


def _window(
    spread: Spread, views: Sequence[tuple[int, int]], sizes: Sequence[int]
) -> Window | None:
    """The part of the operand that results of all these places see; None where it does not fit."""
    strides, outputs = spread.window.strides, spread.outputs
    kernel = tuple(last - first + 1 for first, last in views)
    before = tuple(-first for first, _ in views)
    counts = [o // s for o, s in zip(outputs, strides, strict=True)]
    fits = zip(counts, kernel, sizes, before, strict=True)
    after = tuple(m - 1 + k - n - b for m, k, n, b in fits)
    if min((*before, *after)) < 0 or min(kernel) < 1:
        return None
    ones = (1,) * len(kernel)
    return Window(kernel, ones, before, after, ones)


def _steps(order: Sequence[tuple[int, ...]], strides: Sequence[int]) -> tuple[int, ...] | None:
    """How far apart neighbours along each axis are in `order`, if that is the same everywhere."""
    index = {place: i for i, place in enumerate(order)}
    axes = range(len(strides))
    units = [tuple(int(i == axis) for i in axes) for axis in axes]
    steps = tuple(index[u] if s > 1 else 0 for u, s in zip(units, strides, strict=True))
    even = all(i == sum(map(int.__mul__, steps, place)) for place, i in index.items())
    return steps if even else None


def _part(
    build: GraphBuilder,
    op: IntConvTranspose,
    rounding: Requantize,
    operands: tuple[Value, Value, Value],
    group: tuple[Window, Sequence[Sequence[Place]], Sequence[tuple[int, ...]]],
) -> Value:
    """The results of some places, side by side as channels."""
    x, w, bias = operands
    window, axes, members = group
    assert w.constant is not None
    assert bias.constant is not None
    codes = w.constant.array.astype(np.int64)
    strides = op.spread.window.strides
    starts = [[axes[i][m].start for i, m in enumerate(member)] for member in members]
    taps = [_taps(codes, start, strides) for start in starts]
    weights = np.concatenate(taps)
    sums = np.tile(bias.constant.array.astype(np.int64), len(members))
    zero = op.zero
    if not window.padded:
        sums, zero = sums - zero * weights.reshape(len(weights), -1).sum(axis=1), 0
    kind = op.result
    if len(kind.scales) > 1:
        kind = FixedType(kind.storage, kind.scales * len(members), kind.zero_points, kind.axis)
    conv = IntConv(window, 1, zero, kind, op.notes)
    acc = build.one(conv, x, build.constant(weights, w.elem), build.constant(sums, bias.elem))
    tiled = _tiled(rounding, len(members))
    assert tiled is not None
    return build.one(tiled, acc)


def _taps(codes: IntArray, starts: Sequence[int], strides: Sequence[int]) -> IntArray:
    """Every s-th tap from the start on, on each axis, the last first."""
    steps = [slice(a, None, s) for a, s in zip(starts, strides, strict=True)]
    return np.flip(codes[(slice(None), *steps)], tuple(range(1, len(starts) + 1)))


def _tiled(op: Requantize, count: int) -> Requantize | None:
    """The requantizer of `count` times as many channels, if its kind can be repeated."""
    if op.channels == 1:
        return op
    match op:
        case DyadicRequantize():
            return replace(op, multipliers=op.multipliers * count, shifts=op.shifts * count)
        case OnnxruntimeRequantize():
            return replace(op, scales=op.scales * count, reach=op.reach * count, proof=None)
        case _:
            return None


def _ordered(joined: Value, steps: Sequence[int], strides: Sequence[int], result: Value) -> IntCopy:
    """From places as channels to places as positions."""
    channels = result.shape[-1]
    inner = row_major(joined.shape)
    sizes, moves = [joined.shape[0]], [inner[0]]
    for axis, stride in enumerate(strides):
        sizes += [joined.shape[axis + 1], stride]
        moves += [inner[axis + 1], steps[axis] * channels]
    return IntCopy.of(result.shape, [*sizes, channels], [*moves, 1], 0, result.elem)
