"""sink-transposes: transpositions move down the graph until they meet and cancel."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from binpoint.frontend.blocks import flattened, swapped
from binpoint.frontend.edit import bypass_move, drop_unread, joined_type, until_settled
from binpoint.ir.build import GraphBuilder
from binpoint.ir.graph import Graph, Node, Value
from binpoint.ir.op import FloatOp, Role
from binpoint.ops.copy import moves_nothing
from binpoint.ops.dense import Dense
from binpoint.ops.shape import Reshape, Transpose, reshape_value, transpose_value
from binpoint.passes.base import Context, Effect, Pass, Stage

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class SinkTransposes(Pass):
    """Remove transpositions, and move the others towards the outputs.

    1. Two transpositions in a row are one; one of a constant is a constant; an identity goes.
    2. An op that has a form for permuted axes (`FloatOp.permuted`) takes the operands as they were
       before their transpositions, and its results are transposed instead. All operands of data
       must be transposed alike; constants are transposed the other way, and so are computed
       operands of which that moves no element (by a Reshape).
    3. A reshape of a transposition of whole blocks of axes becomes the transposition of a reshape.
    4. A flattening of permuted axes before matrix products with constant weights flattens the axes
       as they were; the columns of the weights are permuted instead.
    5. In the end a transposition that moves only axes of size one is a Reshape, Reshapes in a row
       are one, and a Reshape to the shape that is there goes.

    No rule applies where one rounding would take the place of two (`joined_type`).
    """

    name: ClassVar[str] = "sink-transposes"
    before: ClassVar[Stage] = Stage.FLOAT
    after: ClassVar[Stage] = Stage.FLOAT
    effect: ClassVar[Effect] = Effect.KEEPS_VALUES

    def run(self, graph: Graph, context: Context) -> Graph:
        """See the class."""
        until_settled(graph, _visit)
        until_settled(graph, _visit_reshape)
        return graph


def _visit(graph: Graph, node: Node) -> bool:
    """Apply the first rule that fits a node."""
    match node.op:
        case Transpose():
            return _compose(graph, node)
        case Reshape():
            return _swap(graph, node) or _flatten(graph, node)
        case FloatOp():
            return _sink(graph, node)
        case _:
            return False


def _before(graph: Graph, value: Value) -> tuple[Value, tuple[int, ...]] | None:
    """What a value is the transposition of, and the order.

    An identity moves nothing that could sink.
    """
    node = graph.producer(value.name)
    if node is None or not isinstance(node.op, Transpose):
        return None
    if node.op.order == tuple(range(len(node.op.order))):
        return None
    return graph.arguments(node)[0], node.op.order


def _inverse(order: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(order.index(axis) for axis in range(len(order)))


# ---- rule 1


def _compose(graph: Graph, node: Node) -> bool:
    assert isinstance(node.op, Transpose)
    (operand,), (result,) = graph.arguments(node), graph.results(node)
    if operand.constant is not None:
        return _compute(graph, node, node.op.order)
    if node.op.order == tuple(range(len(operand.shape))):
        return bypass_move(graph, node)
    found = _before(graph, operand)
    if found is None:
        return False
    start, order = found
    kind = joined_type(start, operand, result)
    if kind is None:
        _log.debug(
            "%s not composed: the value in between is rounded to a type of its own", node.name
        )
        return False
    op = Transpose(tuple(order[axis] for axis in node.op.order))
    graph.replace(replace(node, op=op, inputs=(start.name,)))
    graph.set_value(replace(result, fixed=kind[0]))
    drop_unread(graph, operand.name)
    return True


def _compute(graph: Graph, node: Node, order: tuple[int, ...]) -> bool:
    """The transposition of a constant is a constant."""
    (operand,), (result,) = graph.arguments(node), graph.results(node)
    changes = result.fixed is not None and result.fixed != operand.fixed
    if result.name in graph.outputs or changes:
        return False
    moved = transpose_value(GraphBuilder(graph, node.name), operand, order)
    graph.bypass(node, moved.name)
    drop_unread(graph, operand.name)
    return True


# ---- rule 2


def _sink(graph: Graph, node: Node) -> bool:
    assert isinstance(node.op, FloatOp)
    data = _data(node, graph)
    found = [f for v in data if (f := _before(graph, v)) is not None]
    if not found:
        return False
    _, order = max(found, key=lambda f: f[0].type.size)
    inverse = _inverse(order)
    new = node.op.permuted(inverse, *graph.arguments(node))
    if new is None:
        _log.debug("%s stays below its transposition: no form for permuted axes", node.name)
        return False
    reason = next((r for v in data if (r := _obstacle(graph, v, order)) is not None), None)
    if reason is not None:
        _log.debug("%s stays below its transposition: %s", node.name, reason)
        return False
    build = GraphBuilder(graph, node.name, node.origin)
    names = {v.name for v in data}
    operands = [_permuted(build, v, order) if v.name in names else v for v in graph.arguments(node)]
    _put_before(build, node, new.op, operands, _inverse(new.order))
    return True


def _data(node: Node, graph: Graph) -> tuple[Value, ...]:
    assert isinstance(node.op, FloatOp)
    roles = node.op.roles(len(node.inputs))
    pairs = zip(graph.arguments(node), roles, strict=True)
    return tuple(value for value, role in pairs if role is Role.ACTIVATION)


def _obstacle(graph: Graph, value: Value, order: tuple[int, ...]) -> str | None:
    """Why an operand cannot be had with its axes as they are before `order`."""
    if len(value.shape) != len(order):
        return f"{value.name} has another rank"
    found = _before(graph, value)
    if found is not None and value.fixed is not None and value.fixed != found[0].fixed:
        return f"{value.name} is rounded to a type of its own"
    if value.constant is not None or moves_nothing(value.shape, _inverse(order)):
        return None
    if found is None or found[1] != order:
        return f"{value.name} is not transposed alike"
    return None


def _permuted(build: GraphBuilder, value: Value, order: tuple[int, ...]) -> Value:
    """An operand with its axes as they are before `order`."""
    found = _before(build.graph, value)
    if found is not None and found[1] == order and value.fixed in (None, found[0].fixed):
        return found[0]
    inverse = _inverse(order)
    if value.constant is not None:
        return transpose_value(build, value, inverse)
    shape = tuple(value.shape[axis] for axis in inverse)
    return _like(build.graph, reshape_value(build, value, shape), value)


def _like(graph: Graph, value: Value, model: Value) -> Value:
    """`value` with the type of `model`."""
    if value.name != model.name and value.constant is None:
        value = replace(value, fixed=model.fixed)
        graph.set_value(value)
    return value


def _put_before(
    build: GraphBuilder, node: Node, op: FloatOp, operands: list[Value], order: tuple[int, ...]
) -> None:
    """Put `op` in place of a node, and transpositions of its results under the results' names."""
    graph = build.graph
    results, old = graph.results(node), node.inputs
    graph.remove(node.name)
    made = build.add(op, *operands, outputs=[f"{r.name}_last" for r in results])
    for value, result in zip(made, results, strict=True):
        _like(graph, value, result)
        name = graph.fresh(f"{result.name}_transposed")
        move = Node(name, Transpose(order), (value.name,), (result.name,), node.origin)
        graph.set_producer(move)
    drop_unread(graph, *old)


