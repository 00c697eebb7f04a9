"""recognise-layer-norm: normalization written out as many operators becomes one."""

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
from binpoint.ir.op import FloatOp
from binpoint.ops.elementwise import Binary, Kind, Scalar
from binpoint.ops.groupnorm import GroupNorm
from binpoint.ops.layernorm import LayerNorm
from binpoint.ops.reduce import Reduce
from binpoint.ops.shape import Reshape
from binpoint.ops.slices import Take
from binpoint.ops.unary import Clip, Unary
from binpoint.passes.base import Context, Effect, Pass, Stage

_TINY = 1e-6
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RecogniseLayerNorm(Pass):
    """Put one norm in place of the operators that exporters write for it.

    1. With d = x − ReduceMean(x), or d = x for a root mean square: d / √(ReduceMean(d²) + epsilon),
       d² as Pow or Mul, the quotient as Div or as Mul by a Reciprocal; then, each if it is there,
       Mul by a constant gamma and Add of a constant beta, one number or one for each place along
       the axis.
    2. Channels normalized one by one as ``[N, G, …]`` that was ``[N, C, …]``, and is again, are a
       GroupNorm of G groups; then Mul and Add by a constant for each of the C channels.
    3. d / √ReduceSum(d²) is d over its Euclidean norm, also where a Clip keeps the norm off zero by
       at most 10^-6, and where the norm is repeated along the axis.
    4. One axis. No value in between has a type, is an output or is read elsewhere; otherwise the
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
            current = graph.node(node.name)
            found = (
                _grouped(graph, current) or _quotient(graph, current) or _euclidean(graph, current)
            )
            if found is not None:
                _put(graph, found)
        return graph


@dataclass(frozen=True, slots=True)
class _Norm:
    """What was recognised: its first nodes, in no order but for the last one.

    `gamma` and `beta` are what these nodes have, along `axis`.
    """

    x: str
    axis: int
    op: FloatOp
    nodes: tuple[Node, ...]
    gamma: NDArray[np.float32]
    beta: NDArray[np.float32]


def _grouped(graph: Graph, node: Node) -> _Norm | None:
    """Rule 2, but for what follows."""
    if not isinstance(node.op, GroupNorm):
        return None
    before, after = graph.producer(node.inputs[0]), graph.sole_consumer(node.outputs[0])
    if before is None or after is None:
        return None
    if not (isinstance(before.op, Reshape) and isinstance(after.op, Reshape)):
        return None
    (x,), (y,), (middle, *parameters) = (
        graph.arguments(before), graph.results(after), graph.arguments(node)
    )  # fmt: skip
    groups = node.op.groups
    if x.shape != y.shape or len(x.shape) < 2 or middle.shape[:2] != (x.shape[0], groups):
        return None
    if x.shape[1] % groups:
        return None
    gamma, beta = (np.repeat(_flat(v), x.shape[1] // groups) for v in parameters)
    return _Norm(x.name, 1, node.op, (before, node, after), gamma, beta)


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


def _euclidean(graph: Graph, node: Node) -> _Norm | None:
    """Rule 3, `node` the quotient."""
    if node.op != Binary(Kind.DIV):
        return None
    x, name = node.inputs
    between: list[Node] = []
    while (maker := graph.producer(name)) is not None and _passes(graph, maker):
        between.append(maker)
        name = maker.inputs[0]
    above = _above(graph, name, 3)
    if len(above) < 3 or not _squares(above[0], x):
        return None
    match [n.op for n in above[1:]]:
        case [Reduce((axis,), False), Unary("Sqrt")]:
            count = graph.value(x).shape[axis]
            gamma = np.full(count, 1 / np.sqrt(count), np.float32)
            op = LayerNorm(axis, 0.0, centred=False)
            nodes = (*above, *between, node)
            return _Norm(x, axis, op, nodes, gamma, np.zeros_like(gamma))
        case _:
            return None


def _passes(graph: Graph, node: Node) -> bool:
    """Whether a node hands norms on: keeps them off zero, or repeats them."""
    match node.op:
        case Clip(low, None):
            return low is not None and low <= _TINY
        case Take():
            (source,) = graph.arguments(node)
            pairs = zip(node.op.maps, source.shape, strict=True)
            return all(n == 1 or tuple(taken) == tuple(range(n)) for taken, n in pairs)
        case _:
            return False


def _inverts(node: Node) -> bool:
    return node.op in (Unary("Reciprocal"), Scalar(Kind.DIV, 1.0, first=True))


def _norm(graph: Graph, apart: str, root: str, tail: tuple[Node, ...]) -> _Norm | None:
    """What is over the root of its mean square, if that is what they are."""
    above = _above(graph, root, 4)
    if len(above) < 4 or not _squares(above[0], apart):
        return None
    match [node.op for node in above[1:]]:
        case [Reduce((axis,), True), Scalar(Kind.ADD, epsilon), Unary("Sqrt")] if epsilon >= 0:
            before = _centring(graph, apart, axis)
            x = before[0].inputs[0] if before else apart
            op = LayerNorm(axis, epsilon, centred=bool(before))
            one = np.ones(graph.value(x).shape[axis], np.float32)
            return _Norm(x, axis, op, (*before, *above, *tail), one, np.zeros_like(one))
        case _:
            return None


def _centring(graph: Graph, apart: str, axis: int) -> tuple[Node, ...]:
    """The mean over the axis and the difference from it, if that is what a value is."""
    below = graph.producer(apart)
    if below is None or not isinstance(below.op, Binary) or below.op.kind is not Kind.SUB:
        return ()
    x, mean = below.inputs
    maker = graph.producer(mean)
    if maker is None or maker.inputs != (x,) or maker.op != Reduce((axis,), True):
        return ()
    return maker, below


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
        _log.debug("%s not recognised as a norm: %s", found.nodes[-1].name, reason)
        return
    gamma, beta, nodes = found.gamma, found.beta, list(found.nodes)
    factor = _parameter(graph, nodes[-1], Kind.MUL, found.axis)
    if factor is not None:
        gamma, beta = gamma * factor[1], beta * factor[1]
        nodes.append(factor[0])
    start = _parameter(graph, nodes[-1], Kind.ADD, found.axis)
    if start is not None:
        beta = beta + start[1]
        nodes.append(start[0])
    last, origin = nodes[-1], Origin()
    for node in nodes:
        origin += node.origin
    build = GraphBuilder(graph, last.name, origin)
    names = [
        build.constant(array, hint=f"{last.name}_{text}").name
        for array, text in ((gamma, "gamma"), (beta, "beta"))
    ]
    graph.replace(replace(last, op=found.op, inputs=(found.x, *names), origin=origin))
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
