"""Masks of attention: read from sums with −∞, and given to the softmax behind them."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from binpoint.errors import InvalidConstant
from binpoint.frontend.edit import drop_unread
from binpoint.ir.build import GraphBuilder
from binpoint.ir.evaluate import constant_array
from binpoint.ir.graph import Graph, Node, Value
from binpoint.ir.onnx_node import OnnxNode
from binpoint.ops.attention import Attention
from binpoint.ops.elementwise import Binary, Kind
from binpoint.ops.mask import LOWEST, Mask, mask_value
from binpoint.ops.shape import Reshape
from binpoint.ops.softmax import Softmax
from binpoint.passes.base import Context, Effect, Pass, Stage

_log = logging.getLogger(__name__)
_MASKS = frozenset({"Add", *Mask.onnx, *Attention.onnx})
"""Operators to which minus infinity in a constant operand means something."""


def holds_infinity(value: Value | None) -> bool:
    """Whether a value is a real constant with an infinite number in it."""
    if value is None or value.constant is None or value.fixed is not None:
        return False
    array = value.constant.array
    return array.dtype.kind == "f" and not np.isfinite(array).all()


def read_masked_sum(node: OnnxNode, build: GraphBuilder) -> tuple[Value, ...] | None:
    """A sum with a constant that has −∞ in it: what is finite added, the rest masked.

    None for other operators and constants.

    Raises:
        InvalidConstant: another operator reads an infinite constant.
    """
    infinite = [v for v in node.inputs if holds_infinity(v)]
    if not infinite:
        return None
    assert infinite[0] is not None
    if node.op not in _MASKS:
        raise InvalidConstant(
            f"the constant `{infinite[0].source or infinite[0].name}` holds NaN or infinity",
            at=node.place,
            hint="the training may have diverged",
        )
    if node.op != "Add":
        return None
    a, b = node.operand(0), node.operand(1)
    x, addend = (b, a) if holds_infinity(a) else (a, b)
    return (_masked(build, x, constant_array(addend)),)


def _masked(build: GraphBuilder, x: Value, addend: NDArray[np.float32]) -> Value:
    """The finite part added, if it is not zero, and the rest masked."""
    keep = addend > LOWEST
    finite = np.where(keep, addend, np.float32(0)).astype(np.float32)
    if finite.any():
        shape = np.broadcast_shapes(x.shape, finite.shape)
        padded = finite.reshape((1,) * (len(shape) - finite.ndim) + finite.shape)
        assert len(x.shape) == len(shape), "the addend has more axes than what it is added to"
        x = build.one(Binary(Kind.ADD), x, build.constant(padded))
    return mask_value(build, x, keep)


@dataclass(frozen=True, slots=True)
class FuseMasks(Pass):
    """Give masks to the softmax that reads them: masked places get the share zero exactly.

    1. An Add of a constant before a softmax masks where the constant is -1000 or lower, which
       leaves a share of zero in float32 already. What else it adds stays an Add.
    2. A Mask before a softmax, and a Reshape between them, becomes the softmax's second operand.
    3. Values in between have no type, are no outputs and are read by nobody else. A row must keep
       one place at least.
    """

    name: ClassVar[str] = "fuse-masks"
    before: ClassVar[Stage] = Stage.FLOAT
    after: ClassVar[Stage] = Stage.FLOAT
    effect: ClassVar[Effect] = Effect.KEEPS_VALUES

    def run(self, graph: Graph, context: Context) -> Graph:
        """See the class."""
        del context
        for node in graph.nodes():
            if isinstance(node.op, Softmax) and len(node.inputs) == 1:
                _split_addend(graph, node)
                _fuse(graph, graph.node(node.name))
        return graph


def _above(graph: Graph, node: Node) -> tuple[list[Node], Node | None]:
    """Reshapes before a softmax, the last first, and what stands before them."""
    reshapes: list[Node] = []
    name = node.inputs[0]
    while True:
        maker = graph.producer(name)
        alone = graph.sole_consumer(name) is not None and name not in graph.outputs
        if maker is None or not alone or graph.value(name).fixed is not None:
            return reshapes, None
        if not isinstance(maker.op, Reshape):
            return reshapes, maker
        reshapes.append(maker)
        name = maker.inputs[0]


def _split_addend(graph: Graph, node: Node) -> None:
    """Rule 1."""
    _, add = _above(graph, node)
    if add is None or not isinstance(add.op, Binary) or add.op.kind is not Kind.ADD:
        return
    a, b = graph.arguments(add)
    x, addend = (b, a) if a.constant is not None else (a, b)
    if addend.constant is None or addend.fixed is not None or x.constant is not None:
        return
    array = constant_array(addend)
    if (array > LOWEST).all() or np.broadcast_shapes(x.shape, array.shape) != x.shape:
        return
    build = GraphBuilder(graph, add.name, add.origin)
    graph.bypass(add, _masked(build, x, array).name)
    drop_unread(graph, addend.name)


def _fuse(graph: Graph, node: Node) -> None:
    """Rule 2."""
    assert isinstance(node.op, Softmax)
    reshapes, mask = _above(graph, node)
    if mask is None or not isinstance(mask.op, Mask):
        return
    x, keep = graph.arguments(mask)
    (masked,) = graph.results(mask)
    if masked.shape != x.shape:
        _log.debug("%s not fused: the mask has more places than what it masks", mask.name)
        return
    places = constant_array(keep)
    if reshapes:
        places = np.broadcast_to(places, masked.shape)
        places = places.reshape(graph.value(node.inputs[0]).shape)
    if not places.any(axis=node.op.axis).all() and places.shape[node.op.axis] > 1:
        _log.debug("%s not fused: a row is masked all over", mask.name)
        return
    build = GraphBuilder(graph, mask.name, mask.origin + node.origin)
    kept = build.constant(places, hint=keep.name)
    if reshapes:
        graph.bypass(mask, x.name)
    operand = node.inputs[0] if reshapes else x.name
    graph.replace(replace(node, inputs=(operand, kept.name), origin=mask.origin + node.origin))
    drop_unread(graph, masked.name, keep.name)
