"""Activations with a scale per channel: the scales move into the weights that read them."""

from __future__ import annotations

import math
from dataclasses import replace
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from binpoint.errors import NoIntegerForm
from binpoint.frontend.edit import drop_unread
from binpoint.ir.build import GraphBuilder
from binpoint.ir.graph import Graph, Node, Value
from binpoint.numeric import monotone
from binpoint.numeric.dyadic import Dyadic
from binpoint.numeric.fixed import FixedType, IntType
from binpoint.numeric.interval import Interval
from binpoint.ops.conv import Conv
from binpoint.ops.dense import Dense
from binpoint.ops.rational import Reread

_WIDEST_WEIGHT = 16


def fold_channel_scales(graph: Graph) -> None:
    """Let every reader of such an activation read its codes on one scale, and scale its weights.

    A depthwise convolution has one weight channel an input channel, which takes any scale. Other
    sums of products take scales that are small multiples of one: rows of weights are multiplied.

    Raises:
        NoIntegerForm: another reader, or scales without such a unit.
    """
    for value in tuple(graph.values()):
        kind = value.fixed
        if value.constant is not None or kind is None or kind.axis is None or not kind.scales:
            continue
        if len(set(kind.scales)) == 1 or graph.producer(value.name) is None:
            continue
        for reader in graph.consumers(value.name):
            _fold(graph, graph.node(reader.name), value, kind)


def _fold(graph: Graph, node: Node, value: Value, kind: FixedType) -> None:
    weights = graph.arguments(node)[1] if len(node.inputs) > 1 else value
    sums = isinstance(node.op, Conv | Dense) and weights.constant is not None
    zero, *others = kind.zero_points
    if not sums or kind.axis != len(value.shape) - 1 or others:
        raise _refused(node, kind)
    assert weights.fixed is not None
    if any(weights.fixed.zero_points):
        raise _refused(node, kind)
    depthwise = isinstance(node.op, Conv) and node.op.groups == value.shape[-1]
    grouped = isinstance(node.op, Conv) and node.op.groups > 1
    if grouped and not depthwise:
        raise _refused(node, kind)
    moved, unit = (
        _depthwise(graph, weights, kind) if depthwise else _rows(graph, node, weights, kind)
    )
    build = GraphBuilder(graph, f"{value.name}_codes", node.origin)
    target = FixedType.per_tensor(kind.storage, unit, zero)
    factors = [unit.as_fraction() / s.as_fraction() for s in kind.scales]
    read = replace(build.one(Reread((monotone.scale(*factors),), target), value), fixed=target)
    graph.set_value(read)
    graph.replace(replace(node, inputs=(read.name, moved.name, *node.inputs[2:])))
    drop_unread(graph, weights.name)


def _depthwise(graph: Graph, weights: Value, kind: FixedType) -> tuple[Value, Dyadic]:
    """The weights with their scales times those of their input channels; the unit is one."""
    assert weights.constant is not None
    assert weights.fixed is not None
    count = weights.shape[0]
    spread = [s for s in kind.scales for _ in range(count // kind.channels)]
    own = [*weights.fixed.scales] * (count // weights.fixed.channels)
    scales = tuple(a * b for a, b in zip(own, spread, strict=True))
    stated = FixedType(weights.fixed.storage, scales, weights.fixed.zero_points, 0)
    build = GraphBuilder(graph)
    made = build.constant(weights.constant.array, fixed=stated, hint=weights.name)
    return made, Dyadic.one()


def _rows(graph: Graph, node: Node, weights: Value, kind: FixedType) -> tuple[Value, Dyadic]:
    """The weights of each input channel times the scale of the channel in the common unit."""
    assert weights.constant is not None
    assert weights.fixed is not None
    scales = [s.as_fraction() for s in kind.scales]
    unit = Fraction(
        math.gcd(*(s.numerator for s in scales)), math.lcm(*(s.denominator for s in scales))
    )
    multiples = [int(s / unit) for s in scales]
    if max(multiples).bit_length() + weights.fixed.storage.width > _WIDEST_WEIGHT:
        raise _refused(node, kind)
    codes: NDArray[np.int64] = weights.constant.array.astype(np.int64) * np.array(multiples)
    found = Interval.of(codes)
    width = max(found.hi.bit_length(), (-found.lo - 1).bit_length() if found.lo else 0) + 1
    storage = IntType(max(width, weights.fixed.storage.width), signed=True)
    stated = weights.fixed.with_storage(storage)
    build = GraphBuilder(graph)
    made = build.constant(codes.astype(storage.dtype), fixed=stated, hint=weights.name)
    return made, Dyadic.from_fraction(unit)


def _refused(node: Node, kind: FixedType) -> NoIntegerForm:
    return NoIntegerForm(
        "an activation with a scale per channel",
        at=", ".join(node.origin.names) or node.name,
        have=f"{kind.channels} scales, read by {type(node.op).__name__}",
        want="a depthwise convolution, or scales that are small multiples of one",
        hint="quantize activations per tensor; weights may have a scale per output channel",
    )
