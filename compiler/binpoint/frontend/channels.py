"""remove-channels: channels that are constant or that nobody reads are not computed."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from binpoint.frontend.absorb import can_absorb, narrowed, taken
from binpoint.frontend.edit import drop_unread
from binpoint.frontend.known import Known, known_channels
from binpoint.frontend.linear import linear_of
from binpoint.frontend.ties import Index, Link, Ties, channels, is_depthwise, is_mixing, links
from binpoint.ir.build import GraphBuilder
from binpoint.ir.graph import Graph, Node, Value
from binpoint.ir.op import FloatOp
from binpoint.numeric.fixed import TensorType
from binpoint.ops.conv import Conv
from binpoint.ops.shape import Reshape
from binpoint.ops.slices import Take, index_map
from binpoint.passes.base import Context, Effect, Pass, Stage

_log = logging.getLogger(__name__)
Kept = dict[str, Index]


@dataclass(frozen=True, slots=True)
class RemoveChannels(Pass):
    """Leave out channels of values that need not be computed; channels lie on the last axis.

    1. A channel is constant if every weight of its row is zero, or if it is a function of constant
       channels; one with an integer type, if its code is beyond doubt.
    2. A Conv, ConvTranspose or Dense can do without an input channel whose weights are all zero, or
       that is constant: that part of the sums goes into the bias. With padding, and where the bias
       would not be exact, only a constant zero can go.
    3. Ops that keep channels apart (elementwise, pooling, depthwise, Concat, flattening) tie
       channels of operands and results: tied channels go together, if every reader of each can do
       without it. Channels of inputs, outputs and of operands of any other op stay.
    4. Each value keeps one channel. Until nothing changes.

    Integer results stay equal bit for bit: sums change by whole codes only. Computed in floating
    point without rounding to types, as the check of promises does, results may move, as constants
    of typed values are taken as rounded.
    """

    name: ClassVar[str] = "remove-channels"
    before: ClassVar[Stage] = Stage.FLOAT
    after: ClassVar[Stage] = Stage.FLOAT
    effect: ClassVar[Effect] = Effect.CHANGES_VALUES

    def run(self, graph: Graph, context: Context) -> Graph:
        """See the class."""
        before, gone = macs(graph), 0
        while (count := _remove(graph)) > 0:
            gone += count
        if gone:
            _log.info("%d channels removed, %d of %d MACs", gone, before - macs(graph), before)
        return graph


@dataclass(frozen=True, slots=True)
class RemoveTypedChannels(RemoveChannels):
    """The same once all types are assigned, when small weights have become zeros."""

    name: ClassVar[str] = "remove-typed-channels"
    before: ClassVar[Stage] = Stage.TYPED
    after: ClassVar[Stage] = Stage.TYPED


def macs(graph: Graph) -> int:
    """Multiply-accumulates of all ops with constant weights, padding included."""
    total = 0
    for node in graph.nodes():
        linear = linear_of(graph, node)
        if linear is not None:
            taps = math.prod(linear.weights.shape[1:])
            total += graph.results(node)[0].type.size * taps
    return total


def _remove(graph: Graph) -> int:
    """Remove what can go now; returns the number of channels."""
    known = known_channels(graph)
    kept = _kept(graph, known)
    count = sum(channels(graph.value(name)) - len(index) for name, index in kept.items())
    if count == 0:
        return 0
    found = [(node, links(graph, node)) for node in graph.nodes()]
    for node, ties in found:
        if any(name in kept for name in (*node.inputs, *node.outputs)):
            _narrow(graph, node, ties or (), kept, known)
    for name, index in kept.items():
        value = graph.value(name)
        shape = (*value.shape[:-1], len(index))
        graph.set_value(replace(value, type=TensorType(shape, value.type.elem)))
    return count


# ---- what goes


def _kept(graph: Graph, known: Known) -> Kept:
    """The channels that stay, of each value that loses some."""
    ties = Ties.of(graph)
    classes = {name: ties.classes(graph.value(name)) for name in ties.start}
    stay = set(ties.pinned)
    for node in graph.nodes():
        linear = linear_of(graph, node) if is_mixing(graph, node) else None
        if linear is None or linear.x.constant is not None:
            continue
        needed = ~can_absorb(linear, known[linear.x.name])
        stay.update(classes[linear.x.name][needed].tolist())
    _keep_one(classes, stay)
    chosen = {name: np.isin(own, list(stay)) for name, own in classes.items()}
    return {name: np.flatnonzero(mask) for name, mask in chosen.items() if not mask.all()}


def _keep_one(classes: dict[str, Index], stay: set[int]) -> None:
    """Let one channel of every value stay, and what is tied to it."""
    for name in sorted(classes):
        own = classes[name]
        if own.size and stay.isdisjoint(own.tolist()):
            stay.add(int(own[0]))


# ---- how


def _narrow(graph: Graph, node: Node, ties: tuple[Link, ...], kept: Kept, known: Known) -> None:
    """Let a node compute the channels kept from the channels kept."""
    assert isinstance(node.op, FloatOp)
    linear = linear_of(graph, node)
    (result,) = graph.results(node)
    rows = kept.get(result.name, np.arange(channels(result)))
    inputs, op = list(node.inputs), node.op
    if linear is not None and (is_mixing(graph, node) or is_depthwise(graph, node)):
        columns = kept.get(linear.x.name, np.arange(channels(linear.x)))
        if isinstance(op, Conv) and op.groups > 1:
            op = replace(op, groups=len(columns))
            columns, numbers = np.arange(1), np.zeros(1)
        else:
            numbers = known[linear.x.name]
        inputs[1:] = narrowed(graph, linear, rows, columns, numbers)
    else:
        for link in ties:
            inputs[link.operand] = _sliced(graph, node, link, rows)
        op = _reshaped(op, ties, rows, kept.get(node.inputs[0]))
    graph.replace(replace(node, op=op, inputs=tuple(inputs)))
    drop_unread(graph, *(name for name in node.inputs if name not in inputs))


def _sliced(graph: Graph, node: Node, link: Link, rows: Index) -> str:
    """An operand of a node that keeps channels apart; of a constant, the part that stays."""
    value: Value = graph.value(node.inputs[link.operand])
    if value.constant is None:
        return value.name
    part = np.unique(link.source[np.isin(link.target, rows)])
    if len(part) == channels(value):
        return value.name
    axis = len(value.shape) - 1
    kind = None if value.fixed is None else taken(value.fixed, axis, part)
    array = value.constant.array[..., part]
    return GraphBuilder(graph).constant(array, fixed=kind, hint=value.name).name


def _reshaped(op: FloatOp, ties: tuple[Link, ...], rows: Index, source: Index | None) -> FloatOp:
    """An op whose own fields tell of channels."""
    match op:
        case Reshape(shape):
            return Reshape((*shape[:-1], len(rows)))
        case Take(maps):
            chosen = ties[0].source[rows]
            if source is not None:
                chosen = np.searchsorted(source, chosen)
            return Take((*maps[:-1], index_map(chosen.tolist())))
        case _:
            return op
