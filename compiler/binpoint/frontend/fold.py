"""fold-constants, fold-pad, fold-argmax: what is known now is computed now."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from binpoint.errors import InvalidConstant
from binpoint.frontend.edit import drop_unread, until_settled
from binpoint.ir.build import GraphBuilder
from binpoint.ir.evaluate import constant_array
from binpoint.ir.graph import Graph, Node, Value
from binpoint.ir.op import FloatOp
from binpoint.ops.conv import Conv
from binpoint.ops.elementwise import Kind, Scalar
from binpoint.ops.pad import Pad
from binpoint.ops.pool import AveragePool, MaxPool
from binpoint.ops.reduce import ArgExtreme
from binpoint.ops.softmax import Softmax
from binpoint.ops.unary import Clip, Unary
from binpoint.passes.base import Context, Effect, Pass, Stage

_log = logging.getLogger(__name__)
Windowed = Conv | AveragePool | MaxPool


@dataclass(frozen=True, slots=True)
class FoldConstants(Pass):
    """Compute nodes whose operands are all constant.

    1. Integers that an op passes on as they are stay what they are.
    2. All other results are computed by the op's reference, in float32; a result with a type is
       stored in it.
    3. NaN or infinity as result is an error of the model.
    """

    name: ClassVar[str] = "fold-constants"
    before: ClassVar[Stage] = Stage.FLOAT
    after: ClassVar[Stage] = Stage.FLOAT
    effect: ClassVar[Effect] = Effect.KEEPS_VALUES

    def run(self, graph: Graph, context: Context) -> Graph:
        """See the class."""
        until_settled(graph, _compute)
        return graph


def _compute(graph: Graph, node: Node) -> bool:
    operands = graph.arguments(node)
    if not operands or any(v.constant is None for v in operands):
        return False
    if not isinstance(node.op, FloatOp):
        return False
    if node.op.keeps_type and any(v.fixed is not None for v in operands):
        return False
    arrays = node.op.reference(*(constant_array(v) for v in operands))
    results = graph.results(node)
    graph.remove(node.name)
    for value, array in zip(results, arrays, strict=True):
        if not np.isfinite(array).all():
            raise InvalidConstant(
                "an operator on constants gives NaN or infinity", at=", ".join(node.origin.names)
            )
        stored = np.asarray(array, np.float32)
        if value.fixed is not None:
            stored = value.fixed.quantize(array).astype(value.fixed.storage.dtype)
        made = GraphBuilder(graph).constant(stored, fixed=value.fixed, hint=value.name)
        graph.rewire(value.name, made.name)
        graph.drop_value(value.name)
    drop_unread(graph, *node.inputs)
    return True


@dataclass(frozen=True, slots=True)
class FoldPad(Pass):
    """A border of zeros before a window becomes the window's own padding.

    1. The border has no width on the batch and channel axes, and no type of its own.
    2. A Conv takes any; an average counts it as elements, if none of its own padding lies between;
       a maximum takes it where no element is below zero and no window lies on the border alone.
    """

    name: ClassVar[str] = "fold-pad"
    before: ClassVar[Stage] = Stage.FLOAT
    after: ClassVar[Stage] = Stage.FLOAT
    effect: ClassVar[Effect] = Effect.KEEPS_VALUES

    def run(self, graph: Graph, context: Context) -> Graph:
        """See the class."""
        until_settled(graph, _fold_pad)
        return graph


def _fold_pad(graph: Graph, node: Node) -> bool:
    if not isinstance(node.op, Conv | AveragePool | MaxPool):
        return False
    operand = graph.arguments(node)[0]
    pad = graph.producer(operand.name)
    if pad is None or not isinstance(pad.op, Pad):
        return False
    start = graph.arguments(pad)[0]
    op = _padded(node.op, pad.op)
    reason = _apart(pad.op, start, operand) or _unlike(graph, node.op, op, start)
    if reason is not None:
        _log.debug("%s not folded into %s: %s", pad.name, node.name, reason)
        return False
    origin = pad.origin + node.origin
    graph.replace(replace(node, op=op, inputs=(start.name, *node.inputs[1:]), origin=origin))
    drop_unread(graph, operand.name)
    return True


def _padded(op: Windowed, pad: Pad) -> Windowed:
    """The op with a border as its own padding."""
    window, widths = op.window, pad.after[1:-1]
    before = tuple(a + b for a, b in zip(window.before, pad.before[1:-1], strict=True))
    after = tuple(a + b for a, b in zip(window.after, widths, strict=True))
    window = replace(window, before=before, after=after)
    if not isinstance(op, AveragePool):
        return replace(op, window=window)
    edge = op.edge or (0,) * len(widths)
    return AveragePool(window, tuple(a + b for a, b in zip(edge, widths, strict=True)))


def _unlike(graph: Graph, op: Windowed, padded: Windowed, start: Value) -> str | None:
    """Why an op with padding of its own would not do the same."""
    match op:
        case AveragePool(window, edge):
            apart = edge is None and any(window.before)
            return "padding that does not count lies between" if apart else None
        case MaxPool():
            if padded.window.counts(start.shape[1:-1]).min() < 1:
                return "a window lies on the border alone"
            return None if _not_negative(graph, start) else "elements may be below zero"
        case Conv():
            return None


def _not_negative(graph: Graph, value: Value) -> bool:
    """Whether no element is below zero, by its type or by the clamp that makes it."""
    kind, node = value.fixed, graph.producer(value.name)
    if kind is not None and kind.axis is None and kind.storage.min >= kind.zero_point:
        return True
    op = None if node is None else node.op
    return isinstance(op, Clip) and op.low is not None and op.low >= 0


def _apart(pad: Pad, start: Value, padded: Value) -> str | None:
    """Why a border cannot be the padding of a convolution."""
    if pad.value != 0:
        return "it is not of zeros"
    if any((*pad.before[:: len(pad.before) - 1], *pad.after[:: len(pad.after) - 1])):
        return "it is wide on the batch or channel axis"
    if padded.fixed not in (None, start.fixed):
        return "it has a type of its own"
    return None


_INCREASING = frozenset({"Elu", "Erf", "Exp", "Sigmoid", "Softplus", "Softsign", "Tanh"})


@dataclass(frozen=True, slots=True)
class FoldArgMax(Pass):
    """The place of an extreme does not change under strictly increasing functions.

    1. ArgMax and ArgMin read the operand of a softmax over the same axis, of an increasing
       function, or of a sum or a positive multiple, where the value in between has no type.
    2. Where float32 rounds two different elements to the same, the result is the place of the one
       that is larger in truth.
    """

    name: ClassVar[str] = "fold-argmax"
    before: ClassVar[Stage] = Stage.FLOAT
    after: ClassVar[Stage] = Stage.FLOAT
    effect: ClassVar[Effect] = Effect.KEEPS_VALUES

    def run(self, graph: Graph, context: Context) -> Graph:
        """See the class."""
        until_settled(graph, _skip)
        return graph


def _skip(graph: Graph, node: Node) -> bool:
    if not isinstance(node.op, ArgExtreme):
        return False
    operand = graph.arguments(node)[0]
    function = graph.producer(operand.name)
    if function is None or operand.fixed is not None or not _increases(function, node.op.axis):
        return False
    origin = function.origin + node.origin
    graph.replace(replace(node, inputs=function.inputs, origin=origin))
    drop_unread(graph, operand.name)
    return True


def _increases(node: Node, axis: int) -> bool:
    match node.op:
        case Softmax(over):
            return over == axis
        case Unary(kind):
            return kind in _INCREASING
        case Scalar(Kind.MUL | Kind.DIV, number, False):
            return number > 0
        case Scalar(Kind.ADD):
            return True
        case Scalar(Kind.SUB, _, False):
            return True
        case _:
            return False