# ---- rules 3 and 4


def _swap(graph: Graph, node: Node) -> bool:
    assert isinstance(node.op, Reshape)
    (operand,), (result,) = graph.arguments(node), graph.results(node)
    found = _before(graph, operand)
    if found is None:
        return False
    start, order = found
    new = swapped(start.shape, order, node.op.shape)
    kind = joined_type(start, operand, result)
    if new is None or kind is None:
        _log.debug("%s stays below its transposition: it mixes the axes", node.name)
        return False
    graph.set_value(replace(result, fixed=kind[0]))
    shape, after = new
    build = GraphBuilder(graph, node.name, node.origin)
    if after == tuple(range(len(after))):
        graph.replace(replace(node, op=Reshape(shape), inputs=(start.name,)))
        drop_unread(graph, operand.name)
        return True
    _put_before(build, node, Reshape(shape), [start], after)
    return True


def _flatten(graph: Graph, node: Node) -> bool:
    assert isinstance(node.op, Reshape)
    (operand,), (result,) = graph.arguments(node), graph.results(node)
    found = _before(graph, operand)
    if found is None:
        return False
    start, order = found
    columns = flattened(start.shape, order, node.op.shape)
    kind = joined_type(start, operand, result)
    products = _products(graph, result)
    if columns is None or kind is None or products is None:
        _log.debug("%s not flattened as it was: not only matrix products read it", node.name)
        return False
    graph.set_value(replace(result, fixed=kind[0]))
    graph.replace(replace(node, inputs=(start.name,)))
    for name in products:
        _permute_columns(graph, graph.node(name), columns)
    drop_unread(graph, operand.name)
    return True


def _products(graph: Graph, value: Value) -> tuple[str, ...] | None:
    """The matrix products that read a value, elementwise ops in between; None if others do."""
    if value.name in graph.outputs:
        return None
    names: list[str] = []
    for reader in graph.consumers(value.name):
        if isinstance(reader.op, Dense) and value.name not in reader.inputs[1:]:
            if graph.arguments(reader)[1].constant is None:
                return None
            names.append(reader.name)
            continue
        if not isinstance(reader.op, FloatOp) or not reader.op.elementwise:
            return None
        further = _products(graph, graph.results(reader)[0])
        if further is None:
            return None
        names.extend(further)
    return tuple(names)


def _permute_columns(graph: Graph, node: Node, columns: NDArray[np.int64]) -> None:
    """Let weights meet elements that lie where `columns` says."""
    weights = graph.arguments(node)[1]
    assert weights.constant is not None
    array = weights.constant.array[:, np.argsort(columns)]
    build = GraphBuilder(graph, node.name)
    moved = build.constant(array, fixed=weights.fixed, hint=weights.name)
    graph.replace(replace(node, inputs=(node.inputs[0], moved.name, *node.inputs[2:])))
    drop_unread(graph, weights.name)


# ---- rule 5


def _visit_reshape(graph: Graph, node: Node) -> bool:
    if not isinstance(node.op, Transpose | Reshape):
        return False
    (operand,), (result,) = graph.arguments(node), graph.results(node)
    if isinstance(node.op, Transpose):
        if not moves_nothing(operand.shape, node.op.order):
            return False
        graph.replace(replace(node, op=Reshape(result.shape)))
        return True
    if operand.shape == result.shape and bypass_move(graph, node):
        return True
    first = graph.producer(operand.name)
    if first is None or not isinstance(first.op, Reshape):
        return False
    start = graph.arguments(first)[0]
    kind = joined_type(start, operand, result)
    if kind is None:
        return False
    graph.replace(replace(node, inputs=(start.name,)))
    graph.set_value(replace(result, fixed=kind[0]))
    drop_unread(graph, operand.name)
    return True
