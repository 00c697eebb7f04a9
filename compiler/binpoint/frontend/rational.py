"""fold-rationals: all between two quantizers becomes one exact function after a sum of products."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import ClassVar

import numpy as np

from binpoint.errors import NoIntegerForm
from binpoint.frontend.absorb import taken
from binpoint.frontend.edit import drop_unread, until_settled
from binpoint.frontend.exact import exact
from binpoint.frontend.ties import Index
from binpoint.ir.build import GraphBuilder
from binpoint.ir.graph import Graph, Node, Value
from binpoint.numeric import monotone
from binpoint.numeric.dyadic import Dyadic
from binpoint.numeric.fixed import FixedType, IntType
from binpoint.numeric.monotone import Scale, Shift, Steps
from binpoint.ops.conv import Conv
from binpoint.ops.conv_transpose import ConvTranspose
from binpoint.ops.dense import Dense
from binpoint.ops.pool import AveragePool, MaxPool
from binpoint.ops.pooling import counts_of
from binpoint.ops.rational import Rational
from binpoint.ops.reduce import Reduce
from binpoint.ops.shape import Reshape, Transpose
from binpoint.ops.slices import Take
from binpoint.passes.base import Context, Effect, Pass, Stage

_log = logging.getLogger(__name__)
_ONES = FixedType.per_tensor(IntType(2, signed=True), Dyadic.one())


@dataclass(frozen=True, slots=True)
class FoldRationals(Pass):
    """Bring exact functions together, between sums of products and quantizers.

    For models with quantizers of any width (`Graph.rational`), whose values between quantizers are
    real numbers.

    1. Two such functions in a row are one, if the first does not quantize.
    2. A bias leaves its sum of products, and becomes a shift after it.
    3. A mean is a sum and a factor; over windows, a convolution with ones and a factor.
    4. A factor for all channels goes on through reshapes, transpositions and sums of products.
    5. A quantizing function goes before a reshape or transposition, and before a maximum if it
       rises.
    6. Where all readers of a function or of a sum of products choose some of its channels, there is
       one of it for each of them, with these channels.
    """

    name: ClassVar[str] = "fold-rationals"
    before: ClassVar[Stage] = Stage.FLOAT
    after: ClassVar[Stage] = Stage.FLOAT
    effect: ClassVar[Effect] = Effect.CHANGES_VALUES

    def run(self, graph: Graph, context: Context) -> Graph:
        """See the class."""
        if graph.rational:
            until_settled(graph, _visit)
        return graph


def _visit(graph: Graph, node: Node) -> bool:
    match node.op:
        case Rational():
            return (
                _merge(graph, node)
                or _hoist(graph, node)
                or _push(graph, node)
                or _choose(graph, node)
            )
        case Dense():
            return _split_bias(graph, node) or _choose(graph, node)
        case Conv() | ConvTranspose():
            return _split_bias(graph, node)
        case Reduce(mean=True):
            return _split_mean(graph, node)
        case AveragePool():
            return _split_pool(graph, node)
        case _:
            return False


# ---- rule 1


def _merge(graph: Graph, node: Node) -> bool:
    assert isinstance(node.op, Rational)
    (operand,) = graph.arguments(node)
    first = graph.producer(operand.name)
    if first is None or not isinstance(first.op, Rational) or first.op.quantizer is not None:
        return False
    op, origin = node.op.after(first.op.steps), first.origin + node.origin
    graph.replace(replace(node, op=op, inputs=first.inputs, origin=origin))
    drop_unread(graph, operand.name)
    return True


# ---- rules 2 and 3


def follow(graph: Graph, node: Node, steps: Steps) -> None:
    """Let a `Rational` compute the result of `node`, from what `node` computes now."""
    (result,) = graph.results(node)
    graph.remove(node.name)
    raw = graph.add_value(Value(graph.fresh(f"{result.name}_sum"), result.type))
    graph.set_producer(replace(node, outputs=(raw.name,)))
    name = graph.fresh(f"{node.name}_rational")
    graph.set_producer(Node(name, Rational(steps), (raw.name,), (result.name,), node.origin))


def _split_bias(graph: Graph, node: Node) -> bool:
    if len(node.inputs) < 3:
        return False
    (result,), bias = graph.results(node), graph.arguments(node)[2]
    if result.fixed is not None or bias.constant is None:
        return False
    offsets = tuple(exact(bias).reshape(-1).tolist())
    graph.replace(replace(node, inputs=node.inputs[:2]))
    drop_unread(graph, bias.name)
    if any(offsets):
        follow(graph, graph.node(node.name), (Shift(offsets),))
    return True


def _split_mean(graph: Graph, node: Node) -> bool:
    assert isinstance(node.op, Reduce)
    x = graph.arguments(node)[0]
    count = math.prod(x.shape[i] for i in node.op.axes)
    graph.replace(replace(node, op=replace(node.op, mean=False)))
    follow(graph, graph.node(node.name), (monotone.scale(Fraction(1, count)),))
    return True


def _split_pool(graph: Graph, node: Node) -> bool:
    assert isinstance(node.op, AveragePool)
    x, window = graph.arguments(node)[0], node.op.window
    counts = np.unique(counts_of(window, node.op.edge, x.shape[1:-1]))
    if len(counts) > 1:
        raise NoIntegerForm(
            "an average over windows of different sizes",
            at=", ".join(node.origin.names),
            have=f"{counts.min()} to {counts.max()} elements",
            hint="count the padding (count_include_pad=1), or leave it out",
        )
    if window.kernel == x.shape[1:-1] and not window.padded:
        spatial = tuple(range(1, len(x.shape) - 1))
        graph.replace(replace(node, op=Reduce(spatial, mean=False)))
    else:
        channels = x.shape[-1]
        ones = np.ones((channels, *window.kernel, 1), np.int8)
        weights = GraphBuilder(graph).constant(ones, fixed=_ONES, hint=f"{node.name}_ones")
        conv = Conv(window, channels)
        graph.replace(replace(node, op=conv, inputs=(x.name, weights.name)))
    follow(graph, graph.node(node.name), (monotone.scale(Fraction(1, int(counts[0]))),))
    return True


# ---- rule 4


def _push(graph: Graph, node: Node) -> bool:
    assert isinstance(node.op, Rational)
    (operand,), (result,) = graph.arguments(node), graph.results(node)
    reader = graph.sole_consumer(result.name)
    if node.op.quantizer is not None or node.op.channels > 1 or reader is None:
        return False
    if not all(isinstance(step, Scale) for step in node.op.steps):
        return False
    moves = isinstance(reader.op, Reshape | Transpose)
    sums = isinstance(reader.op, Conv | Dense | ConvTranspose) and len(reader.inputs) == 2
    if (not moves and not sums) or reader.inputs.count(result.name) > 1:
        return False
    inputs = (operand.name, *reader.inputs[1:])
    graph.replace(replace(reader, inputs=inputs))
    drop_unread(graph, result.name)
    follow(graph, graph.node(reader.name), node.op.steps)
    return True


# ---- rule 5


def _hoist(graph: Graph, node: Node) -> bool:
    assert isinstance(node.op, Rational)
    (operand,), (result,) = graph.arguments(node), graph.results(node)
    move = graph.producer(operand.name)
    if node.op.quantizer is None or move is None or graph.sole_consumer(operand.name) is None:
        return False
    start = graph.value(move.inputs[0])
    if operand.fixed is not None or start.fixed is not None:
        return False
    if not _commutes(node.op, move.op, start, operand):
        return False
    graph.remove(node.name)
    graph.remove(move.name)
    graph.drop_value(operand.name)
    build = GraphBuilder(graph, node.name, node.origin)
    early = replace(build.one(node.op, start), fixed=result.fixed)
    graph.set_value(early)
    graph.set_producer(replace(move, inputs=(early.name,), outputs=(result.name,)))
    return True


def _commutes(op: Rational, move: object, start: Value, moved: Value) -> bool:
    """Whether moving elements, or taking maxima, may follow the function as well as precede it."""
    match move:
        case MaxPool():
            if not op.rising():
                _log.debug("a quantizer stays after a maximum: it falls in some channel")
            return op.rising()
        case Reshape():
            return op.channels == 1 or start.shape[-1:] == moved.shape[-1:]
        case Transpose(order=order):
            return op.channels == 1 or order[-1] == len(order) - 1
        case _:
            return False


# ---- rule 6


def _choose(graph: Graph, node: Node) -> bool:
    assert isinstance(node.op, Rational | Dense)
    (result,) = graph.results(node)
    readers = graph.consumers(result.name)
    if result.fixed is not None or result.name in graph.outputs or not readers:
        return False
    if isinstance(node.op, Dense) and graph.arguments(node)[1].constant is None:
        return False
    chosen = [_channels(reader, result) for reader in readers]
    if any(rows is None for rows in chosen):
        return False
    for reader, rows in zip(readers, chosen, strict=True):
        assert rows is not None
        _one_for(graph, node, reader, np.array(rows))
    graph.remove(node.name)
    graph.drop_value(result.name)
    drop_unread(graph, *node.inputs)
    return True


def _channels(reader: Node, value: Value) -> Sequence[int] | None:
    """The channels that a reader takes, if that is all it does."""
    if not isinstance(reader.op, Take):
        return None
    *others, rows = reader.op.maps
    whole = all(tuple(m) == tuple(range(n)) for m, n in zip(others, value.shape, strict=False))
    return tuple(rows) if whole else None


def _one_for(graph: Graph, node: Node, reader: Node, rows: Index) -> None:
    """Let a node of its own compute the channels that a reader takes."""
    build = GraphBuilder(graph, reader.name, node.origin + reader.origin)
    if isinstance(node.op, Rational):
        graph.replace(replace(reader, inputs=node.inputs))
        steps = tuple(monotone.taken(step, rows.tolist()) for step in node.op.steps)
        follow(graph, graph.node(reader.name), steps)
        return
    weights = graph.arguments(node)[1]
    assert weights.constant is not None
    kind = None if weights.fixed is None else taken(weights.fixed, 0, rows)
    held = build.constant(weights.constant.array[rows], fixed=kind, hint=weights.name)
    inputs, origin = (node.inputs[0], held.name), node.origin + reader.origin
    graph.replace(replace(reader, op=node.op, inputs=inputs, origin=origin))
