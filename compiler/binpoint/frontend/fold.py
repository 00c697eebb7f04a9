"""fold-constants, fold-pad: what is known now is computed now."""

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
from binpoint.ops.pad import Pad
from binpoint.passes.base import Context, Effect, Pass, Stage

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class FoldConstants(Pass):
    """Compute nodes whose operands are all real constants.

    1. The results are computed by the op's reference, in float32; a result with a type is stored
       in it. Outputs stay computed.
    2. NaN or infinity as result is an error of the model.
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
    if not operands or any(v.constant is None or v.fixed is not None for v in operands):
        return False
    if not isinstance(node.op, FloatOp) or any(name in graph.outputs for name in node.outputs):
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
    """A border of zeros before a convolution becomes the convolution's own padding.

    1. The border has no width on the batch and channel axes.
    2. Rounding happens once: the padded value has no type, or its operand's.
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
    if not isinstance(node.op, Conv):
        return False
    operand = graph.arguments(node)[0]
    pad = graph.producer(operand.name)
    if pad is None or not isinstance(pad.op, Pad):
        return False
    start = graph.arguments(pad)[0]
    reason = _apart(pad.op, start, operand)
    if reason is not None:
        _log.debug("%s not folded into %s: %s", pad.name, node.name, reason)
        return False
    window = node.op.window
    before = tuple(a + b for a, b in zip(window.before, pad.op.before[1:-1], strict=True))
    after = tuple(a + b for a, b in zip(window.after, pad.op.after[1:-1], strict=True))
    op = replace(node.op, window=replace(window, before=before, after=after))
    origin = pad.origin + node.origin
    graph.replace(replace(node, op=op, inputs=(start.name, *node.inputs[1:]), origin=origin))
    drop_unread(graph, operand.name)
    return True


def _apart(pad: Pad, start: Value, padded: Value) -> str | None:
    """Why a border cannot be the padding of a convolution."""
    if pad.value != 0:
        return "it is not of zeros"
    if any((*pad.before[:: len(pad.before) - 1], *pad.after[:: len(pad.after) - 1])):
        return "it is wide on the batch or channel axis"
    if padded.fixed not in (None, start.fixed):
        return "it has a type of its own"
    return None
