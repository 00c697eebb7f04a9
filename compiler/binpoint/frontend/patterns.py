"""recognise-layer-norm: layer normalization written out as many operators becomes one."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from binpoint.frontend.edit import drop_unread
from binpoint.ir.build import GraphBuilder
from binpoint.ir.evaluate import constant_array
from binpoint.ir.graph import Graph, Node, Origin, Value
from binpoint.ops.elementwise import Binary, Kind, Scalar
from binpoint.ops.layernorm import LayerNorm
from binpoint.ops.reduce import Reduce
from binpoint.ops.unary import Unary
from binpoint.passes.base import Context, Effect, Pass, Stage

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RecogniseLayerNorm(Pass):
    """Put one LayerNorm in place of the operators that older exporters write for it.

    1. With d = x − ReduceMean(x): d / √(ReduceMean(d²) + epsilon), d² as Pow or Mul, the quotient
       as Div or as Mul by a Reciprocal; then, each if it is there, Mul by a constant gamma and Add
       of a constant beta, one number or one for each place along the axis.
    2. One axis. No value in between has a type, is an output or is read elsewhere; otherwise the
       operators stay as they are.
    """

    name: ClassVar[str] = "recognise-layer-norm"
    before: ClassVar[Stage] = Stage.FLOAT
    after: ClassVar[Stage] = Stage.FLOAT
    effect: ClassVar[Effect] = Effect.KEEPS_VALUES

    def run(self, graph: Graph, context: Context) -> Graph:
        """See the class."""
        for node in graph.nodes():
            if not graph.has_node(node.name):
                continue
            found = _quotient(graph, graph.node(node.name))
            if found is not None:
                _put(graph, found)
        return graph


@dataclass(frozen=True, slots=True)
class _Norm:
    """What was recognised: nodes from the mean on, in no order but for the last one."""

    x: str
    axis: int
    epsilon: float
    nodes: tuple[Node, ...]


def _quotient(graph: Graph, node: Node) -> _Norm | None:
    """Rule 1 up to the quotient, which `node` may be."""
    match node.op:
        case Binary(Kind.DIV):
            return _norm(graph, node.inputs[0], node.inputs[1], (node,))
        case Binary(Kind.MUL):
            for apart, inverse in (node.inputs, node.inputs[::-1]):
                maker = graph.producer(inverse)
                if maker is not None and _inverts(maker):
                    return _norm(graph, apart, maker.inputs[0], (maker, node))
            return None
        case _:
            return None


def _inverts(node: Node) -> bool:
    return node.op in (Unary("Reciprocal"), Scalar(Kind.DIV, 1.0, first=True))


def _norm(graph: Graph, apart: str, root: str, tail: tuple[Node, ...]) -> _Norm | None:
    """The distance from the mean over the root of its mean square, if that is what they are."""
    above = _above(graph, root, 4)
    below = graph.producer(apart)
    if len(above) < 4 or below is None or not isinstance(below.op, Binary):
        return None
    (square, variance, raised, rooted), (x, mean) = above, below.inputs
    maker = graph.producer(mean)
    if maker is None or below.op.kind is not Kind.SUB or maker.inputs != (x,):
        return None
    if not _squares(square, apart):
        return None
    match maker.op, variance.op, raised.op, rooted.op:
        case (
            Reduce((axis,), True),
            Reduce((same,), True),
            Scalar(Kind.ADD, epsilon),
            Unary("Sqrt"),
        ) if axis == same and epsilon >= 0:
            return _Norm(x, axis, epsilon, (maker, below, *above, *tail))
        case _:
            return None


def _squares(node: Node, x: str) -> bool:
    match node.op:
        case Scalar(Kind.POW, 2.0, False):
            return node.inputs == (x,)
        case Binary(Kind.MUL):
            return node.inputs == (x, x)
        case _:
            return False


def _above(graph: Graph, name: str, count: int) -> tuple[Node, ...]:
    """The nodes that lead to a value, by their first operands, in order."""
    nodes: list[Node] = []
    while len(nodes) < count and (node := graph.producer(name)) is not None:
        nodes.append(node)
        name = node.inputs[0]
    return tuple(nodes[::-1])


def _put(graph: Graph, found: _Norm) -> None:
    """Put one op in place of the nodes, with gamma and beta where they follow."""
    reason = _in_use(graph, found.nodes)
    if reason is not None:
        _log.debug("%s not recognised as layer norm: %s", found.nodes[-1].name, reason)
        return
    count = graph.value(found.x).shape[found.axis]
    gamma, beta = np.ones(count, np.float32), np.zeros(count, np.float32)
    nodes = list(found.nodes)
    factor = _parameter(graph, nodes[-1], Kind.MUL, found.axis)
    if factor is not None:
        gamma = factor[1]
        nodes.append(factor[0])
    start = _parameter(graph, nodes[-1], Kind.ADD, found.axis)
    if start is not None:
        beta = start[1]
        nodes.append(start[0])
    last, origin = nodes[-1], Origin()
    for node in nodes:
        origin += node.origin
    build = GraphBuilder(graph, last.name, origin)
    names = [
        build.constant(array, hint=f"{last.name}_{text}").name
        for array, text in ((gamma, "gamma"), (beta, "beta"))
    ]
    op = LayerNorm(found.axis, found.epsilon)
    graph.replace(replace(last, op=op, inputs=(found.x, *names), origin=origin))
    drop_unread(graph, *last.inputs)


def _in_use(graph: Graph, nodes: Sequence[Node]) -> str | None:
    """Why values between nodes must stay, if they must."""
    inside = {node.name for node in nodes}
    for node in nodes[:-1]:
        for value in graph.results(node):
            if value.fixed is not None:
                return f"`{value.name}` has a type"
            if value.name in graph.outputs:
                return f"`{value.name}` is an output"
            if any(reader.name not in inside for reader in graph.consumers(value.name)):
                return f"`{value.name}` is read elsewhere"
    return None


def _parameter(
    graph: Graph, node: Node, kind: Kind, axis: int
) -> tuple[Node, NDArray[np.float32]] | None:
    """The one reader of a node's result, where it adds or multiplies constants along the axis."""
    (result,) = graph.results(node)
    reader = graph.sole_consumer(result.name)
    if reader is None or result.fixed is not None:
        return None
    match reader.op:
        case Scalar(same, number) if same is kind:
            return reader, np.full(result.shape[axis], number, np.float32)
        case Binary(same) if same is kind:
            (other,) = [v for v in graph.arguments(reader) if v.name != result.name] or [result]
            return (reader, _flat(other)) if _lies_along(other, axis, result) else None
        case _:
            return None


def _lies_along(constant: Value, axis: int, result: Value) -> bool:
    """Whether a constant holds one number for each place along the axis."""
    if constant.constant is None:
        return False
    shape = [n if i == axis else 1 for i, n in enumerate(result.shape)]
    padded = (1,) * (len(shape) - len(constant.shape)) + constant.shape
    return list(padded) == shape


def _flat(constant: Value) -> NDArray[np.float32]:
    return constant_array(constant).astype(np.float32).reshape(-1)
